"""Problems: what can be wrong with a request, and how every error is told over HTTP (RFC 9457).

ApiError
├── BadRequest             the request is not HTTP as this server understands it
│   ├── MalformedJson
│   └── MalformedForm
├── CrossSite              a browser was sent here by another site
├── UntrustedHost          the request is for a name this server does not have
├── RouteNotFound
├── MethodNotAllowed
├── BodyTooLarge
├── UnsupportedMediaType
├── InvalidRequest         well-formed, and wrong
│   ├── InvalidSchema
│   ├── InvalidPreviousJob
│   ├── WebhookRefused
│   └── ToolRefused
├── TextNotReady           the document is not parsed yet
├── Unavailable            come back later
│   ├── DatabaseUnavailable
│   ├── NotReady
│   └── TooManyStreams
└── ServerError            a bug; the log has it under the request's id
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from http import HTTPStatus
from typing import ClassVar

import structlog
from apiflask import APIFlask
from apiflask.exceptions import HTTPError
from flask import Response, g, request
from gunicorn.http.errors import ParseException
from pydantic import BaseModel, Field, ValidationError
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException

from jobs.errors import (
    Conflict,
    DocumentFailed,
    IdempotencyKeyReused,
    NotFound,
    QueueFull,
    RecordError,
    StorageFull,
    UploadEmpty,
    UploadTooLarge,
)
from worker.engine.errors import EngineError, UnsupportedSchema
from worker.errors import InstructionTooLong, JobError, TextMissing

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5

log = structlog.get_logger()


class Fault(BaseModel):
    """One thing that is wrong, and where."""

    at: str = Field(
        description="JSON Pointer (RFC 6901) into the body, such as `/params/questions`; or what else it is, "
        "such as `query/limit` or a part that is missing."
    )
    message: str


class Problem(BaseModel):
    """Every error's body (RFC 9457)."""

    type: str = Field(description="Where the error is described.")
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable; made for programs.")
    request_id: str
    errors: list[Fault] | None = Field(default=None, description="Each thing that is wrong, if known.")


class ApiError(Exception):
    """The request cannot be answered."""

    code: ClassVar[str] = "api_error"

    def __init__(self, message: str | None = None, *, errors: Iterable[Fault] = ()) -> None:
        super().__init__(message or inspect.getdoc(type(self)))
        self.errors = list(errors)


class BadRequest(ApiError):
    """The request could not be understood. Hold its headers and body against the description at /docs."""

    code = "bad_request"


class MalformedJson(BadRequest):
    """The body is not valid JSON. Send one JSON object (RFC 7493), at most 100 levels deep."""

    code = "malformed_json"


class MalformedForm(BadRequest):
    """The body is not valid multipart/form-data. Let your HTTP library build it, boundary included."""

    code = "malformed_form"


class CrossSite(ApiError):
    """Another web site made a browser send this. Use this server's own pages, or no browser."""

    code = "cross_site"


class UntrustedHost(ApiError):
    """The request is for a host name that this server does not go by. UNABRIDGED_TRUSTED_HOSTS lists them."""

    code = "untrusted_host"


class RouteNotFound(ApiError):
    """There is nothing at this address. The addresses are listed at /docs."""

    code = "route_not_found"


class MethodNotAllowed(ApiError):
    """This address does not take this method. The header `Allow` names those it takes."""

    code = "method_not_allowed"


class BodyTooLarge(ApiError):
    """The body is larger than this server accepts. Send less at once."""

    code = "body_too_large"


class UnsupportedMediaType(ApiError):
    """The body has the wrong type. Send application/json; for uploads, multipart/form-data."""

    code = "unsupported_media_type"


class InvalidRequest(ApiError):
    """The request does not fit its description. `errors` says where; nothing was done."""

    code = "invalid_request"

    def __init__(self, message: str | None = None, *, errors: Iterable[Fault] = ()) -> None:
        errors = list(errors)
        faults = "; ".join(f"{fault.at or 'body'}: {fault.message.rstrip('.')}" for fault in errors[:3])
        super().__init__(message or (faults and f"{title_of(type(self))[:-1]}: {faults}."), errors=errors)

    @classmethod
    def of(cls, exc: ValidationError, *, at: str = "") -> InvalidRequest:
        """What pydantic found in the value at `at`."""
        return cls(
            errors=[
                Fault(at=pointer(at, *error["loc"]), message=error["msg"].removeprefix("Value error, "))
                for error in exc.errors(include_url=False, include_input=False)
            ]
        )


class InvalidSchema(InvalidRequest):
    """The JSON Schema is not valid, or refers to another file. Mend it; `errors` says where it breaks."""

    code = "invalid_schema"


class InvalidPreviousJob(InvalidRequest):
    """`previous_job_id` must name a completed chat about the same documents. Leave it out to begin one."""

    code = "invalid_previous_job"


class WebhookRefused(InvalidRequest):
    """Webhooks are not sent to this address. Use a public one, or see UNABRIDGED_WEBHOOK_ALLOW."""

    code = "webhook_refused"


class ToolRefused(InvalidRequest):
    """A tool may not be called at this address. Use a public https one, or see UNABRIDGED_WEBHOOK_ALLOW."""

    code = "tool_refused"


