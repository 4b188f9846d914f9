"""The web page: put documents in, ask, watch, and read the answer beside the passages it rests on.

Every address answers with a whole page and every form with a redirect, so that it works without scripts.
Where htmx runs, it fetches the same pages and puts in the part that changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flask import Blueprint, Response, json, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from markdown_it import MarkdownIt
from markupsafe import Markup
from pydantic import ValidationError

from api.problems import ApiError, InvalidRequest, TextNotReady, answer
from api.quote import quote
from api.services import services
from api.upload import Upload
from jobs.errors import DocumentFailed, JobNotFound, NotFound, RecordError, UploadEmpty
from jobs.objects import Document, Job, ListedJob, Worker
from jobs.params import NewJob, Work, schema_of_fields
from jobs.status import FINAL, DocumentStatus, Kind
from jobs.tables import JobRow
from parsers.document import Document as Text
from worker.engine.errors import EngineError
from worker.errors import JobError

#: Rows on a page of a list, and in the short lists of the first page.
LONG, SHORT = 20, 6

#: The field a kind cannot do without, and what to say when it is empty.
NEEDED = {
    "ask": ("questions", "Write a question."),
    "chat": ("message", "Write a message."),
    "extract": ("schema", "Say which fields you want, one a line."),
}

#: Answers may be Markdown. What could load or lead elsewhere is left as it was written.
_markdown = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable("table")
_markdown.disable(["image", "link", "autolink", "reference", "code", "lheading", "html_block", "html_inline"])


def blueprint() -> Blueprint:
    """The pages, to be registered on an app whose `extensions["unabridged"]` holds the services."""
    pages = Blueprint(
        "pages", __name__, template_folder="templates", static_folder="static", static_url_path="/assets"
    )
    for rule, method, view in (
        ("/", "GET", home),
        ("/jobs", "GET", jobs),
        ("/jobs/<job_id>", "GET", job),
        ("/jobs/<job_id>/data.json", "GET", data),
        ("/documents", "GET", documents),
        ("/documents/<document_id>", "GET", document),
        ("/documents/<document_id>/pages/<int:number>", "GET", page),
        ("/pages/jobs", "POST", start),
        ("/pages/jobs/<job_id>/cancel", "POST", cancel),
        ("/pages/jobs/<job_id>/retry", "POST", retry),
        ("/pages/documents/<document_id>/delete", "POST", delete),
    ):
        pages.add_url_rule(rule, view_func=view, methods=[method])
    pages.register_error_handler(Exception, _problem)
    pages.app_errorhandler(404)(_no_such_page)
    pages.add_app_template_filter(duration)
    pages.add_app_template_filter(markdown)
    return pages


# -- looked at ------------------------------------------------------------------------------------------


def home() -> ResponseReturnValue:
    """The form that starts a job, and what was done lately."""
    return _home()


def jobs() -> ResponseReturnValue:
    """Every job, newest first."""
    record = services().record
    found = record.ledger.page(limit=LONG, after=request.args.get("after"))
    shown = [ListedJob.of(row) for row in found.rows]
    return _page("jobs.html", jobs=shown, names=_names(found.rows), more=found.has_more)


def job(job_id: str) -> ResponseReturnValue:
    """One job: how far it is, then its answer."""
    record = services().record
    row = record.ledger.get(job_id)
    found = Job.of(row, queue_position=record.ledger.queue_position(row))
    try:
        turns = record.ledger.conversation(row)
    except JobNotFound:  # removed in the moment this one was asked; its `error` says so
        turns = []
    return _page(
        "job.html",
        job=found,
        draft=row.draft,
        finished=found.status in FINAL,
        documents={link: Document.of(record.documents.get(link)) for link in found.document_ids},
        turns=[Job.of(turn) for turn in turns],
    )


def data(job_id: str) -> ResponseReturnValue:
    """The object a job extracted, as a file."""
    found = (services().record.ledger.get(job_id).result or {}).get("data")
    if found is None:
        raise NotFound("This job has extracted nothing, so there is no file.")
    file = Response(json.dumps(found, ensure_ascii=False, indent=2), mimetype="application/json")
    file.headers.set("Content-Disposition", "attachment", filename=f"{job_id}.json")
    return file


def documents() -> ResponseReturnValue:
    """Every document, newest first."""
    found = services().record.documents.page(limit=LONG, after=request.args.get("after"))
    return _page("documents.html", documents=[Document.of(row) for row in found.rows], more=found.has_more)


def document(document_id: str) -> ResponseReturnValue:
    """One document: what was found in the file."""
    record = services().record
    found = Document.of(record.documents.get(document_id))
    told = (
        quote(record, Work(kind=Kind.SUMMARIZE), [document_id])
        if found.status == DocumentStatus.READY
        else None
    )
    return _page("document.html", document=found, quote=told)


def page(document_id: str, number: int) -> ResponseReturnValue:
    """The text of one page; the characters from `start` to `end` are marked."""
    record = services().record
    found = Document.of(record.documents.get(document_id))
    if found.error:
        raise DocumentFailed(found.error.message)
    saved = found.parser_version and record.files.text(found.sha256, found.parser_version)
    if not saved:
        raise TextNotReady
    pages = Text.from_json(json.loads(saved)).pages
    if not 1 <= number <= len(pages):
        raise NotFound(f"{found.filename} has {len(pages)} pages, and none with the number {number}.")
    text = pages[number - 1].text
    start, end = (min(request.args.get(name, 0, int), len(text)) for name in ("start", "end"))
    return _page(
        "page.html",
        document=found,
        page=pages[number - 1],
        last=len(pages),
        before=text[:start],
        quote=text[start:end],
        after=text[max(start, end) :],
    )


# -- done -----------------------------------------------------------------------------------------------


def start() -> ResponseReturnValue:
    """Keep what was uploaded and start a job; what is wrong comes back with the form as it was filled in."""
    chosen = request.form.getlist("document_id")
    try:
        chosen += _uploaded()
        new = asked(request.form, chosen)
        services().admission.check(new, new.document_ids)
        started, _ = services().record.ledger.add(new)
    except (ApiError, RecordError, JobError, EngineError) as exc:
        refusal = answer(exc)
        return _home(chosen, refusal.get_json()), refusal.status_code
    return _go("pages.job", job_id=started.id)


def cancel(job_id: str) -> ResponseReturnValue:
    """Stop a job."""
    services().record.ledger.cancel(job_id)
    return _go("pages.job", job_id=job_id)


def retry(job_id: str) -> ResponseReturnValue:
    """Queue a job again that came to nothing."""
    services().record.ledger.retry(job_id)
    return _go("pages.job", job_id=job_id)


def delete(document_id: str) -> ResponseReturnValue:
    """Forget a document, its file and its finished jobs."""
    services().record.documents.delete(document_id)
    return _go("pages.documents")


def asked(form: Mapping[str, str], document_ids: Sequence[str]) -> NewJob:
    """The job that a form asks for. A field `ask.questions` is the parameter `questions` of the kind `ask`.

    Raises:
        InvalidRequest: it does not make a job.
    """
    if not document_ids:
        raise InvalidRequest("Choose a file, or a document from the list.")
    kind = form.get("kind", "")
    params: dict[str, Any] = {
        name.removeprefix(f"{kind}."): value.strip()
        for name, value in form.items()
        if name.startswith(f"{kind}.") and value.strip()
    }
    needed, message = NEEDED.get(kind, ("", ""))
    if needed and needed not in params:
        raise InvalidRequest(message)
    if "questions" in params:
        params["questions"] = [line.strip() for line in params["questions"].splitlines() if line.strip()]
    if "schema" in params:
        params["schema"] = wanted(params["schema"])
    named = document_ids if kind == Kind.COMPARE else dict.fromkeys(document_ids)  # no copy is read twice
    try:
        return NewJob.model_validate({"kind": kind, "document_ids": list(named), "params": params})
    except ValidationError as exc:
        raise InvalidRequest.of(exc) from exc


def wanted(text: str) -> dict[str, Any]:
    """The JSON Schema of the wanted fields: written out, or one `name: type` a line (`FIELD_TYPES`).

    Raises:
        InvalidRequest: it is neither.
    """
    if text.startswith("{"):
        try:
            schema: dict[str, Any] = json.loads(text)
        except ValueError as exc:
            raise InvalidRequest(f"The schema is not valid JSON: {exc}.") from exc
        return schema
    try:
        return schema_of_fields(filter(str.strip, text.splitlines()))
    except ValueError as exc:
        raise InvalidRequest(str(exc)) from exc


def _uploaded() -> list[str]:
    """Ids of the documents that came with the form."""
    ids = []
    for part in filter(None, request.files.getlist("file")):
        upload = Upload.of(part)
        try:
            row, _ = services().record.documents.add(
                upload.file, filename=upload.filename, password=request.form.get("password") or None
            )
        except UploadEmpty as exc:  # of several files, which
            raise UploadEmpty(f"{upload.filename}: {exc}") from exc
        ids.append(row.id)
    return ids


# -- said -----------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """A length of time as a person would say it: `0.4 s`, `6 s`, `3 min 20 s`, `2 h 5 min`, `3 days`."""
    if seconds < 9.95 and seconds % 1:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} days"


def markdown(text: str) -> Markup:
    """HTML of an answer. HTML in the answer itself comes out as text."""
    return Markup(_markdown.render(text))


def _home(chosen: Sequence[str] = (), problem: Mapping[str, Any] | None = None) -> str:
    record = services().record
    chosen = chosen or request.args.getlist("document")
    rows = {row.id: row for row in record.documents.page(limit=SHORT, after=None).rows}
    rows |= {other: record.documents.get(other) for other in chosen if other not in rows}
    recent = record.ledger.page(limit=SHORT, after=None).rows
    return _page(
        "home.html",
        documents=[Document.of(row) for _, row in sorted(rows.items())],  # compared as listed: oldest first
        chosen=chosen,
        form=request.form,
        jobs=[ListedJob.of(row) for row in recent],
        names=_names(recent),
        problem=problem,
    )


def _page(template: str, **values: Any) -> str:
    record = services().record
    workers = [Worker.of(row) for row in record.workers.ready()]
    return render_template(template, workers=workers, now=record.database.clock(), **values)


def _names(rows: Sequence[JobRow]) -> dict[str, str]:
    """The file name of the first document of each job."""
    found = services().record.documents.several({row.document_ids[0] for row in rows})
    return {document.id: document.filename for document in found}


def _problem(exc: Exception) -> ResponseReturnValue:
    """The API's answer to an error, as a page; it asks nothing of the record, which may be what failed."""
    refusal = answer(exc)
    return render_template("problem.html", problem=refusal.get_json()), refusal.status_code


def _no_such_page(exc: Exception) -> ResponseReturnValue:
    """A page for a browser, which names HTML among what it takes; the API's answer for all others."""
    return _problem(exc) if "text/html" in request.accept_mimetypes.values() else answer(exc)


def _go(endpoint: str, **values: Any) -> ResponseReturnValue:
    """On to another page; htmx would follow a redirect without leaving this one."""
    there = url_for(endpoint, **values)
    if "HX-Request" in request.headers:
        return "", 200, {"HX-Redirect": there}
    return redirect(there, 303)
