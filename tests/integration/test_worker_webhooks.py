"""Webhooks, sent to a real receiver on the loopback interface."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from jobs.params import NewJob
from jobs.record import Record
from jobs.status import DeliveryStatus
from jobs.tables import DeliveryRow
from worker.webhooks import Webhooks, network_policy

SECRET = "whsec_" + "c2VjcmV0" * 4
LOOPBACK = ("127.0.0.0/8",)


class Receiver(BaseHTTPRequestHandler):
    """Answers with `reply` and keeps what came."""

    reply: ClassVar[int] = 200
    came: ClassVar[list[tuple[dict[str, str], bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.came.append((dict(self.headers), body))
        self.send_response(self.reply)
        self.send_header("Location", "http://127.0.0.1:1/")
        self.end_headers()
        self.wfile.write(b"thank you")

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def receiver() -> Iterator[str]:
    Receiver.came.clear()
    Receiver.reply = 200
    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook"
        server.shutdown()
        thread.join()


def drip(server: socket.socket, fast: bytes) -> bool:
    """Answer with `fast`, then a byte now and then; whether the sender has closed the connection."""
    server.settimeout(30)
    connection, _ = server.accept()
    with connection, suppress(ConnectionError):
        connection.settimeout(0.02)
        connection.sendall(fast)
        for _ in range(500):
            connection.sendall(b"x")
            with suppress(TimeoutError):
                while connection.recv(65_536):
                    pass
                return True
        return False
    return True


def finished_job(record: Record, url: str) -> DeliveryRow:
    """The delivery of a job that was cancelled."""
    with record.files.incoming() as file:
        file.write(b"words")
        row, _ = record.documents.add(file, filename="a.txt", password=None)
    job, _ = record.ledger.add(
        NewJob.model_validate({"kind": "summarize", "document_ids": [row.id], "webhook_url": url})
    )
    record.ledger.cancel(job.id)
    (delivery,) = record.deliveries.of_job(job.id)
    return delivery


def deliver(
    record: Record, delivery: DeliveryRow, *, allow: tuple[str, ...] = LOOPBACK, timeout_s: float = 5
) -> DeliveryRow:
    policy = network_policy(allow)
    Webhooks(record.deliveries, secret=SECRET, policy=policy, timeout_s=timeout_s).deliver(delivery.id)
    return record.deliveries.get(delivery.id)


def test_the_receiver_can_verify_what_it_gets(record: Record, receiver: str) -> None:
    delivery = deliver(record, finished_job(record, receiver))
    assert delivery.status == DeliveryStatus.DELIVERED
    ((headers, body),) = Receiver.came
    told = Webhook(SECRET).verify(body, headers)
    assert told["type"] == "job.cancelled"
    assert told["data"]["id"] == delivery.job_id
    assert {name.lower(): value for name, value in headers.items()}["webhook-id"] == delivery.id
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body + b" ", headers)


def test_a_complaint_is_logged_and_tried_again_later(record: Record, receiver: str) -> None:
    Receiver.reply = 503
    delivery = deliver(record, finished_job(record, receiver))
    assert delivery.status == DeliveryStatus.QUEUED
    (entry,) = delivery.log
    assert (entry["status_code"], entry["error"]) == (503, "HTTP 503: thank you")


def test_a_receiver_that_is_gone_for_good_is_left_alone(record: Record, receiver: str) -> None:
    Receiver.reply = 410
    assert deliver(record, finished_job(record, receiver)).status == DeliveryStatus.FAILED


@pytest.mark.parametrize("fast", [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 503 No\r\n\r\n"])
def test_a_receiver_that_drips_is_left_when_time_is_up(
    record: Record, background: ThreadPoolExecutor, fast: bytes
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        cut = background.submit(drip, server, fast)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/hook"
        delivery = deliver(record, finished_job(record, url), timeout_s=0.3)
        assert cut.result(timeout=60)
    assert delivery.status == DeliveryStatus.QUEUED
    assert delivery.log[0]["error"].startswith("Timeout")


def test_redirects_are_not_followed(record: Record, receiver: str) -> None:
    Receiver.reply = 302
    delivery = deliver(record, finished_job(record, receiver))
    assert delivery.log[0]["status_code"] == 302
    assert len(Receiver.came) == 1


def test_a_private_address_is_refused_and_not_tried_again(record: Record, receiver: str) -> None:
    delivery = deliver(record, finished_job(record, receiver), allow=())
    assert delivery.status == DeliveryStatus.FAILED
    assert delivery.log[0]["error"].startswith("refused:")
    assert "UNABRIDGED_WEBHOOK_ALLOW" in delivery.log[0]["error"]
    assert Receiver.came == []


def test_a_host_that_is_no_name_is_told(record: Record) -> None:
    row = deliver(record, finished_job(record, "http://xn--a/hook"))
    assert row.status == DeliveryStatus.QUEUED
    assert "xn--a" in row.log[0]["error"] or "Codepoint" in row.log[0]["error"]


def test_nobody_listening_is_tried_again_later(record: Record) -> None:
    delivery = deliver(record, finished_job(record, "http://127.0.0.1:1/hook"))
    assert delivery.status == DeliveryStatus.QUEUED
    assert delivery.log[0]["status_code"] is None


def test_a_replay_carries_the_same_id_and_body(record: Record, receiver: str) -> None:
    delivery = deliver(record, finished_job(record, receiver))
    record.deliveries.replay(delivery.id)
    again = deliver(record, delivery)
    assert again.status == DeliveryStatus.DELIVERED
    assert len(again.log) == 2
    (first, first_body), (second, second_body) = Receiver.came
    assert first_body == second_body
    assert first["webhook-id"] == second["webhook-id"]
    assert json.loads(first_body)["data"]["object"] == "job"
