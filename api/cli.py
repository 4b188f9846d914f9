"""The command line: `unabridged`."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import click
from pydantic import ValidationError
from pydantic_settings import SettingsError

from api.client import ApiProblem, Client, ClientError, Job, Work
from api.display import Display, clean, markdown
from api.doctor import checks, installed
from api.needle import Trial, plot, trials
from api.stack import Stack, StackError, running
from jobs.status import FINAL, DocumentStatus, Kind, Status
from settings import Settings

OK, JOB_FAILED, BAD_INPUT, NO_SERVER, STOPPED, INTERRUPTED, UNHEARD = 0, 1, 2, 3, 4, 130, 141

#: What `batch` picks out of a folder.
SUFFIXES = frozenset({
    ".pdf", ".docx", ".docm", ".dotx", ".html", ".htm", ".xhtml", ".txt", ".md", ".markdown", ".epub", ".odt",
    ".rtf", ".pptx", ".pptm", ".ppsx", ".xlsx", ".xlsm", ".csv", ".tsv", ".zip",
})  # fmt: skip

EPILOG = """\
\b
The server is the one at UNABRIDGED_URL, else the one that runs on this machine
(unabridged serve), else one that is started for the length of the command.

\b
Exit codes:
    0  done
    1  the job failed
    2  bad input or usage
    3  the server cannot be reached or is not ready
    4  the job was cancelled or has expired
  130  interrupted (Ctrl-C); the job that was waited for is cancelled
  141  nobody reads stdout any more (| head)
  143  terminated (SIGTERM); the job that was waited for is cancelled
"""

#: Problems that concern one file of a folder, not the others.
FAULTS_OF_A_FILE = frozenset({"upload_empty", "upload_too_large", "document_failed"})

FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
PASSWORD = click.option("--password", help="Opens an encrypted document.")


class Commands(click.Group):
    """Subcommands whose faults of usage are told in JSON too, where JSON is asked for."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        with _usage_told(args):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _usage_told(ctx.args):
            return super().invoke(ctx)


@contextmanager
def _usage_told(args: Sequence[str]) -> Iterator[None]:
    """Tell a fault of usage on stdout, if it is for JSON; click tells it on stderr and exits with 2."""
    display = Display(as_json="--json" in args)
    try:
        yield
    except click.UsageError as exc:
        display.data({"error": {"code": "bad_usage", "message": exc.format_message()}})
        raise


@click.group(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="unabridged", message="%(prog)s %(version)s")
def main() -> None:
    """Reads whole documents, not chunks: summarize, extract, compare, ask, chat, with checked citations."""


def command(function: Callable[..., int]) -> click.Command:
    """A subcommand: gets a `display`, returns its exit code, and its errors become exit codes too."""

    @click.option("--json", "as_json", is_flag=True, help="Only JSON on stdout.")
    @click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")
    @functools.wraps(function)
    def run(*, as_json: bool, quiet: bool, **arguments: Any) -> NoReturn:
        display = Display(as_json=as_json, quiet=quiet)
        try:
            sys.exit(function(display=display, **arguments))
        except ApiProblem as exc:
            display.fail(str(exc), code=exc.code, status=exc.status, request_id=exc.request_id)
            sys.exit(BAD_INPUT if exc.status < 500 and not exc.passing else NO_SERVER)
        except (ClientError, StackError) as exc:
            display.fail(str(exc), code=exc.code)
            sys.exit(NO_SERVER)
        except (ValidationError, SettingsError) as exc:
            display.fail(f"The settings are wrong. {_faults(exc)}", code="bad_settings")
            sys.exit(BAD_INPUT)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the end
            sys.exit(UNHEARD)
        except OSError as exc:
            display.fail(f"A file cannot be read or written: {exc}.", code="file_unusable")
            sys.exit(BAD_INPUT)
        except UnicodeError:
            display.fail("What was typed is not all text. Set the terminal to UTF-8.", code="not_text")
            sys.exit(BAD_INPUT)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)

    return main.command()(run)


def _faults(exc: ValidationError | SettingsError) -> str:
    """What is wrong with each variable, by its name."""
    if isinstance(exc, SettingsError):
        return f'Lists are JSON, such as ["10.0.0.0/8"]: {exc}.'
    return " ".join(f"UNABRIDGED_{error['loc'][0]}".upper() + f": {error['msg']}." for error in exc.errors())


# -- the server -------------------------------------------------------------------------------------------


