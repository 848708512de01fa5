"""Charts as SVG, drawn by hand: a few simple pictures are no reason for a plotting library.

Colours come from the page: classes ``ink``, ``dim``, ``line``, ``mark``, ``grid``, so that they follow its light or dark scheme.
Every text is escaped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

import numpy as np

_WIDE = 800
_LEFT, _RIGHT, _TOP, _BOTTOM = 270, 60, 12, 34
_ROW = 26
_NARROW = 760
_BAR_LEFT, _BAR_RIGHT, _BAR_TOP, _BAR_BOTTOM, _BAR_ROW = 220, 80, 12, 26, 24
_MAX_BINS = 30
_HISTOGRAM_HEIGHT = 200
_LONGEST_NAME = 30


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with its interval."""

    name: str
    value: float
    low: float
    high: float
    highlighted: bool = False


def draw_intervals(title: str, bars: Sequence[Bar]) -> str:
    """Draw values as dots with their intervals as lines, a row each; the axis goes from 0 to 1."""
    height = _TOP + _ROW * len(bars) + _BOTTOM
    bottom = _TOP + _ROW * len(bars)
    parts = [_open_svg(_WIDE, height, title), *_axis(bottom)]
    for number, bar in enumerate(bars):
        y = _TOP + _ROW * (number + 0.5)
        kind = "mark" if bar.highlighted else "line"
        low, high, at = _x(bar.low), _x(bar.high), _x(bar.value)
        parts += [
            f'<text class="ink" x="{_LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(bar.name)}</text>',
            f'<line class="{kind}" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke-width="2"/>',
            f'<circle class="{kind}" cx="{at:.1f}" cy="{y:.1f}" r="5"/>',
            f'<text class="dim" x="{_WIDE - _RIGHT + 8}" y="{y + 4:.1f}">{bar.value:.3f}</text>',
        ]
    return "".join([*parts, "</svg>"])


def draw_curve(
    title: str,
    points: Sequence[tuple[float, float]],
    marks: Sequence[tuple[str, float, float]],
    across: str,
    up: str,
) -> str:
    """Draw a curve of (x, y), both 0 to 1, with named points on it."""
    height, bottom = 320, 320 - _BOTTOM - 14
    ordered = sorted(points)
    parts = [_open_svg(_WIDE, height, title), *_axis(bottom), *_side_axis(bottom)]
    if ordered:
        path = " ".join(f"{_x(x):.1f},{_y(y, bottom):.1f}" for x, y in ordered)
        parts.append(f'<polyline class="line" fill="none" stroke-width="2" points="{path}"/>')
    for number, (name, x, y) in enumerate(marks):
        above = _y(y, bottom) - 10 - 14 * number
        parts += [
            f'<circle class="mark" cx="{_x(x):.1f}" cy="{_y(y, bottom):.1f}" r="5"/>',
            f'<text class="ink" x="{_x(x):.1f}" y="{above:.1f}" text-anchor="middle">{escape(name)}</text>',
        ]
    middle = (_LEFT + _WIDE - _RIGHT) / 2
    parts += [
        f'<text class="dim" x="{middle:.0f}" y="{height - 6}" text-anchor="middle">{escape(across)}</text>',
        f'<text class="dim" x="16" y="{(_TOP + bottom) / 2:.0f}">{escape(up)}</text>',
    ]
    return "".join([*parts, "</svg>"])


def draw_bars(title: str, values: Mapping[str, int], mark: str | None = None) -> str:
    """Draw counts as horizontal bars, in the order given; ``mark`` names one to set off."""
    height = _BAR_TOP + _BAR_ROW * len(values) + 6
    most = max(values.values(), default=0) or 1
    parts = [_open_svg(_NARROW, height, title)]
    for number, (name, value) in enumerate(values.items()):
        y = _BAR_TOP + _BAR_ROW * number
        width = (_NARROW - _BAR_LEFT - _BAR_RIGHT) * value / most
        kind = "mark" if name == mark else "line"
        shown = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
        parts += [
            f'<text class="ink" x="{_BAR_LEFT - 10}" y="{y + 14}" text-anchor="end">{escape(shown)}</text>',
            f'<rect class="{kind}" x="{_BAR_LEFT}" y="{y + 3}" width="{width:.1f}" height="{_BAR_ROW - 8}"/>',
            f'<text class="dim" x="{_BAR_LEFT + width + 6:.1f}" y="{y + 14}">{value:,}</text>',
        ]
    return "".join([*parts, "</svg>"])


def draw_histogram(title: str, values: Sequence[int], unit: str) -> str:
    """Draw how often which value occurs, in up to 30 equal bins."""
    parts = [_open_svg(_NARROW, _HISTOGRAM_HEIGHT, title)]
    if values:
        steps = min(_MAX_BINS, max(values) - min(values) + 1)
        counts, edges = np.histogram(values, bins=steps)
        left, right, bottom = 50, _NARROW - 20, _HISTOGRAM_HEIGHT - _BAR_BOTTOM - 14
        width = (right - left) / steps
        for number, count in enumerate(counts.tolist()):
            tall = (bottom - _BAR_TOP) * count / counts.max()
            parts.append(
                f'<rect class="line" x="{left + number * width + 0.5:.1f}" y="{bottom - tall:.1f}" '
                f'width="{max(width - 1, 0.5):.1f}" height="{tall:.1f}"><title>{edges[number]:.0f} to '
                f"{edges[number + 1]:.0f} {escape(unit)}: {count:,}</title></rect>"
            )
        for x, value, anchor in ((left, edges[0], "start"), (right, edges[-1], "end")):
            parts.append(
                f'<text class="dim" x="{x}" y="{bottom + 18}" text-anchor="{anchor}">{value:,.0f}</text>'
            )
        parts += [
            f'<line class="grid" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>',
            f'<text class="dim" x="{left - 6}" y="{_BAR_TOP + 10}" text-anchor="end">{counts.max():,}</text>',
            f'<text class="dim" x="{(left + right) / 2:.0f}" y="{_HISTOGRAM_HEIGHT - 6}" text-anchor="middle">'
            f"{escape(unit)}</text>",
        ]
    return "".join([*parts, "</svg>"])


def _open_svg(width: int, height: int, title: str) -> str:
    name = escape(title, {'"': "&quot;"})
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{name}">'
        f"<title>{escape(title)}</title>"
    )


def _axis(bottom: float) -> list[str]:
    parts = []
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        x = _x(tick)
        parts += [
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>',
            f'<text class="dim" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick:.1f}</text>',
        ]
    return parts


def _side_axis(bottom: float) -> list[str]:
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(tick, bottom)
        parts += [
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDE - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<text class="dim" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.2f}</text>',
        ]
    return parts


def _x(value: float) -> float:
    return _LEFT + (_WIDE - _LEFT - _RIGHT) * min(1.0, max(0.0, value))


def _y(value: float, bottom: float) -> float:
    return bottom - (bottom - _TOP) * min(1.0, max(0.0, value))
