"""
A node in a process of its own, which says what it holds when it is asked.

    python -m soaking.node

Settings come from the environment, as for `reverb-py start`. The first line on standard output is
the port; after that each line on standard input is answered with a line of JSON, see `Held`.
SIGTERM or the end of standard input stops the node as SIGTERM stops a server.
"""

import asyncio
import gc
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable

import orjson

from reverb_py.runtime import running_server
from reverb_py.settings import Settings

Held = dict[str, dict[str, int]]
"""How many there are: `tasks` by the name of their coroutine, `objects` of reverb_py by class."""

new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
try:
    import uvloop
except ImportError:
    pass
else:
    new_event_loop = uvloop.new_event_loop


def held() -> Held:
    """Count what is alive, after everything has been freed that nobody refers to."""
    gc.collect()
    tasks = Counter(getattr(task.get_coro(), "__qualname__", "?") for task in asyncio.all_tasks())
    kinds = Counter(type(each) for each in gc.get_objects())
    objects = {
        f"{kind.__module__}.{kind.__qualname__}": number
        for kind, number in kinds.items()
        if str(kind.__module__).startswith("reverb_py.")
    }
    return {"tasks": dict(tasks), "objects": objects}


async def serve() -> None:
    """Serve until told to stop."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    questions = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(questions), sys.stdin)

    async def answer() -> None:
        while await questions.readline():
            print(orjson.dumps(held()).decode(), flush=True)

    answering = asyncio.create_task(answer())
    answering.add_done_callback(lambda _: stop.set())
    async with running_server(Settings.from_environment(os.environ)) as running:
        print(running.port, flush=True)
        await stop.wait()
    if not answering.cancel():
        answering.result()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve())
