"""Bar charts as SVG, without a library."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

LEFT, WIDTH, ROW, TOP = 210, 480, 24, 44
PLAIN, OURS, FLOOR, OVER = "#c9ced6", "#1f6feb", "#8b949e", "#d29922"


def bars(title: str, rows: Sequence[tuple[str, float, str, str]]) -> str:
    """One bar for each row of name, value, the value as it is written, and colour."""
    height = TOP + ROW * len(rows) + 20
    return _frame(
        title,
        height,
        [f'<text x="12" y="26" font-size="15" fill="#222">{escape(title)}</text>', *_bars(rows, TOP)],
    )


def grouped(title: str, groups: Sequence[tuple[str, Sequence[tuple[str, float, str]]]]) -> str:
    """Bars in groups, each with a title and a scale of its own."""
    parts: list[str] = []
    top = TOP
    for name, rows in groups:
        parts.append(f'<text x="12" y="{top + 14}" font-weight="bold" fill="#222">{escape(name)}</text>')
        parts += _bars([(*row, OURS) for row in rows], top + ROW)
        top += ROW * (len(rows) + 1) + 8
    return _frame(title, top + 12, parts)


def ratios(title: str, groups: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> str:
    """Ratios of two things in groups, all on one scale, with a line at 1 where they are equal."""
    longest = max((value for _, rows in groups for _, value in rows), default=1.0)
    equal = LEFT + WIDTH / max(longest, 1.0)
    parts: list[str] = []
    top = TOP
    for name, rows in groups:
        parts.append(f'<text x="12" y="{top + 14}" font-weight="bold" fill="#222">{escape(name)}</text>')
        drawn = [(row, value, f"{value:.2f}x", OURS if value <= 1 else OVER) for row, value in rows]
        parts += _bars(drawn, top + ROW, longest=max(longest, 1.0))
        ends = top + ROW * (len(rows) + 1)
        line = f'x1="{equal:.1f}" x2="{equal:.1f}" y1="{top + ROW - 4}" y2="{ends - 2}"'
        parts.append(f'<line {line} stroke="#222" stroke-dasharray="3 3"/>')
        top = ends + 8
    return _frame(title, top + 12, parts)


def _bars(
    rows: Sequence[tuple[str, float, str, str]], top: int, *, longest: float | None = None
) -> list[str]:
    longest = longest or max((value for _, value, *_ in rows), default=1.0) or 1.0
    parts = []
    for number, (name, value, written, colour) in enumerate(rows):
        at = top + ROW * number
        long = max(WIDTH * value / longest, 1)
        parts += [
            f'<text x="{LEFT - 8}" y="{at + 14}" text-anchor="end" fill="#222">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{at}" width="{long:.1f}" height="{ROW - 6}" rx="2" fill="{colour}"/>',
            f'<text x="{LEFT + long + 6:.1f}" y="{at + 14}" fill="#222">{escape(written)}</text>',
        ]
    return parts


def _frame(title: str, height: int, parts: list[str]) -> str:
    box = LEFT + WIDTH + 80
    frame = f'viewBox="0 0 {box} {height}" role="img" aria-label="{escape(title)}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {frame} font-family="sans-serif" font-size="13">',
            f'<rect width="{box}" height="{height}" fill="#fff"/>',
            f'<text x="12" y="26" font-size="15" fill="#222">{escape(title)}</text>',
            *parts,
            "</svg>",
            "",
        ]
    )
