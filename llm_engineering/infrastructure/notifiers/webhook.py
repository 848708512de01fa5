"""A signed HTTP request for each notice: for a CRM, an automation, any receiver of one's own."""

import json
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from llm_engineering.domain.errors import NotificationError
from llm_engineering.domain.notices import Notice
from llm_engineering.domain.signatures import KEY, SIGNATURE, sign


class WebhookNotifier:
    """Posts notices as JSON.

    ``Idempotency-Key`` is the notice's id: a receiver that has seen it answers 2xx and does nothing. ``X-Twin-Signature`` is
    ``t=SECONDS,v1=HEX``, the HMAC-SHA256 of ``SECONDS.BODY`` under the secret that both sides know, so that neither another
    sender nor an old request is taken for ours.

    Args:
        url: where to. Nothing of it but the host is shown.
        secret: of the signature.
    """

    for_people = False

    def __init__(
        self, url: str, secret: str, *, timeout_seconds: float = 10.0, now: Callable[[], float] = time.time
    ) -> None:
        self._url = url
        self._secret = secret
        self._timeout = timeout_seconds
        self._now = now
        self.name = f"webhook:{urlsplit(url).hostname}"

    def send(self, notice: Notice) -> None:
        """Send a notice; redirects are not followed, since the signature is for one receiver."""
        import httpx

        body = json.dumps({"id": notice.id, **notice.model_dump(mode="json")}, ensure_ascii=False).encode()
        headers = {
            "Content-Type": "application/json",
            KEY: notice.id,
            SIGNATURE: sign(body, self._secret, int(self._now())),
        }
        try:
            response = httpx.post(self._url, content=body, headers=headers, timeout=self._timeout)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NotificationError(f"it cannot be reached: {type(error).__name__}") from None
        if not response.is_success:
            raise NotificationError(f"it answered {response.status_code}")
