"""A worker in a process that may have few files open: `python -m tests.integration.few_files FILES NODE`.

Prints its port once it serves; ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import sys

import uvloop

from trackproxy.settings import load
from trackproxy.worker import Worker


async def main(node: str) -> None:
    web = {"protocol": "http", "listen": ["127.0.0.1:1"]}
    worker = Worker(load(None, {"nodes": {"n1": {"address": node}}, "services": {"web": web}}))
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        await worker.start({"web": [listener]})
        print(listener.getsockname()[1], flush=True)  # noqa: T201
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await worker.stop(0.2)


if __name__ == "__main__":
    files = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[2]))
