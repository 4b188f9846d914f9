"""The receiver takes what is signed with its secret, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest
from standardwebhooks import Webhook

from api.receiver import BODY_LIMIT, Receiver

SECRET, OTHER_SECRET = "whsec_c2VjcmV0", "whsec_b3RoZXI="
BODY = json.dumps({"type": "job.completed", "data": {"id": "job_1"}})


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(SECRET) as receiver:
        yield receiver


def send(receiver: Receiver, *, secret: str = SECRET, age_s: float = 0, **headers: str) -> int:
    """The status of a delivery."""
    sent = datetime.now(UTC) - timedelta(seconds=age_s)
    signed = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(sent.timestamp())),
        "webhook-signature": Webhook(secret).sign("msg_1", sent, BODY),
    }
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return post(receiver, signed | names)


def post(receiver: Receiver, headers: Mapping[str, str]) -> int:
    with closing(HTTPConnection(urlsplit(receiver.url).netloc)) as connection:
        connection.request("POST", "/", BODY, headers)
        return connection.getresponse().status


def test_a_signed_message_is_handed_out(receiver: Receiver) -> None:
    assert send(receiver) == 204

    received = receiver.wait(timeout_s=5)
    assert received is not None
    assert received.id == "msg_1"
    assert received.payload["data"] == {"id": "job_1"}


def test_messages_that_are_not_rightly_signed_are_refused(receiver: Receiver) -> None:
    assert send(receiver, secret=OTHER_SECRET) == 401
    assert send(receiver, age_s=3600) == 401
    assert send(receiver, webhook_signature="no comma") == 401
    assert send(receiver, webhook_timestamp="yesterday") == 401
    assert post(receiver, {}) == 401

    assert receiver.wait(timeout_s=0) is None


def test_a_message_that_is_too_long_is_not_read(receiver: Receiver) -> None:
    with closing(HTTPConnection(urlsplit(receiver.url).netloc)) as connection:
        connection.putrequest("POST", "/")
        connection.putheader("Content-Length", str(BODY_LIMIT + 1))
        connection.endheaders()

        assert connection.getresponse().status == 413
