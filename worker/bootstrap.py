"""Builds a worker process's collaborators, once, and takes them down."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import structlog

import parsers
from jobs.database import Ring
from jobs.record import Record, open_record
from jobs.retention import Retention
from jobs.sweep import Sweep
from settings import Settings
from worker.engine import Engine, FakeEngine, MemoryOptions, Request, Sampling, Turn, load_engine
from worker.parsing import Parsing
from worker.pipeline import Pipeline
from worker.prompts import Prompts
from worker.tools import HttpCaller
from worker.webhooks import Webhooks, network_policy

log = structlog.get_logger()


@dataclass
class CpuWorker:
    """What parses."""

    record: Record
    parsing: Parsing

    def close(self) -> None:
        """End the waiting parsers and let go of the database."""
        self.parsing.close()
        self.record.close()


@dataclass
class QuickWorker:
    """What delivers, sweeps and tidies."""

    record: Record
    webhooks: Webhooks
    sweep: Sweep
    retention: Retention

    def close(self) -> None:
        """Let go of the database."""
        self.record.close()


@dataclass
class ModelWorker:
    """What reads, on one card."""

    record: Record
    engine: Engine
    pipeline: Pipeline
    worker_id: str
    _stopped: threading.Event = field(default_factory=threading.Event)

    def announce(self, every_s: float = 5.0) -> None:
        """Answer a first token, then say every few seconds that this worker is ready.

        As often, what was read of documents that were deleted meanwhile is given up.
        """
        _first_token(self.engine)
        self._say()
        threading.Thread(target=self._keep_saying, args=(every_s,), name="announce", daemon=True).start()

    def stop(self) -> None:
        """Give running jobs back to the queue, for others; the record stays open for them to do so."""
        self._stopped.set()
        try:
            self.record.workers.gone(self.worker_id)
        finally:
            self.engine.close()

    def close(self) -> None:
        """Say goodbye and let go of the database."""
        self.stop()
        self.record.close()

    def _say(self) -> None:
        self.record.workers.seen(
            self.worker_id, card=asdict(self.engine.card), capacity=asdict(self.engine.capacity())
        )

    def _keep_saying(self, every_s: float) -> None:
        while not self._stopped.wait(every_s):
            if self.engine.failed:
                log.critical("engine_failed")
                os.kill(os.getpid(), signal.SIGTERM)  # whoever started this process starts a sound one
                return
            try:
                self._say()
                self.pipeline.forget_deleted()
            except Exception:  # the database is away; say it when it is back
                log.warning("announce_failed", exc_info=True)


def cpu_worker(settings: Settings, *, ring: Ring) -> CpuWorker:
    """Build a worker that parses."""
    record = open_record(settings, ring=ring, parser_version=parsers.PARSER_VERSION)
    limits = parsers.Limits(
        max_bytes=settings.max_upload_bytes,
        max_pages=settings.max_pages,
        memory_bytes=settings.parse_memory_bytes,
        cpu_s=max(1, round(settings.parse_timeout_s)),
        wall_s=settings.parse_timeout_s,
    )
    return CpuWorker(
        record=record,
        parsing=Parsing(
            record, parsers.Sandbox(limits), heartbeat_s=settings.heartbeat_s, lease_s=settings.lease_s
        ),
    )


def quick_worker(settings: Settings, *, ring: Ring, waiting: Callable[[str], int]) -> QuickWorker:
    """Build a worker that delivers, sweeps and tidies. `waiting(queue)` counts the messages in a queue."""
    record = open_record(settings, ring=ring, parser_version=parsers.PARSER_VERSION)
    return QuickWorker(
        record=record,
        webhooks=Webhooks(
            record.deliveries,
            secret=settings.signing_secret,
            policy=network_policy(settings.webhook_allow),
            timeout_s=settings.webhook_timeout_s,
        ),
        sweep=Sweep(
            record.database,
            record.documents,
            record.ledger,
            record.deliveries,
            ring=ring,
            waiting=waiting,
            max_attempts=settings.max_attempts,
            ring_again_s=settings.ring_again_s,
            idempotency_s=settings.idempotency_s,
        ),
        retention=Retention(record.database, keep_jobs_days=settings.keep_jobs_days),
    )


def model_worker(settings: Settings, *, ring: Ring) -> ModelWorker:
    """Load the model and build its worker. This is where a worker spends its first seconds.

    Raises:
        worker.engine.ModelLoadError: the model cannot be had.
    """
    worker_id = f"{socket.gethostname()}:{os.environ.get('CUDA_VISIBLE_DEVICES', settings.device)}"
    record = open_record(settings, ring=ring, parser_version=parsers.PARSER_VERSION)
    record.workers.gone(worker_id)  # what a killed one left; this one is ready when it says so
    engine = open_engine(settings)
    pipeline = Pipeline(
        record,
        engine,
        Prompts(settings.prompts),
        HttpCaller(
            secret=settings.signing_secret,
            policy=network_policy(settings.webhook_allow),
            timeout_s=settings.tool_timeout_s,
        ),
        worker_id=worker_id,
        heartbeat_s=settings.heartbeat_s,
        lease_s=settings.lease_s,
    )
    return ModelWorker(record, engine, pipeline, worker_id)


#: Requests that write at once: a job may ask several questions, and all of them stream its document together.
_SEATS = 8


def open_engine(settings: Settings) -> Engine:
    """The engine that `settings` name."""
    if settings.engine == "fake":
        return FakeEngine()
    return load_engine(
        settings.model or None,
        revision=settings.model_revision,
        device=settings.device,
        weights=settings.weights,
        cache_dir=settings.cache,
        memory=memory_options(settings),
        max_active=max(_SEATS, settings.jobs_per_card),
        fp8_attention=settings.read_attention == "fp8",
    )


def memory_options(settings: Settings) -> MemoryOptions:
    """Where one model worker may keep what it has read."""
    return MemoryOptions(
        format=settings.kv_format,
        card_bytes=settings.kv_card_bytes,
        host_bytes=settings.kv_host_bytes,
        host_share=min(1 / 4, 1 / 2 / settings.model_workers),  # others may start at the same moment
        disk_folder=settings.data / "read",
        disk_bytes=_disk_bytes(settings),
    )


def _disk_bytes(settings: Settings) -> int:
    if settings.kv_disk_bytes is not None:
        return settings.kv_disk_bytes
    settings.data.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(settings.data).free // 10


def _first_token(engine: Engine) -> None:
    tokenizer = engine.tokenizer
    request = Request(
        prefix=tokenizer.prefix("", "").ids,
        suffix=tokenizer.suffix([Turn("user", "Hello")]),
        sampling=Sampling(max_tokens=1),
    )
    for _event in engine.submit(request):
        pass
