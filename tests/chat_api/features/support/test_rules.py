"""Who may do what with a conversation in which state: every combination, against tables."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from chat_api.features.support.rules import (
    Agent,
    Conversation,
    Customer,
    Party,
    Role,
    Side,
    Standing,
    Status,
    check_accept,
    check_assign,
    check_named,
    check_open,
    check_read,
    check_release,
    checked_kind,
    closing_party,
    has_to_be_taken,
    is_taken_anew,
    may_listen,
    preview_of,
    reading_side,
    sending_side,
    standing,
    status_after,
)
from chat_api.kernel.errors import ChatError, Conflict, Forbidden, Gone, Unprocessable

NOON = datetime(2025, 11, 13, 12, tzinfo=UTC)
HERE = frozenset({"tenant1.example.com"})
AGENT = Agent("7", "Agent Smith", 7)
PROXIED = Agent("7", "Agent Smith")
OTHER = Agent("8", "Agent Jones", 8)

WAITING = Conversation(
    id="c-1",
    tenant="tenant1.example.com",
    customer=Customer("u-1", "Jane Doe", participant_id="visitor-1", user_id=2),
    status=Status.QUEUED,
    created_at=NOON,
    updated_at=NOON,
    queued_at=NOON,
)
ASSIGNED = replace(WAITING, status=Status.ASSIGNED, agent=AGENT)
CONNECTED = replace(ASSIGNED, status=Status.CONNECTED)
CLOSED = replace(ASSIGNED, status=Status.CLOSED)
DROPPED = replace(WAITING, status=Status.CLOSED)
STATES = {
    "waiting": WAITING,
    "assigned": ASSIGNED,
    "connected": CONNECTED,
    "closed": CLOSED,
    "closed before anybody took it": DROPPED,
}

PARTIES = {
    "customer": Party(Role.CUSTOMER, HERE, id="u-1", conversation_id="c-1"),
    "customer, account": Party(Role.CUSTOMER, None, id="2", user_id=2),
    "customer, other token": Party(Role.CUSTOMER, HERE, id="u-1", conversation_id="c-2"),
    "other customer": Party(Role.CUSTOMER, HERE, id="u-2", conversation_id="c-1"),
    "other account": Party(Role.CUSTOMER, None, id="3", user_id=3),
    "agent": Party(Role.AGENT, HERE, id="7", user_id=7),
    "colleague": Party(Role.AGENT, HERE, id="8", user_id=8),
    "supervisor": Party(Role.SUPERVISOR, None, id="9", user_id=9),
    "supervisor, agent": Party(Role.SUPERVISOR, HERE, id="7", user_id=7),
    "agent elsewhere": Party(Role.AGENT, frozenset({"tenant2.example.com"}), id="7"),
    "supervisor elsewhere": Party(Role.SUPERVISOR, frozenset({"tenant2.example.com"}), id="9"),
    "proxy": Party(Role.VOUCHED, HERE),
    "proxy, customer": Party(Role.VOUCHED, HERE, id="visitor-1"),
    "proxy, agent": Party(Role.VOUCHED, HERE, id="7"),
    "proxy, other": Party(Role.VOUCHED, HERE, id="visitor-2"),
    "proxy elsewhere": Party(Role.VOUCHED, frozenset({"tenant2.example.com"})),
}


def of_their_kind(party: Party, conversation: Conversation) -> Conversation:
    """Return the conversation with an agent who comes as the party does: by account, or a proxy."""
    if party.role is Role.VOUCHED and conversation.agent is not None:
        return replace(conversation, agent=PROXIED)
    return conversation


OUTCOMES: dict[str, type[ChatError] | None] = {
    ".": None,
    "F": Forbidden,
    "G": Gone,
    "C": Conflict,
}

# One letter for each of STATES: allowed, Forbidden, Gone, Conflict.
READS = """
customer              .....
customer, account     .....
customer, other token FFFFF
other customer        FFFFF
other account         FFFFF
agent                 ....F
colleague             .FFFF
supervisor            .....
supervisor, agent     .....
agent elsewhere       FFFFF
supervisor elsewhere  FFFFF
proxy                 .....
proxy, customer       .....
proxy, agent          F...F
proxy, other          FFFFF
proxy elsewhere       FFFFF
"""
LISTENS = """
customer              .....
customer, account     .....
customer, other token FFFFF
other customer        FFFFF
other account         FFFFF
agent                 F...F
colleague             FFFFF
supervisor            .....
supervisor, agent     .....
agent elsewhere       FFFFF
supervisor elsewhere  FFFFF
proxy                 .....
proxy, customer       .....
proxy, agent          F...F
proxy, other          FFFFF
proxy elsewhere       FFFFF
"""
WRITES = """
customer              ...GG
customer, account     ...GG
customer, other token FFFFF
other customer        FFFFF
other account         FFFFF
agent                 ...GG
colleague             .FFFG
supervisor            .FFFG
supervisor, agent     ...GG
agent elsewhere       FFFFF
supervisor elsewhere  FFFFF
proxy                 ...GG
proxy, customer       ...GG
proxy, agent          F..GF
proxy, other          FFFFF
proxy elsewhere       FFFFF
"""
WRITES_AS_CUSTOMER = """
customer              ...GG
customer, account     ...GG
customer, other token FFFFF
other customer        FFFFF
other account         FFFFF
agent                 FFFFF
colleague             FFFFF
supervisor            FFFFF
supervisor, agent     FFFFF
agent elsewhere       FFFFF
supervisor elsewhere  FFFFF
proxy                 ...GG
proxy, customer       ...GG
proxy, agent          FFFFF
proxy, other          FFFFF
proxy elsewhere       FFFFF
"""
WRITES_AS_AGENT = """
customer              FFFFF
customer, account     FFFFF
customer, other token FFFFF
other customer        FFFFF
other account         FFFFF
agent                 ...GG
colleague             .FFFG
supervisor            .FFFG
supervisor, agent     ...GG
agent elsewhere       FFFFF
supervisor elsewhere  FFFFF
proxy                 ...GG
proxy, customer       FFFFF
proxy, agent          F..GF
proxy, other          FFFFF
proxy elsewhere       FFFFF
"""
CLOSES = """
customer              .....
customer, account     .....
customer, other token FFFFF
other customer        FFFFF
other account         FFFFF
agent                 ....F
colleague             .FFFF
supervisor            .....
supervisor, agent     .....
agent elsewhere       FFFFF
supervisor elsewhere  FFFFF
proxy                 .....
proxy, customer       .....
proxy, agent          F...F
proxy, other          FFFFF
proxy elsewhere       FFFFF
"""
ACCEPTS = """
customer              FFFFF
customer, account     FFFFF
customer, other token FFFFF
other customer        FFFFF
other account         FFFFF
agent                 ...GG
colleague             .CCGG
supervisor            .CCGG
supervisor, agent     ...GG
agent elsewhere       FFFFF
supervisor elsewhere  FFFFF
proxy                 FFFFF
proxy, customer       FFFFF
proxy, agent          F..GF
proxy, other          FFFFF
proxy elsewhere       FFFFF
"""
ASSIGNS = """
customer              FFFFF
customer, account     FFFFF
customer, other token FFFFF
other customer        FFFFF
other account         FFFFF
agent                 FFFFF
colleague             FFFFF
supervisor            .....
supervisor, agent     .....
agent elsewhere       FFFFF
supervisor elsewhere  FFFFF
proxy                 .....
proxy, customer       FFFFF
proxy, agent          FFFFF
proxy, other          FFFFF
proxy elsewhere       FFFFF
"""
RELEASES = """
customer              FFFFF
customer, account     FFFFF
customer, other token FFFFF
other customer        FFFFF
other account         FFFFF
agent                 F..GF
colleague             FFFFF
supervisor            ...GG
supervisor, agent     ...GG
agent elsewhere       FFFFF
supervisor elsewhere  FFFFF
proxy                 ...GG
proxy, customer       FFFFF
proxy, agent          F..GF
proxy, other          FFFFF
proxy elsewhere       FFFFF
"""


Action = Callable[[Party, Conversation], object]


def write_as(side: Side | None) -> Action:
    def write(party: Party, conversation: Conversation) -> None:
        sending_side(standing(party, conversation), conversation, side)
        check_open(conversation)

    return write


def listen(party: Party, conversation: Conversation) -> None:
    if not may_listen(standing(party, conversation)):
        raise Forbidden("not a listener")


def accept(party: Party, conversation: Conversation) -> None:
    check_accept(standing(party, conversation))
    agent = Agent(party.id or "", party.name, party.user_id)
    has_to_be_taken(conversation, agent, taken_by_agent=0, capacity=3)


def release(party: Party, conversation: Conversation) -> None:
    check_release(standing(party, conversation))
    check_open(conversation)


ACTIONS: dict[str, tuple[Action, str]] = {
    "reads": (lambda who, it: check_read(standing(who, it), it), READS),
    "listens": (listen, LISTENS),
    "writes": (write_as(None), WRITES),
    "writes as the customer": (write_as(Side.CUSTOMER), WRITES_AS_CUSTOMER),
    "writes as the agent": (write_as(Side.AGENT), WRITES_AS_AGENT),
    "closes": (lambda who, it: closing_party(standing(who, it), it), CLOSES),
    "accepts": (accept, ACCEPTS),
    "assigns": (lambda who, it: check_assign(standing(who, it)), ASSIGNS),
    "releases": (release, RELEASES),
}


def cases() -> Iterator[tuple[str, str, str, str]]:
    for action, (_, table) in ACTIONS.items():
        rows = dict(line.rsplit(maxsplit=1) for line in table.strip().splitlines())
        assert {who.strip() for who in rows} == set(PARTIES), action
        for who, outcomes in rows.items():
            yield from (
                (action, who.strip(), state, outcome)
                for state, outcome in zip(STATES, outcomes, strict=True)
            )


@pytest.mark.parametrize(("action", "who", "state", "outcome"), list(cases()))
def test_a_party_may_do_what_the_table_says(
    action: str, who: str, state: str, outcome: str
) -> None:
    do, party = ACTIONS[action][0], PARTIES[who]
    conversation = of_their_kind(party, STATES[state])
    expected = OUTCOMES[outcome]

    if expected is None:
        do(party, conversation)
    else:
        with pytest.raises(expected):
            do(party, conversation)


@pytest.mark.parametrize(
    ("who", "side"),
    [
        ("customer", Side.CUSTOMER),
        ("agent", Side.AGENT),
        ("supervisor, agent", Side.AGENT),
        ("proxy", Side.CUSTOMER),
        ("proxy, agent", Side.AGENT),
    ],
)
def test_who_does_not_say_as_whom_they_write_writes_as_what_they_are(who: str, side: Side) -> None:
    conversation = of_their_kind(PARTIES[who], CONNECTED)
    assert sending_side(standing(PARTIES[who], conversation), conversation, None) is side


def test_what_a_proxy_calls_somebody_is_no_account_of_that_id() -> None:
    assert standing(PARTIES["proxy, agent"], CONNECTED) is Standing.STRANGER
    assert standing(PARTIES["agent"], replace(CONNECTED, agent=PROXIED)) is Standing.COLLEAGUE
    with pytest.raises(Conflict):
        has_to_be_taken(CONNECTED, PROXIED, taken_by_agent=0, capacity=3)
    assert is_taken_anew(CONNECTED, PROXIED, taken_by_agent=0, capacity=3)


def test_what_one_person_is_twice_they_may_choose_from() -> None:
    customer_and_agent = replace(
        CONNECTED, customer=replace(CONNECTED.customer, participant_id="7"), agent=PROXIED
    )
    who = standing(PARTIES["proxy, agent"], customer_and_agent)

    assert who == Standing.CUSTOMER | Standing.AGENT
    assert sending_side(who, customer_and_agent, Side.CUSTOMER) is Side.CUSTOMER
    assert sending_side(who, customer_and_agent, Side.AGENT) is Side.AGENT
    assert reading_side(who, customer_and_agent, Side.AGENT) is Side.AGENT
    assert reading_side(who, customer_and_agent) is Side.CUSTOMER
    assert closing_party(who, customer_and_agent, Side.AGENT) == "AGENT"
    assert closing_party(who, customer_and_agent) == "CUSTOMER"


@pytest.mark.parametrize(
    ("who", "asked_as", "side"),
    [
        ("customer", None, Side.CUSTOMER),
        ("customer", Side.AGENT, None),
        ("agent", None, Side.AGENT),
        ("agent", Side.CUSTOMER, Side.AGENT),
        ("supervisor, agent", None, Side.AGENT),
        ("supervisor", None, None),
        ("colleague", None, None),
        ("proxy", Side.AGENT, Side.AGENT),
        ("proxy", Side.CUSTOMER, Side.CUSTOMER),
        ("proxy", None, None),
        ("proxy, customer", None, Side.CUSTOMER),
        ("proxy, agent", None, Side.AGENT),
        ("proxy, other", Side.AGENT, None),
    ],
)
def test_only_the_two_sides_set_read_marks(
    who: str, asked_as: Side | None, side: Side | None
) -> None:
    conversation = of_their_kind(PARTIES[who], CONNECTED)
    assert reading_side(standing(PARTIES[who], conversation), conversation, asked_as) is side


@pytest.mark.parametrize(
    ("who", "side"),
    [
        ("customer", Side.CUSTOMER),
        ("colleague", Side.AGENT),
        ("supervisor", None),
        ("agent elsewhere", None),
        ("proxy, other", None),
    ],
)
def test_while_it_waits_every_agent_reads_for_their_side(who: str, side: Side | None) -> None:
    assert reading_side(standing(PARTIES[who], WAITING), WAITING) is side


@pytest.mark.parametrize(
    ("who", "state", "closed_by"),
    [
        ("customer", "connected", "CUSTOMER"),
        ("agent", "connected", "AGENT"),
        ("colleague", "waiting", "AGENT"),
        ("supervisor", "connected", "SUPERVISOR"),
        ("supervisor", "waiting", "SUPERVISOR"),
        ("supervisor, agent", "connected", "AGENT"),
        ("proxy", "connected", "CUSTOMER"),
        ("proxy, agent", "connected", "AGENT"),
    ],
)
def test_who_closed_a_conversation_is_kept(who: str, state: str, closed_by: str) -> None:
    conversation = of_their_kind(PARTIES[who], STATES[state])

    assert closing_party(standing(PARTIES[who], conversation), conversation) == closed_by


@pytest.mark.parametrize(
    ("state", "agent_id", "taken", "accepting", "assigning"),
    [
        ("waiting", "8", 0, True, True),
        ("waiting", "8", 2, True, True),
        ("waiting", "8", 3, Conflict, Conflict),
        ("assigned", "8", 0, Conflict, True),
        ("assigned", "8", 3, Conflict, Conflict),
        ("connected", "8", 0, Conflict, True),
        ("assigned", "7", 1, False, False),
        ("connected", "7", 3, False, False),
        ("closed", "7", 0, Gone, Gone),
        ("closed", "8", 0, Gone, Gone),
        ("closed before anybody took it", "8", 0, Gone, Gone),
    ],
)
def test_accepting_takes_what_waits_and_assigning_also_what_another_has(
    state: str,
    agent_id: str,
    taken: int,
    accepting: bool | type[ChatError],
    assigning: bool | type[ChatError],
) -> None:
    agent = Agent(agent_id, "Agent", int(agent_id))
    for decide, expected in ((has_to_be_taken, accepting), (is_taken_anew, assigning)):
        if isinstance(expected, bool):
            assert decide(STATES[state], agent, taken_by_agent=taken, capacity=3) is expected
        else:
            with pytest.raises(expected):
                decide(STATES[state], agent, taken_by_agent=taken, capacity=3)


def test_whoever_comes_too_late_is_told_so_in_the_guides_words() -> None:
    with pytest.raises(Conflict) as too_late:
        has_to_be_taken(ASSIGNED, OTHER, taken_by_agent=0, capacity=3)
    with pytest.raises(Conflict) as too_many:
        has_to_be_taken(WAITING, OTHER, taken_by_agent=3, capacity=3)

    assert (too_late.value.code, too_late.value.message) == (
        "conflict",
        "Conversation is no longer available to accept.",
    )
    assert too_many.value.code == "agent_at_capacity"


def test_a_capacity_of_zero_is_none() -> None:
    assert has_to_be_taken(WAITING, OTHER, taken_by_agent=1_000, capacity=0)


@pytest.mark.parametrize(
    ("state", "becomes"),
    [
        ("waiting", Status.QUEUED),
        ("assigned", Status.CONNECTED),
        ("connected", Status.CONNECTED),
        ("closed", Status.CLOSED),
    ],
)
def test_an_assigned_conversation_is_connected_once_its_agent_is_there(
    state: str, becomes: Status
) -> None:
    assert status_after(STATES[state], agent_is_there=True) is becomes
    assert status_after(STATES[state], agent_is_there=False) is STATES[state].status


def test_only_what_is_in_the_queue_waits() -> None:
    assert WAITING.is_waiting
    assert not replace(WAITING, queued_at=None).is_waiting
    assert not any(each.is_waiting for each in (ASSIGNED, CONNECTED, CLOSED, DROPPED))


def test_a_name_in_the_request_has_to_be_ones_own() -> None:
    check_named([None, "7"], ["7", "agent@example.com"])
    with pytest.raises(Forbidden):
        check_named(["7", "8"], ["7"])


@pytest.mark.parametrize(
    ("customer", "shown_id", "account"),
    [
        (Customer("u-1", "Jane"), "u-1", "u-1"),
        (Customer("u-1", "Jane", contact="0123"), "u-1", "0123"),
        (Customer("u-1", "Jane", participant_id="p-1"), "p-1", "p-1"),
        (Customer("u-1", "Jane", "p-1", "0123", 2, "jane@example.com"), "p-1", "jane@example.com"),
    ],
)
def test_customers_are_shown_under_the_best_name_they_have(
    customer: Customer, shown_id: str, account: str
) -> None:
    assert (customer.shown_id, customer.account) == (shown_id, account)


@pytest.mark.parametrize(
    ("content", "preview"),
    [
        ("Hello!", "Hello!"),
        ("two\nlines\t and   spaces", "two lines and spaces"),
        ("x" * 100, "x" * 100),
        ("x" * 101, "x" * 99 + "…"),
        ("word " * 1_000, ("word " * 20)[:99].rstrip() + "…"),
        (" \n" * 300 + "late", ""),
    ],
)
def test_a_preview_is_the_beginning_on_one_line(content: str, preview: str) -> None:
    assert preview_of(content) == preview


def test_only_agents_apps_say_something_by_themselves() -> None:
    assert checked_kind("TEXT", Side.CUSTOMER) == "TEXT"
    assert checked_kind("SYSTEM", Side.AGENT) == "SYSTEM"
    for kind, side in (("SYSTEM", Side.CUSTOMER), ("text", Side.AGENT), ("", Side.CUSTOMER)):
        with pytest.raises(Unprocessable):
            checked_kind(kind, side)
