"""What every worker is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.config.settings import Settings


@dataclass(frozen=True, slots=True)
class Launch:
    """The settings, and how a worker comes by the same.

    Args:
        path: The configuration file; None without.
        overrides: Settings of the command line.
    """

    settings: Settings
    path: Path | None
    overrides: dict[str, Any]

    def fields(self) -> dict[str, Any]:
        """For the message that starts a worker.

        The text of the file is in it: a worker that is started again must not find other settings than those
        beside it.
        """
        path = None if self.path is None else str(self.path)
        return {"path": path, "text": self.settings.file_text, "overrides": self.overrides}
