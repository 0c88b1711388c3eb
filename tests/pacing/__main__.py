"""`make pacing`: how soon the bridge sees what its providers do, and how often it asks.

    python -m tests.pacing [--quick] [--against COMMIT] [--write] [--part fast ...] [--workload NAME ...]

Without --against, the ratios are to the numbers kept in baseline.json; with --store, those of --against are
kept there, and nothing else is done. --write puts the tables and the picture into docs/.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import orjson

from tests.pacing import picture, report
from tests.pacing.bars import bars
from tests.pacing.measure import EXAMPLE, PARTS, Results, arguments, measure

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BASELINE = HERE / "baseline.json"
PAGE = ROOT / "docs" / "pacing.md"
PICTURE = ROOT / "docs" / "pacing.svg"
QUICK_PARTS = ("fast", "flood")
SHARED = ("tests/fakes/virtual.py", "tests/truth/asgi.py")
"""What the judge uses of the other tests."""


def main() -> int:
    """Measure, compare, print."""
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, the fast level only: a minute")
    parser.add_argument("--against", metavar="COMMIT", help="compare with this commit, not with the baseline")
    parser.add_argument("--store", action="store_true", help="keep the numbers of --against as the baseline")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/pacing.md")
    args = parser.parse_args()
    os.nice(max(10 - os.nice(0), 0))
    seeds = 1 if args.quick else args.seeds
    parts = args.part or (QUICK_PARTS if args.quick else tuple(PARTS))
    speed = "quick" if args.quick else "full"
    stored = orjson.loads(BASELINE.read_bytes()) if BASELINE.exists() else {}
    before, theirs = stored.get("commit", "-"), stored.get(speed, {})
    if args.against:
        before = _commit(args.against)
        theirs = _of_commit(args.against, parts, seeds, args.workload, args.tasks)
        if args.store:
            _store(stored, before, speed, theirs)
            return 0
    ours = measure(parts, seeds=seeds, tasks=args.tasks, rows=args.workload)
    demands = list(bars(ours, theirs))
    sys.stdout.write(report.printed(ours, theirs, demands, before) + "\n")
    if args.write and "example" in ours and "example" in theirs:
        PICTURE.write_text(picture.svg(theirs["example"][EXAMPLE], ours["example"][EXAMPLE]), "utf-8")
    if args.write:
        report.write(PAGE, report.page(ours, theirs, demands, before, _commit("HEAD")))
    return 0 if all(one.held for one in demands) else 1


def _commit(name: str) -> str:
    found = subprocess.run(["git", "rev-parse", "--short", name], cwd=ROOT, capture_output=True, check=True)
    return found.stdout.decode().strip()


def _of_commit(
    commit: str, parts: tuple[str, ...], seeds: int, rows: list[str] | None, tasks: int | None
) -> Results:
    """The same for another commit: its `bridge`, and the judge of this one, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        archive = subprocess.run(
            ["git", "archive", commit, "bridge"], cwd=ROOT, capture_output=True, check=True
        )
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(place, filter="data")
        shutil.copytree(HERE, place / "tests" / "pacing")
        for shared in SHARED:
            (place / shared).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / shared, place / shared)
        results = place / "results.json"
        command = [sys.executable, "-m", "tests.pacing.measure", str(results), "--seeds", str(seeds)]
        command += [word for part in parts for word in ("--part", part)]
        command += [word for row in rows or () for word in ("--workload", row)]
        command += ["--tasks", str(tasks)] if tasks else []
        environment = os.environ | {"PYTHONPATH": folder}
        subprocess.run(command, cwd=place, env=environment, check=True)
        found: Results = orjson.loads(results.read_bytes())
        return found


def _store(stored: dict[str, Any], commit: str, speed: str, results: Results) -> None:
    """Keep these rows; the others stay."""
    kept = stored.setdefault(speed, {})
    for part, rows in _rounded(results).items():
        kept[part] = kept.get(part, {}) | rows
    data = orjson.dumps(stored | {"commit": commit}, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    BASELINE.write_bytes(data + b"\n")


def _rounded(results: Results) -> Results:
    return {
        part: {
            row: {name: value if value is None else round(value, 4) for name, value in numbers.items()}
            for row, numbers in rows.items()
        }
        for part, rows in results.items()
    }


if __name__ == "__main__":
    sys.exit(main())
