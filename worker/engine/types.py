"""The engine's vocabulary: what goes in, what comes out, and the two protocols between.

One request is one prompt: a prefix (template head and documents, kept between requests) and a suffix
(the instruction and the generation prompt). Its answer is a stream of events.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from worker.engine.tokenizer import PromptTokenizer

Weights = Literal["nf4", "bf16", "fp32"]
Format = Literal["exact", "fp8", "int4"]  #: of keys and values; exact is the model's own type
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is loaded, and where."""

    name: str
    revision: str
    window: int  #: tokens of prompt and answer together
    device: str  #: "cpu" or, for instance, "cuda:0 NVIDIA H200"
    weights: Weights
    kv_format: Format
    kv_bytes_per_token: int


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """Where keys and values are kept."""

    format: Literal["auto"] | Format = "auto"  #: "auto": the most exact in which a whole window fits
    card_bytes: int | None = None  #: of the device; None: what CUDA has left, or half of the free memory
    host_bytes: int | None = None  #: of the computer's beside a card; None: what a window lacks
    host_share: float = 1 / 4  #: and then no more than this part of what is free
    disk_folder: Path | None = None  #: for what was read, so that it is found again after a restart
    disk_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen."""

    max_tokens: int = 512
    temperature: float = 0.0  #: 0 takes the likeliest token
    top_p: float = 1.0
    repetition_penalty: float = 1.0  #: over the answer's own tokens, never over the document's
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError("max_tokens must be at least 1.")
        if self.temperature < 0:
            raise ValueError("temperature must not be negative.")
        if not 0 < self.top_p <= 1:
            raise ValueError("top_p must be above 0 and at most 1.")
        if self.repetition_penalty <= 0:
            raise ValueError("repetition_penalty must be above 0.")


class TokenMask(Protocol):
    """Restricts what may be written. One instance serves one request."""

    def allowed(self, generated: Sequence[int]) -> NDArray[np.integer[Any]] | None:
        """Ids of the tokens that may follow `generated` (all tokens written so far).

        None allows every token. An empty array means "finished: stop here". Where the answer may stop
        or go on, a stop token is among the ids. Called once a step, with one more token each time.
        """
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and how to answer it."""

    prefix: Sequence[int]  #: shared between requests; may be empty
    suffix: Sequence[int]  #: never empty
    sampling: Sampling = Sampling()
    mask: TokenMask | None = None
    deadline: float | None = None  #: on the clock of `time.monotonic()`
    owners: frozenset[str] = frozenset()  #: of what the prefix is made of, by names that mean nothing here

    def __post_init__(self) -> None:
        if len(self.suffix) == 0:
            raise ValueError("suffix must hold at least one token: the model answers what it read last.")


@dataclass(frozen=True, slots=True)
class ReadProgress:
    """More of the prompt was read."""

    tokens_read: int  #: of the prefix and the suffix, reused tokens included
    tokens_total: int
    tokens_reused: int  #: of the prefix, read for an earlier request


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the answer, always whole characters."""

    text: str
    tokens: int  #: tokens written since the last delta


@dataclass(frozen=True, slots=True)
class Usage:
    """What a finished request cost. Times in seconds."""

    prefix_tokens: int
    suffix_tokens: int
    reused_tokens: int  #: of the prefix, read before this request was admitted
    completion_tokens: int  #: without the stop token
    queue_s: float  #: submitted to admitted
    read_s: float  #: admitted to first token
    write_s: float  #: first token to last
    first_token_s: float  #: submitted to first token


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of an answer."""

    reason: FinishReason
    usage: Usage


Event = ReadProgress | TextDelta | Finished


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much the engine holds and how fast it has been."""

    tokens_fit: int  #: how long a prompt with its answer may be: the smaller of window and memory
    tokens_fit_in: dict[str, int]  #: the same, if keys and values were kept in each of the formats
    kv_bytes_total: int
    kv_bytes_used: int
    prefixes_held: int
    active: int  #: requests being read or written
    waiting: int  #: requests not admitted yet
    read_tokens_per_s: float | None  #: moving average; None until measured
    write_tokens_per_s: float | None  #: of all requests together; moving average; None until measured


class Generation(Protocol):
    """One answer in the making."""

    def __iter__(self) -> Iterator[Event]:
        """Events in order, the last one `Finished`; may be iterated once. Raises `EngineError`."""
        ...

    def cancel(self) -> None:
        """Stop at the next chunk or token; iterating then raises `Cancelled`. Safe from any thread."""
        ...


class Engine(Protocol):
    """Tokens in, tokens out."""

    @property
    def card(self) -> ModelCard: ...

    @property
    def tokenizer(self) -> PromptTokenizer: ...

    def submit(self, request: Request) -> Generation:
        """Queue a request. Never blocks and never raises `EngineError`: iterating the answer does."""
        ...

    def capacity(self) -> Capacity: ...

    def owners(self) -> set[str]:
        """Of all that was read and is kept, in memory or on disk, also by earlier processes."""
        ...

    def forget(self, owners: Collection[str]) -> None:
        """Give up what was read of `owners`, alone or with others.

        What is in use stays, and may still be stored, until a later call: repeat while `owners` names them.
        """
        ...

    @property
    def failed(self) -> bool:
        """Whether the engine ended by itself; every request then raises `EngineStopped`."""
        ...

    def close(self) -> None:
        """Fail unfinished requests with `EngineStopped` and stop. May be called twice."""
        ...
