"""A real PostgreSQL server from this machine's programs, which ends with the tests for sure."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO

import psycopg
import pytest

__all__ = ["PostgresqlServer", "postgresql_server"]

_PATIENCE = 60.0  # seconds
_MEMORY = 2**30  # bytes; more than several servers take

# Ends the server when its own standard input ends, and so even if the tests are killed.
_GUARD = """
"$@" </dev/null &
cat >/dev/null
kill -QUIT $!
wait $!
rm -rf "$0"
"""
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "log_min_messages": "log",
    # Files that do not outlive the tests need not outlive a power cut.
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "64MB",
    "autovacuum": "off",
    # What the product must not depend on.
    "timezone": "Asia/Tashkent",
    "default_transaction_isolation": "serializable",
    "synchronous_commit": "off",
}


class PostgresqlServer:
    """
    A server that listens on a Unix socket in `folder`, and makes databases.

    Its only account is `postgres`, which needs no password.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count(1)

    def url(self, database: str) -> str:
        """Return where a database is; that the machine is busy is no reason not to get there."""
        return f"postgresql://postgres@/{database}?host={self._folder}&connect_timeout=60"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement, in a session and a transaction of its own, and return its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """Lend a copy of a database that nobody is connected to, by its name."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield name
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def cut_off(self, database: str) -> None:
        """End every session in a database, as a restart does."""
        self.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            f"WHERE datname = '{database}'"
        )

    @contextmanager
    def outage(self, database: str) -> Iterator[None]:
        """Have a database out of reach for as long as the context lasts."""
        self.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        self.cut_off(database)
        try:
            yield
        finally:
            self.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Have the server and all its sessions stand still for as long as the context lasts."""
        lines = (self._folder / "data" / "postmaster.pid").read_text().splitlines()
        rows = self.execute("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        processes = [int(lines[0]), *(int(str(pid)) for (pid,) in rows)]
        try:
            _signal(processes, signal.SIGSTOP)
            yield
        finally:
            _signal(processes, signal.SIGCONT)


def _signal(processes: Iterable[int], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):  # a session that has ended meanwhile
            os.kill(process, number)


@contextmanager
def postgresql_server() -> Iterator[PostgresqlServer]:
    """
    Run a server with files of its own for as long as the context lasts.

    Fails the test where PostgreSQL is not installed. As root it runs as `postgres` or `nobody`.
    """
    programs = _programs()
    account = _account()
    # A short path, as those of sockets have to be.
    folder = Path(tempfile.mkdtemp(prefix="postgresql-", dir=_memory()))
    if account is not None:
        shutil.chown(folder, account)
    try:
        _make(programs, folder, account)
        with _running(programs, folder, account):
            yield PostgresqlServer(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _memory() -> Path | None:
    """Return where files are in memory, if that is large: making databases is faster there."""
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > _MEMORY:
        return memory
    return None


def _programs() -> Path:
    found = shutil.which("initdb")
    if found is not None and shutil.which("postgres") is not None:
        return Path(found).resolve().parent
    folders = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name)
    )
    if (pg_config := shutil.which("pg_config")) is not None:
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=True)
        folders.append(Path(answer.stdout.strip()))
    for folder in reversed(folders):
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    pytest.fail(
        "PostgreSQL's server is missing: install it (Debian and Ubuntu: apt-get install "
        "postgresql; macOS: brew install postgresql) or put its initdb on the PATH",
        pytrace=False,
    )


def _account() -> str | None:
    if os.geteuid() != 0:
        return None
    accounts = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in accounts else "nobody"


def _make(programs: Path, folder: Path, account: str | None) -> None:
    command = [str(programs / "initdb"), "--pgdata", str(folder / "data"), "--username=postgres"]
    command += ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
    made = subprocess.run(
        command, cwd=folder, user=account, capture_output=True, text=True, timeout=_PATIENCE
    )
    assert made.returncode == 0, made.stderr


@contextmanager
def _running(programs: Path, folder: Path, account: str | None) -> Iterator[None]:
    settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
    server = [str(programs / "postgres"), "-D", str(folder / "data"), "-k", str(folder), *settings]
    with subprocess.Popen(
        ["sh", "-c", _GUARD, str(folder), *server],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        user=account,
        start_new_session=True,  # Ctrl-C is for the tests, which end the server themselves
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        log = _Log(process.stderr)
        try:
            assert log.is_ready.wait(_PATIENCE), log.lines
            yield
        finally:
            process.stdin.close()
            process.wait(_PATIENCE)


class _Log:
    """Reads what a server says, so that it can go on; remembers the last lines."""

    def __init__(self, stream: IO[str]) -> None:
        self.lines: deque[str] = deque(maxlen=20)
        self.is_ready = threading.Event()
        threading.Thread(target=self._read, args=[stream], daemon=True).start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self.lines.append(line)
            if "ready to accept connections" in line:
                self.is_ready.set()
