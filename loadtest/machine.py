"""The machine that measures: its cores and limits, and what its processes have used."""

import os
import platform
import resource
from collections.abc import Collection
from contextlib import suppress
from importlib import metadata
from pathlib import Path

__all__ = [
    "child_processes",
    "choose_cores",
    "describe_machine",
    "family_seconds",
    "listeners",
    "memory_kibibytes",
    "parent_process",
    "pin",
    "processor_seconds",
    "raise_descriptor_limit",
    "waiting_seconds",
]

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def pin(pid: int, cores: Collection[int]) -> None:
    """Keep a process that has just been started on these cores, if any are given."""
    if cores:
        os.sched_setaffinity(pid, cores)


def choose_cores() -> tuple[int, int] | None:
    """Return the cores of server and load, or None when there is only one."""
    server, *others = sorted(os.sched_getaffinity(0))
    if not others:
        return None
    # The second thread of the server's own core would slow it down.
    for other in others:
        if _physical_core(other) != _physical_core(server):
            return server, other
    return server, others[0]


def _physical_core(core: int) -> tuple[str, ...]:
    """Return what is equal for the hardware threads of one core, when the kernel tells."""
    topology = Path(f"/sys/devices/system/cpu/cpu{core}/topology")
    try:
        return tuple((topology / name).read_text() for name in ("physical_package_id", "core_id"))
    except OSError:
        return (str(core),)


def raise_descriptor_limit() -> int:
    """Let this process and its children open as many files as they may; return how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = min(hard, 1 << 20)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def describe_machine(cores: tuple[int, int] | None) -> dict[str, str]:
    """Return what the figures depend on and the figures do not say."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    pinned = f"server on core {cores[0]}, load on core {cores[1]}" if cores else "nothing pinned"
    try:
        event_loop = f"uvloop {metadata.version('uvloop')}"
    except metadata.PackageNotFoundError:
        event_loop = "asyncio"
    try:
        distribution = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        distribution = platform.system()
    return {
        "processor": model,
        "cores": f"{os.cpu_count()} cores ({pinned})",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{distribution}, kernel {platform.release()}",
        "event_loop": event_loop,
        "other_load": f"load average {os.getloadavg()[0]:.1f} at the start",
    }


def memory_kibibytes(pid: int) -> float:
    """
    Return the memory of a process in KiB: its proportional set, or else its resident set.

    Raises:
        ProcessLookupError: It has ended.
    """
    for file, field in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        try:
            lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith(field):
                return float(line.split()[1])
    raise ProcessLookupError(f"process {pid} has ended")


def processor_seconds(pid: int) -> tuple[float, float]:
    """
    Return the user and the system CPU time of a process, in seconds.

    Raises:
        ProcessLookupError: It has ended.
    """
    _, fields = _statistics(pid)
    return int(fields[11]) / _TICKS_PER_SECOND, int(fields[12]) / _TICKS_PER_SECOND


def family_seconds(pid: int) -> float:
    """
    Return the CPU time of a process and its children, those that have ended included, in seconds.

    Raises:
        ProcessLookupError: It has ended.
    """
    children = child_processes(pid)  # first: who ends now is counted twice, and not left out
    _, fields = _statistics(pid)
    total = sum(map(int, fields[11:15])) / _TICKS_PER_SECOND
    for child in children:
        with suppress(ProcessLookupError):
            total += sum(processor_seconds(child))
    return total


def parent_process(pid: int) -> tuple[int, str]:
    """
    Return the process that has started another, and that one's own name.

    Raises:
        ProcessLookupError: It has ended, or is on another machine.
    """
    name, fields = _statistics(pid)
    return int(fields[1]), name


def _statistics(pid: int) -> tuple[str, list[str]]:
    """Return the name of a process and the kernel's figures behind it."""
    try:
        name, _, fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        raise ProcessLookupError(f"process {pid} has ended") from None
    return name.partition("(")[2], fields.split()


def waiting_seconds(pid: int) -> float:
    """Return how long a process was ready to run while its core was taken, 0 if unknown."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def child_processes(pid: int) -> list[int]:
    """Return the processes that a process has started and that have not ended."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return [
            int(child) for thread in threads for child in (thread / "children").read_text().split()
        ]
    except OSError:
        return []


def listeners(port: int) -> list[str]:
    """Return the kernel's names of the IPv4 sockets that listen on a port."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    sockets = (line.split() for line in lines)
    return [each[9] for each in sockets if each[3] == "0A" and int(each[1][-4:], 16) == port]
