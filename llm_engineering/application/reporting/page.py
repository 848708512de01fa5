"""Render reports as HTML pages that need nothing from outside; all share one base template and its styles."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

BASE = Path(__file__).parent


def render_page(template: Path, **values: Any) -> str:
    """Render a template that extends ``page.html.j2`` (blocks ``title``, ``style`` and ``content``); values are escaped.

    Args:
        values: for the template; charts are wrapped in :func:`trust_svg`.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, BASE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(template.name).render(**values)


def trust_svg(svg: str) -> Markup:
    """Mark a chart as safe to embed: ``reporting.charts`` escapes every text in it."""
    return Markup(svg)
