"""Files that are added to the collection."""

from pathlib import PurePosixPath
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from loguru import logger

from llm_engineering.application.features.add import Addition
from llm_engineering.domain.errors import ExtractionError, StoreError, StoreUnavailableError
from llm_engineering.domain.hints import POE
from llm_engineering.infrastructure.api.errors import RETRY_AFTER_SECONDS, Problem, ProblemError
from llm_engineering.infrastructure.api.middleware.asgi import DOCUMENTS, allows
from llm_engineering.infrastructure.api.parts import ServiceParts
from llm_engineering.infrastructure.api.routes.rag import error_responses
from llm_engineering.infrastructure.api.schemas.documents import DocumentAdded, LeftOutRecord
from llm_engineering.infrastructure.api.streaming import unless_client_leaves

_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "The file's bytes: curl --data-binary @notes.md",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_MAX_NAME_BYTES: Final = 200
_NAMED: Final = r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"
_VISIBLE: Final = r"^[^\x00-\x1f\x7f/\\]*[^\x00-\x20\x7f/\\.][^\x00-\x1f\x7f/\\]*$"


def make_router(parts: ServiceParts) -> APIRouter:
    """Return the route over the parts."""
    routes = APIRouter(tags=["documents"])

    @routes.post(DOCUMENTS, status_code=201, responses=error_responses(413, 422), openapi_extra=_BODY)
    async def documents(
        request: Request,
        name: Annotated[
            str,
            Query(min_length=3, max_length=120, pattern=_VISIBLE, description="Its ending says what it is."),
        ],
        author: Annotated[
            str, Query(min_length=1, max_length=120, pattern=_NAMED, description="Whose writing it is.")
        ],
    ) -> DocumentAdded:
        """Add a file to the collection: Markdown, text, HTML, PDF, Word, EPUB, notebook, mail, or an export archive.

        The body is the file itself, as `curl --data-binary @notes.md` sends it. The same name by the same
        author again replaces it. Needs a key that allows it, where the service needs keys.
        """
        if parts.add_file is None:
            raise ProblemError(Problem(503, "documents_off", "This service takes no files."))
        if not allows(request.scope, "documents"):
            raise ProblemError(
                Problem(
                    403,
                    "scope_missing",
                    "This key allows questions, not files. The operator can make one that does: "
                    f"{POE} create-api-key NAME --documents",
                )
            )
        if len(name.encode()) > _MAX_NAME_BYTES:
            raise ProblemError(Problem(422, "invalid_request", "The name is too long for a file."))
        content = await request.body()
        if not content:
            raise ProblemError(
                Problem(422, "invalid_request", "The file is empty. Send its bytes as the body.")
            )
        try:
            added = await unless_client_leaves(request, parts.add_file(name, content, author))
        except ExtractionError as error:
            raise ProblemError(Problem(422, "document_rejected", _reason(str(error)))) from None
        except StoreUnavailableError:
            raise
        except StoreError as error:
            logger.warning("A file could not be added: {}", error)
            message = "The collection is being changed by a run. Try again in a moment."
            raise ProblemError(
                Problem(503, "collection_busy", message, retry_after=RETRY_AFTER_SECONDS)
            ) from None
        return _describe(name, added)

    return routes


def _describe(name: str, added: Addition) -> DocumentAdded:
    outcome = added.outcome
    done = (
        "It can be found by the next question."
        if added.searchable
        else (
            f"It is stored, and can be found after the next run of the feature pipeline: {POE} run-feature-engineering-pipeline"
        )
    )
    return DocumentAdded(
        name=name,
        status=outcome.status.value,
        documents=outcome.documents,
        left_out=outcome.rejected,
        reasons=tuple(
            LeftOutRecord(source=PurePosixPath(source).name, reason=reason)
            for source, reason in outcome.rejections
        ),
        searchable=added.searchable,
        message=done,
    )


def _reason(text: str) -> str:
    return f"Nothing in the file can be used. {text[:500]}"
