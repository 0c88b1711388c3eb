"""Reads the files of `deploy/` and checks the bridge's part of them with the bridge."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from bridge.config.effective import stop_seconds
from bridge.config.settings import Settings
from tests.docs.pages import ROOT

DEPLOY = ROOT / "deploy"
DEFAULTS = Settings.model_validate({"upstreams": {"qingbo": {}}})
STOP_SECONDS = stop_seconds(DEFAULTS)


def tool(name: str) -> Path | None:
    """A program of the tests' Python environment."""
    found = Path(sys.executable).with_name(name)
    return found if found.exists() else None


def effective(variables: Mapping[str, str]) -> dict[str, Any]:
    """The bridge's settings with these variables; it must find no error."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BRIDGE_")}
    done = subprocess.run(
        [sys.executable, "-m", "bridge", "check-config", "--json"],
        env=inherited | dict(variables),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return {name: setting["value"] for name, setting in orjson.loads(done.stdout).items()}


def seconds(text: str) -> float:
    """A time as Compose and systemd write it."""
    (number,) = re.findall(r"^(\d+)s?$", str(text))
    return float(number)
