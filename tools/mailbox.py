"""A mail server on loopback that keeps what it is sent: for the demo, and for tests of what is mailed."""

import email
import email.policy
import socketserver
import threading
from email.message import EmailMessage
from types import TracebackType
from typing import Self


class SmallMailbox:
    """Takes mail by SMTP, without encryption or login, and delivers nothing."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        box = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(b"220 mailbox\r\n")
                while line := self.rfile.readline():
                    command = line.decode("ascii", "replace").strip().upper()
                    if command.startswith("QUIT"):
                        self.wfile.write(b"221 bye\r\n")
                        return
                    if command != "DATA":
                        self.wfile.write(b"250 ok\r\n")
                        continue
                    self.wfile.write(b"354 go on\r\n")
                    lines = []
                    while (part := self.rfile.readline()) not in (b".\r\n", b""):
                        lines.append(part.removeprefix(b".") if part.startswith(b"..") else part)
                    box.messages.append(
                        email.message_from_bytes(b"".join(lines), policy=email.policy.default)
                    )
                    self.wfile.write(b"250 kept\r\n")

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def address(self) -> str:
        """In Apprise's form."""
        return (
            f"mailto://127.0.0.1:{self._server.server_address[1]}?from=course@example.org&to=dean@example.org"
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
