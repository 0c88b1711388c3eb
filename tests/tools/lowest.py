"""Print the lowest versions that pyproject.toml allows as requirements for pip; see `make test-lowest`."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
# Programs of their own that only extended tests and releases run; they need a newer click than the bridge.
PROGRAMS = {"check-jsonschema", "check-wheel-contents"}


def lowest(text: str) -> str:
    """One requirement, pinned to its lower bound."""
    requirement = Requirement(text)
    bounds = [one.version for one in requirement.specifier if one.operator in {">=", "==", "~="}]
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    marker = f"; {requirement.marker}" if requirement.marker else ""
    pin = f"=={bounds[0]}" if bounds else ""
    return f"{requirement.name}{extras}{pin}{marker}"


def main() -> None:
    """Print what the bridge, its extras and its tests need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    lists = [project["project"]["dependencies"], *extras, project["dependency-groups"]["test"]]
    requirements = {text for texts in lists for text in texts if Requirement(text).name not in PROGRAMS}
    for line in sorted(map(lowest, requirements)):
        sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
