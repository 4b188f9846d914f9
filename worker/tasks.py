"""Celery's side: a task takes an id, calls once, and is done. What to do with it is in the record.

A worker builds its collaborators when it starts, by the queue it serves: `-Q model` loads the model, `-Q cpu`
parses, `-Q quick` does everything else.
"""

from __future__ import annotations

import logging
import signal
import sys
from typing import Any, NoReturn

import structlog
from celery import Celery, signals

from doorbell import Doorbell
from jobs.queues import CPU, DELIVER, MODEL, PARSE, QUICK, READ, SWEEP, TIDY, own_queue
from settings import Settings
from worker.bootstrap import CpuWorker, ModelWorker, QuickWorker, cpu_worker, model_worker, quick_worker

log = structlog.get_logger()

app = Celery("unabridged", config_source="celeryconfig")
doorbell = Doorbell(app)


class Services:
    """What this process works with, by the queues it serves."""

    cpu: CpuWorker
    quick: QuickWorker
    model: ModelWorker


services = Services()


@app.task(name=PARSE)  # type: ignore[untyped-decorator]
def parse(document_id: str) -> None:
    """Turn an upload into pages of text."""
    services.cpu.parsing.parse(document_id)


@app.task(name=READ)  # type: ignore[untyped-decorator]
def read(job_id: str) -> None:
    """Read documents and answer."""
    services.model.pipeline.read(job_id)


@app.task(name=DELIVER)  # type: ignore[untyped-decorator]
def deliver(delivery_id: str) -> None:
    """Bring a webhook to its receiver."""
    services.quick.webhooks.deliver(delivery_id)


@app.task(name=SWEEP)  # type: ignore[untyped-decorator]
def sweep() -> None:
    """Start again what was lost."""
    swept = services.quick.sweep.run()
    if swept.recovered or swept.expired or swept.rung:
        log.info("swept", recovered=swept.recovered, expired=swept.expired, rung=swept.rung)


@app.task(name=TIDY)  # type: ignore[untyped-decorator]
def tidy() -> None:
    """Remove what uploads that broke off a day ago have left, and jobs that were kept long enough."""
    services.quick.record.files.sweep(older_than_s=24 * 3600.0)
    if removed := services.quick.retention.run():
        log.info("old_jobs_removed", jobs=removed)


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _set_up_logging(loglevel: int | str = "INFO", **_: Any) -> None:
    logging.basicConfig(level=loglevel, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    level = logging.getLevelNamesMapping()[Settings().log_level.upper()]
    *others, _ = structlog.get_config()["processors"]
    # Where an error was raised, and never what variables held: that may be a document's text.
    renderer = structlog.dev.ConsoleRenderer(
        colors=sys.stdout.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    structlog.configure(
        processors=[*others, renderer], wrapper_class=structlog.make_filtering_bound_logger(level)
    )


@signals.celeryd_after_setup.connect  # type: ignore[untyped-decorator]
def _build(instance: Any, **_: Any) -> None:
    """Build what the queues of this worker need, before the first message is taken."""
    settings = Settings()
    queues = set(instance.app.amqp.queues.consume_from)
    try:
        if CPU in queues:
            services.cpu = cpu_worker(settings, ring=doorbell)
        if QUICK in queues:
            services.quick = quick_worker(settings, ring=doorbell, waiting=doorbell.waiting)
        if MODEL in queues:
            services.model = model_worker(settings, ring=doorbell)
            # What is meant for this worker is taken first.
            instance.app.amqp.queues.select([own_queue(services.model.worker_id), *queues])
            services.model.announce()
    except Exception as exc:  # Celery would log it and go on without
        log.critical("worker_not_built", exc_info=True)
        raise SystemExit(1) from exc


@signals.beat_init.connect  # type: ignore[untyped-decorator]
def _stop_beat_in_order(sender: Any, **_: Any) -> None:
    """Let beat close its files and connections when it is out of what it was doing.

    Celery's own handler closes them at once: the message that is just being sent fails, the exit is lost in
    that, and the next message finds the schedule closed.
    """

    def leave(*_: object) -> NoReturn:
        sender.stop()  # for where an exception is kept back
        raise SystemExit

    for kind in (signal.SIGTERM, signal.SIGINT):
        signal.signal(kind, leave)


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop(**_: Any) -> None:
    if hasattr(services, "model"):
        services.model.stop()


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _close(**_: Any) -> None:
    for name in ("model", "quick", "cpu"):
        if hasattr(services, name):
            getattr(services, name).close()
