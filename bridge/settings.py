"""Public import path of the settings: `load` and `Settings`. They live in `bridge.config.settings`."""

from bridge.config.settings import Settings, load

__all__ = ["Settings", "load"]
