"""The rules, judged by Prometheus' own tool: each alert fires when it should, and stays quiet when not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.grafana.pages import RULE_TESTS, RULES
from tests.grafana.prometheus import program


def promtool(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [program("promtool"), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_the_rules_are_well_formed() -> None:
    checked = promtool("check", "rules", "--lint-fatal", str(RULES))
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.extended
@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_every_alert_fires_when_it_should_and_not_otherwise(path: Path) -> None:
    tested = promtool("test", "rules", path.name, cwd=path.parent)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.extended
def test_a_rule_that_is_wrong_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    for path in RULE_TESTS:
        shutil.copy(path, tmp_path / "tests")
    (tmp_path / RULES.name).write_text(RULES.read_text().replace('outcome=~"error|', 'outcome=~"errors|'))
    (providers,) = (tmp_path / "tests").glob("providers.yaml")
    assert promtool("test", "rules", providers.name, cwd=providers.parent).returncode != 0
