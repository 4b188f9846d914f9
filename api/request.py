"""The request: bodies are read strictly, and uploads go straight into the file that hashes them."""

from __future__ import annotations

import hashlib
import json
import re
from typing import IO, Any, NoReturn, cast

import flask
from flask.json.provider import DefaultJSONProvider
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

from api.problems import (
    BodyTooLarge,
    Fault,
    InvalidRequest,
    MalformedForm,
    MalformedJson,
    UnsupportedMediaType,
)
from api.services import services
from jobs.files import Incoming
from jobs.idempotency import Key

#: Bytes of a body without a file: fifty of the longest questions, in four-byte characters.
BODY_LIMIT = 32 * 1024**2
#: Bytes a form may hold beside its file.
FORM_ROOM = 1024**2
#: Its parts, the file among them.
FORM_PARTS = 100
FORM_TOO_LARGE = (
    f"A form may have {FORM_PARTS} parts, and {FORM_ROOM:,} bytes beside its file. Send less at once."
)
_DEPTH_LIMIT = 100
_WAIT = re.compile(r'wait\s*=\s*"?([0-9]{1,9})"?', re.IGNORECASE)


class StrictJson(DefaultJSONProvider):
    """Values of I-JSON (RFC 7493, section 2), which any answer can say again, and not nested without end."""

    sort_keys = False
    compact = True
    ensure_ascii = False

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        try:
            data = json.loads(s, **kwargs)
        except RecursionError as exc:
            raise ValueError("nested too deeply") from exc
        level, depth = [data], 0
        while level := [child for node in level for child in _children(node)]:
            depth += 1
            if depth > _DEPTH_LIMIT:
                raise ValueError("nested too deeply")
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode()  # not NaN, 1e999, or half a character
        return data


def _children(node: Any) -> Any:
    return node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


class Request(flask.Request):
    """Drops every file of its upload that nobody kept, whatever became of the request."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._incoming: list[Incoming] = []

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """The body as JSON, if its type says that it is JSON."""
        if not self.is_json:
            raise UnsupportedMediaType
        return super().get_json(force, silent, cache)

    def on_json_loading_failed(self, e: ValueError | None) -> NoReturn:
        raise MalformedJson from e

    def make_form_data_parser(self) -> FormDataParser:
        parser = super().make_form_data_parser()
        parser.silent = False  # a form cut short must not look like an empty one
        return parser

    def _load_form_data(self) -> None:
        if self.mimetype == "multipart/form-data":
            self.max_content_length = services().settings.max_upload_bytes + FORM_ROOM
        try:
            super()._load_form_data()
        except ValueError as exc:
            raise MalformedForm from exc
        except RequestEntityTooLarge as exc:
            if self.stream.tell() < (self.max_content_length or 0):  # so it was not the body as a whole
                raise BodyTooLarge(FORM_TOO_LARGE) from exc
            raise

    def _get_file_stream(
        self,
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:
        file = services().record.files.incoming()
        self._incoming.append(file)
        return cast(IO[bytes], file)

    def close(self) -> None:
        super().close()
        for file in self._incoming:
            file.close()

    def key(self, *content: str) -> Key | None:
        """The idempotency key, bound to this request's method, path and `content` (by default, its body).

        Raises:
            InvalidRequest: it is longer than 255 characters, or not printable.
        """
        value = self.headers.get("Idempotency-Key")
        if value is None:
            return None
        if not (0 < len(value) <= 255 and value.isascii() and value.isprintable()):
            message = "1 to 255 printable ASCII characters are allowed"
            raise InvalidRequest(errors=[Fault(at="header/Idempotency-Key", message=message)])
        digest = hashlib.sha256("\0".join((self.method, self.path, *content)).encode())
        if not content:
            digest.update(b"\0" + self.get_data())
        return Key(value, digest.hexdigest())

    @property
    def wait_s(self) -> int:
        """Seconds to wait for the end, as `Prefer: wait=N` asks (RFC 7240, section 4.3), at most 300."""
        for preference in ",".join(self.headers.getlist("Prefer")).split(","):
            if found := _WAIT.fullmatch(preference.split(";")[0].strip()):
                return min(int(found[1]), 300)
        return 0
