"""Becomes the bridge again and again: a process that has imported everything, and forks for each that asks.

    python -m tests.zygote       asked on standard input, which is one end of a socket pair

To import the bridge takes a second, to fork twenty milliseconds, and the tests start it some hundred times.
What is forked is a process like any other: with its own id, descriptors, environment, signals and end.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import socket
import sys
from typing import Any

import bridge.app.bridge
import bridge.cli.main
import bridge.server.server
import bridge.telemetry.logs
from tests.forked import ASKED

FDS = 3  # standard output, standard error, and the line on which the rest is said
MOST_FDS = 256  # more than ever are open where nothing is done but to fork


def wait_to_become() -> dict[str, Any] | None:
    """Fork for everybody who asks.

    Returns:
        In the child, what it is to be; None once nobody can ask any more.
    """
    control = socket.socket(fileno=0)
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is not control:
                _tell_end(selector, key)
                continue
            asked, fds, _, _ = socket.recv_fds(control, len(ASKED), FDS)
            if not asked:
                return None
            child = os.fork()
            if child == 0:
                selector.close()
                control.detach()
                return _take_over(*fds)
            line = fds.pop()
            for fd in fds:
                os.close(fd)
            os.write(line, b"%d\n" % child)
            selector.register(os.pidfd_open(child), selectors.EVENT_READ, (child, line))


def _tell_end(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    child, line = key.data
    selector.unregister(key.fileobj)
    os.close(key.fd)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(BrokenPipeError):  # whoever asked is gone
        os.write(line, b"%d\n" % os.waitstatus_to_exitcode(status))
    os.close(line)


def _take_over(output: int, errors: int, line: int) -> dict[str, Any]:
    with os.fdopen(line, "rb") as said:
        wish: dict[str, Any] = json.loads(said.readline())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.closerange(3, MOST_FDS)
    return wish


if __name__ == "__main__":
    gc.collect()
    gc.freeze()  # or the first collection of each child would copy all of it
    wish = wait_to_become()
    if wish is not None:
        os.chdir(wish["folder"])
        os.environ.clear()
        os.environ.update(wish["environment"])
        sys.argv = ["bridge", *wish["words"]]
        bridge.cli.main()
