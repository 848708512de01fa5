"""``GET /docs``: the OpenAPI description as a page that loads nothing from elsewhere, on which each route can be tried.

FastAPI's own page runs a script from a public network of servers: it needs the internet, and that script could read the
API key that the chat page of the same origin keeps.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from html import escape
from typing import Any, Final

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from llm_engineering.infrastructure.api.routes.page import HEADERS

_BOUNDS: Final = (
    ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"),
    ("minimum", "from {}"),
    ("maximum", "to {}"),
    ("minItems", "at least {} items"),
    ("maxItems", "at most {} items"),
    ("pattern", "matching {}"),
)

Schema = Mapping[str, Any]


def make_router(openapi: Callable[[], dict[str, Any]]) -> APIRouter:
    """Serves the page for what ``openapi`` describes."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/docs")
    async def docs() -> HTMLResponse:
        return HTMLResponse(render_page(openapi()), headers=HEADERS)

    return routes


def render_page(description: Schema) -> str:
    """Return the page's HTML."""
    info = description["info"]
    title = escape(f"{info['title']} {info['version']}")
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<title>{title}: API</title><link rel="icon" href="page/icon.svg" type="image/svg+xml">',
        '<link rel="stylesheet" href="page/docs.css">',
        '<script type="module" src="page/docs.js"></script></head><body>',
        f"<h1>{title}: API</h1>{_text(info.get('description', ''))}",
        '<p>For programs: <a href="openapi.json">openapi.json</a>. For people: <a href="./">the chat page</a>.</p>',
        '<p id="key-box" hidden><label>API key, where one is needed: ',
        '<input type="password" id="key" autocomplete="off"></label></p>',
        *_operations(description),
        "<h2>Values</h2>",
        *_values(description),
        "</body></html>",
    ]
    return "\n".join(parts)


def _operations(description: Schema) -> Iterator[str]:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield f"<section><h2><code>{method.upper()} {escape(path)}</code></h2>"
            yield _text(operation.get("description") or operation.get("summary", ""))
            if parameters := operation.get("parameters"):
                yield f"<p>Asks for {', '.join(map(_parameter, parameters))}.</p>"
            content = operation.get("requestBody", {}).get("content", {})
            if body := content.get("application/json"):
                yield f"<p>Takes {_kind(body['schema'])}.</p>"
            yield f"<p>Gives {'; '.join(_responses(operation))}.</p>"
            yield from _form(path, method, operation, content)
            yield "</section>"


def _form(path: str, method: str, operation: Schema, content: Schema) -> Iterator[str]:
    """What a route is tried with: its parameters, an example of its body, and the same as a command."""
    yield f'<details class="try"><summary>Try it</summary><form data-method="{method.upper()}" data-path="{escape(path)}">'
    for parameter in operation.get("parameters", ()):
        needed = " required" if parameter.get("required") else ""
        name, place = escape(parameter["name"]), escape(parameter["in"])
        yield f'<label><code>{name}</code> <input name="{name}" data-in="{place}"{needed}></label>'
    if body := content.get("application/json"):
        example = escape(json.dumps(body.get("example", {}), indent=2, ensure_ascii=False))
        rows = example.count("\n") + 2
        yield f'<label>Body <textarea name="body" rows="{rows}" spellcheck="false">{example}</textarea></label>'
    elif content:
        yield '<label>Body <input type="file" name="file" required></label>'
    yield '<p>The same in a terminal:</p><pre class="curl"></pre><p><button type="submit">Send</button> '
    yield '<span class="status" role="status"></span></p><pre class="answer" tabindex="0" hidden></pre></form></details>'


def _parameter(parameter: Schema) -> str:
    """A value in the path, or behind it."""
    said = escape(parameter.get("description", "")).rstrip(".")
    kind = "; ".join(part for part in (_kind(parameter["schema"]), said) if part)
    return f"<code>{escape(parameter['name'])}</code> ({kind})"


def _responses(operation: Schema) -> Iterator[str]:
    """What comes back by status; statuses with the same answer together."""
    statuses: dict[str, list[str]] = {}
    for status, response in sorted(operation["responses"].items()):
        kinds = [
            f"{_kind(content['schema']) if content.get('schema') else 'a body'} as {escape(media_type)}"
            for media_type, content in response.get("content", {}).items()
        ]
        answer = " or ".join(kinds) or escape(response["description"])
        statuses.setdefault(answer, []).append(escape(status))
    for answer, given in statuses.items():
        yield f"<strong>{', '.join(given)}</strong> {answer}"


def _values(description: Schema) -> Iterator[str]:
    for name, schema in sorted(description["components"]["schemas"].items()):
        yield f'<section id="{escape(name)}"><h3><code>{escape(name)}</code></h3>{_text(schema.get("description", ""))}'
        properties = schema.get("properties")
        if properties is None:
            yield f"<p>{_kind(schema)}</p></section>"
            continue
        required = set(schema.get("required", ()))
        yield "<table><tr><th>Field</th><th>Value</th><th></th></tr>"
        for field, inner in properties.items():
            needed = "needed" if field in required else ""
            said = escape(inner.get("description", ""))
            yield f"<tr><td><code>{escape(field)}</code></td><td>{_kind(inner)}</td><td>{' '.join((needed, said))}</td></tr>"
        yield "</table></section>"


def _kind(schema: Schema) -> str:
    """What a value is, in words and links."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}"><code>{name}</code></a>'
    for choices in ("anyOf", "oneOf"):
        if choices in schema:
            return " or ".join(_kind(choice) for choice in schema[choices])
    if "const" in schema or "enum" in schema:
        allowed = schema.get("enum", [schema.get("const")])
        return " or ".join(f"<code>{escape(str(value))}</code>" for value in allowed)
    kind = escape(str(schema.get("type", "anything")))
    if kind == "array" and schema.get("items"):
        kind = f"array of {_kind(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), Mapping):
        kind = f"object of {_kind(schema['additionalProperties'])}"
    bounds = [words.format(escape(str(schema[key]))) for key, words in _BOUNDS if key in schema]
    return ", ".join([kind, *bounds])


def _text(text: str) -> str:
    """Paragraphs of a description, with its code in backticks."""
    paragraphs = []
    for paragraph in text.replace("``", "`").split("\n\n"):
        pieces = [escape(piece) for piece in paragraph.split("`")]
        joined = "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(pieces))
        paragraphs.append(f"<p>{joined}</p>" if joined.strip() else "")
    return "".join(paragraphs)
