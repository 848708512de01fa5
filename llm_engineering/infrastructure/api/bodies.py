"""Reading request bodies as strict JSON, and writing their schemas into the OpenAPI description.

FastAPI's own reading goes through ``json.loads``, which lets lone surrogates, NaN and numbers in quotes through to where
they fail late. Pydantic reads the bytes itself here, and refuses them with the field's name.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema

from llm_engineering.infrastructure.api.errors import Problem, ProblemError, describe_invalid

_KEYS: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, where the service needs one."},
    "header": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same, in a header of its own.",
    },
}

M = TypeVar("M", bound=BaseModel)

# Not FastAPI's names: a model that is both sent and received has two schemas, which differ in what is required.
_REFERENCE: Final = "#/components/schemas/{model}-Input"


def json_body(
    model: type[M], explain: Callable[[ValidationError], Problem | None] = lambda _: None
) -> Callable[[Request], Awaitable[M]]:
    """Return a dependency that reads the body as ``model``. ``explain`` may know better what is wrong than the field's
    name.

    Raises:
        ProblemError: from the dependency; 415 for another content type than JSON, 422 for a body that breaks the schema.
    """

    async def read(request: Request) -> M:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            # Also what keeps other sites' pages from posting here: a browser asks first for this content type.
            raise ProblemError(
                Problem(415, "unsupported_media_type", "Send JSON, with 'Content-Type: application/json'.")
            )
        try:
            return model.model_validate_json(await request.body(), strict=True)
        except ValidationError as error:
            raise ProblemError(explain(error) or describe_invalid(error)) from None

    return read


def describe_body(model: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """Return what a route's ``openapi_extra`` needs for its body to be documented.

    Args:
        example: a body that works on any collection.
    """
    content = {"schema": {"$ref": _REFERENCE.format(model=model.__name__)}, "example": example}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def describe_requests(app: FastAPI, *models: type[BaseModel]) -> None:
    """Add the schemas of bodies, and the ways to send a key, to the app's OpenAPI description, made at its first use."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            _, definitions = models_json_schema(
                [(model, "validation") for model in models], ref_template=_REFERENCE
            )
            components = schema.setdefault("components", {})
            components["securitySchemes"] = _KEYS
            # An empty choice first: a service on loopback may need no key.
            schema["security"] = [{}, *({name: []} for name in _KEYS)]
            schemas = components.setdefault("schemas", {})
            schemas |= {f"{name}-Input": body for name, body in definitions["$defs"].items()}
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
