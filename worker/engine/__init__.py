"""Tokens in, tokens out: the model, its memory of documents, and the one thread that touches both.

Importing this package imports neither torch nor transformers; `load_engine` does, when called.
"""

from __future__ import annotations

from worker.engine.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineError,
    EngineStopped,
    ModelLoadError,
    NotFinite,
    OutOfMemory,
    PromptTooLong,
    UnsupportedSchema,
)
from worker.engine.fake import FakeEngine
from worker.engine.loader import load_engine
from worker.engine.masks import CallMask, JsonSchemaMask, QuoteMask, check_schema
from worker.engine.tokenizer import EncodedPrefix, PromptTokenizer, Turn
from worker.engine.types import (
    Capacity,
    Engine,
    Event,
    Finished,
    Generation,
    MemoryOptions,
    ModelCard,
    ReadProgress,
    Request,
    Sampling,
    TextDelta,
    TokenMask,
    Usage,
)

__all__ = [
    "CallMask",
    "Cancelled",
    "Capacity",
    "DeadlineExceeded",
    "EncodedPrefix",
    "Engine",
    "EngineError",
    "EngineStopped",
    "Event",
    "FakeEngine",
    "Finished",
    "Generation",
    "JsonSchemaMask",
    "MemoryOptions",
    "ModelCard",
    "ModelLoadError",
    "NotFinite",
    "OutOfMemory",
    "PromptTokenizer",
    "PromptTooLong",
    "QuoteMask",
    "ReadProgress",
    "Request",
    "Sampling",
    "TextDelta",
    "TokenMask",
    "Turn",
    "UnsupportedSchema",
    "Usage",
    "check_schema",
    "load_engine",
]
