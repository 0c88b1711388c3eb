"""The program of a worker process. Started as a file, so that `ps` shows what it is."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def _find_bridge() -> None:
    """Import the package that this file is part of, wherever the supervisor had it from."""
    root = Path(__file__).resolve().parents[3]
    found = importlib.util.find_spec("bridge")
    if found is None or found.origin is None or Path(found.origin).resolve().parents[1] != root:
        sys.path.insert(0, str(root))
        importlib.invalidate_caches()


if __name__ == "__main__":
    _find_bridge()
    from bridge.server.workers.worker import main

    main(sys.argv[1:])
