"""`/eta.js`: what a page tells people about the time left, by the bridge's clock and counted on."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.conftest import missing

MODULE = Path(__file__).parents[3] / "bridge" / "web" / "static" / "eta.js"
STATE = {
    "eta_seconds": 40,
    "eta_at": "2027-01-15T08:01:00.000Z",
    "eta_by": "2027-01-15T08:02:00.000Z",
    "observed_at": "2027-01-15T08:00:20.000Z",
}
LATE = STATE | {"eta_seconds": None, "observed_at": "2027-01-15T08:01:30.000Z"}
CASES: list[tuple[Any, float, str | None]] = [
    (STATE, 0, "about 40 s"),
    (STATE, 39.9, "about 1 s"),
    (STATE, 40, "should finish soon"),
    (STATE, 100, "taking longer than usual"),
    (LATE, 0, "should finish soon"),
    (LATE, 30, "taking longer than usual"),
    (LATE | {"eta_by": None}, 9999, "should finish soon"),
    (STATE | {"eta_seconds": None}, 0, "should finish soon"),
    (STATE | {"eta_seconds": 59.6}, 0, "about 1 min 00 s"),
    (STATE | {"eta_seconds": 11000}, 0, "about 3 h 03 min"),
    (dict.fromkeys(STATE), 0, None),
    (None, 0, None),
]
SCRIPT = """
import { etaText, secondsLeft } from %s;
const cases = %s;
const told = cases.map(([state, elapsed]) => etaText(state, elapsed));
let now = 5000;
performance.now = () => now;
const state = %s;
const counted = [secondsLeft(state)];
now += 15000;
Date.now = () => 0; // the clock of this machine is wrong
counted.push(secondsLeft(state), secondsLeft({ ...state }));
console.log(JSON.stringify({ told, counted }));
"""


def test_it_says_what_the_estimates_say_whatever_clock_the_page_has() -> None:
    node = shutil.which("node")
    if node is None:
        missing("node")
    asked = json.dumps([[state, elapsed] for state, elapsed, _ in CASES])
    script = SCRIPT % (json.dumps(MODULE.as_uri()), asked, json.dumps(STATE))
    run = subprocess.run(
        [node, "--input-type=module", "-e", script], capture_output=True, text=True, check=True
    )
    said = json.loads(run.stdout)
    assert said["told"] == [text for _, _, text in CASES]
    # From the first call with a state on; an equal one that came later has its own time.
    assert said["counted"] == [40, 25, 40]
