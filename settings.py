"""Settings: every knob of every process, read once from the environment (`UNABRIDGED_*`) or a `.env` file."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1024**2
GIB = 1024**3
_LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")


def _xdg(variable: str, fallback: str) -> Path:
    """A folder of the XDG base directory specification, section 3."""
    return Path(os.environ.get(variable) or Path.home() / fallback) / "unabridged"


class Settings(BaseSettings):
    """One object, built at start-up and passed in. Field names are the variable names without the prefix."""

    model_config = SettingsConfigDict(env_prefix="UNABRIDGED_", env_file=".env", extra="ignore", frozen=True)

    #: Uploads, parsed text, the default database and the embedded broker live here.
    data: Path = Field(default_factory=lambda: _xdg("XDG_DATA_HOME", ".local/share"))
    #: Converted models live here; safe to delete.
    cache: Path = Field(default_factory=lambda: _xdg("XDG_CACHE_HOME", ".cache"))
    #: SQLAlchemy URL. Empty: SQLite in the data folder.
    database_url: str = ""
    #: Redis URL of the queue. Empty: the embedded server started by `unabridged serve`.
    redis_url: str = ""

    #: Where the API listens, and how others reach it.
    host: str = "127.0.0.1"
    port: int = 8765
    api_threads: int = 64
    #: Host names requests may be for. Empty: on a loopback address only loopback names, else any.
    trusted_hosts: tuple[str, ...] = ()

    #: Model name or folder for transformers. Empty: the small model that comes with the packages.
    model: str = ""
    model_revision: str = "main"
    #: `fake` is the deterministic engine for trying the machinery without a model.
    engine: Literal["transformers", "fake"] = "transformers"
    device: str = "auto"
    weights: Literal["auto", "nf4", "bf16", "fp32"] = "auto"
    #: Jobs in flight on one card.
    jobs_per_card: int = Field(default=4, ge=1)
    #: How what was read is kept. `auto`: the most exact format in which a whole window fits the card.
    kv_format: Literal["auto", "exact", "fp8", "int4"] = "auto"
    #: Bytes of the card's memory for them (without a card, of the computer's). None: what is free.
    kv_card_bytes: int | None = Field(default=None, ge=0)
    #: Bytes of the computer's memory beside a card. None: what a window lacks on the card, a quarter at most,
    #: and half for all model workers together.
    kv_host_bytes: int | None = Field(default=None, ge=0)
    #: Model workers on this computer, which share its memory. `unabridged serve` counts them itself.
    model_workers: int = Field(default=1, ge=1)
    #: Bytes of the disk, so that documents are not read again after a restart. None: a tenth of what is free.
    kv_disk_bytes: int | None = Field(default=None, ge=0)
    #: `fp8` reads long documents faster and less exactly; for Hopper cards, with nvidia-cudnn-frontend.
    read_attention: Literal["exact", "fp8"] = "exact"

    #: Refused above these, before any work is done.
    max_upload_bytes: int = 2 * GIB
    max_pages: int = 10_000
    max_queued: int = 10_000
    parse_memory_bytes: int = 2 * GIB
    parse_timeout_s: float = 600.0

    #: A claim that is not renewed for this long is taken to be dead and the work is given to another.
    lease_s: float = Field(default=30.0, gt=0)
    heartbeat_s: float = Field(default=1.0, gt=0)
    sweep_s: float = Field(default=5.0, gt=0)
    #: A ring that nobody answered is repeated after this long, once the queue is empty.
    ring_again_s: float = Field(default=15.0, gt=0)
    max_attempts: int = Field(default=3, ge=1)
    #: A job that has not finished by then expires, unless it says otherwise.
    job_timeout_s: float = 24 * 3600.0
    idempotency_s: float = 24 * 3600.0
    #: Finished jobs are removed this many days after their end. None: never.
    keep_jobs_days: float | None = Field(default=None, gt=0)

    #: Signs webhooks (Standard Webhooks: `whsec_` and base64). Empty: made once, kept in the data folder.
    webhook_secret: str = ""
    #: Private networks (CIDR) webhooks may be sent to, for receivers of your own.
    webhook_allow: tuple[str, ...] = ()
    #: The time of one delivery, from connecting to the end of the answer.
    webhook_timeout_s: float = Field(default=15.0, gt=0)
    #: The time of one call of a tool, from connecting to the end of its answer.
    tool_timeout_s: float = Field(default=20.0, gt=0)
    #: Folder of prompts of your own (`*.md`): each makes a kind of job, or replaces one of ours.
    prompts: Path | None = None

    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _beats_within_the_lease(self) -> Self:
        if self.heartbeat_s >= self.lease_s:
            raise ValueError(
                "UNABRIDGED_HEARTBEAT_S must be shorter than UNABRIDGED_LEASE_S, which it renews"
            )
        return self

    @property
    def database(self) -> str:
        """SQLAlchemy URL in force."""
        return self.database_url or f"sqlite:///{self.data.absolute() / 'unabridged.db'}"

    @property
    def hosts(self) -> list[str] | None:
        """Host names in force; None for any. A page that rebinds its own name to 127.0.0.1 is turned away."""
        if self.trusted_hosts:
            return list(self.trusted_hosts)
        return list(_LOOPBACK) if self.host in _LOOPBACK else None

    @property
    def signing_secret(self) -> str:
        """The webhook secret in force; the first process that asks makes it (0600, exclusive create)."""
        if self.webhook_secret:
            return self.webhook_secret
        path = self.data / "webhook-secret"
        if not path.exists():
            self.data.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.data) as file:  # 0600
                file.write(f"whsec_{secrets.token_hex(18)}")  # 36 hex digits are base64 of 27 bytes
                file.flush()
                with contextlib.suppress(FileExistsError):
                    os.link(file.name, path)  # atomic: the first process wins, all read the same
        return path.read_text()
