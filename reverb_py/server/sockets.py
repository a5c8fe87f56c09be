"""The sockets that a server listens on, before it does: on a port, or on a path."""

from __future__ import annotations

import asyncio
import errno
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["tcp_sockets", "unix_socket"]

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


async def tcp_sockets(host: str, port: int, *, shares_port: bool = False) -> list[socket.socket]:
    """
    Return a socket for each of the host's addresses that this machine has.

    Port 0 takes a free one. With `shares_port` other processes may have the port as well.

    Raises:
        OSError: There is none, or it is in use.
    """
    loop = asyncio.get_running_loop()
    places = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, _, _, _, address in dict.fromkeys(places):
            try:
                sockets.append(_bound(family, address, shares_port=shares_port))
            except OSError as exc:
                if exc.errno not in _NOT_HERE:
                    raise
                missing = exc
        if not sockets and missing is not None:
            raise missing
    except BaseException:
        for each in sockets:
            each.close()
        raise
    return sockets


def _bound(family: int, address: tuple[object, ...], *, shares_port: bool) -> socket.socket:
    place = socket.socket(family, socket.SOCK_STREAM)
    try:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares_port:
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # "::" is no IPv4 address; those come in by a socket of their own.
            place.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        place.setblocking(False)
        place.bind(address)
    except BaseException:
        place.close()
        raise
    return place


@contextmanager
def unix_socket(path: Path, mode: int) -> Iterator[socket.socket]:
    """
    Have a socket at a path for as long as the context lasts.

    `mode` is who may connect, as the bits of a file: writing is connecting. The socket that a dead
    server has left behind is replaced. At the end the file goes, unless it is another server's by
    then.

    Raises:
        OSError: A server listens there (EADDRINUSE), something is there that is no socket (EEXIST),
            or the folder can't be written to.
    """
    _clear(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as place:
        place.setblocking(False)
        place.bind(str(path))
        own = None
        try:
            # Nobody can connect before it listens.
            path.chmod(mode)
            own = _identity(path)
            yield place
        finally:
            if own is None or _identity(path) == own:
                path.unlink(missing_ok=True)


def _clear(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise OSError(errno.EEXIST, "there is something else at that path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A server whose queue is full would have us wait for it.
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass
    raise OSError(errno.EADDRINUSE, "a server is listening there already")


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    # A number of a file that has gone may be given to another one, but not at the same moment.
    return found.st_dev, found.st_ino, found.st_ctime_ns
