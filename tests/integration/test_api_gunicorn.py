"""The API as it is served: uploads in flat memory, streams that hold nobody up."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from story import Story

from jobs.record import Record
from settings import Settings

MIB = 1024**2


class Server:
    """gunicorn as `api/gunicorn.py` configures it, on a free port."""

    def __init__(self, settings: Settings) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {
            "UNABRIDGED_DATA": str(settings.data),
            "UNABRIDGED_DATABASE_URL": settings.database_url,
            "UNABRIDGED_PORT": str(port),
            "UNABRIDGED_MAX_UPLOAD_BYTES": str(200 * MIB),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn"],
            cwd=Path(__file__).parents[2],
            env={**os.environ, **environment},
        )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        end = time.monotonic() + 60
        while not self._answers():
            assert self.process.poll() is None, "gunicorn did not start"
            assert time.monotonic() < end, "gunicorn does not answer"
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            return self.client.get("/livez").status_code == 200
        except httpx.TransportError:
            return False

    @property
    def peak_bytes(self) -> int:
        """The most memory the serving process ever held (proc(5), `VmHWM`)."""
        pid = self.process.pid
        [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        status = Path(f"/proc/{child}/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])

    def stop(self) -> float:
        """Ask it to end; the seconds that took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)
        return time.monotonic() - began


@pytest.fixture
def server(settings: Settings) -> Iterator[Server]:
    server = Server(settings)
    yield server
    server.process.kill()
    server.process.wait()
    server.client.close()


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc to see a process's memory")
def test_a_large_upload_needs_no_memory(server: Server, tmp_path: Path) -> None:
    size = 150 * MIB
    with (tmp_path / "large").open("w+b") as file:
        file.truncate(size)
        before = server.peak_bytes
        response = server.client.post("/v1/documents", files={"file": file})
    assert (response.status_code, response.json()["size_bytes"]) == (201, size)
    assert server.peak_bytes - before < 20 * MIB


def test_an_upload_beyond_the_limit_is_refused_and_the_next_request_served(
    server: Server, tmp_path: Path
) -> None:
    with (tmp_path / "larger").open("w+b") as file:
        file.truncate(210 * MIB)
        response = server.client.post("/v1/documents", files={"file": file})
    assert (response.status_code, response.json()["code"]) == (413, "upload_too_large")
    assert server.client.get("/v1/documents").json()["data"] == []


def test_an_upload_broken_off_leaves_nothing(server: Server, tmp_path: Path) -> None:
    url = server.client.base_url
    head = (
        "POST /v1/documents HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )
    with socket.create_connection((url.host, url.port)) as connection:
        connection.sendall(head.encode() + bytes(200_000))
        until_exists(tmp_path / "uploads")
    end = time.monotonic() + 20
    while list((tmp_path / "uploads").iterdir()):
        assert time.monotonic() < end, "the broken upload is still there"
        time.sleep(0.02)


def test_a_body_in_chunks_that_are_none_is_the_fault_of_who_sent_it(server: Server) -> None:
    url = server.client.base_url
    head = (
        "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with socket.create_connection((url.host, url.port), timeout=20) as connection:
        connection.sendall(f"{head}zz\r\n{{}}\r\n0\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"bad_request"' in answer


def until_exists(folder: Path) -> None:
    end = time.monotonic() + 20
    while not (folder.exists() and any(folder.iterdir())):
        assert time.monotonic() < end, "nothing arrived"
        time.sleep(0.02)


def test_a_stream_is_told_what_another_process_does_and_ends_with_the_server(
    server: Server, story: Story, record: Record
) -> None:
    job = story.ask()
    lines: list[str] = []
    first, begun, ended = threading.Event(), threading.Event(), threading.Event()

    def listen() -> None:
        with server.client.stream("GET", f"/v1/jobs/{job.id}/events", timeout=60) as response:
            for line in response.iter_lines():
                lines.append(line)
                if line == "id: 1.0":
                    first.set()
                if line == "id: 2.0":
                    begun.set()
        ended.set()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    assert first.wait(20)
    story.begin(record.ledger.get(job.id))
    assert begun.wait(20)
    assert server.stop() < 6
    assert ended.wait(20)
    assert [line for line in lines if line.startswith("id: ")] == ["id: 1.0", "id: 2.0"]
