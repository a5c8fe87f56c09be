"""
Measures a day of chat: both servers, a database, and locust's users, all on this machine.

For each database the load is first as high as the servers take it, then half of that. What is
measured is what people notice: from the request that posts a message to the event at whoever
listens. Every message must arrive, once.
"""

import asyncio
import csv
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import orjson
import psycopg
from argon2 import PasswordHasher
from machine import describe_machine, family_seconds, parent_process
from report import table, write_into_document

from chat_api.runtime import migrated_store, with_accounts
from chat_api.settings import Settings

HERE = Path(__file__).resolve().parent
START_TIMEOUT = 30.0
SETTLE_SECONDS = 21.0
"""After its start the API gives clients this long to come back before it speaks to nobody."""
PEOPLE = {"user": 80, "agent": 10, "customer": 30}
"""How many play; colleagues come in pairs."""
ACTORS = {"pair": PEOPLE["user"] // 2, "agent": PEOPLE["agent"], "customer": PEOPLE["customer"]}
MOST_TRIES = 3
NEAR_ENOUGH = 0.1
"""How far from half the second load may be."""
PASSWORD = "a password for a day"
CHEAP_HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)

POSTGRESQL = "PostgreSQL"
"""The one program that has several processes, and so several cores."""

Environment = Mapping[str, str]


class BrokenError(Exception):
    """The servers did something that makes the figures worthless; the message says what."""


@dataclass(frozen=True)
class Figures:
    """What one run showed; times in milliseconds, `cores` are cores in use by program."""

    messages_per_second: float
    requests_per_message: float
    p50: float
    p95: float
    p99: float
    cores: Mapping[str, float]

    def limit(self) -> str:
        """Return what kept it from being faster, as far as processor time tells."""
        name, most = max(self.cores.items(), key=lambda item: item[1])
        cores = os.cpu_count() or 1
        found = []
        # The start and the end of a run are quieter than its middle.
        if most >= 0.8 and name != POSTGRESQL:
            found.append(f"{name}, which has one core")
        if sum(self.cores.values()) >= 0.9 * cores:
            found.append(f"the machine, whose {cores} cores are full")
        return "; ".join(found) or "waiting (disk, network)"


def environment_of(folder: Path, database_url: str) -> dict[str, str]:
    """Return the environment of two servers on free ports, free of anyone else's settings."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("REVERB_", "CHAT_", "LOCUST_"))
    }
    path = os.pathsep.join(filter(None, [str(HERE.parent), inherited.get("PYTHONPATH")]))
    with ExitStack() as held:
        ports = [
            held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            for _ in range(2)
        ]
    return inherited | {
        "PYTHONPATH": path,
        "REVERB_APP_ID": "1001",
        "REVERB_APP_KEY": secrets.token_hex(10),
        "REVERB_APP_SECRET": secrets.token_hex(20),
        "REVERB_SERVER_HOST": "127.0.0.1",
        "REVERB_SERVER_PORT": str(ports[0]),
        "REVERB_PORT": str(ports[0]),
        "CHAT_PORT": str(ports[1]),
        "CHAT_JWT_SECRET": secrets.token_hex(32),
        "CHAT_DATABASE_URL": database_url,
        "CHAT_MESSAGES_PER_MINUTE": "0",
        "CHAT_LOGINS_PER_MINUTE": "0",
        "CHAT_SESSIONS_PER_MINUTE": "0",
        "CHAT_QUEUE_MAX_CONCURRENT_BY_AGENT": "0",
        "LOCUST_ACCOUNTS": str(folder / "accounts.csv"),
        "LOCUST_REALTIME": f"ws://127.0.0.1:{ports[0]}",
    }


async def open_accounts(environment: Environment, file: Path) -> None:
    """Bring the database up to date, open everybody's account, and list them in a file."""
    settings = Settings.from_environment(environment)
    async with (
        migrated_store(settings) as store,
        with_accounts(settings, store, hasher=CHEAP_HASHER) as accounts,
    ):
        run = secrets.token_hex(4)
        with file.open("w", newline="") as listed:
            lines = csv.writer(listed)
            for role in ("user", "agent"):
                for number in range(PEOPLE[role]):
                    email = f"{role}{number}.{run}@example.com"
                    await accounts.create(
                        email=email,
                        password=PASSWORD,
                        first_name=role.title(),
                        last_name=str(number),
                        role=role,
                        tenants=("*",) if role == "agent" else (),
                    )
                    lines.writerow((email, PASSWORD, role))


