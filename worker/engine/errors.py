"""What can go wrong between a request and its answer.

    EngineError
    ├── PromptTooLong        prompt_too_long        it can never fit this worker
    ├── Cancelled            cancelled              the caller asked to stop
    ├── DeadlineExceeded     deadline_exceeded      the request's own deadline passed
    ├── EngineStopped        engine_stopped         the worker is going down; submit the request again
    ├── OutOfMemory          out_of_memory          the device could not hold this request
    ├── NotFinite            not_finite_logits      the model produced NaN or infinity
    ├── UnsupportedSchema    unsupported_schema     a JSON Schema that cannot be enforced
    ├── IntegrityError       integrity_error        the store of keys and values contradicts itself
    ├── SnapshotError        snapshot_error         snapshots cannot be used; documents are read instead
    │   └── SnapshotDamaged  snapshot_damaged       a stored part cannot be used; it was removed
    └── ModelLoadError       model_load_failed      the model could not be made ready

A class's docstring is its default message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class EngineError(Exception):
    """The engine could not finish the request."""

    code: ClassVar[str] = "engine_error"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)


class PromptTooLong(EngineError):
    """The prompt does not fit this worker; send less text or use a model with a larger window."""

    code: ClassVar[str] = "prompt_too_long"

    def __init__(self, tokens: int, tokens_fit: int, fit_in: Mapping[str, int] | None = None) -> None:
        """`fit_in`: how many would fit in each format of keys and values."""
        super().__init__(
            f"The prompt and the room for its answer need {tokens:,} tokens and {tokens_fit:,} fit; "
            f"send less text, ask for a shorter answer{_formats(tokens, fit_in or {})} "
            "or use a model with a larger window."
        )
        self.tokens = tokens
        self.tokens_fit = tokens_fit
        self.fit_in = fit_in

    def __reduce__(self) -> tuple[type[PromptTooLong], tuple[int, int, Mapping[str, int] | None]]:
        return type(self), (self.tokens, self.tokens_fit, self.fit_in)


def _formats(tokens: int, fit_in: Mapping[str, int]) -> str:
    found = [f"{fit:,} in {format}" for format, fit in fit_in.items() if fit >= tokens]
    return f", keep keys and values in fewer bits (there fit {' and '.join(found)})" if found else ""


class Cancelled(EngineError):
    """The request was cancelled; what was read of its document is kept for the next request."""

    code: ClassVar[str] = "cancelled"


class DeadlineExceeded(EngineError):
    """The request's deadline passed before its answer was finished; submit it again with more time."""

    code: ClassVar[str] = "deadline_exceeded"


class EngineStopped(EngineError):
    """The engine is shutting down; submit the request again to a running worker."""

    code: ClassVar[str] = "engine_stopped"


class OutOfMemory(EngineError):
    """The device ran out of memory; lower the budget of keys and values, or send less text."""

    code: ClassVar[str] = "out_of_memory"


class NotFinite(EngineError):
    """The model produced NaN or infinite logits; its weights or the device are faulty."""

    code: ClassVar[str] = "not_finite_logits"


class UnsupportedSchema(EngineError):
    """The JSON Schema cannot be enforced; use only the keywords that the message does not name."""

    code: ClassVar[str] = "unsupported_schema"


class ModelLoadError(EngineError):
    """The model could not be loaded; check its name, its files and the device."""

    code: ClassVar[str] = "model_load_failed"


class IntegrityError(EngineError):
    """The store of keys and values contradicts itself; restart the worker and report what it logged."""

    code: ClassVar[str] = "integrity_error"


class SnapshotError(EngineError):
    """Snapshots cannot be used; check that their folder exists and can be written."""

    code: ClassVar[str] = "snapshot_error"


class SnapshotDamaged(SnapshotError):
    """A stored part of a document is damaged or gone; it was removed and is read anew."""

    code: ClassVar[str] = "snapshot_damaged"
