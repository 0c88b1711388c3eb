"""Runs `taskbridge`, also as `python -m bridge`."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType

INTERRUPTED = 130
STOPPED = 0
# `make` prints `make: *** wait: No child processes` if its job ends before it has seen the signal itself.
MAKE_SECONDS = 0.2


def run() -> None:
    """Run the command line.

    Ctrl-C while modules are still imported ends the process without a traceback. The demo ends successfully
    whenever it is stopped: `make` reports every other exit code.
    """
    is_demo = sys.argv[1:2] == ["demo"]
    for number in (signal.SIGINT, *((signal.SIGTERM, signal.SIGHUP) if is_demo else ())):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` and `&` want it
            signal.signal(number, _stop_demo if is_demo else _interrupt)
    from bridge.cli import main  # noqa: PLC0415 - slow, so after the handlers

    if not is_demo and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    main()


def _stop_demo(number: int, frame: FrameType | None) -> None:
    del number, frame
    time.sleep(MAKE_SECONDS)
    os._exit(STOPPED)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    run()