class TextNotReady(ApiError):
    """The document's text is not there yet. Wait until its status is `ready`."""

    code = "text_not_ready"


class Unavailable(ApiError):
    """The server cannot do this now. Try again in a few seconds."""

    code = "unavailable"


class DatabaseUnavailable(Unavailable):
    """The database does not answer, or has no tables yet. Try again; /readyz says what is missing."""

    code = "database_unavailable"


class NotReady(Unavailable):
    """A part that jobs need is missing; `errors` names it."""

    code = "not_ready"


class TooManyStreams(Unavailable):
    """Too many event streams are open. Ask for the job itself instead, or try again later."""

    code = "too_many_streams"


class ServerError(ApiError):
    """Something went wrong inside the server. Its log has the reason under this request's id."""

    code = "server_error"


#: The status of an error is that of its nearest ancestor here.
STATUS: dict[type[Exception], HTTPStatus] = {
    Exception: HTTPStatus.INTERNAL_SERVER_ERROR,
    BadRequest: HTTPStatus.BAD_REQUEST,
    CrossSite: HTTPStatus.FORBIDDEN,
    UntrustedHost: HTTPStatus.MISDIRECTED_REQUEST,
    RouteNotFound: HTTPStatus.NOT_FOUND,
    MethodNotAllowed: HTTPStatus.METHOD_NOT_ALLOWED,
    BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnsupportedMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    InvalidRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
    TextNotReady: HTTPStatus.CONFLICT,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    DocumentFailed: HTTPStatus.UNPROCESSABLE_ENTITY,
    IdempotencyKeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    QueueFull: HTTPStatus.SERVICE_UNAVAILABLE,
    UploadTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UploadEmpty: HTTPStatus.UNPROCESSABLE_ENTITY,
    StorageFull: HTTPStatus.INSUFFICIENT_STORAGE,
    UnsupportedSchema: HTTPStatus.UNPROCESSABLE_ENTITY,
    InstructionTooLong: HTTPStatus.UNPROCESSABLE_ENTITY,
    TextMissing: HTTPStatus.NOT_FOUND,
}

_BY_STATUS: dict[int, type[ApiError]] = {
    STATUS[kind]: kind for kind in (RouteNotFound, MethodNotAllowed, BodyTooLarge, UnsupportedMediaType)
}

#: An error of ours: it has a stable code, and a message that may be shown.
Told = ApiError | RecordError | EngineError | JobError


def status_of(kind: type[Exception]) -> HTTPStatus:
    """The HTTP status an error is told with."""
    return next(STATUS[ancestor] for ancestor in kind.__mro__ if ancestor in STATUS)


def title_of(kind: type[Exception]) -> str:
    """The first sentence of an error's description."""
    return " ".join((inspect.getdoc(kind) or "").split()).split(". ")[0].rstrip(".") + "."


def pointer(base: str, *steps: str | int) -> str:
    """A JSON Pointer (RFC 6901, section 3): `base` and the steps below it."""
    return base + "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)


def translate(exc: Exception) -> Told:
    """An error of ours for any exception, with nothing of the server's inside in it."""
    match exc:
        case HTTPError(__cause__=ValidationError() as cause):  # what APIFlask makes of pydantic's error
            return InvalidRequest.of(cause, at="query" if "query" in exc.detail else "")
        case HTTPException(code=413) if request.mimetype == "multipart/form-data":
            return UploadTooLarge()
        case HTTPException(code=int(status)) if status < 500:
            kind = _BY_STATUS.get(status, BadRequest)
            return kind(exc.description if kind is BadRequest else None)
        case OperationalError() | InterfaceError() | PoolTimeout():
            return DatabaseUnavailable()
        case ApiError() | RecordError() | EngineError() | JobError() if status_of(type(exc)) != 500:
            return exc
    return ServerError()


def answer(exc: Exception) -> Response:
    """The response to a request that ended in `exc`; what nobody foresaw is logged with its traceback."""
    told = translate(exc)
    status = int(status_of(type(told)))
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
    if isinstance(exc, HTTPException):
        status = exc.code or status if isinstance(told, BadRequest) else status
        headers.update((name, value) for name, value in exc.get_headers() if name != "Content-Type")
    if isinstance(told, ServerError):
        log.error("request_failed", path=request.path, exc_info=exc)
    elif told is not exc and isinstance(told, DatabaseUnavailable):
        log.warning("database_unavailable", path=request.path, error=str(exc))
    g.code = told.code
    problem = Problem(
        type=f"/docs/errors#{told.code}",
        title=title_of(type(told)),
        status=status,
        detail=str(told),
        code=told.code,
        request_id=g.get("request_id", ""),
        errors=getattr(told, "errors", None) or None,
    )
    return Response(problem.model_dump_json(exclude_none=True), status, headers, content_type=MEDIA_TYPE)


def register(app: APIFlask) -> None:
    """Answer every error of `app` as a problem."""
    app.register_error_handler(HTTPError, answer)
    app.register_error_handler(ParseException, lambda _: answer(BadRequest()))  # chunks that are none
    app.register_error_handler(Exception, answer)
