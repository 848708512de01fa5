"""The chat page: the files of the folder ``page``, and nothing else."""

import re
from pathlib import Path
from typing import Final

from fastapi import APIRouter
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

PAGE: Final = Path(__file__).parent / "static"
_FILE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,60}\.[a-z0-9]{1,8}", re.IGNORECASE | re.ASCII)

HEADERS: Final = {
    # Only our own files: a document or an answer that carries markup can neither run a script nor load anything.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Revalidated by its ETag at each visit, so that an update of the service is an update of the page.
    "Cache-Control": "no-cache",
}
_MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
"""Not left to the system's table, which on some machines calls scripts plain text: browsers then refuse to run them."""


def make_router(folder: Path = PAGE) -> APIRouter:
    """Serves ``index.html`` at ``/`` and the other files below ``/page/``."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    def index() -> FileResponse:
        return _file(folder / "index.html")

    @routes.get("/page/{name}")
    def file(name: str) -> FileResponse:
        if not _FILE_NAME.fullmatch(name):
            raise HTTPException(404)
        return _file(folder / name)

    return routes


def _file(path: Path) -> FileResponse:
    media_type = _MEDIA_TYPES.get(path.suffix.lower())
    if media_type is None or not path.is_file():
        raise HTTPException(404)
    return FileResponse(path, media_type=media_type, headers=HEADERS)
