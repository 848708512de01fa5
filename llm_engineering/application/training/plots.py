"""The course of a training as a page: losses against steps, drawn as SVG."""

from collections.abc import Iterable, Sequence
from html import escape

from llm_engineering.application.training.record import TracePoint, TrainingRecord

WIDTH, HEIGHT = 760, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 20, 44
_TICKS = 5
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 52rem; padding: 0 1rem;
  color-scheme: light dark; background: light-dark(#fff, #16181d); color: light-dark(#1d2129, #e3e6ea); }
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: currentColor; }
.grid { stroke: currentColor; opacity: .15; }
.train { stroke: light-dark(#2b6cb0, #7ab3ef); fill: none; stroke-width: 1.6; }
.validation { stroke: light-dark(#b7510c, #f2a35e); fill: none; stroke-width: 2.4; }
.dot { fill: light-dark(#b7510c, #f2a35e); stroke: none; }
table { border-collapse: collapse; } td, th { padding: .2rem .9rem .2rem 0; text-align: left; }
"""

Point = tuple[float, float]


def loss_plot(trace: Sequence[TracePoint]) -> str:
    """Training and validation loss (nats a token) against optimizer steps, as an SVG element."""
    train = [(float(p.step), p.loss) for p in trace if p.loss is not None]
    validation = [(float(p.step), p.validation_loss) for p in trace if p.validation_loss is not None]
    points = [*train, *validation]
    if not points:
        return "<p>Nothing was logged.</p>"
    scale = _Scale(points)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" xmlns="http://www.w3.org/2000/svg" role="img" '
        'aria-label="Training and validation loss by step">',
        *scale.grid(),
        scale.line(train, "train"),
        scale.line(validation, "validation"),
        *(
            f'<circle class="dot" cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}" r="3.5"/>'
            for x, y in validation
        ),
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">optimizer steps</text>',
        f'<text x="{LEFT}" y="{TOP - 6}">loss in nats a token: thin line training, thick line with dots validation</text>',
        "</svg>",
    ]
    return "".join(parts)


class _Scale:
    """From steps and losses to places in the picture."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._left, self._right = min(x for x, _ in points), max(x for x, _ in points)
        low, high = min(y for _, y in points), max(y for _, y in points)
        room = (high - low) * 0.08 or 0.5
        self._low, self._high = low - room, high + room

    def x(self, value: float) -> float:
        span = self._right - self._left or 1.0
        return LEFT + (value - self._left) / span * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return TOP + (self._high - value) / (self._high - self._low) * (HEIGHT - TOP - BOTTOM)

    def line(self, points: Sequence[Point], kind: str) -> str:
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        return f'<polyline class="{kind}" points="{path}"/>' if points else ""

    def grid(self) -> Iterable[str]:
        for number in range(_TICKS):
            share = number / (_TICKS - 1)
            loss = self._low + share * (self._high - self._low)
            y = self.y(loss)
            yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{loss:.2f}</text>'
        for step in sorted({round(self._left + n / 4 * (self._right - self._left)) for n in range(5)}):
            yield f'<text x="{self.x(step):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{step}</text>'


def training_page(record: TrainingRecord) -> str:
    """The plot and the numbers of a run, as an HTML page of its own."""
    told = {
        "Base": record.config.get("base"),
        "Method": record.config.get("method"),
        "Data set": record.dataset,
        "Chat template": f"{record.template} ({record.template_hash})",
        "Steps": record.steps,
        "Trained parameters": f"{record.trainable_parameters:,}",
        **{name.replace("_", " "): f"{value:,.4g}" for name, value in record.metrics().items()},
    }
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in told.items()
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Training</title><style>{_STYLE}</style></head>'
        f"<body><h1>Training: {escape(record.kind.upper())}</h1>{loss_plot(record.trace)}<table>{rows}</table></body></html>"
    )
