"""
Everything there is to measure of a running server: one table, read only when somebody looks.

Names and labels of the first group are Soketi's, so that boards made for it go on working. A
reading costs as much as there are apps, however many connections and channels they have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain

from reverb_py.cluster.inquiries import RequestFigures
from reverb_py.cluster.node import Node
from reverb_py.core.delivery import Delivery
from reverb_py.core.figures import Measure, Sample
from reverb_py.core.hub import Hub
from reverb_py.core.hubs import Hubs
from reverb_py.server.listener import Listener
from reverb_py.webhooks.dispatch import Webhooks
from reverb_py.webhooks.endpoint import EndpointFigures

__all__ = ["measures_of"]

_Number = Callable[[Hub], float]


def measures_of(
    port: int,
    hubs: Hubs,
    delivery: Delivery,
    listener: Listener,
    webhooks: Webhooks,
    node: Node | None,
) -> list[Measure]:
    """Return the measures of a server that listens on `port`, among others if there is a node."""
    measures = [
        *_of_apps(str(port), hubs, listener),
        *_of_server(hubs, delivery, listener),
        *_of_webhooks(webhooks, webhooks.held if node is None else node.held),
    ]
    if node is not None:
        measures += _of_node(str(port), node)
    return measures


def _of_apps(port: str, hubs: Hubs, listener: Listener) -> Iterator[Measure]:
    labels = ("app_id", "port")

    def each(number: _Number) -> Callable[[], Iterator[Sample]]:
        return lambda: (Sample((hub.app.id, port), number(hub)) for hub in hubs)

    yield Measure(
        "connected",
        "gauge",
        "WebSocket connections that are open.",
        labels,
        each(lambda hub: len(hub.sessions)),
    )
    counters: list[tuple[str, str, _Number]] = [
        (
            "new_connections_total",
            "WebSocket connections that were opened.",
            lambda hub: hub.figures.connections,
        ),
        (
            "new_disconnections_total",
            "WebSocket connections that have ended.",
            lambda hub: hub.figures.connections - len(hub.sessions),
        ),
        (
            "socket_received_bytes",
            "Bytes that clients sent over WebSockets, frame headers included.",
            lambda hub: hub.figures.bytes_received,
        ),
        (
            "socket_transmitted_bytes",
            "Bytes of the messages sent over WebSockets, frame headers included.",
            lambda hub: hub.figures.bytes_sent,
        ),
        (
            "ws_messages_received_total",
            "Messages that clients sent.",
            lambda hub: hub.figures.messages_received,
        ),
        (
            "ws_messages_sent_total",
            "Messages sent to clients: an event counts once for each of its subscribers.",
            lambda hub: hub.figures.messages_sent,
        ),
        (
            "http_received_bytes",
            "Bytes of the bodies of signed HTTP requests.",
            lambda hub: hub.figures.http_bytes_received,
        ),
        (
            "http_transmitted_bytes",
            "Bytes of the bodies of the answers to signed HTTP requests.",
            lambda hub: hub.figures.http_bytes_sent,
        ),
        (
            "http_calls_received_total",
            "Signed HTTP requests.",
            lambda hub: hub.figures.http_calls,
        ),
    ]
    for name, meaning, number in counters:
        yield Measure(name, "counter", meaning, labels, each(number))
    typed = ("app_id", "channel_type")
    yield Measure(
        "active_channels",
        "gauge",
        "Channels with subscribers on this node, by the access that their names ask for.",
        typed,
        lambda: _by_key(hubs, lambda hub: hub.figures.channels.items()),
    )
    yield Measure(
        "channel_subscriptions_total",
        "counter",
        "Subscriptions that were made.",
        typed,
        lambda: _by_key(hubs, lambda hub: hub.figures.subscriptions.items()),
    )
    yield Measure(
        "channel_unsubscriptions_total",
        "counter",
        "Subscriptions that have ended, with their connections or before.",
        typed,
        lambda: _by_key(hubs, lambda hub: hub.figures.unsubscriptions.items()),
    )
    yield Measure(
        "connections_closed_total",
        "counter",
        "Connections that the server closed, by the code of the close frame.",
        ("app_id", "code"),
        lambda: _by_key(hubs, lambda hub: hub.figures.closed.items()),
    )
    gauges: list[tuple[str, str, _Number]] = [
        (
            "slow_clients",
            "Connections whose clients do not read as fast as they are written to.",
            listener.slow_clients.count,
        ),
        (
            "slow_client_bytes",
            "Bytes that wait at most for slow clients.",
            listener.slow_clients.size,
        ),
        (
            "cached_events",
            "Last events of cache channels that are remembered.",
            lambda hub: len(hub.last_events),
        ),
        (
            "cached_event_bytes",
            "Bytes of the last events that are remembered.",
            lambda hub: hub.last_events.size,
        ),
        (
            "idempotency_keys",
            "Keys of publishes that are remembered.",
            lambda hub: len(hub.recent_keys) + len(hub.recent_batches),
        ),
        (
            "idempotency_key_bytes",
            "Bytes of the keys that are remembered, and of what was answered.",
            lambda hub: hub.recent_keys.size + hub.recent_batches.size,
        ),
    ]
    for name, meaning, number in gauges:
        yield Measure(
            name,
            "gauge",
            meaning,
            ("app_id",),
            lambda number=number: (Sample((hub.app.id,), number(hub)) for hub in hubs),  # type: ignore[misc]
        )
    yield Measure(
        "forgotten_total",
        "counter",
        "What was forgotten before its time, because there was too much of it.",
        ("app_id", "what"),
        lambda: _by_key(
            hubs,
            lambda hub: (
                ("cached_events", hub.last_events.dropped),
                ("idempotency_keys", hub.recent_keys.dropped + hub.recent_batches.dropped),
            ),
        ),
    )


def _of_server(hubs: Hubs, delivery: Delivery, listener: Listener) -> Iterator[Measure]:
    yield Measure(
        "limit_hits_total",
        "counter",
        "How often a limit had an effect, by the variable that sets it; without an app where the "
        "limit is not an app's.",
        ("app_id", "limit"),
        lambda: chain(
            _by_key(hubs, lambda hub: hub.figures.limit_hits.items()),
            (Sample(("", limit), hits) for limit, hits in sorted(listener.limit_hits.items())),
        ),
    )
    yield Measure(
        "connections_refused_total",
        "counter",
        "WebSocket handshakes that were refused, by the code.",
        ("code",),
        lambda: _numbered(listener.refused.items()),
    )
    yield Measure(
        "http_errors_total",
        "counter",
        "HTTP requests, signed or not, that were answered with a status of 400 or more.",
        ("status",),
        lambda: _numbered(listener.errors.items()),
    )
    yield Measure(
        "open_sockets",
        "gauge",
        "Connections of every kind: WebSockets, HTTP, and those that are ending.",
        (),
        lambda: [Sample((), len(listener.connections))],
    )
    yield Measure(
        "slow_sockets",
        "gauge",
        "Connections that are full, HTTP and those that are ending included.",
        (),
        lambda: [Sample((), listener.slow_clients.count())],
    )
    yield Measure(
        "slow_socket_bytes",
        "gauge",
        "Bytes that wait at most for connections that are full.",
        (),
        lambda: [Sample((), listener.slow_clients.size())],
    )
    yield Measure(
        "waiting_body_bytes",
        "gauge",
        "Bytes of HTTP bodies that have not arrived whole and whose head no app has signed.",
        (),
        lambda: [Sample((), listener.waiting_bytes)],
    )
    yield Measure(
        "address_entries",
        "gauge",
        "Entries in the tables of the limits of an address.",
        (),
        lambda: [
            Sample(
                (),
                listener.addresses.count
                + sum(
                    hub.client_event_limits.addresses + len(hub.subscription_rates) for hub in hubs
                ),
            )
        ],
    )
    yield Measure(
        "delivery_latency_seconds",
        "histogram",
        "From the first event of a turn of the loop being taken to the last subscriber's write.",
        (),
        lambda: [Sample((), delivery.latency)],
    )
    yield Measure(
        "delivery_batch_frames",
        "histogram",
        "Events of a channel that left in one write.",
        (),
        lambda: [Sample((), delivery.batches)],
    )


def _of_webhooks(webhooks: Webhooks, held: Callable[[], Mapping[str, int]]) -> Iterator[Measure]:
    counters: list[tuple[str, str, Callable[[EndpointFigures], int]]] = [
        ("webhook_events_sent_total", "Events that webhooks took.", lambda own: own.sent),
        (
            "webhook_requests_failed_total",
            "Requests to webhooks that failed; they are repeated.",
            lambda own: own.failed,
        ),
        (
            "webhook_events_given_up_total",
            "Events that were lost because a webhook did not take them for long.",
            lambda own: own.given_up,
        ),
        (
            "webhook_events_dropped_total",
            "Events that were lost because too many waited for a webhook.",
            lambda own: own.dropped,
        ),
    ]
    for name, meaning, number in counters:
        yield Measure(
            name,
            "counter",
            meaning,
            ("app_id",),
            lambda number=number: (  # type: ignore[misc]
                Sample((app_id,), number(own)) for app_id, own in webhooks.figures.items()
            ),
        )
    yield Measure(
        "webhook_events_waiting",
        "gauge",
        "Events that wait to be taken by a webhook.",
        ("app_id",),
        lambda: (Sample((app_id,), waiting) for app_id, waiting in webhooks.waiting().items()),
    )
    yield Measure(
        "webhook_departures_held",
        "gauge",
        "Ends of channels and of members that may still be undone.",
        ("app_id",),
        lambda: (Sample((app_id,), number) for app_id, number in held().items()),
    )


def _of_node(port: str, node: Node) -> Iterator[Measure]:
    labels = ("app_id", "port")
    requests: list[tuple[str, str, Callable[[RequestFigures], int]]] = [
        ("resolved_promises", "Requests that all nodes answered in time.", lambda r: r.resolved),
        ("uncomplete_promises", "Requests that not all answered in time.", lambda r: r.incomplete),
        ("sent_requests", "Requests to the other nodes.", lambda r: r.sent),
        ("received_requests", "Requests of other nodes.", lambda r: r.received),
        ("received_responses", "Answers of other nodes.", lambda r: r.responses),
    ]
    for name, meaning, number in requests:
        yield Measure(
            f"horizontal_adapter_{name}",
            "counter",
            meaning,
            labels,
            lambda number=number: (  # type: ignore[misc]
                Sample((app_id, port), number(figures)) for app_id, figures in node.requests
            ),
        )
    yield Measure(
        "horizontal_adapter_resolve_time",
        "histogram",
        "Milliseconds until a request to the other nodes was answered, or given up.",
        labels,
        lambda: (Sample((app_id, port), figures.milliseconds) for app_id, figures in node.requests),
    )
    yield Measure(
        "bus_away",
        "gauge",
        "1 while Redis can't be used, else 0.",
        (),
        lambda: [Sample((), float(node.is_away))],
    )
    yield Measure(
        "bus_breaks_total",
        "counter",
        "How often Redis went away.",
        (),
        lambda: [Sample((), node.breaks)],
    )
    yield Measure(
        "bus_pending_bytes",
        "gauge",
        "Bytes of events and answers that wait for Redis.",
        (),
        lambda: [Sample((), node.outgoing_bytes)],
    )
    yield Measure(
        "bus_dropped_total",
        "counter",
        "Messages that other nodes may not have got.",
        (),
        lambda: [Sample((), node.dropped)],
    )
    yield Measure(
        "bus_unintelligible_total",
        "counter",
        "Messages on Redis that were passed over, because no node of this version says such.",
        (),
        lambda: [Sample((), node.unintelligible)],
    )
    yield Measure(
        "bus_topics",
        "gauge",
        "Channels and watched users that this node listens to, or did a moment ago.",
        (),
        lambda: [Sample((), node.topics)],
    )


def _by_key(
    hubs: Hubs, numbers: Callable[[Hub], Iterable[tuple[str | int, int]]]
) -> Iterator[Sample]:
    """Return the numbers of each app, by its id and what else they are known by."""
    for hub in hubs:
        for key, number in sorted(numbers(hub)):
            yield Sample((hub.app.id, _text(key)), number)


def _numbered(numbers: Iterable[tuple[int, int]]) -> Iterator[Sample]:
    return (Sample((_text(code),), number) for code, number in sorted(numbers))


def _text(key: str | int) -> str:
    # An ErrorCode would show its name on some versions of Python.
    return str(int(key)) if isinstance(key, int) else key
