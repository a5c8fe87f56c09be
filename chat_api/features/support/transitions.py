"""
What becomes of a conversation: each step within a unit of work, with what it makes others hear.

Whether a step may be taken is for `rules`; who asks for it, for those who call this.
"""

from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, update

from chat_api.features.support.agents import Agents
from chat_api.features.support.events import conversation_channel, system_event
from chat_api.features.support.models import SupportConversation
from chat_api.features.support.queue import Queue
from chat_api.features.support.rules import (
    Agent,
    Closing,
    Conversation,
    Party,
    Role,
    Status,
    check_accept,
    has_to_be_taken,
    standing,
    status_after,
)
from chat_api.kernel.clock import Clock
from chat_api.kernel.errors import Forbidden, Unprocessable
from chat_api.realtime.broadcaster import Broadcaster
from chat_api.store.engine import UnitOfWork

__all__ = ["STAFF", "WHICH_AGENT", "Transitions", "agent_of", "change"]

STAFF = frozenset({Role.AGENT, Role.SUPERVISOR})
WHICH_AGENT = "Say which agent it is: agentId in the body, or X-Participant-Id."


class Transitions:
    """
    The steps of conversations. Each returns the conversation as it is then.

    `capacity` is how many conversations an agent may have at a time; 0 for any number.
    """

    def __init__(
        self,
        broadcaster: Broadcaster,
        clock: Clock,
        *,
        agents: Agents,
        queue: Queue,
        capacity: int,
    ) -> None:
        self.capacity = capacity
        self._broadcaster = broadcaster
        self._clock = clock
        self._agents = agents
        self._queue = queue

    def enter_queue(
        self,
        unit: UnitOfWork,
        conversation: Conversation,
        now: datetime,
        channel: str | None = None,
    ) -> Conversation:
        """Have it wait for an agent, if it does not already, or has one."""
        if conversation.status is not Status.QUEUED or conversation.queued_at is not None:
            return conversation
        channel = channel or conversation.channel
        change(unit.connection, conversation, queued_at=now, updated_at=now, channel=channel)
        self._queue.changed(unit, conversation.tenant)
        return replace(conversation, queued_at=now, updated_at=now, channel=channel)

    def accept(
        self,
        unit: UnitOfWork,
        conversation: Conversation,
        party: Party,
        agent: Agent,
        from_socket: str | None,
    ) -> Conversation:
        """
        Give it to the agent who asks, if it waits; their own is theirs already.

        Raises:
            Forbidden: They are no agent of its tenant.
            Gone: It is closed.
            Conflict: Another agent has it, or they have as many as allowed.
        """
        check_accept(standing(party, conversation))
        # An account is the same everywhere; a proxy's name for somebody is one within a tenant.
        domains = None if party.user_id is not None else frozenset({conversation.tenant})
        taken = self._agents.taken_by(unit.connection, agent, domains)
        if has_to_be_taken(conversation, agent, taken_by_agent=taken, capacity=self.capacity):
            return self.give_to(unit, conversation, agent, from_socket)
        return conversation

    def give_to(
        self,
        unit: UnitOfWork,
        conversation: Conversation,
        agent: Agent,
        from_socket: str | None,
    ) -> Conversation:
        """Give it to an agent, whoever had it before."""
        now, was_waiting = self._clock(), conversation.is_waiting
        conversation = replace(
            conversation, status=Status.ASSIGNED, agent=agent, updated_at=now, position=None
        )
        change(
            unit.connection,
            conversation,
            status=Status.ASSIGNED.value,
            agent_id=agent.id,
            agent_name=agent.name,
            agent_user_id=agent.user_id,
            updated_at=now,
        )
        self.tell(unit, conversation, from_socket)
        if was_waiting:
            self._queue.changed(unit, conversation.tenant)
        return conversation

    def connect(
        self, unit: UnitOfWork, conversation: Conversation, from_socket: str | None
    ) -> Conversation:
        """Note that its agent is there."""
        status = status_after(conversation, agent_is_there=True)
        if status is conversation.status:
            return conversation
        now = self._clock()
        conversation = replace(conversation, status=status, updated_at=now)
        change(unit.connection, conversation, status=status.value, updated_at=now)
        self.tell(unit, conversation, from_socket)
        return conversation

    def close(
        self,
        unit: UnitOfWork,
        conversation: Conversation,
        *,
        closing: Closing,
        reason: str | None,
        closed_by: str,
        agent: Agent | None = None,
        from_socket: str | None,
    ) -> Conversation:
        """
        End it, if it is not over already.

        `agent` is who ends it as an agent: one that nobody had is theirs from then on.
        """
        if conversation.status is Status.CLOSED:
            return conversation
        now, was_waiting = self._clock(), conversation.is_waiting
        agent = conversation.agent or agent
        conversation = replace(
            conversation,
            status=Status.CLOSED,
            agent=agent,
            closing=closing,
            close_reason=reason or None,
            closed_by=closed_by,
            closed_at=now,
            updated_at=now,
            is_customer_away=False,
        )
        change(
            unit.connection,
            conversation,
            status=Status.CLOSED.value,
            agent_id=agent and agent.id,
            agent_user_id=agent and agent.user_id,
            agent_name=agent and agent.name,
            close_status=closing.value,
            close_reason=conversation.close_reason,
            closed_by=closed_by,
            closed_at=now,
            updated_at=now,
            customer_seen_at=None,
            customer_left_at=None,
            is_customer_away=False,
        )
        self.tell(unit, conversation, from_socket)
        if was_waiting:
            self._queue.changed(unit, conversation.tenant)
        return conversation

    def tell(self, unit: UnitOfWork, conversation: Conversation, from_socket: str | None) -> None:
        """Tell both sides its state, except the connection that the change came from."""
        channels = [conversation_channel(conversation.id)]
        event = system_event(conversation, self._clock())
        self._broadcaster.publish(unit, channels, event, except_socket=from_socket)


def agent_of(party: Party) -> Agent:
    """
    Return as which agent a party acts.

    Raises:
        Forbidden: As none.
        Unprocessable: Nothing says as which.
    """
    if party.role not in STAFF and party.role is not Role.VOUCHED:
        raise Forbidden("This is for agents and supervisors.")
    if party.role not in STAFF or party.id is None:
        raise Unprocessable(WHICH_AGENT)
    return Agent(party.id, party.name, party.user_id)


def change(connection: Connection, conversation: Conversation, **values: Any) -> None:
    """Write values into the row of a conversation."""
    connection.execute(
        update(SupportConversation)
        .where(
            SupportConversation.id == conversation.id,
            SupportConversation.tenant == conversation.tenant,
        )
        .values(values)
    )
