"""An old configuration, and what `docs/upgrading.md` says about it."""

from __future__ import annotations

import tomllib
from pathlib import Path

from bridge.config import renamed
from bridge.config.effective import effective
from bridge.config.load import load

HERE = Path(__file__).parent
OLD_EXAMPLE = HERE / "bridge.example.e07285d.toml"  # as it was before the settings got their final names
NEW_EXAMPLE = HERE.parents[2] / "bridge.example.toml"
NEWER = {"upstreams.qingbo.max_in_flight_total": 64}  # what only the new example sets
PAGE = (HERE.parents[2] / "docs" / "upgrading.md").read_text("utf-8")


def test_the_old_example_loads_to_the_same_settings_with_one_warning_per_old_name() -> None:
    old, new = load(OLD_EXAMPLE, environment={}), load(NEW_EXAMPLE, environment={})
    before, now = ({name: one.value for name, one in effective(each).items()} for each in (old, new))
    assert before | NEWER == now
    written = tomllib.loads(OLD_EXAMPLE.read_text("utf-8"))
    names = {f"{name} was renamed to {now};" for name, now in renamed.SETTINGS.items() if name in written}
    names.add("upstreams.qingbo.deadline_seconds was renamed to upstreams.qingbo.task_deadline_seconds;")
    assert {warning.partition(" the old name")[0] for warning in old.warnings} == names
    assert len(old.warnings) == len(names)
    assert new.warnings == ()


def test_the_page_lists_every_renamed_setting() -> None:
    for names, prefix in (
        (renamed.SETTINGS, "BRIDGE_"),
        (renamed.UPSTREAM_SETTINGS, "BRIDGE_UPSTREAMS__NAME__"),
    ):
        for old, new in names.items():
            assert f"| `{old}` | `{new}` | `{prefix}{old.upper()}` | `{prefix}{new.upper()}` |" in PAGE
