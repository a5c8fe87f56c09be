"""
The load: one job against one running server, in a process of its own.

Reads a job as JSON from standard input, runs it, and writes one JSON object to standard output:
the figures of the job, or `{"broken": "what the server did wrong"}` with exit status 1.

    {"kind": "fan_out", "port": 8080, "http_port": 8080, "pids": [4711], ...}    see job.py

One thread, raw sockets and epoll. What is received is checked without being parsed: all frames of a
job are equal, or equal but for a number of fixed width, so that a whole read is compared with what
has to come next on that connection, and counting is arithmetic. A frame that is missing, altered,
duplicated or out of place breaks the job. The clock is CLOCK_MONOTONIC.
"""

import gc
import sys

import orjson

from generator.job import Job
from generator.jobs import JOBS
from generator.wire import BrokenError


def main() -> int:
    """Run the job of standard input; return the exit status."""
    if len(sys.argv) > 1 or sys.stdin.isatty():
        sys.exit("bench.py starts this and hands it a job; see `python loadtest/bench.py --help`")
    job = Job(**orjson.loads(sys.stdin.buffer.read()))
    # A collection would walk thousands of connections that never become garbage.
    gc.disable()
    try:
        result: dict[str, object] = {**JOBS[job.kind](job)}
    except (BrokenError, ProcessLookupError) as error:
        result = {"broken": str(error)}
    sys.stdout.buffer.write(orjson.dumps(result))
    return "broken" in result


if __name__ == "__main__":
    sys.exit(main())
