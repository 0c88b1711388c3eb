"""Settings that were renamed: for one release the old name alone still works, with a warning.

Used with both names, a setting would have two values; that is a configuration error, wherever the two names
are written (file, environment, command line).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

SETTINGS = {
    "slow_seconds": "write_timeout_seconds",
    "header_seconds": "request_header_timeout_seconds",
    "body_seconds": "request_body_timeout_seconds",
    "cold_wait_seconds": "first_state_timeout_seconds",
    "sync_seconds": "sync_wait_seconds",
    "proof_seconds": "ownership_cache_seconds",
    "ops_host": "admin_host",
    "ops_port": "admin_port",
    "max_head_bytes": "max_request_head_bytes",
}
UPSTREAM_SETTINGS = {"deadline_seconds": "task_deadline_seconds"}


class RenamedSettings:
    """Translates old names, layer by layer, and remembers which were used."""

    def __init__(self) -> None:
        self._old: dict[str, str] = {}
        self._new: set[str] = set()

    def translate(self, config: dict[str, Any]) -> dict[str, Any]:
        """One layer (file, environment or overrides) under the current names."""
        config = self._table(config, SETTINGS, "")
        upstreams = config.get("upstreams")
        if isinstance(upstreams, dict):
            config["upstreams"] = {
                name: self._table(table, UPSTREAM_SETTINGS, f"upstreams.{name}.")
                if isinstance(table, dict)
                else table
                for name, table in upstreams.items()
            }
        return config

    def _table(self, table: Mapping[str, Any], names: Mapping[str, str], prefix: str) -> dict[str, Any]:
        translated: dict[str, Any] = {}
        for name, value in table.items():
            new = names.get(name)
            if new is not None:
                self._old[f"{prefix}{name}"] = f"{prefix}{new}"
                # The value under the new name wins here only until `errors` rejects the configuration.
                translated.setdefault(new, value)
                continue
            if name in names.values():
                self._new.add(f"{prefix}{name}")
            translated[name] = value
        return translated

    def warnings(self) -> Iterator[str]:
        """One sentence per old name in use."""
        for old, new in self._old.items():
            yield f"{old} was renamed to {new}; the old name stops working in the next release"

    def as_written(self, error: str) -> str:
        """An error that begins with a current name, under the old name if the operator wrote that one."""
        name, colon, message = error.partition(":")
        for old, new in self._old.items():
            if new == name and new not in self._new:
                return f"{old}{colon}{message}"
        return error

    def errors(self) -> Iterator[str]:
        """One sentence per setting that is written under both of its names."""
        for old, new in self._old.items():
            if new in self._new:
                yield f"{old}: is the old name of {new}, which is set too; remove {old}"
