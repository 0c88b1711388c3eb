"""Writes the project's public address into the files that repeat it.

Run `python docs/addresses.py` after a change of `[project.urls]` or of the version; a test fails if a file
differs from its output. Without an address these files have relative links, or none.
"""  # noqa: INP001 - a script, not a package

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BUILD = runpy.run_path(str(ROOT / "hatch_build.py"))


def files(root: Path = ROOT) -> dict[Path, str]:
    """Every file that repeats the address, and its content."""
    address, version = BUILD["address"](root), BUILD["version"](root)
    docs = BUILD["file_address"]("docs", address, version) if address else "docs"
    made = {
        root / "grafana/rules/bridge.rules.yaml": lambda text: re.sub(
            r"(runbook_url: )\S*?(/operations\.md)", rf"\g<1>{docs}\2", text
        ),
        root / "deploy/systemd/task-event-bridge.service": lambda text: _unit(text, docs if address else ""),
        root / "deploy/helm/Chart.yaml": lambda text: _chart(text, address),
        root / "clients/js/package.json": lambda text: _package(text, address),
    }
    return {path: change(path.read_text("utf-8")) for path, change in made.items()}


def _unit(text: str, docs: str) -> str:
    """`Documentation=` has to be absolute: without an address there is none."""
    text = re.sub(r"^Documentation=.*\n", "", text, flags=re.MULTILINE)
    line = f"Documentation={docs}/operations.md\n" if docs else ""
    return re.sub(r"^(Description=.*\n)", lambda match: match[1] + line, text, flags=re.MULTILINE)


def _chart(text: str, address: str) -> str:
    text = re.sub(r"^(home|sources): .*\n", "", text, flags=re.MULTILINE)
    return text + (f"home: {address}\nsources: [{address}]\n" if address else "")


def _package(text: str, address: str) -> str:
    package: dict[str, Any] = json.loads(text)
    known = {"homepage", "repository", "bugs"} & package.keys()
    if not address and not known:
        return text  # as it was formatted
    for name in known:
        del package[name]
    if address:
        package |= {
            "homepage": f"{address}#readme",
            "repository": {"type": "git", "url": f"git+{address}.git", "directory": "clients/js"},
            "bugs": f"{address}/issues",
        }
    return json.dumps(package, indent=2, ensure_ascii=False) + "\n"


def main(root: Path = ROOT) -> None:
    """Write the files, then what is derived from them: the dashboard and the Helm chart."""
    for path, text in files(root).items():
        path.write_text(text, "utf-8")
    for command in (["-m", "grafana.make_dashboard"], ["deploy/make_chart.py"]):
        subprocess.run([sys.executable, *command], cwd=root, check=True)  # noqa: S603 - our own scripts


if __name__ == "__main__":
    main()
