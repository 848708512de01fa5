"""Plots as SVG, drawn by hand: two simple pictures are no reason for a plotting library.

Colours come from the page: classes ``ink``, ``dim``, ``line``, ``mark``, so that they follow its light or
dark scheme.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 800
LEFT, RIGHT, TOP, BOTTOM = 270, 60, 12, 34
ROW = 26


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with its interval."""

    name: str
    value: float
    low: float
    high: float
    highlighted: bool = False


def intervals_plot(title: str, bars: Sequence[Bar]) -> str:
    """Values as dots with their intervals as lines, a row each; the axis goes from 0 to 1."""
    height = TOP + ROW * len(bars) + BOTTOM
    bottom = TOP + ROW * len(bars)
    parts = [_opening(height, title), *_axis(bottom)]
    for number, bar in enumerate(bars):
        y = TOP + ROW * (number + 0.5)
        kind = "mark" if bar.highlighted else "line"
        low, high, at = _x(bar.low), _x(bar.high), _x(bar.value)
        parts += [
            f'<text class="ink" x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(bar.name)}</text>',
            f'<line class="{kind}" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke-width="2"/>',
            f'<circle class="{kind}" cx="{at:.1f}" cy="{y:.1f}" r="5"/>',
            f'<text class="dim" x="{WIDTH - RIGHT + 8}" y="{y + 4:.1f}">{bar.value:.3f}</text>',
        ]
    return "".join([*parts, "</svg>"])


def curve_plot(
    title: str,
    points: Sequence[tuple[float, float]],
    marks: Sequence[tuple[str, float, float]],
    across: str,
    up: str,
) -> str:
    """A curve of (x, y), both 0 to 1, as steps, with named points on it."""
    height, bottom = 320, 320 - BOTTOM - 14
    ordered = sorted(points)
    parts = [_opening(height, title), *_axis(bottom), *_side_axis(bottom)]
    if ordered:
        path = " ".join(f"{_x(x):.1f},{_y(y, bottom):.1f}" for x, y in ordered)
        parts.append(f'<polyline class="line" fill="none" stroke-width="2" points="{path}"/>')
    for number, (name, x, y) in enumerate(marks):
        above = _y(y, bottom) - 10 - 14 * number
        parts += [
            f'<circle class="mark" cx="{_x(x):.1f}" cy="{_y(y, bottom):.1f}" r="5"/>',
            f'<text class="ink" x="{_x(x):.1f}" y="{above:.1f}" text-anchor="middle">{escape(name)}</text>',
        ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts += [
        f'<text class="dim" x="{middle:.0f}" y="{height - 6}" text-anchor="middle">{escape(across)}</text>',
        f'<text class="dim" x="16" y="{(TOP + bottom) / 2:.0f}">{escape(up)}</text>',
    ]
    return "".join([*parts, "</svg>"])


def _opening(height: int, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title, {chr(34): "&quot;"})}"><title>{escape(title)}</title>'
    )


def _axis(bottom: float) -> list[str]:
    parts = []
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        x = _x(tick)
        parts += [
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>',
            f'<text class="dim" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick:.1f}</text>',
        ]
    return parts


def _side_axis(bottom: float) -> list[str]:
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(tick, bottom)
        parts += [
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<text class="dim" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.2f}</text>',
        ]
    return parts


def _x(value: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * min(1.0, max(0.0, value))


def _y(value: float, bottom: float) -> float:
    return bottom - (bottom - TOP) * min(1.0, max(0.0, value))
