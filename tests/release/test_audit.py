"""`make audit` fails for a vulnerability, and reports when no advisory source answered."""

from __future__ import annotations

import subprocess
from typing import Any

import orjson
import pytest

from tests.tools import audit, lowest

KNOWN = {"name": "a", "version": "1", "vulns": []}
VULNERABLE = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}
SKIPPED = {"name": "c", "skip_reason": "not found"}


def answering(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> None:
    """Give pip-audit an answer for each source; an exception, or text that is no report, is a failure."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        answer = answers[command[-1]]
        if isinstance(answer, Exception):
            raise answer
        report = answer if isinstance(answer, str) else orjson.dumps({"dependencies": answer}).decode()
        return subprocess.CompletedProcess(command, 1, report, "")

    monkeypatch.setattr(subprocess, "run", run)


@pytest.mark.parametrize(
    ("pypi", "osv", "code", "last"),
    [
        ([KNOWN, SKIPPED], "", 0, "pypi: 1 packages audited, 0 vulnerabilities"),
        ([KNOWN, VULNERABLE], "", 1, "pypi: 2 packages audited, 1 vulnerabilities"),
        ([SKIPPED], [VULNERABLE], 1, "osv: 1 packages audited, 1 vulnerabilities"),
        ([SKIPPED], "Traceback", 0, "no advisory source answered (pypi, osv): nothing was audited"),
        ("[]", '{"dependencies": null}', 0, "no advisory source answered (pypi, osv): nothing was audited"),
        (OSError(), subprocess.TimeoutExpired("x", 1), 0, "no advisory source answered (pypi, osv)"),
    ],
)
def test_only_a_vulnerability_fails(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    pypi: Any,
    osv: Any,
    code: int,
    last: str,
) -> None:
    answering(monkeypatch, pypi=pypi, osv=osv)
    assert audit.main() == code
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1].startswith(last)
    assert ("PYSEC-1, fixed in 2.1" in shown) is bool(code)


def test_the_lowest_version_is_the_lower_bound() -> None:
    assert lowest.lowest("pyjwt[crypto]>=2.10.1,<3") == "pyjwt[crypto]==2.10.1"
    assert lowest.lowest("uvloop>=0.21; sys_platform != 'win32'") == 'uvloop==0.21; sys_platform != "win32"'
    assert lowest.lowest("types-jmespath") == "types-jmespath"
