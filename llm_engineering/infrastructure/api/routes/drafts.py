"""Drafts: written to order as ``/rag`` gives answers, kept, edited by a person, compared."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from llm_engineering.application.ports import DraftStore
from llm_engineering.domain.drafts import DraftDiff, StoredDraft, compare_versions
from llm_engineering.domain.inference import RagResult
from llm_engineering.infrastructure.api.bodies import describe_body, json_body
from llm_engineering.infrastructure.api.errors import Problem, ProblemError
from llm_engineering.infrastructure.api.parts import ServiceParts
from llm_engineering.infrastructure.api.routes.rag import (
    KEEPING_SECONDS,
    STREAMED,
    WITH_BODY,
    error_responses,
    frame_event,
    mark_degraded,
    run_to_end,
    stream_answer,
)
from llm_engineering.infrastructure.api.schemas.drafts import (
    MAX_PAGE,
    MAX_REVISION,
    DraftDeleted,
    DraftDetail,
    DraftEditBody,
    DraftPage,
    DraftSummary,
    WriteBody,
)
from llm_engineering.infrastructure.api.schemas.rag import TRACE_ID
from llm_engineering.infrastructure.api.streaming import EventStream, unless_client_leaves

BODIES: Final = (WriteBody, DraftEditBody)
_CURSOR: Final = r"^[0-9]{1,15}-[A-Za-z0-9_-]{1,64}$"
"""Milliseconds since 1970 and id of the last draft of a page."""

DraftId = Annotated[str, Path(pattern=TRACE_ID, max_length=64)]

_EXAMPLE: Final = {"request": "Draft a post about chunking", "format": "post", "length": 120}


def make_router(parts: ServiceParts) -> APIRouter:
    """Return the routes over the parts."""
    routes = APIRouter(tags=["drafts"])
    _add_write(routes, parts)
    _add_reading(routes, parts)
    _add_editing(routes, parts)
    return routes


def _add_write(routes: APIRouter, parts: ServiceParts) -> None:
    @routes.post("/write", responses=WITH_BODY, openapi_extra=describe_body(WriteBody, _EXAMPLE))
    async def write(
        request: Request, response: Response, body: Annotated[WriteBody, Depends(json_body(WriteBody))]
    ) -> RagResult:
        """Draft a text in an author's voice. It is kept under `draft_id`."""
        work = run_to_end(parts.pipeline, body.to_request(parts.retrieval))
        result = await unless_client_leaves(request, work)
        response.headers.update(mark_degraded(result.provenance))
        return result

    @routes.post(
        "/write/stream",
        status_code=200,
        response_class=EventStream,
        responses=STREAMED,
        openapi_extra=describe_body(WriteBody, _EXAMPLE),
    )
    async def write_stream(
        request: Request, body: Annotated[WriteBody, Depends(json_body(WriteBody))]
    ) -> Response:
        """Draft a text as it is being written, in the events of `/rag/stream`. What breaks off is kept as far as it came."""
        return await stream_answer(request, parts, body.to_request(parts.retrieval), encode=frame_event)


def _add_reading(routes: APIRouter, parts: ServiceParts) -> None:
    @routes.get("/drafts", responses=error_responses(422))
    async def drafts(
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
        before: Annotated[
            str | None, Query(pattern=_CURSOR, max_length=80, description="`next` of the page before.")
        ] = None,
    ) -> DraftPage:
        """Return the drafts that are kept, newest first."""
        store = _store(parts)
        page = await asyncio.to_thread(store.read_page, limit + 1, before=_read_cursor(before))
        more = len(page) > limit
        page = page[:limit]
        return DraftPage(
            drafts=tuple(DraftSummary.describe(draft) for draft in page),
            next=_make_cursor(page[-1]) if more else None,
        )

    @routes.get("/drafts/{draft_id}", responses=error_responses(404, 422))
    async def draft(draft_id: DraftId) -> DraftDetail:
        """Return a draft with its sources and versions."""
        return DraftDetail.describe(await _find(_store(parts), draft_id))

    @routes.get("/drafts/{draft_id}/diff", responses=error_responses(404, 422))
    async def diff(
        draft_id: DraftId,
        from_revision: Annotated[
            int, Query(alias="from", ge=0, le=MAX_REVISION, description="0 is the draft itself.")
        ] = 0,
        to_revision: Annotated[
            int | None, Query(alias="to", ge=0, le=MAX_REVISION, description="The newest, if not given.")
        ] = None,
    ) -> DraftDiff:
        """Compare two versions of a draft."""
        found = await _find(_store(parts), draft_id)
        second = found.revision if to_revision is None else to_revision
        compared = await asyncio.to_thread(compare_versions, found, from_revision, second)
        if compared is None:
            kept = ", ".join(str(number) for number in (0, *(edit.revision for edit in found.edits)))
            raise ProblemError(
                Problem(404, "unknown_revision", f"That version of the draft is not kept. There are: {kept}.")
            )
        return compared


