"""Webhooks: deliveries brought to their receivers, every try written down."""

from __future__ import annotations

import functools
import time
from datetime import UTC, datetime
from typing import Any

import structlog
from ssrfguard import Policy

from jobs.deliveries import Deliveries
from jobs.errors import LeaseLost
from worker.post import ERROR_LENGTH, Post

log = structlog.get_logger()

_GONE = 410


class Webhooks:
    """Brings deliveries to their receivers."""

    def __init__(self, deliveries: Deliveries, *, secret: str, policy: Policy, timeout_s: float) -> None:
        """`timeout_s`: for the whole of a try."""
        self._deliveries = deliveries
        self._post = Post(secret=secret, policy=policy, timeout_s=timeout_s)

    def deliver(self, delivery_id: str) -> None:
        """Try once to bring a delivery, if it is still to be brought."""
        row = self._deliveries.claim(delivery_id)
        if row is None:
            return
        started = time.monotonic()
        reply = self._post.send(row.url, row.id, row.payload, of_success=0, of_failure=ERROR_LENGTH)
        error = reply.error
        if error is not None and reply.body:
            error += f": {reply.body[:ERROR_LENGTH].decode(errors='replace')}"
        entry: dict[str, Any] = {
            "at": datetime.now(UTC).isoformat(),
            "status_code": reply.status_code,
            "error": error,
            "seconds": round(time.monotonic() - started, 3),
        }
        try:
            if error is None:
                self._deliveries.delivered(row, entry)
            else:
                self._deliveries.missed(row, entry, final=reply.refused or reply.status_code == _GONE)
        except LeaseLost:
            log.warning("delivery_lease_lost", delivery_id=row.id)
        log.info("webhook_sent", delivery_id=row.id, status_code=reply.status_code, error=error)


@functools.cache  # every port is listed in it
def network_policy(allow: tuple[str, ...]) -> Policy:
    """Public addresses on any port, and the private networks (CIDR) in `allow`."""
    return Policy(allowed_networks=allow, allowed_ports=frozenset(range(1, 65_536)))  # type: ignore[arg-type]
