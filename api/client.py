"""The client: every route of the API as one typed method, tried again where that does no harm.

    ClientError
    ├── Unreachable          nobody answers at the URL
    ├── UnexpectedAnswer     something answers, but not Unabridged
    └── ApiProblem           the server refused; carries its code, status, detail and request id

Objects are the API's JSON as it came, typed in `api.objects`; fields that a newer server adds are kept.
"""

from __future__ import annotations

import io
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self, Unpack, cast, overload
from urllib.parse import quote

import h11
import httpx
from pydantic import BaseModel

from api.objects import (
    Answer,
    Batch,
    Capacity,
    Citation,
    Coverage,
    Delivery,
    Document,
    DocumentCoverage,
    Failure,
    Job,
    JobProgress,
    JobResult,
    ListedJob,
    Listing,
    Pages,
    PageText,
    Quote,
    Result,
    Try,
    Usage,
    Work,
    Worker,
    WorkerQuote,
)
from api.stream import ServerEvent, parse_events
from jobs.status import FINAL, Status

__all__ = [
    "Answer",
    "ApiProblem",
    "Batch",
    "Capacity",
    "Citation",
    "Client",
    "ClientError",
    "Coverage",
    "Delivery",
    "Document",
    "DocumentCoverage",
    "Failure",
    "Job",
    "JobChanged",
    "JobProgress",
    "JobResult",
    "ListedJob",
    "Listing",
    "PageText",
    "Pages",
    "Quote",
    "Result",
    "TextAdded",
    "Try",
    "UnexpectedAnswer",
    "Unreachable",
    "Usage",
    "Work",
    "Worker",
    "WorkerQuote",
]

#: Answers that ask the client to come again later.
PASSING = frozenset({429, 503})
#: Results may be megabytes each.
RESULTS_AT_ONCE = 10
#: A stream that is silent for longer is taken to be dead, seconds; the server pings every 15.
SILENCE_S = 45.0


@dataclass(frozen=True, slots=True)
class JobChanged:
    """The job as it stands now."""

    job: Job


@dataclass(frozen=True, slots=True)
class TextAdded:
    """Text that was written since the last event; an `offset` of 0 begins a new draft."""

    offset: int
    text: str


class ClientError(Exception):
    """The request could not be made."""

    code: str = "client_error"
    #: Worth another try, after this many seconds at least.
    passing: bool = False
    retry_after_s: float = 0.0

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)


class Unreachable(ClientError):
    """Nobody answers at this URL. Check UNABRIDGED_URL, or start a server: unabridged serve."""

    code = "unreachable"
    passing = True


class UnexpectedAnswer(ClientError):
    """What answers at this URL is not Unabridged. Check UNABRIDGED_URL."""

    code = "unexpected_answer"


