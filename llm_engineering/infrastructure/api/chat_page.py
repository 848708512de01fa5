"""The chat page as a service of its own, for where a proxy puts it and the inference service under one address."""

from fastapi import FastAPI, Response

from llm_engineering.infrastructure.api.middleware.asgi import Receive, Scope, Send
from llm_engineering.infrastructure.api.routes import page


class ChatPageService:
    """The ASGI application: the page's files, and health. It holds no secret and asks nobody for anything."""

    def __init__(self) -> None:
        self._stopping = False
        self._app = FastAPI(openapi_url=None, redirect_slashes=False)
        self._app.include_router(page.make_router())
        self._app.add_api_route("/health/live", lambda: {"status": "ok"}, methods=["GET", "HEAD"])
        self._app.add_api_route("/health/ready", self._tell_readiness, methods=["GET", "HEAD"])

    def stop(self) -> None:
        """Send no more callers here."""
        self._stopping = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def _tell_readiness(self, response: Response) -> dict[str, str]:
        if self._stopping:
            response.status_code = 503
        return {"status": "stopping" if self._stopping else "ready"}