def _add_editing(routes: APIRouter, parts: ServiceParts) -> None:
    @routes.put(
        "/drafts/{draft_id}",
        responses=WITH_BODY | error_responses(404, 409),
        openapi_extra=describe_body(
            DraftEditBody, {"text": "The whole text, as it is to be.", "base_revision": 0}
        ),
    )
    async def edit(
        draft_id: DraftId, body: Annotated[DraftEditBody, Depends(json_body(DraftEditBody))]
    ) -> DraftDetail:
        """Keep a person's version of a draft, for good; the draft stays beside it."""
        store, text = _store(parts), body.clean_text()
        found = await _find(store, draft_id)
        if body.base_revision != found.revision:
            raise _edited_meanwhile(found.revision)
        if text == found.text:
            raise ProblemError(
                Problem(422, "unchanged_draft", "This is the text that is kept already: nothing was edited.")
            )
        revised = found.revise(text, datetime.now(UTC))
        if not await asyncio.to_thread(store.replace, revised, found.revision):
            newest = await _find(store, draft_id)  # which says so where it was deleted
            raise _edited_meanwhile(newest.revision)
        return DraftDetail.describe(revised)

    @routes.delete("/drafts/{draft_id}", responses=error_responses(404, 422))
    async def delete(draft_id: DraftId) -> DraftDeleted:
        """Forget a draft with all of its versions."""
        if not await asyncio.to_thread(_store(parts).delete, draft_id):
            raise _unknown()
        return DraftDeleted(id=draft_id)


def _store(parts: ServiceParts) -> DraftStore:
    if parts.drafts is None:
        raise ProblemError(
            Problem(
                503, "drafts_off", "This service keeps no drafts: it has no database, or keeps no answers."
            )
        )
    return parts.drafts


async def _find(store: DraftStore, draft_id: str) -> StoredDraft:
    found = await asyncio.to_thread(store.find, draft_id)
    if found is None:
        # One that was broken off is kept in the background.
        await asyncio.sleep(KEEPING_SECONDS)
        found = await asyncio.to_thread(store.find, draft_id)
    if found is None:
        raise _unknown()
    return found


def _unknown() -> ProblemError:
    message = "No draft with that id is kept; drafts that nobody edits are kept for a limited time."
    return ProblemError(Problem(404, "unknown_draft", message))


def _edited_meanwhile(revision: int) -> ProblemError:
    message = (
        f"The draft was edited meanwhile: its newest version is {revision}. Read it, bring both together, and send "
        "that with the new base_revision."
    )
    return ProblemError(Problem(409, "edited_meanwhile", message))


def _make_cursor(draft: StoredDraft) -> str:
    return f"{round(draft.created_at.timestamp() * 1000)}-{draft.id}"


def _read_cursor(cursor: str | None) -> tuple[datetime, str] | None:
    if cursor is None:
        return None
    milliseconds, _, identifier = cursor.partition("-")
    seconds, rest = divmod(int(milliseconds), 1000)
    try:
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest * 1000), identifier
    except (ValueError, OverflowError, OSError):  # a year beyond 9999
        raise ProblemError(
            Problem(422, "invalid_request", "before: expected what `next` of another page said.")
        ) from None