class ApiProblem(ClientError):
    """The server refused the request; `errors` are the places that are wrong, as {at, message}."""

    def __init__(
        self,
        *,
        code: str,
        status: int,
        detail: str,
        request_id: str | None,
        retry_after_s: float = 0.0,
        errors: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.status = status
        self.detail = detail
        self.request_id = request_id
        self.errors = list(errors)
        self.passing = status in PASSING
        self.retry_after_s = retry_after_s


class Client:
    """Talks to one server; what passes (nobody there, 429, 503) is waited out for `patience_s` seconds."""

    def __init__(
        self,
        url: str,
        *,
        patience_s: float = 10.0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise Unreachable(f"{url!r} is not an http or https URL. Check UNABRIDGED_URL.")
        self.url = url.rstrip("/")
        self._patience_s = patience_s
        self._sleep = sleep
        self._clock = clock
        self._http = httpx.Client(
            base_url=self.url,
            transport=transport,
            timeout=httpx.Timeout(60.0, connect=5.0),
            mounts={"all://127.0.0.1": None, "all://localhost": None},  # never through a proxy
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Return every connection."""
        self._http.close()

    def greet(self) -> None:
        """Check, without patience, that a server is there.

        Raises:
            ClientError: there is none.
        """
        try:
            _json(self._once("GET", "/livez"))
        except ApiProblem as exc:
            if exc.code != f"http_{exc.status}":  # a code of ours
                raise
            raise UnexpectedAnswer(f"{self.url}/livez: {exc} {UnexpectedAnswer.__doc__}") from exc

    # -- documents --------------------------------------------------------------------------------------

    def upload(
        self, source: Path | bytes, *, filename: str | None = None, password: str | None = None
    ) -> Document:
        """Bring a file; the same bytes are the same document.

        Raises:
            OSError: it cannot be read, or changed while it was sent.
        """
        name = filename or (source.name if isinstance(source, Path) else "document")
        name = os.fsencode(name).decode(errors="replace")  # not every name of a file is Unicode
        key = _new_key()

        def send() -> httpx.Response:
            try:
                with _opened(source) as file:
                    return self._once(
                        "POST",
                        "/v1/documents",
                        files={"file": (name, file)},
                        data={} if password is None else {"password": password},
                        headers=key,
                    )
            except h11.LocalProtocolError as exc:  # not as many bytes as there were at first
                raise OSError(f"{name} changed while it was sent") from exc

        return cast(Document, self._patiently(send))

    def document(self, document_id: str) -> Document:
        """One document."""
        return cast(Document, self._get(f"/v1/documents/{_step(document_id)}"))

    def documents(self) -> Iterator[Document]:
        """Every document, newest first."""
        return cast(Iterator[Document], self._all("/v1/documents"))

    def text(self, document_id: str) -> Iterator[PageText]:
        """The text of every page, in order."""
        return cast(Iterator[PageText], self._all(f"/v1/documents/{_step(document_id)}/text"))

    def delete_document(self, document_id: str) -> None:
        """Forget a document and the finished jobs on it."""
        self._patiently(lambda: self._once("DELETE", f"/v1/documents/{_step(document_id)}"))

    # -- jobs -------------------------------------------------------------------------------------------

    def create_job(self, kind: str, document_ids: Iterable[str], **work: Unpack[Work]) -> Job:
        """Ask for a job. The `schema` among its `params` may be a pydantic model."""
        return cast(Job, self._post("/v1/jobs", _body(kind, document_ids, work)))

    def job(self, job_id: str) -> Job:
        """One job, as it stands."""
        return cast(Job, self._get(f"/v1/jobs/{_step(job_id)}"))

    @overload
    def jobs(self, *, status: Status | None = ..., batch_id: str | None = ...) -> Iterator[ListedJob]: ...

    @overload
    def jobs(
        self, *, status: Status | None = ..., batch_id: str | None = ..., results: Literal[True]
    ) -> Iterator[Job]: ...

    def jobs(
        self, *, status: Status | None = None, batch_id: str | None = None, results: bool = False
    ) -> Iterator[Any]:
        """Every job, newest first; without its result, unless `results` are asked for."""
        more = {"results": True, "limit": RESULTS_AT_ONCE} if results else {}
        return self._all("/v1/jobs", status=status, batch_id=batch_id, **more)

    def result(self, job_id: str) -> JobResult:
        """The answer of a completed job."""
        return cast(JobResult, self._get(f"/v1/jobs/{_step(job_id)}/result"))

    def cancel(self, job_id: str) -> Job:
        """Stop a job."""
        return cast(Job, self._post(f"/v1/jobs/{_step(job_id)}/cancel"))

    def retry(self, job_id: str) -> Job:
        """Queue a failed, cancelled or expired job again."""
        return cast(Job, self._post(f"/v1/jobs/{_step(job_id)}/retry"))

    def wait(
        self,
        job_id: str,
        *,
        on_progress: Callable[[Job], None] = lambda job: None,
        on_text: Callable[[TextAdded], None] = lambda added: None,
    ) -> Job:
        """The job once it is finished, however it ended."""
        for event in self.events(job_id):
            if isinstance(event, TextAdded):
                on_text(event)
                continue
            on_progress(event.job)
            if event.job["status"] in FINAL:
                return event.job
        raise AssertionError("the events of a job end with the end of the job")

    def events(self, job_id: str) -> Iterator[JobChanged | TextAdded]:
        """What happens to a job, until it is finished. A broken stream is taken up where it broke.

        While the server has no stream to give, the job is looked at from time to time instead.
        """
        seen = ""
        give_up_at = self._clock() + self._patience_s
        pause = 0.1
        while True:
            try:
                for event in self._stream(f"/v1/jobs/{_step(job_id)}/events", seen):
                    seen = event.id
                    give_up_at = self._clock() + self._patience_s
                    pause = 0.1
                    if event.name == "text":
                        yield TextAdded(**json.loads(event.data))
                    elif event.name == "job":
                        job = cast(Job, json.loads(event.data))
                        yield JobChanged(job)
                        if job["status"] in FINAL:
                            return
            except ApiProblem as exc:
                if not exc.passing:
                    raise
                job = self.job(job_id)
                yield JobChanged(job)
                if job["status"] in FINAL:
                    return
                pause = max(pause, exc.retry_after_s)
                give_up_at = self._clock() + pause + self._patience_s
            except Unreachable as exc:
                if self._clock() + pause > give_up_at:
                    raise Unreachable(f"{exc} The job is not lost: unabridged show {job_id}.") from exc
            self._sleep(pause)
            pause = min(2 * pause, 2.0)

    # -- deliveries, batches, capacity ------------------------------------------------------------------

    def deliveries(self, job_id: str) -> list[Delivery]:
        """Every webhook delivery for a job, oldest first."""
        return cast(list[Delivery], self._get(f"/v1/jobs/{_step(job_id)}/deliveries")["data"])

    def delivery(self, delivery_id: str) -> Delivery:
        """One webhook delivery."""
        return cast(Delivery, self._get(f"/v1/deliveries/{_step(delivery_id)}"))

    def replay(self, delivery_id: str) -> Delivery:
        """Send a webhook again."""
        return cast(Delivery, self._post(f"/v1/deliveries/{_step(delivery_id)}/replay"))

    def create_batch(self, kind: str, document_ids: Iterable[str], **work: Unpack[Work]) -> Batch:
        """Ask for the same job for each document."""
        return cast(Batch, self._post("/v1/batches", _body(kind, document_ids, work)))

    def batch(self, batch_id: str) -> Batch:
        """One batch."""
        return cast(Batch, self._get(f"/v1/batches/{_step(batch_id)}"))

    def quote(self, kind: str, document_ids: Iterable[str], **work: Unpack[Work]) -> Quote:
        """What a job would take; its documents must be parsed."""
        body = _body(kind, document_ids, work)
        return cast(Quote, self._patiently(lambda: self._once("POST", "/v1/quote", json=body)))

    def capacity(self) -> Capacity:
        """Who can work now, and what fits."""
        return cast(Capacity, self._get("/v1/capacity"))

    # -- inside -----------------------------------------------------------------------------------------

    def _get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        return self._patiently(lambda: self._once("GET", path, params=params))

    def _post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        key = _new_key()
        return self._patiently(lambda: self._once("POST", path, json=body, headers=key))

    def _all(self, path: str, **params: Any) -> Iterator[Any]:
        cursor: dict[str, Any] = {}
        while True:
            found = {name: value for name, value in params.items() if value is not None}
            page = self._get(path, {"limit": 100, **found, **cursor})
            yield from page["data"]
            if not page["has_more"]:
                return
            cursor = {"after": page["last_id"]}

    def _patiently(self, send: Callable[[], httpx.Response]) -> Any:
        """The JSON of the answer. `send` is called again while the error is one that passes."""
        give_up_at = self._clock() + self._patience_s
        pause = 0.1
        while True:
            try:
                return _json(send())
            except ClientError as exc:
                pause = max(pause, exc.retry_after_s)
                if not exc.passing or self._clock() + pause > give_up_at:
                    raise
            self._sleep(pause)
            pause = min(2 * pause, 2.0)

    def _once(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        with self._translated():
            response = self._http.request(method, path, **arguments)
        if response.is_error:
            raise _problem(response)
        return response

    def _stream(self, path: str, seen: str) -> Iterator[ServerEvent]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": seen} if seen else {})
        timeout = httpx.Timeout(SILENCE_S, connect=5.0)
        with self._translated(), self._http.stream("GET", path, headers=headers, timeout=timeout) as response:
            if response.is_error:
                response.read()
                raise _problem(response)
            yield from parse_events(response.iter_text())

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as exc:
            raise Unreachable(
                f"Nobody answers at {self.url} ({exc or type(exc).__name__}). "
                "Check UNABRIDGED_URL, or start a server: unabridged serve."
            ) from exc
        except (httpx.InvalidURL, httpx.TooManyRedirects) as exc:
            raise UnexpectedAnswer(f"{self.url}: {exc}") from exc


def _body(kind: str, document_ids: Iterable[str], work: Work) -> dict[str, Any]:
    """What is asked; a pydantic model among the parameters becomes its JSON Schema."""
    params = dict(work.get("params", {}))
    if isinstance(model := params.get("schema"), type) and issubclass(model, BaseModel):
        params["schema"] = model.model_json_schema()
    return {"kind": kind, "document_ids": list(document_ids), **work, "params": params}


def _step(id_: str) -> str:
    """An id as one step of a path, whatever it holds."""
    return quote(id_, safe="")


def _new_key() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid.uuid4())}


@contextmanager
def _opened(source: Path | bytes) -> Iterator[BinaryIO]:
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        yield file


def _json(response: httpx.Response) -> Any:
    if response.status_code == httpx.codes.NO_CONTENT:
        return None
    try:
        body = response.json()
    except ValueError as exc:
        raise UnexpectedAnswer from exc
    if not isinstance(body, dict):
        raise UnexpectedAnswer
    return body


def _problem(response: httpx.Response) -> ClientError:
    """What an error answer says (RFC 9457), also when something in between wrote it."""
    try:
        body = response.json()
    except ValueError:
        body = {}
    if not isinstance(body, dict):
        body = {}
    retry_after = response.headers.get("Retry-After", "")
    return ApiProblem(
        code=body.get("code", f"http_{response.status_code}"),
        status=response.status_code,
        detail=body.get("detail") or body.get("title") or f"The server answered {response.status_code}.",
        request_id=body.get("request_id") or response.headers.get("X-Request-Id"),
        retry_after_s=float(retry_after) if retry_after.isdigit() else 0.0,
        errors=body.get("errors", ()),
    )
