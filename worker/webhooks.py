"""Webhooks: signed as Standard Webhooks asks, sent only where the policy allows, every try written down."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import structlog
from ssrfguard import Policy, SSRFGuardError
from ssrfguard.httpx import Client
from standardwebhooks import Webhook

from jobs.deliveries import Deliveries
from jobs.errors import LeaseLost
from jobs.tables import DeliveryRow

log = structlog.get_logger()

#: What is kept of a receiver's complaint, characters.
_ERROR_LENGTH = 300
_GONE = 410


class Webhooks:
    """Brings deliveries to their receivers. Redirects are not followed (Standard Webhooks, "Redirects")."""

    def __init__(
        self,
        deliveries: Deliveries,
        *,
        secret: str,
        policy: Policy,
        timeout_s: float,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._deliveries = deliveries
        self._webhook = Webhook(secret)
        self._policy = policy
        self._timeout_s = timeout_s
        self._clock = clock

    def deliver(self, delivery_id: str) -> None:
        """Try once to bring a delivery, if it is still to be brought."""
        row = self._deliveries.claim(delivery_id)
        if row is None:
            return
        started = time.monotonic()
        status_code, error, refused = self._send(row)
        entry: dict[str, Any] = {
            "at": self._clock().isoformat(),
            "status_code": status_code,
            "error": error,
            "seconds": round(time.monotonic() - started, 3),
        }
        try:
            if error is None:
                self._deliveries.delivered(row, entry)
            else:
                self._deliveries.missed(row, entry, final=refused or status_code == _GONE)
        except LeaseLost:
            log.warning("delivery_lease_lost", delivery_id=row.id)
        log.info("webhook_sent", delivery_id=row.id, status_code=status_code, error=error)

    def _send(self, row: DeliveryRow) -> tuple[int | None, str | None, bool]:
        """HTTP status, what went wrong (None: delivered), and whether it is no use to try again."""
        body = json.dumps(row.payload, ensure_ascii=False, separators=(",", ":"))
        now = self._clock()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Unabridged",
            "webhook-id": row.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._webhook.sign(row.id, now, body),
        }
        try:
            with (
                Client(policy=self._policy, timeout=self._timeout_s, follow_redirects=False) as client,
                client.stream("POST", row.url, content=body.encode(), headers=headers) as response,
            ):
                if response.is_success:
                    return response.status_code, None, False
                said = next(response.iter_text(_ERROR_LENGTH), "")
                return response.status_code, f"HTTP {response.status_code}: {said}".rstrip(": "), False
        except SSRFGuardError as exc:
            return None, f"refused: {exc}"[:_ERROR_LENGTH], True
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
            return None, f"{type(exc).__name__}: {exc}"[:_ERROR_LENGTH], False


@functools.cache  # every port is listed in it
def network_policy(allow: tuple[str, ...]) -> Policy:
    """Public addresses on any port, and the private networks (CIDR) in `allow`."""
    return Policy(allowed_networks=allow, allowed_ports=frozenset(range(1, 65_536)))  # type: ignore[arg-type]
