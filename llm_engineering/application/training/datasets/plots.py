"""Plots as SVG, drawn by hand. Colours come from the page, so that they follow its light or dark scheme."""

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

import numpy as np

WIDTH = 760
_LEFT, _RIGHT, _TOP, _BOTTOM, _ROW = 220, 80, 12, 26, 24
_BARS = 30
_HEIGHT = 200
_LONGEST_NAME = 30


def bars(title: str, values: Mapping[str, int], mark: str | None = None) -> str:
    """Counts as horizontal bars, in the order given; ``mark`` names one to set off."""
    height = _TOP + _ROW * len(values) + 6
    most = max(values.values(), default=0) or 1
    parts = [_opening(height, title)]
    for number, (name, value) in enumerate(values.items()):
        y = _TOP + _ROW * number
        width = (WIDTH - _LEFT - _RIGHT) * value / most
        kind = "mark" if name == mark else "line"
        shown = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
        parts += [
            f'<text class="ink" x="{_LEFT - 10}" y="{y + 14}" text-anchor="end">{escape(shown)}</text>',
            f'<rect class="{kind}" x="{_LEFT}" y="{y + 3}" width="{width:.1f}" height="{_ROW - 8}"/>',
            f'<text class="dim" x="{_LEFT + width + 6:.1f}" y="{y + 14}">{value:,}</text>',
        ]
    return "".join([*parts, "</svg>"])


def histogram(title: str, values: Sequence[int], unit: str) -> str:
    """How often which value occurs, in up to 30 equal steps."""
    parts = [_opening(_HEIGHT, title)]
    if values:
        steps = min(_BARS, max(values) - min(values) + 1)
        counts, edges = np.histogram(values, bins=steps)
        left, right, bottom = 50, WIDTH - 20, _HEIGHT - _BOTTOM - 14
        width = (right - left) / steps
        for number, count in enumerate(counts.tolist()):
            tall = (bottom - _TOP) * count / counts.max()
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
            f'<text class="dim" x="{left - 6}" y="{_TOP + 10}" text-anchor="end">{counts.max():,}</text>',
            f'<text class="dim" x="{(left + right) / 2:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(unit)}</text>',
        ]
    return "".join([*parts, "</svg>"])


def _opening(height: int, title: str) -> str:
    name = escape(title, {'"': "&quot;"})
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{name}">'
        f"<title>{escape(title)}</title>"
    )
