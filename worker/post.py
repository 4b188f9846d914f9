"""Messages to other people's servers: signed as Standard Webhooks asks, sent only where a policy allows."""

from __future__ import annotations

import asyncio
import functools
import json
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
from ssrfguard import Policy, SSRFGuardError
from ssrfguard.httpx import AsyncClient
from standardwebhooks import Webhook

#: Characters of what went wrong.
ERROR_LENGTH = 300


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: a status and the beginning of a body, or why there is none."""

    status_code: int | None
    body: bytes
    #: None for a success; `refused`: the policy forbids the address, and always will.
    error: str | None = None
    refused: bool = False


class Post:
    """Sends a message and reads the reply. Redirects are not followed (Standard Webhooks, "Redirects")."""

    def __init__(self, *, secret: str, policy: Policy, timeout_s: float) -> None:
        """`timeout_s`: for message and reply together, however slowly a receiver takes or gives them.

        Not for looking up its name, which the system's resolver limits.
        """
        self._webhook = Webhook(secret)
        self._policy = policy
        self._timeout_s = timeout_s

    def send(
        self, url: str, message_id: str, message: dict[str, Any], *, of_success: int, of_failure: int
    ) -> Reply:
        """Never raises. `of_success`, `of_failure`: bytes of the reply's body that are read, or some more."""
        content = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
        now = datetime.now(UTC)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Unabridged",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._webhook.sign(message_id, now, content),
        }
        try:
            return asyncio.run(self._exchange(url, headers, content.encode(), of_success, of_failure))
        except SSRFGuardError as exc:
            allowed = "UNABRIDGED_WEBHOOK_ALLOW lists the private networks that may be called"
            return Reply(None, b"", f"refused: {exc}; {allowed}"[:ERROR_LENGTH], refused=True)
        except TimeoutError:
            return Reply(None, b"", f"Timeout: the reply did not end within {self._timeout_s:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, OSError) as exc:  # UnicodeError: no name
            return Reply(None, b"", f"{type(exc).__name__}: {exc}"[:ERROR_LENGTH])

    async def _exchange(
        self, url: str, headers: dict[str, str], content: bytes, of_success: int, of_failure: int
    ) -> Reply:
        """Asynchronous, for that can be stopped anywhere; a socket's timeout begins anew with each byte."""
        connecting = httpx.Timeout(None, connect=self._timeout_s / 3)  # time is left for another address
        trusted = _trusted()
        async with (
            asyncio.timeout(self._timeout_s),
            AsyncClient(policy=self._policy, verify=trusted, timeout=connecting) as client,
            client.stream("POST", url, content=content, headers=headers) as response,
        ):
            body, chunks = b"", response.aiter_bytes()
            while len(body) < (of_success if response.is_success else of_failure):
                chunk = await anext(chunks, b"")
                if not chunk:
                    break
                body += chunk
            return Reply(
                response.status_code, body, None if response.is_success else f"HTTP {response.status_code}"
            )


@functools.cache  # reading the certificates takes longer than sending a message
def _trusted() -> ssl.SSLContext:
    return httpx.create_ssl_context()