@contextmanager
def connected(display: Display, *, workers: bool = True) -> Iterator[Client]:
    """A client of the server that is there, or of one started for the length of the block.

    One without `workers` loads no model.
    """
    settings = Settings()
    url = os.environ.get("UNABRIDGED_URL") or running(settings.data)
    if url:
        with _stopped_in_order(signal.SIGTERM), Client(url) as client:  # a lost terminal cancels no job
            client.greet()
            yield client
        return
    display.say("No server is running; starting one for this command (unabridged serve keeps one).")
    stack = Stack(settings, tell=display.say, workers=workers)
    with _stopped_in_order(signal.SIGTERM, signal.SIGHUP), stack, Client(stack.url) as client:
        yield client


@contextmanager
def _stopped_in_order(*kinds: signal.Signals) -> Iterator[None]:
    """These signals leave the block as an exception, so that what was started is stopped."""

    def leave(number: int, _frame: object) -> NoReturn:
        sys.exit(128 + number)

    before = {kind: signal.signal(kind, leave) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@command
@click.option("--host", help="Where to listen.  [default: 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Where to listen; 0 takes a free one.  [default: 8765]"
)
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Folder for everything kept.")
def serve(display: Display, host: str | None, port: int | None, data: Path | None) -> int:
    """Run everything here until Ctrl-C or SIGTERM (exit code 0)."""
    given: dict[str, Any] = {"host": host, "port": port, "data": data}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    try:
        with _stopped_in_order(signal.SIGTERM, signal.SIGHUP), Stack(settings, tell=display.say) as stack:
            display.data({"object": "server", "url": stack.url, "pid": os.getpid()})
            display.line(f"Unabridged is ready at {stack.url}")
            threading.Event().wait()
    except (KeyboardInterrupt, SystemExit):
        display.say("Stopped.")
    return OK


# -- jobs on documents ------------------------------------------------------------------------------------


@command
@click.argument("file", type=FILE)
@click.option("--focus", help="What you care about.")
@click.option(
    "--style",
    type=click.Choice(["overview", "brief", "sections", "points", "analyze"]),
    default="overview",
    show_default=True,
)
@click.option("--language", help="Language of the summary.  [default: that of the document]")
@PASSWORD
def summarize(
    *,
    display: Display,
    file: Path,
    focus: str | None,
    style: str,
    language: str | None,
    password: str | None,
) -> int:
    """Summarize FILE."""
    given = {"focus": focus, "style": style, "language": language}
    params = {name: value for name, value in given.items() if value is not None}
    return _answer(display, Kind.SUMMARIZE, [file], params, password)


@command
@click.argument("file", type=FILE)
@click.option("--schema", type=FILE, help="JSON Schema of the wanted object.")
@click.option("--field", "fields", multiple=True, help="Instead: name, or 'name: type'; may be given again.")
@PASSWORD
def extract(
    display: Display, file: Path, schema: Path | None, fields: Sequence[str], password: str | None
) -> int:
    """Extract fields from FILE as JSON that fits a schema."""
    if (schema is None) == (not fields):
        raise click.UsageError("Give either --schema or --field.")
    params = {"fields": list(fields)} if schema is None else {"schema": _schema(schema)}
    return _answer(display, Kind.EXTRACT, [file], params, password)


@command
@click.argument("first", type=FILE)
@click.argument("second", type=FILE, required=False)
@PASSWORD
def compare(display: Display, first: Path, second: Path | None, password: str | None) -> int:
    """Compare FIRST with SECOND, or explain tracked changes.

    Without SECOND, FIRST is a Word file that keeps its changes.
    """
    return _answer(display, Kind.COMPARE, [first, second] if second else [first], {}, password)


@command
@click.argument("file", type=FILE)
@click.argument("questions", nargs=-1, required=True)
@PASSWORD
def ask(display: Display, file: Path, questions: Sequence[str], password: str | None) -> int:
    """Ask FILE one question or several; it is read once."""
    return _answer(display, Kind.ASK, [file], {"questions": list(questions)}, password)


@command
@click.argument("files", type=FILE, nargs=-1, required=True)
@click.option("--kind", default="summarize", show_default=True, help="What is to be done with them.")
@click.option("--question", "questions", multiple=True, help="For ask; may be given again.")
@PASSWORD
def quote(
    display: Display, files: Sequence[Path], kind: str, questions: Sequence[str], password: str | None
) -> int:
    """Tell what a job on FILES would take, without doing it."""
    params = {"questions": list(questions)} if questions else {}
    with connected(display) as client:
        documents = [client.upload(file, password=password)["id"] for file in files]
        for document_id in documents:
            _parsed(client, document_id)
        display.quote(client.quote(kind, documents, params=params))
    return OK


def _parsed(client: Client, document_id: str) -> None:
    """Wait for a document's text."""
    while client.document(document_id)["status"] in {DocumentStatus.QUEUED, DocumentStatus.IN_PROGRESS}:
        time.sleep(0.2)


@command
@click.option(
    "--tokens",
    type=click.IntRange(100),
    multiple=True,
    required=True,
    help="Length of a text, about; may be given again.",
)
@click.option(
    "--depths", type=click.IntRange(1, 100), default=10, show_default=True, help="Texts of each length."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Other texts.")
@click.option(
    "--plot",
    "picture",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("needle.svg"),
    show_default=True,
    help="Where the picture goes.",
)
def needle(*, display: Display, tokens: Sequence[int], depths: int, seed: int, picture: Path) -> int:
    """Hide a sentence in made-up texts and ask for it.

    It lies at several depths. Each text is read anew, so that this takes as long as that many documents of
    that length. Exit code 1 when a sentence was not found.
    """
    picture.touch()  # where it cannot be written, nothing is read
    done: list[Trial] = []
    with connected(display) as client:
        read = functools.partial(_finished, client, display)
        for trial in trials(client, tokens, depths, seed=seed, wait=read):
            done.append(trial)
            display.trial(trial)
    picture.write_text(plot(done), encoding="utf-8")
    display.data({"object": "list", "data": [asdict(trial) for trial in done]})
    found = sum(trial.outcome in {"cited", "found"} for trial in done)
    display.line(f"{found} of {len(done)} found. The picture is in {picture}.")
    return OK if found == len(done) else JOB_FAILED


@command
@click.argument("file", type=FILE)
@PASSWORD
def chat(display: Display, file: Path, password: str | None) -> int:
    """Talk about FILE, a message a line; Ctrl-D ends. With --json, a job a line comes back."""
    with connected(display) as client:
        document = client.upload(file, password=password)
        display.say(f"Ask about {file.name}. Ctrl-D ends.")
        previous: dict[str, str] = {}
        for message in _messages():
            job = client.create_job(Kind.CHAT, [document["id"]], params={"message": message} | previous)
            job = _finished(client, display, job["id"])
            display.job(job)
            if job["status"] != Status.COMPLETED:
                return _code(job)
            previous = {"previous_job_id": job["id"]}
    return OK


def _messages() -> Iterator[str]:
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        if prompt:
            click.echo(prompt, nl=False, err=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _answer(
    display: Display, kind: Kind, files: Sequence[Path], params: Mapping[str, Any], password: str | None
) -> int:
    with connected(display) as client:
        documents = [client.upload(file, password=password) for file in files]
        job = client.create_job(kind, [document["id"] for document in documents], params=params)
        job = _finished(client, display, job["id"])
        display.job(job)
        return _code(job)


def _finished(client: Client, display: Display, job_id: str) -> Job:
    """The job once it is finished; cancelled when the wait is interrupted."""
    try:
        with display.progress() as on_progress:
            return client.wait(job_id, on_progress=on_progress)
    except (KeyboardInterrupt, SystemExit):
        _cancel(client, display, [job_id])
        raise


def _cancel(client: Client, display: Display, job_ids: Sequence[str]) -> None:
    """Cancel what is not finished, and say so."""
    cancelled = []
    for job_id in job_ids:
        try:
            cancelled.append(client.cancel(job_id)["id"])
        except ApiProblem:  # it is finished
            continue
        except ClientError as exc:
            display.fail(f"Interrupted; {job_id} could not be cancelled: {exc}")
            return
    display.fail(f"Interrupted; cancelled {', '.join(cancelled) or 'nothing, the work was done'}.")


def _code(job: Job) -> int:
    return {Status.COMPLETED: OK, Status.FAILED: JOB_FAILED}.get(Status(job["status"]), STOPPED)


def _schema(path: Path) -> dict[str, Any]:
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise click.BadParameter(f"{path} is not JSON: {exc}", param_hint="--schema") from exc
    if not isinstance(schema, dict):
        raise click.BadParameter(f"{path} is not a JSON object.", param_hint="--schema")
    return schema


# -- a folder ---------------------------------------------------------------------------------------------


@command
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--kind", type=click.Choice(["summarize", "extract", "ask"]), required=True)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for answers."
)
@click.option("--question", "questions", multiple=True, help="For ask; may be given again.")
@click.option("--focus", help="For summarize.")
@click.option("--schema", type=FILE, help="For extract.")
@click.option("--again", is_flag=True, help="Also documents that have an answer in the folder.")
def batch(
    *,
    display: Display,
    folder: Path,
    kind: str,
    out: Path,
    questions: Sequence[str],
    focus: str | None,
    schema: Path | None,
    again: bool,
) -> int:
    """Answer for each document in FOLDER.

    One .json and one .md each go to the folder of --out. Documents that have an answer there are skipped:
    the same command takes up a run that was interrupted. Another one needs a folder of its own.
    """
    asked = Kind(kind)
    params = _batch_params(asked, questions, focus, schema)
    found = [file for file in sorted(folder.rglob("*")) if _wanted(file, folder, out)]
    files = [file for file in found if file.suffix.lower() in SUFFIXES]
    if not files:
        raise click.UsageError(f"There are no documents in {folder} ({', '.join(sorted(SUFFIXES))}).")
    if others := sorted({file.suffix.lower() or file.name for file in set(found) - set(files)}):
        display.say(f"Files of other kinds are left out: {', '.join(others)}.")
    outputs = {file: out / f"{file.relative_to(folder)}.json" for file in files}
    todo = [file for file in files if again or not outputs[file].exists()]
    request = _fingerprint(asked, params)
    if any(_request_of(outputs[file]) not in {request, None} for file in set(files) - set(todo)):
        raise click.UsageError(
            f"{out} has answers to another request. Give another folder, or --again to replace them."
        )
    if len(todo) < len(files):
        display.say(
            f"{len(files) - len(todo)} of {len(files)} have an answer already; --again reads them anew."
        )
    out.mkdir(parents=True, exist_ok=True)  # where nothing can be written, nothing is asked
    work: Work = {"params": params, "metadata": {"request": request}}
    done = _do_all(display, asked, todo, outputs, work) if todo else []
    display.data({"object": "list", "data": done, "skipped": len(files) - len(todo)})
    return JOB_FAILED if any(entry["status"] != Status.COMPLETED for entry in done) else OK


def _do_all(
    display: Display,
    kind: Kind,
    files: Sequence[Path],
    outputs: Mapping[Path, Path],
    work: Work,
) -> list[dict[str, Any]]:
    """Ask for all, then write down each answer as it comes; what became of every file."""
    done: list[dict[str, Any]] = []

    def note(file: Path, status: str, message: str, **more: Any) -> None:
        done.append({"file": str(file), "status": status, **more})
        display.line(clean(f"{'✓' if status == Status.COMPLETED else '✗'} {file}: {message}"))

    with connected(display) as client:
        waiting: dict[Path, str] = {}
        try:
            for file in files:
                try:
                    document = client.upload(file)
                    waiting[file] = client.create_job(kind, [document["id"]], **work)["id"]
                except ApiProblem as exc:
                    if exc.code not in FAULTS_OF_A_FILE:
                        raise
                    note(file, Status.FAILED, str(exc), error={"code": exc.code, "message": str(exc)})
                except OSError as exc:
                    note(file, Status.FAILED, str(exc), error={"code": "file_unusable", "message": str(exc)})
            for number, file in enumerate(list(waiting), start=1):
                with display.progress(f"{number} of {len(waiting) + number - 1}: {file.name}") as on_progress:
                    job = client.wait(waiting[file], on_progress=on_progress)
                del waiting[file]
                if job["status"] == Status.COMPLETED:
                    _write(
                        outputs[file], json.dumps(job, ensure_ascii=False, indent=2), markdown(job, file.name)
                    )
                    note(file, job["status"], str(outputs[file]), job_id=job["id"], output=str(outputs[file]))
                else:
                    message = job["error"]["message"] if job["error"] else job["status"]
                    note(file, job["status"], message, job_id=job["id"], error=job["error"])
        except (KeyboardInterrupt, SystemExit, ApiProblem, OSError):
            _cancel(client, display, list(waiting.values()))
            raise
    return done


def _write(path: Path, answer: str, page: str) -> None:
    """The answer for machines and for people; the .json comes last and whole, since it marks the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".md").write_text(page, encoding="utf-8")
    draft = path.with_suffix(".json.new")
    draft.write_text(answer, encoding="utf-8")
    draft.replace(path)


def _fingerprint(kind: Kind, params: Mapping[str, Any]) -> str:
    """Tells what one batch asks from what another does; its jobs carry it."""
    return hashlib.sha256(json.dumps([kind, params], sort_keys=True).encode()).hexdigest()[:16]


def _request_of(output: Path) -> Any:
    """The fingerprint that an answer carries, if it can be read and has one."""
    try:
        return json.loads(output.read_text(encoding="utf-8"))["metadata"]["request"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _wanted(file: Path, folder: Path, out: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    own = out.absolute() in file.absolute().parents
    return file.is_file() and not hidden and not own


def _batch_params(
    kind: Kind, questions: Sequence[str], focus: str | None, schema: Path | None
) -> dict[str, Any]:
    """What the options say, or a complaint about one that is missing or belongs to another kind."""
    given = {"--question": list(questions), "--focus": focus, "--schema": schema}
    allowed = {Kind.ASK: "--question", Kind.SUMMARIZE: "--focus", Kind.EXTRACT: "--schema"}[kind]
    for option, value in given.items():
        if value and option != allowed:
            raise click.UsageError(f"{option} does not go with --kind {kind}.")
    if kind is Kind.SUMMARIZE:
        return {"focus": focus} if focus else {}
    if not given[allowed]:
        raise click.UsageError(f"--kind {kind} needs {allowed}.")
    return {"questions": list(questions)} if kind is Kind.ASK else {"schema": _schema(Path(str(schema)))}


# -- jobs that exist --------------------------------------------------------------------------------------


@command
@click.option("--status", type=click.Choice([status.value for status in Status]), help="Only these.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
def jobs(display: Display, status: str | None, limit: int) -> int:
    """List the newest jobs.

    Their results are told by `show`.
    """
    with connected(display, workers=False) as client:
        display.jobs(itertools.islice(client.jobs(status=Status(status) if status else None), limit))
    return OK


@command
@click.argument("job_id")
def show(display: Display, job_id: str) -> int:
    """Show a job; the exit code tells how it ended."""
    with connected(display, workers=False) as client:
        job = client.job(job_id)
    display.job(job)
    return _code(job) if job["status"] in FINAL else OK


@command
@click.argument("job_id")
def cancel(display: Display, job_id: str) -> int:
    """Stop a job."""
    with connected(display, workers=False) as client:
        job = client.cancel(job_id)
    display.data(job)
    display.line(f"{job['id']} is {job['status']}.")
    return OK


@command
@click.argument("job_id")
def retry(display: Display, job_id: str) -> int:
    """Do a job again that did not complete, and wait for it."""
    with connected(display) as client:
        job = _finished(client, display, client.retry(job_id)["id"])
    display.job(job)
    return _code(job)


# -- this machine -----------------------------------------------------------------------------------------


@command
@click.argument("file", type=FILE)
@PASSWORD
def parse(display: Display, file: Path, password: str | None) -> int:
    """Show the text that the model would read.

    Needs no server.
    """
    try:
        import parsers
    except ImportError as exc:
        display.fail(f"{exc}. Install the parsers: pip install 'unabridged[parsers]'.", code="not_installed")
        return BAD_INPUT
    try:
        document = parsers.parse(file, filename=file.name, password=password)
    except parsers.ParseError as exc:
        display.fail(str(exc), code=exc.code)
        return BAD_INPUT
    shown = {**asdict(document), "tables": [asdict(table) for table in document.tables]}
    display.data({**shown, "parser_version": parsers.PARSER_VERSION})
    for index, page in enumerate(document.pages):
        printed = f" (printed {page.label})" if page.label not in {None, str(page.number)} else ""
        display.line(f"── {document.place(index)}{printed} ──\n{page.text}\n")
    for warning in document.warnings:
        display.say(warning)
    return OK


@command
def version(display: Display) -> int:
    """Show the version."""
    found = installed("unabridged") or "not installed"
    display.data({"version": found})
    display.line(f"unabridged {found}")
    return OK


@command
def doctor(display: Display) -> int:
    """Check what a server needs; exit code 3 if it lacks something."""
    found = list(checks(Settings()))
    display.checks(found)
    return NO_SERVER if any(check.state == "fail" for check in found) else OK


if __name__ == "__main__":
    main()
