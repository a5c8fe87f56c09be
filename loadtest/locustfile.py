"""
Load for locust, chosen by tag.

    locust -f loadtest/locustfile.py --headless --users 40 --run-time 60s --tags fan-out

`chat` and `support` are a day of chat, played against chat_api, and what is played without a tag.
The others need nothing but a Pusher server, whose HTTP API is the host: `fan-out`,
`presence-churn` and `reconnect-storm`.

What was sent must arrive: how long each delivery took is the locust metric `event`, and one that
has not arrived when the run is over, or that arrived twice, fails the run (exit status 1).
"""

from pathlib import Path
from typing import Any

from deliveries import deliveries
from dotenv import dotenv_values
from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import WorkerRunner
from users.chat import Agent, Customer, TwoColleagues
from users.fan_out import Publisher, Subscriber
from users.presence_churn import Guest
from users.reconnect_storm import Caller, Castaway

__all__ = [
    "Agent",
    "Caller",
    "Castaway",
    "Customer",
    "Guest",
    "Publisher",
    "Subscriber",
    "TwoColleagues",
]

_DEFAULT_TAGS = ["chat", "support"]
_ENV_FILE = dotenv_values(Path(__file__).resolve().parent.parent / ".env")


@events.init_command_line_parser.add_listener
def _(parser: LocustArgumentParser) -> None:
    parser.set_defaults(tags=_DEFAULT_TAGS)
    group = parser.add_argument_group("Realtime")
    group.add_argument(
        "--realtime",
        env_var="LOCUST_REALTIME",
        default="ws://127.0.0.1:8080",
        help="Where the WebSocket server is",
    )
    for name in ("id", "key", "secret"):
        variable = f"REVERB_APP_{name.upper()}"
        group.add_argument(
            f"--app-{name}",
            env_var=variable,
            default=_ENV_FILE.get(variable) or "",
            help=f"The app's {name}; from .env when left out",
        )
    group.add_argument(
        "--last-wait",
        env_var="LOCUST_LAST_WAIT",
        type=float,
        default=20.0,
        help="Seconds that what is owed may take to arrive after the last request",
    )
    group.add_argument(
        "--publishers",
        env_var="LOCUST_PUBLISHERS",
        type=int,
        default=2,
        help="fan-out: how many of the users publish",
    )
    group.add_argument(
        "--rate",
        env_var="LOCUST_RATE",
        type=float,
        default=5.0,
        help="fan-out, reconnect-storm: events a second of each publisher",
    )
    group.add_argument(
        "--storm-every",
        env_var="LOCUST_STORM_EVERY",
        type=float,
        default=15.0,
        help="reconnect-storm: seconds from one to the next",
    )
    group = parser.add_argument_group("Chat")
    group.add_argument(
        "--accounts",
        env_var="LOCUST_ACCOUNTS",
        default="",
        help="A file with an account a line: email, password, role; the demo accounts without one",
    )
    group.add_argument(
        "--tenant",
        env_var="LOCUST_TENANT",
        default="tenant1.example.com",
        help="Whose customers ask for help; best one whose queue is empty",
    )
    group.add_argument(
        "--pause",
        env_var="LOCUST_PAUSE",
        type=float,
        default=2.0,
        help="Seconds that everybody pauses, on average, between two things they do",
    )


@events.init.add_listener
def _(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    assert options is not None
    Publisher.fixed_count = options.publishers
    # A user without a task that is played would end with an error.
    tags = set(options.tags or _DEFAULT_TAGS)
    environment.user_classes[:] = [
        each
        for each in environment.user_classes
        if any(tags & getattr(task, "locust_tag_set", set()) for task in each.tasks)
    ]


@events.report_to_master.add_listener
def _(client_id: str, data: dict[str, Any]) -> None:
    data["deliveries"] = deliveries.take_news()


@events.worker_report.add_listener
def _(client_id: str, data: dict[str, Any]) -> None:
    deliveries.add_news(data["deliveries"])


@events.quitting.add_listener
def _(environment: Environment) -> None:
    if environment.runner is None or isinstance(environment.runner, WorkerRunner):
        return
    # Whoever ends a run by a signal is told as well what has arrived by then.
    environment.runner.stop()
    print(deliveries.summary())
    if not deliveries.is_exact:
        environment.process_exit_code = 1
