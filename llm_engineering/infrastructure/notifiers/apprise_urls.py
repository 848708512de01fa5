"""Mail, Slack, Teams, SNS and a hundred more, by Apprise."""

from pathlib import Path

from llm_engineering.domain.errors import ConfigurationError, MissingDependencyError, NotificationError
from llm_engineering.domain.notices import Notice


class AppriseNotifier:
    """One address in Apprise's form: ``mailto://…``, ``slack://…``, ``json://…``.

    The address holds a password or token, so it is shown nowhere. These services know no key to tell a repetition by: after a
    kill at the wrong moment the same message may come twice; the webhook tells them apart.

    Raises:
        ConfigurationError: Apprise does not know the address's form.
        MissingDependencyError: Apprise is not installed.
    """

    for_people = True

    def __init__(self, url: str) -> None:
        try:
            import apprise
        except ModuleNotFoundError:
            raise MissingDependencyError("apprise", "pipelines", "Sending messages to NOTIFY_URLS") from None

        self._sender = apprise.Apprise()
        scheme = url.partition("://")[0]
        if not self._sender.add(url):
            raise ConfigurationError(
                f"Apprise cannot read the address {scheme}://… in NOTIFY_URLS. Its forms: https://appriseit.com/services/"
            )
        [place] = self._sender
        digest = place.url_id()  # type: ignore[no-untyped-call]
        self.name = f"{scheme}:{digest or '0'}"[:40]

    def send(self, notice: Notice) -> None:
        """Send a notice as a message."""
        body = "\n\n".join(filter(None, (notice.text, notice.link)))
        attached = notice.attachment if notice.attachment and Path(notice.attachment).is_file() else None
        if not self._sender.notify(
            title=notice.title, body=body or notice.title, notify_type=notice.severity, attach=attached
        ):
            raise NotificationError("the message was not taken; Apprise's log says why")
