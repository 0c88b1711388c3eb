"""Compare what is installed with published vulnerabilities: `make audit`.

Fails for a vulnerability, never for a missing network: then it reports that no advisory source answered.
pip-audit itself exits with 0 if a source knows none of the packages, so its report is read.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SOURCES = ("pypi", "osv")
SOURCE_SECONDS = 120

AUDIT = (
    str(Path(sys.executable).with_name("pip-audit")),
    *("--local", "--skip-editable", "--progress-spinner", "off", "--format", "json", "--timeout", "10"),
)


def main() -> int:
    """The exit code."""
    for source in SOURCES:
        audited = audited_by(source)
        if audited:
            return report(source, audited)
    sys.stdout.write(f"no advisory source answered ({', '.join(SOURCES)}): nothing was audited\n")
    return 0


def audited_by(source: str) -> list[dict[str, Any]]:
    """What a source knows of each package; empty if it does not answer."""
    try:
        done = subprocess.run(
            [*AUDIT, "--vulnerability-service", source],
            capture_output=True,
            text=True,
            check=False,
            timeout=SOURCE_SECONDS,
        )
        packages = json.loads(done.stdout)["dependencies"]
        return [one for one in packages if "vulns" in one]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        return []


def report(source: str, audited: list[dict[str, Any]]) -> int:
    """Print the vulnerabilities; the exit code."""
    found = [(package, one) for package in audited for one in package["vulns"]]
    for package, one in found:
        mended = ", ".join(one.get("fix_versions", [])) or "no version yet"
        sys.stdout.write(f"{package['name']} {package['version']}: {one['id']}, fixed in {mended}\n")
    sys.stdout.write(f"{source}: {len(audited)} packages audited, {len(found)} vulnerabilities\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
