"""The picture of docs/pacing.md: the polls along one task, before and after, under the curve of its ends."""

from __future__ import annotations

import math
from html import escape

from tests.pacing.measure import Numbers

WIDTH, HEIGHT = 760, 300
LEFT, RIGHT = 90, 20
SECONDS = 200.0
CURVE_TOP, CURVE_BOTTOM = 40, 120
LANES = {"before": 170, "now": 225}
MEDIAN, SPREAD, WAIT = 120.0, 0.25, 4.0
LABEL = 'aria-label="Polls along one task, before and now"'
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#57606a}.end{stroke:#cf222e;stroke-dasharray:4 3}"
    ".curve{fill:#0969da22;stroke:#0969da}.before{stroke:#8c959f;stroke-width:2}"
    ".now{stroke:#0969da;stroke-width:2}.late{fill:#cf222e55}.axis{stroke:#8c959f}"
)


def polls(numbers: Numbers) -> list[float]:
    """Its ages at the polls, in order."""
    return sorted(age for name, age in numbers.items() if name.startswith("poll "))


def svg(before: Numbers, now: Numbers) -> str:
    """Both, one below the other."""
    end = now["end"]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" {LABEL}>',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        _text(LEFT, 24, f"When tasks of this kind end: half within {MEDIAN + WAIT:.0f} s"),
        _curve(),
        f'<line class="end" x1="{_x(end)}" x2="{_x(end)}" y1="{CURVE_TOP}" y2="{LANES["now"] + 14}"/>',
        _text(_x(end) + 5, CURVE_TOP + 12, f"this task ends at {end:.0f} s"),
    ]
    for name, numbers in (("before", before), ("now", now)):
        parts += _lane(name, polls(numbers), end)
    axis = LANES["now"] + 35
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{axis}" y2="{axis}"/>')
    parts += [
        _text(_x(second), axis + 18, f"{second} s", anchor="middle")
        for second in range(0, int(SECONDS) + 1, 40)
    ]
    return "\n".join((*parts, "</svg>\n"))


def _lane(name: str, ages: list[float], end: float) -> list[str]:
    y = LANES[name]
    found = ages[-1] + 0.2
    return [
        _text(8, y + 5, name),
        f'<rect class="late" x="{_x(end)}" y="{y - 10}" width="{_x(found) - _x(end):.1f}" height="20"/>',
        *(
            f'<line class="{name}" x1="{_x(age)}" x2="{_x(age)}" y1="{y - 10}" y2="{y + 10}"/>'
            for age in ages
        ),
        _text(_x(found) + 6, y + 5, f"{len(ages)} polls, {found - end:.1f} s late"),
    ]


def _curve() -> str:
    def density(second: float) -> float:
        run = second - WAIT
        return math.exp(-((math.log(run / MEDIAN) / SPREAD) ** 2) / 2) / run if run > 0 else 0.0

    most = max(density(second) for second in range(1, int(SECONDS)))
    points = [
        f"{_x(second)},{CURVE_BOTTOM - (CURVE_BOTTOM - CURVE_TOP) * density(second) / most:.1f}"
        for second in range(0, int(SECONDS) + 1, 2)
    ]
    last = f"{_x(SECONDS)},{CURVE_BOTTOM} {_x(0)},{CURVE_BOTTOM}"
    return f'<polygon class="curve" points="{" ".join(points)} {last}"/>'


def _x(seconds: float) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * seconds / SECONDS, 1)


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
