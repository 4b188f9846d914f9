"""Admission: what can be known to be wrong with a job before it is queued."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError
from ssrfguard import BlockedAddressError, BlockedURLError, Policy

from api.problems import (
    Fault,
    InvalidPreviousJob,
    InvalidRequest,
    InvalidSchema,
    ToolRefused,
    WebhookRefused,
    pointer,
)
from jobs.params import PARAMS, ChatParams, ExtractParams, Params, Tool, ToolParams, Work
from jobs.record import Record
from jobs.status import Kind, Status
from parsers.sniff import BY_SUFFIX, WORD
from worker.engine.masks import check_schema
from worker.errors import InstructionTooLong
from worker.webhooks import network_policy

#: Values in all parameters together; checking a schema takes a tenth of a millisecond for each.
VALUES_LIMIT = 5_000
#: Words of an instruction that every model takes.
ALWAYS_FITS = 500
#: What is refused even here is not refused for its network.
EVERY_NETWORK = ("0.0.0.0/0", "::/0")


class Admission:
    """The checks every new job passes, by whichever door it comes."""

    def __init__(self, record: Record, webhook_policy: Policy, *, own_kinds: Collection[str] = ()) -> None:
        """`own_kinds`: names of the prompt files of the server's owner."""
        self._record = record
        self._own_kinds = own_kinds
        self._webhook_policy = webhook_policy

    def check(self, work: Work, document_ids: Sequence[str]) -> None:
        """Refuse what could only fail.

        Raises:
            InvalidRequest: it does not fit its description, in one of the ways below it.
            UnsupportedSchema: no grammar can enforce the schema.
            InstructionTooLong: no model at work could read it.
        """
        self._check_kind(work.kind)
        if work.kind == Kind.COMPARE and len(document_ids) == 1:
            self._check_keeps_changes(document_ids[0])
        params = _params(work)
        if isinstance(params, ExtractParams):
            _refuse_remote(params.json_schema, "/params/schema")
            check_schema(params.json_schema)
        if isinstance(params, ChatParams) and params.previous_job_id:
            self._check_previous(params.previous_job_id, document_ids)
        if work.webhook_url:
            check_webhook(work.webhook_url, self._webhook_policy)
        if isinstance(params, ToolParams):
            self._check_tools(params.tools)
        self._check_length(params.instructions())

    def _check_kind(self, kind: str) -> None:
        if kind not in PARAMS and kind not in self._own_kinds:
            kinds = ", ".join([*PARAMS, *self._own_kinds])
            raise InvalidRequest(errors=[Fault(at="/kind", message=f"there are: {kinds}")])

    def _check_keeps_changes(self, document_id: str) -> None:
        """Whether it does is known once it is parsed; that a kind of file never does is known before."""
        row = self._record.documents.get(document_id)
        media_type = row.media_type or BY_SUFFIX.get(PurePath(row.filename).suffix.lower())
        if media_type not in {None, WORD}:
            message = "compare needs two documents, or one Word file with tracked changes"
            raise InvalidRequest(errors=[Fault(at="/document_ids", message=message)])

    def _check_previous(self, job_id: str, document_ids: Sequence[str]) -> None:
        previous = self._record.ledger.get(job_id)
        same = sorted(previous.document_ids) == sorted(document_ids)
        if not (previous.kind == Kind.CHAT and previous.status == Status.COMPLETED and same):
            raise InvalidPreviousJob

    def _check_tools(self, tools: Sequence[Tool]) -> None:
        for number, tool in enumerate(tools):
            at = f"/params/tools/{number}"
            _refuse_remote(tool.parameters, f"{at}/parameters")
            check_schema(tool.parameters)
            reason = _refusal(tool.url, self._webhook_policy)
            if (
                reason is None
                and urlsplit(tool.url).scheme == "http"
                and _refusal(tool.url, network_policy(())) is None
            ):
                reason = "only https is called, except within networks in UNABRIDGED_WEBHOOK_ALLOW"
            if reason is not None:
                raise ToolRefused(errors=[Fault(at=f"{at}/url", message=reason)])

    def _check_length(self, instructions: Sequence[str]) -> None:
        """A word is at least one token, so more words than the largest window has tokens can never fit."""
        words = max((len(text.split()) for text in instructions), default=0)
        if words < ALWAYS_FITS:
            return
        window = max((row.card.get("window", 0) for row in self._record.workers.ready()), default=0)
        if window and words >= window:
            raise InstructionTooLong(
                f"One instruction has {words:,} words; the largest model at work takes "
                f"{window:,} tokens in all. Shorten it."
            )


def _params(work: Work) -> Params:
    if any(islice(_values(work.params), VALUES_LIMIT, None)):
        raise InvalidRequest(errors=[Fault(at="/params", message=f"more than {VALUES_LIMIT:,} values")])
    try:
        return work.checked()
    except ValidationError as exc:
        wrong = InvalidRequest.of(exc, at="/params")
        broken = {(error["loc"][:1], error["type"]) for error in exc.errors()}
        if (("schema",), "value_error") in broken:
            raise InvalidSchema(errors=wrong.errors) from exc
        raise wrong from exc


def _refuse_remote(schema: dict[str, Any], at: str) -> None:
    """Nothing is fetched for a schema: what it refers to must be in it."""
    for path, target in _values(schema):
        if path[-1] in {"$ref", "$dynamicRef"} and isinstance(target, str) and not target.startswith("#"):
            message = "only references within the schema (#...) are followed"
            raise InvalidSchema(errors=[Fault(at=pointer(at, *path), message=message)])


def _values(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value within a JSON value, and the steps that lead to it."""
    steps = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for step, child in steps:
        yield (*path, step), child
        yield from _values(child, (*path, step))


def check_webhook(url: str, policy: Policy) -> None:
    """Refuse a URL that names a private address. Where a name leads is only known, and checked, at sending.

    Raises:
        WebhookRefused: it does.
    """
    reason = _refusal(url, policy)
    if reason is not None:
        raise WebhookRefused(errors=[Fault(at="/webhook_url", message=reason)])


def _refusal(url: str, policy: Policy) -> str | None:
    """Why a URL is not sent to, as far as its own words tell, and which setting would allow it."""
    reason = _objection(url, policy)
    if reason is None or _objection(url, network_policy(EVERY_NETWORK)) is not None:
        return reason
    return f"{reason}; the server's owner can allow its network in UNABRIDGED_WEBHOOK_ALLOW"


def _objection(url: str, policy: Policy) -> str | None:
    try:
        host = policy.check_url(url).host.rstrip(".")
        if host == "localhost" or host.endswith(".localhost"):  # always this machine (RFC 6761, section 6.3)
            policy.check_address("127.0.0.1")
    except (BlockedURLError, BlockedAddressError) as exc:
        return str(exc.reason)
    return None
