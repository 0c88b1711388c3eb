"""The unit: verified by systemd itself, and consistent with the bridge."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.deploy.manifests import DEPLOY, STOP_SECONDS, seconds
from tests.docs.pages import PAGES

UNIT = DEPLOY / "systemd" / "task-event-bridge.service"
WORKERS = DEPLOY / "systemd" / "workers.conf"
MOST_EXPOSED = 15  # of 100; what is left is the network, which it is for
LINES = [
    line.partition("=") for line in UNIT.read_text("utf-8").splitlines() if "=" in line and line[0] != "#"
]


def _values(name: str) -> list[str]:
    return [value for key, _, value in LINES if key == name]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit with a program that is there."""
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze")
    (program, *_) = _values("ExecStart")[0].split()
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text("utf-8").replace(program, sys.executable))
    return path


@pytest.fixture
def with_workers(installed: Path) -> Path:
    """The unit with the file for workers, where it belongs."""
    (folder := installed.with_name(f"{UNIT.name}.d")).mkdir()
    shutil.copy(WORKERS, folder)
    return installed


@pytest.mark.parametrize("kind", ["installed", "with_workers"])
def test_systemd_finds_no_mistake(kind: str, request: pytest.FixtureRequest) -> None:
    installed = request.getfixturevalue(kind)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", installed], capture_output=True, text=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if UNIT.name in line or WORKERS.name in line]
    assert (done.returncode, said) == (0, [])


def test_systemd_finds_it_hardened(installed: Path) -> None:
    judge = ["systemd-analyze", "security", "--offline=yes", "--no-pager", f"--threshold={MOST_EXPOSED}"]
    done = subprocess.run([*judge, installed], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_stop_is_given_the_time_of_the_longest_submit_and_a_drain() -> None:
    assert seconds(_values("TimeoutStopSec")[0]) >= STOP_SECONDS


def test_a_drain_of_workers_is_not_cut_short_by_a_second_signal_to_each() -> None:
    assert _values("KillMode") == ["mixed"]


def test_the_file_for_workers_is_named_where_they_are_explained() -> None:
    text = WORKERS.read_text("utf-8")
    assert "ExecReload=/bin/kill -HUP $MAINPID" in text
    (path,) = re.findall(r"^# (/etc/\S+workers\.conf)", text)
    assert path in PAGES["docs/replicas.md"]


def test_the_configuration_is_read_where_the_credential_is_put() -> None:
    name, _, path = _values("LoadCredential")[0].partition(":")
    assert f"BRIDGE_CONFIG=%d/{name}" in _values("Environment")
    assert path in PAGES["docs/deployment.md"]


def test_the_journal_is_in_the_state_directory() -> None:
    assert _values("WorkingDirectory") == [f"%S/{_values('StateDirectory')[0]}"]


def test_the_program_is_where_the_page_installs_it() -> None:
    program = _values("ExecStart")[0].split()[0]
    assert str(Path(program).parents[1]) in PAGES["docs/deployment.md"]


def test_a_configuration_with_mistakes_is_not_tried_again() -> None:
    from bridge.cli.configuration import BAD_CONFIGURATION

    assert _values("RestartPreventExitStatus") == [str(BAD_CONFIGURATION)]
