"""Errors that end a job on the worker's side.

JobError
├── InstructionTooLong     the question alone does not leave room for an answer
├── UnknownKind            there is no prompt for it
├── DoesNotFit             `reading: whole`, and the documents are longer than what fits
├── NothingToCompare       a comparison of one document that keeps no changes of its own
├── OutputCutOff           the answer reached its limit before the JSON was complete
├── OutputInvalid          the JSON does not fit its schema
├── TextMissing            the parsed text is gone from the data folder
└── InternalError          a bug; the log has it
"""

from __future__ import annotations

from typing import ClassVar


class JobError(Exception):
    """The job cannot be done."""

    code: ClassVar[str] = "job_error"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)


class InstructionTooLong(JobError):
    """The instruction is too long for this model. Shorten it, or ask for fewer tokens."""

    code = "instruction_too_long"


class UnknownKind(JobError):
    """There is no such kind of job. Take one of ours, or put its prompt into UNABRIDGED_PROMPTS."""

    code = "unknown_kind"


class DoesNotFit(JobError):
    """The documents do not fit the model whole. Use `reading: auto` to read them in sections."""

    code = "does_not_fit"


class NothingToCompare(JobError):
    """The document has no tracked changes. Name two documents, or a Word file that keeps its changes."""

    code = "nothing_to_compare"


class OutputCutOff(JobError):
    """The answer reached `max_tokens` before its JSON was complete. Raise it, or ask for fewer fields."""

    code = "output_cut_off"


class OutputInvalid(JobError):
    """What the model wrote does not fit the schema. Retry the job, or simplify the schema."""

    code = "output_invalid"


class TextMissing(JobError):
    """The document's parsed text is missing from the data folder. Delete the document and upload it again."""

    code = "text_missing"


class InternalError(JobError):
    """Something went wrong inside. The worker's log says what; retry the job, and report it if it stays."""

    code = "internal_error"
