"""Public import path of the settings: `load` and `Settings`. The code is in `bridge.config`."""

from bridge.config.load import load
from bridge.config.settings import Settings

__all__ = ["Settings", "load"]
