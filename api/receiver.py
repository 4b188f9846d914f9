"""A webhook receiver on a loopback port: checks signatures, answers at once, and hands out what came.

For trying webhooks; the code of a receiver of your own needs no more than `_Handler.do_POST` does.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, Queue
from typing import Any, Self

from standardwebhooks import Webhook, WebhookVerificationError

#: The largest message taken, bytes.
BODY_LIMIT = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class Received:
    """A message whose signature was right."""

    id: str
    payload: dict[str, Any]


class Receiver:
    """Listens on 127.0.0.1 for as long as the `with` block lasts."""

    def __init__(self, secret: str) -> None:
        self._webhook = Webhook(secret)
        self._messages: Queue[Received] = Queue()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.receiver = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="receiver", daemon=True
        )

    @property
    def url(self) -> str:
        """Where to send webhooks."""
        return f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self, timeout_s: float) -> Received | None:
        """The next message, or None if none came in time."""
        try:
            return self._messages.get(timeout=timeout_s)
        except Empty:
            return None

    def take(self, body: bytes, headers: dict[str, str]) -> bool:
        """Whether the message is signed with our secret; if so it is handed out."""
        try:
            payload = self._webhook.verify(body, headers)
        except (WebhookVerificationError, ValueError):  # ValueError: a header that cannot be decoded
            return False
        self._messages.put(Received(headers["webhook-id"], payload))
        return True


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        if size > BODY_LIMIT:
            self.send_error(413)
            return
        receiver: Receiver = self.server.receiver  # type: ignore[attr-defined]
        body = self.rfile.read(size)
        good = receiver.take(body, {name.lower(): value for name, value in self.headers.items()})
        self.send_response(204 if good else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing: the caller shows what came."""
