"""One request in work: how far it is, and its next step."""

from __future__ import annotations

import time

import numpy as np
from torch import Tensor

from worker.engine.decoder import Decoder
from worker.engine.detokenizer import Detokenizer
from worker.engine.generation import LocalGeneration
from worker.engine.pool import Lease
from worker.engine.sampler import Sampler
from worker.engine.tokenizer import PromptTokenizer
from worker.engine.types import Finished, FinishReason, ReadProgress, Request, Usage


class Task:
    """Waits, reads its prefix, reads its suffix, writes its answer. Only the engine's thread changes it."""

    def __init__(self, request: Request, decoder: Decoder, tokenizer: PromptTokenizer) -> None:
        self.prefix_ids = np.asarray(request.prefix, np.int32)
        self.tail_tokens = len(request.suffix) + request.sampling.max_tokens
        self.deadline = request.deadline
        self.generation = LocalGeneration()
        self.overtaken = 0  #: later requests admitted before this one
        self.result: Finished | None = None
        self._decoder = decoder
        self._suffix = list(request.suffix)
        if self.prefix_ids.max(initial=max(self._suffix)) >= decoder.vocabulary:
            raise ValueError("The prompt holds a token id outside the model's vocabulary.")
        self._request = request
        self._stop_ids = frozenset(tokenizer.stop_ids)
        self._detokenizer = Detokenizer(tokenizer.decode)
        self._generated: list[int] = []
        self._reported = -1
        self._submitted = time.monotonic()

    def admit(self, lease: Lease) -> None:
        """Start, on the memory of `lease`."""
        self.lease = lease
        self._sampler = Sampler(self._request.sampling, self._request.mask, self._decoder.device)
        self._admitted = time.monotonic()

    @property
    def tokens_left(self) -> int:
        """Tokens still to be read before the answer begins."""
        return len(self.prefix_ids) + len(self._suffix) - self._tokens_read

    @property
    def _tokens_read(self) -> int:
        prefix = self.lease.prefix
        return (prefix.kv.length if prefix else 0) + min(self.lease.tail.length, len(self._suffix))

    def read(self, tokens: int) -> int:
        """Read up to `tokens` more of the prompt; the last of them give the first token. Returns how many."""
        prefix, tail = self.lease.prefix, self.lease.tail
        if prefix is not None and not prefix.complete:
            ids = prefix.ids[prefix.kv.length :][:tokens].tolist()
            self._decoder.read(ids, [], prefix.kv)
            return len(ids)
        ids = self._suffix[tail.length :][:tokens]
        logits = self._decoder.read(ids, self.lease.before, tail)
        if not self.tokens_left:
            self.report()
            self._first_token = time.monotonic()
            self._choose(logits)
        return len(ids)

    def write(self) -> None:
        """Write one more token."""
        self._choose(self._decoder.read(self._generated[-1:], self.lease.before, self.lease.tail))

    def report(self) -> None:
        """Tell the caller how far reading is, if it is further than told last."""
        if self._tokens_read > self._reported:
            self._reported = self._tokens_read
            total = len(self.prefix_ids) + len(self._suffix)
            self.generation.put(ReadProgress(self._reported, total, self.lease.reused_tokens))

    def _choose(self, logits: Tensor) -> None:
        token = self._sampler.choose(logits, self._generated)
        if token is None or token in self._stop_ids:
            self._finish("stop")
            return
        self._generated.append(token)
        if delta := self._detokenizer.push(token):
            self.generation.put(delta)
        if len(self._generated) == self._request.sampling.max_tokens:
            self._finish("length")

    def _finish(self, reason: FinishReason) -> None:
        if delta := self._detokenizer.flush():
            self.generation.put(delta)
        usage = Usage(
            prefix_tokens=len(self.prefix_ids),
            suffix_tokens=len(self._suffix),
            reused_tokens=self.lease.reused_tokens,
            completion_tokens=len(self._generated),
            queue_s=self._admitted - self._submitted,
            read_s=self._first_token - self._admitted,
            write_s=time.monotonic() - self._first_token,
            first_token_s=self._first_token - self._submitted,
        )
        self.result = Finished(reason, usage)
