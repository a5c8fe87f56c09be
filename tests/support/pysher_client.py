"""
A Pysher client, as a program that a test drives by lines of JSON.

Its configuration is `{key, secret, port, user_data, channels}`, where `channels` are the names to
subscribe to whenever it has connected, each with the events to listen to. It says
`["connection", event, data]` and `["channel", channel, event, data]` with the data as Pysher hands
it out, and `["stopped"]` when it has given up. It takes one command, `["trigger", channel, event,
data]`, and ends with its standard input.
"""

import json
import sys
import threading
from typing import Any

import pysher

_SUBSCRIBED = "pusher_internal:subscription_succeeded"

_printing = threading.Lock()


def say(*line: Any) -> None:
    with _printing:
        print(json.dumps(line), flush=True)


def main() -> None:
    configuration = json.loads(sys.argv[1])
    pusher = pysher.Pusher(
        configuration["key"],
        secret=configuration["secret"],
        secure=False,
        custom_host="127.0.0.1",
        port=configuration["port"],
        user_data=configuration["user_data"],
        reconnect_interval=0.05,
    )

    def heard(data: object, channel: str, event: str) -> None:
        say("channel", channel, event, data)

    def subscribe(_: str) -> None:
        for channel, events in configuration["channels"].items():
            subscription = pusher.subscribe(channel)
            for event in (_SUBSCRIBED, *events):
                subscription.bind(event, heard, channel, event)

    def say_when_stopped() -> None:
        pusher.connection.join()
        say("stopped")

    for event in ("pusher:connection_established", "pusher:pong", "pusher:error"):
        pusher.connection.bind(event, lambda data, event: say("connection", event, data), event)
    pusher.connection.bind("pusher:connection_established", subscribe)
    pusher.connect()
    threading.Thread(target=say_when_stopped, daemon=True).start()
    for line in sys.stdin:
        _, channel, event, data = json.loads(line)
        pusher.channel(channel).trigger(event, data)


if __name__ == "__main__":
    main()
