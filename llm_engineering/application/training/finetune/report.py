"""Render a training run as an HTML page: its curves as SVG, and its numbers."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from llm_engineering.application.training.finetune.record import MARGIN, TracePoint, TrainingRecord
from llm_engineering.application.training.finetune.verdict import judge_fit

WIDTH, HEIGHT = 760, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 14, 40
_INTERVALS = 5
"""About so many between the lines of a grid."""
_LOSS = {"sft": "Loss, nats a token", "dpo": "Loss, nats a pair"}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 52rem; padding: 0 1rem;
  color-scheme: light dark; background: light-dark(#f6f7f9, #16181d); color: light-dark(#1d2129, #e3e6ea); }
h1 { margin: 0; } h2 { font-size: 1rem; margin: 0 0 .3rem; }
.sub { color: light-dark(#5b6472, #9aa4b2); margin: 0 0 1.2rem; overflow-wrap: anywhere; }
section { background: light-dark(#fff, #1e2128); border: 1px solid light-dark(#dfe3e8, #333843); border-radius: 10px;
  padding: .9rem 1.1rem; margin-bottom: 1rem; }
svg { width: 100%; height: auto; display: block; } svg text { font-size: 12px; fill: currentColor; opacity: .75; }
.grid { stroke: currentColor; opacity: .13; }
.train { stroke: light-dark(#2b6cb0, #7ab3ef); fill: none; stroke-width: 1.6; }
.validation { stroke: light-dark(#b7510c, #f2a35e); fill: none; stroke-width: 2.4; }
.dot { fill: light-dark(#b7510c, #f2a35e); }
.key { font-size: .85rem; } .key i { display: inline-block; width: 1.1rem; height: 0; margin: 0 .35rem .22rem 0;
  border-top: 2px solid light-dark(#2b6cb0, #7ab3ef); vertical-align: middle; }
.key i.v { border-top: 3px solid light-dark(#b7510c, #f2a35e); margin-left: 1rem; }
table { border-collapse: collapse; width: 100%; }
td, th { padding: .25rem .9rem .25rem 0; text-align: left; font-weight: normal; }
th { color: light-dark(#5b6472, #9aa4b2); width: 14rem; } td { overflow-wrap: anywhere; }
"""
_KEY = '<p class="key"><i></i>training<i class="v"></i>validation</p>'

Point = tuple[float, float]


def training_page(record: TrainingRecord) -> str:
    """Return curves and numbers of a run, as an HTML page of its own."""
    base, method = record.config.get("base_model", ""), record.config.get("method", "")
    under = f"{base} · {method} · {record.dataset} · {record.template} ({record.template_hash})"
    charts = [(_LOSS[record.kind], *_losses(record.trace))]
    if record.kind == "dpo":
        margins = [_extra(record.trace, prefix + MARGIN) for prefix in ("", "eval_")]
        charts.append(("Reward margin: chosen over rejected", margins[0], margins[1]))
    drawn = "".join(
        f"<section><h2>{escape(title)}</h2>{draw_curves(title, train, validation)}{_KEY}</section>"
        for title, train, validation in charts
    )
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in _numbers(record)
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Training</title><style>{_STYLE}</style></head><body><h1>Training: {escape(record.kind.upper())}</h1>"
        f'<p class="sub">{escape(under)}</p>{drawn}<section><table>{rows}</table></section></body></html>'
    )


def draw_curves(title: str, train: Sequence[Point], validation: Sequence[Point]) -> str:
    """Draw two curves against optimizer steps, as an SVG element."""
    if not train and not validation:
        return "<p>Nothing was logged.</p>"
    scale = _Scale([*train, *validation])
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" xmlns="http://www.w3.org/2000/svg" role="img" '
        f'aria-label="{escape(title)} by step, in training and validation">',
        *scale.grid(),
        scale.line(train, "train"),
        scale.line(validation, "validation"),
        *(
            f'<circle class="dot" cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}" r="3.5"/>'
            for x, y in validation
        ),
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">optimizer steps</text>',
        "</svg>",
    ]
    return "".join(parts)


def _losses(trace: Sequence[TracePoint]) -> tuple[list[Point], list[Point]]:
    train = [(float(p.step), p.loss) for p in trace if p.loss is not None]
    return train, [(float(p.step), p.validation_loss) for p in trace if p.validation_loss is not None]


def _extra(trace: Sequence[TracePoint], key: str) -> list[Point]:
    return [(float(p.step), p.extra[key]) for p in trace if key in p.extra]


def _numbers(record: TrainingRecord) -> Iterator[tuple[str, str]]:
    """What a reader wants to know beside the curves; all of it stands in ``training.json``."""
    found = record.to_metrics()
    yield "Status", record.status
    since = (
        f", the {record.steps - record.resumed_from[-1]:,} since it was resumed"
        if record.resumed_from
        else ""
    )
    yield "Steps", f"{record.steps:,}{since} in {found['seconds']:,.0f} s"
    yield "Samples", f"{record.samples.train:,} to train on, {record.samples.validation:,} to validate"
    yield "Trained parameters", f"{record.trainable_parameters:,}"
    for key, name in (
        ("loss", "Loss"),
        ("validation_loss", "Validation loss"),
        ("reward_margin", "Reward margin"),
        ("validation_reward_margin", "Validation reward margin"),
        ("reward_accuracy", "Reward accuracy"),
        ("validation_reward_accuracy", "Validation reward accuracy"),
    ):
        if f"{key}_first" in found:
            yield name, f"{found[f'{key}_first']:.4g} → {found[f'{key}_last']:.4g}"
    yield "Verdict", judge_fit(record.trace).describe()
    if "tokens_per_second" in found:
        yield "Tokens a second", f"{found['tokens_per_second']:,.0f}"
    if record.memory.measured and record.memory.error is not None:
        measured, expected = record.memory.measured / 2**30, record.memory.estimate["total"] / 2**30
        yield (
            "Memory at the peak",
            f"{measured:.2f} GiB, {expected:.2f} estimated ({record.memory.error:+.0%})",
        )


class _Scale:
    """From steps and values to places in the picture."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._left, self._right = min(x for x, _ in points), max(x for x, _ in points)
        self._values = _ticks(min(y for _, y in points), max(y for _, y in points))
        self._low, self._high = self._values[0], self._values[-1]

    def x(self, value: float) -> float:
        span = self._right - self._left or 1.0
        return LEFT + (value - self._left) / span * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return TOP + (self._high - value) / (self._high - self._low) * (HEIGHT - TOP - BOTTOM)

    def line(self, points: Sequence[Point], kind: str) -> str:
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        return f'<polyline class="{kind}" points="{path}"/>' if points else ""

    def grid(self) -> Iterator[str]:
        for value in self._values:
            y = self.y(value)
            yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        for step in sorted({round(self._left + n / 4 * (self._right - self._left)) for n in range(5)}):
            yield f'<text x="{self.x(step):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{step}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """Round values from one not above ``low`` to one not below ``high``; at least two."""
    rough = (high - low) / _INTERVALS or max(abs(high), 1.0) / _INTERVALS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]
