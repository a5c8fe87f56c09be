"""
Those who ask for help: recognising them when they come back.

Without an account, what a device keeps is all there is to know somebody by, so a fingerprint is a
secret like a password. It is stored as a hash under a key of ours, which is also what it is looked
up by: how long that takes tells nothing of it.
"""

import hmac
import uuid
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, insert, select, update

from chat_api.features.support.models import SupportCustomer
from chat_api.features.support.rules import Conversation, Party, check_named
from chat_api.kernel.callers import Caller
from chat_api.kernel.clock import Clock
from chat_api.kernel.errors import Unprocessable
from chat_api.kernel.texts import checked_text

__all__ = ["MAX_FINGERPRINT", "MAX_NAME", "Customers", "Recognised", "Visit", "known_as"]

MAX_NAME: Final = 200
MAX_FINGERPRINT: Final = 255


@dataclass(frozen=True, slots=True)
class Visit:
    """
    Somebody who asks a tenant for help, and what they begin with.

    They are recognised by their account (`user`), by what a trusted proxy calls them
    (`participant_id` with `is_vouched_for`) or by the secret of their device (`fingerprint`), in
    this order. `address` is where the request comes from; `temp_id` the app's own name for the
    first message.
    """

    tenant: str
    address: str
    user: Caller | None = None
    fingerprint: str | None = None
    participant_id: str | None = None
    is_vouched_for: bool = False
    name: str = ""
    contact: str | None = None
    channel: str = "web"
    metadata: dict[str, Any] | None = None
    message: str | None = None
    temp_id: str | None = None


class Recognised(NamedTuple):
    """By which condition a customer is found again, and what is known of them now."""

    condition: ColumnElement[bool]
    values: dict[str, Any]


class Customers:
    """
    The customers of all tenants.

    `secret` is what fingerprints are hashed under: with another one, nobody is recognised by theirs
    any more.
    """

    def __init__(self, clock: Clock, secret: str) -> None:
        self._clock = clock
        self._key = hmac.digest(secret.encode(), b"chat_api: fingerprints of devices", "sha256")

    def recognise(self, visit: Visit) -> Recognised:
        """
        Return how a customer is found again, and what is kept of them.

        Raises:
            Unprocessable: Nothing says who they are, or a text is too long.
        """
        name = checked_text(visit.name, "displayName", longest=MAX_NAME, may_be_empty=True)
        values: dict[str, Any] = {"display_name": name.strip(), "is_vouched_for": False}
        if visit.contact is not None:
            contact = checked_text(visit.contact, "contact", longest=MAX_NAME, may_be_empty=True)
            values["contact"] = contact.strip() or None
        if visit.participant_id is not None:
            values["participant_id"] = checked_text(
                visit.participant_id, "The participant's id", longest=MAX_NAME
            )
        if visit.fingerprint is not None:
            checked_text(visit.fingerprint, "fingerprint", longest=MAX_FINGERPRINT)
        if visit.user is not None:
            values |= {"user_id": visit.user.id, "display_name": visit.user.name}
            return Recognised(SupportCustomer.user_id == visit.user.id, values)
        if visit.is_vouched_for and visit.participant_id is not None:
            values["is_vouched_for"] = True
            vouched_for = SupportCustomer.participant_id == visit.participant_id
            return Recognised(vouched_for & SupportCustomer.is_vouched_for, values)
        if visit.fingerprint is None:
            raise Unprocessable("fingerprint must be given: a secret that the device keeps.")
        text = f"{visit.tenant}\n{visit.fingerprint}".encode()
        values["fingerprint_hash"] = digest = hmac.digest(self._key, text, "sha256").hex()
        return Recognised(SupportCustomer.fingerprint_hash == digest, values)

    def keep(self, connection: Connection, tenant: str, recognised: Recognised) -> str:
        """Return the id of a customer of this tenant, keeping what is known of them now."""
        values = recognised.values
        known = connection.execute(
            select(SupportCustomer.id, SupportCustomer.fingerprint_hash).where(
                SupportCustomer.tenant == tenant, recognised.condition
            )
        ).one_or_none()
        if known is None:
            customer_id = str(uuid.uuid4())
            row = {"id": customer_id, "tenant": tenant, "created_at": self._clock(), **values}
            row["display_name"] = row["display_name"] or "Visitor"
            connection.execute(insert(SupportCustomer), row)
            return customer_id
        digest = values.get("fingerprint_hash")
        assert digest is None or hmac.compare_digest(known.fingerprint_hash, digest)
        if not values["display_name"]:
            values = {name: value for name, value in values.items() if name != "display_name"}
        change = update(SupportCustomer).where(
            SupportCustomer.id == known.id, SupportCustomer.tenant == tenant
        )
        connection.execute(change.values(values))
        return str(known.id)


def known_as(
    connection: Connection, conversation: Conversation, party: Party, sender_id: str
) -> Conversation:
    """
    Check that a customer writes under an id of theirs, and return the conversation.

    Apps make one up by themselves and need not have said it before: the first one is theirs.

    Raises:
        Forbidden: It is not theirs.
        Unprocessable: It is too long.
    """
    customer = conversation.customer
    agent_id = conversation.agent and conversation.agent.id
    if customer.participant_id is None and customer.user_id is None and sender_id != agent_id:
        if sender_id != customer.id:
            checked_text(sender_id, "senderId", longest=MAX_NAME)
            change = update(SupportCustomer).where(
                SupportCustomer.id == customer.id, SupportCustomer.tenant == conversation.tenant
            )
            connection.execute(change.values(participant_id=sender_id))
            customer = replace(customer, participant_id=sender_id)
        return replace(conversation, customer=customer)
    known = [customer.id, customer.participant_id, customer.email, party.id]
    check_named([sender_id], [name for name in known if name is not None])
    return conversation
