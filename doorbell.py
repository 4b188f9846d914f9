"""The doorbell: tells the workers, through Celery and its broker, that there is something to do."""

from __future__ import annotations

import structlog
from celery import Celery

log = structlog.get_logger()

#: Seconds a probe of the broker may take.
PROBE_S = 2.0
#: Behind what beat sends (0, the first on Redis): a thousand webhooks must not keep the sweep waiting.
PRIORITY = 5


class Doorbell:
    """A `jobs.database.Ring`. What is not heard is no loss: the outbox has it, and the sweep rings again."""

    def __init__(self, queue: Celery) -> None:
        self._queue = queue

    def __call__(self, task: str, queue: str, subject_id: str) -> bool:
        """Send `task` with the subject's id, and nothing else. A failure is logged, never raised."""
        try:
            self._queue.send_task(
                task, (subject_id,), queue=queue, priority=PRIORITY, retry=False, ignore_result=True
            )
        except Exception as exc:  # whatever kombu and its transports raise
            log.warning("ring_failed", task=task, subject_id=subject_id, error=repr(exc))
            return False
        return True

    def answers(self) -> bool:
        """Whether the broker takes connections."""
        try:
            with self._queue.connection_for_write(connect_timeout=PROBE_S) as connection:
                connection.ensure_connection(max_retries=1, timeout=PROBE_S)
        except Exception:  # the same
            return False
        return True

    def waiting(self, queue: str) -> int:
        """Messages in a queue that no worker has taken. Raises what kombu raises."""
        with self._queue.connection_for_read() as connection:
            return int(connection.default_channel.queue_declare(queue).message_count)