@contextmanager
def server(module: str, command: str, environment: Environment, folder: Path) -> Iterator[int]:
    """Run a server while the block does; yields its process id."""
    log = folder / f"{module}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, command],
            cwd=folder,
            env=dict(environment),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        port, path = {
            "reverb_py": (environment["REVERB_PORT"], "/up"),
            "chat_api": (environment["CHAT_PORT"], "/actuator/health"),
        }[module]
        wait_until_up(f"http://127.0.0.1:{port}{path}", process, log)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def wait_until_up(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return when something answers there."""
    give_up = time.monotonic() + START_TIMEOUT
    while time.monotonic() < give_up and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.05)
    raise BrokenError(f"{log.stem} did not start:\n{log.read_text()}")


def database_server(url: str) -> int | None:
    """
    Return the process of a PostgreSQL server that has started those of its sessions.

    None where it is not on this machine, as far as this process can see.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        try:
            parent, name = parent_process(connection.info.backend_pid)
        except ProcessLookupError:
            return None
    return parent if name.startswith("postgres") else None


def run_locust(
    environment: Environment, folder: Path, seconds: float, pause: float, pids: Mapping[str, int]
) -> Figures:
    """Let everybody talk for so long, and return what was measured after they had all come in."""
    users = sum(ACTORS.values())
    command = [
        *(sys.executable, "-m", "locust", "-f", str(HERE / "locustfile.py"), "--headless"),
        *("--host", f"http://127.0.0.1:{environment['CHAT_PORT']}"),
        *("--users", str(users), "--spawn-rate", str(users), "--stop-timeout", "60"),
        *("--run-time", f"{seconds:.0f}s", "--reset-stats", "--pause", str(pause)),
        *("--tags", "chat", "support"),
        *("--only-summary", "--json-file", str(folder / "stats")),
    ]
    before = {name: family_seconds(pid) for name, pid in pids.items()}
    with (folder / "locust.log").open("wb") as output:
        started = time.monotonic()
        process = subprocess.Popen(
            command, env=dict(environment), stdout=output, stderr=subprocess.STDOUT
        )
        usage = wait_with_usage(process)
    elapsed = time.monotonic() - started
    if process.returncode:
        raise BrokenError(f"locust says:\n{(folder / 'locust.log').read_text()}")
    cores = {name: (family_seconds(pid) - before[name]) / elapsed for name, pid in pids.items()}
    cores["the load"] = usage / elapsed
    return read_figures(orjson.loads((folder / "stats.json").read_bytes()), cores)


def wait_with_usage(process: "subprocess.Popen[bytes]") -> float:
    """Wait for the end of a process and return the processor seconds it used."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def read_figures(stats: Sequence[Mapping[str, Any]], cores: Mapping[str, float]) -> Figures:
    """Return the figures of locust's statistics."""
    heard = [entry for entry in stats if entry["method"] == "event"]
    asked = [entry for entry in stats if entry["method"] not in ("event", "websocket")]
    begin = min(entry["start_time"] for entry in heard)
    end = max(entry["last_request_timestamp"] for entry in heard)
    times = sorted(
        (float(milliseconds), count)
        for entry in heard
        for milliseconds, count in entry["response_times"].items()
    )
    total = sum(count for _, count in times)
    return Figures(
        messages_per_second=total / (end - begin),
        requests_per_message=sum(entry["num_requests"] for entry in asked) / total,
        p50=percentile(times, total, 0.50),
        p95=percentile(times, total, 0.95),
        p99=percentile(times, total, 0.99),
        cores=cores,
    )


def percentile(times: Sequence[tuple[float, int]], total: int, share: float) -> float:
    """Return the time that this share of all did not exceed."""
    seen = 0
    for milliseconds, count in times:
        seen += count
        if seen >= share * total:
            return milliseconds
    raise BrokenError("nothing was measured")


def measure(name: str, database_url: str, seconds: float) -> list[list[str]]:
    """Return two rows of the table: as much as it takes, and half of that."""
    with tempfile.TemporaryDirectory(prefix="day-of-chat-") as temporary:
        folder = Path(temporary)
        url = database_url or f"sqlite:///{folder / 'chat.sqlite3'}"
        environment = environment_of(folder, url)
        most = run(f"{name}, all it takes", environment, folder, seconds, 0.0)
        half = most.messages_per_second / 2
        pause = sum(ACTORS.values()) / (half * most.requests_per_message)
        for _ in range(MOST_TRIES):
            figures = run(f"{name}, half of that", environment, folder, seconds, pause)
            share = figures.messages_per_second / half
            if abs(share - 1) <= NEAR_ENOUGH:
                break
            pause *= share  # how long people wait for each other was not reckoned with
        return [
            row(f"{name}, all it takes", most, most.limit()),
            row(f"{name}, half of that", figures, "the pauses"),
        ]


def run(
    title: str, environment: dict[str, str], folder: Path, seconds: float, pause: float
) -> Figures:
    """Return what a day with this average pause, in seconds, shows on servers just started."""
    environment["LOCUST_TENANT"] = f"day-{secrets.token_hex(4)}.example.com"
    asyncio.run(open_accounts(environment, folder / "accounts.csv"))
    with (
        server("reverb_py", "start", environment, folder) as reverb,
        server("chat_api", "serve", environment, folder) as chat,
    ):
        click.echo(f"{title}: {SETTLE_SECONDS + seconds:.0f} s …", err=True)
        time.sleep(SETTLE_SECONDS)
        pids = {"reverb_py": reverb, "chat_api": chat}
        url = environment["CHAT_DATABASE_URL"]
        postgresql = None if url.startswith("sqlite") else database_server(url)
        if postgresql is not None:
            pids[POSTGRESQL] = postgresql
        return run_locust(environment, folder, seconds, pause, pids)


def row(title: str, figures: Figures, limit: str) -> list[str]:
    """Return a row of the table."""
    return [
        title,
        f"{figures.messages_per_second:,.0f}",
        *(f"{value:.0f}" for value in (figures.p50, figures.p95, figures.p99)),
        ", ".join(f"{who} {used:.2f}" for who, used in figures.cores.items()),
        limit,
    ]


HEADING = ["", "messages/s", "p50 ms", "p95 ms", "p99 ms", "cores used", "what limits it"]

EXAMPLES = """\b
Examples:
  python loadtest/day_of_chat.py                      on SQLite
  python loadtest/day_of_chat.py --postgresql postgresql://chat:secret@127.0.0.1/chat
                                                      on PostgreSQL as well, as in README.md,
                                                      whose table --document README.md writes
"""


@click.command(epilog=EXAMPLES)
@click.option("--postgresql", "postgresql_url", help="Measure on this database as well.")
@click.option("--seconds", type=click.FloatRange(min=5), default=30.0, show_default=True)
@click.option(
    "--document",
    type=click.Path(exists=True, dir_okay=False, writable=True, path_type=Path),
    help="Write the table into this document.",
)
def main(postgresql_url: str | None, seconds: float, document: Path | None) -> None:
    """Measure a day of chat and print a table. The PostgreSQL database gets accounts and chats."""
    databases = {"SQLite": ""} | ({POSTGRESQL: postgresql_url} if postgresql_url else {})
    rows = [HEADING]
    try:
        for name, url in databases.items():
            rows.extend(measure(name, url, seconds))
    except BrokenError as broken:
        raise click.ClickException(str(broken)) from None
    click.echo(table(rows))
    if document is not None:
        lines = [f"| {' | '.join(row)} |" for row in rows]
        lines.insert(1, "|" + "---|" * len(HEADING))
        machine = ", ".join(describe_machine(None).values())
        section = "\n".join([*lines, "", f"Measured on: {machine}."])
        write_into_document(document, "a day of chat", section)


if __name__ == "__main__":
    main()
