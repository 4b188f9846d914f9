"""One request in work: how far it is, and its next step."""

from __future__ import annotations

import time

import numpy as np
from torch import Tensor

from worker.engine.archive import Archive
from worker.engine.decoder import Decoder
from worker.engine.detokenizer import Detokenizer
from worker.engine.errors import NotFinite
from worker.engine.generation import LocalGeneration
from worker.engine.kv import cut
from worker.engine.passes import Seat
from worker.engine.pool import Lease, PagePool, body_keys
from worker.engine.sampler import Sampler
from worker.engine.tokenizer import PromptTokenizer
from worker.engine.types import Finished, FinishReason, ReadProgress, Request, Usage
from worker.engine.writer import Written


class Task:
    """Waits, reads its prefix, reads its suffix, writes its answer. Only the engine's thread changes it."""

    def __init__(
        self,
        request: Request,
        decoder: Decoder,
        pool: PagePool,
        archive: Archive | None,
        tokenizer: PromptTokenizer,
    ) -> None:
        self.prefix_ids = np.asarray(request.prefix, np.int32)
        self.keys = body_keys(self.prefix_ids)
        self.tail_tokens = len(request.suffix) + request.sampling.max_tokens
        self.deadline = request.deadline
        self.owners = request.owners
        self.generation = LocalGeneration()
        self.lease: Lease  #: from admission on
        self.overtaken = 0  #: later requests admitted before this one
        self.most_at_once = decoder.window  #: tokens to be read; fewer once memory was missing
        self.result: Finished | None = None
        self._decoder = decoder
        self._pool = pool
        self._archive = archive
        self._suffix = list(request.suffix)
        if self.prefix_ids.max(initial=max(self._suffix)) >= decoder.vocabulary:
            raise ValueError("The prompt holds a token id outside the model's vocabulary.")
        self._request = request
        self._stop_ids = frozenset(tokenizer.stop_ids)
        self._detokenizer = Detokenizer(tokenizer.decode)
        self._generated: list[int] = []
        self._reported = -1
        self._submitted = time.monotonic()

    def admit(self) -> None:
        """Start, on the memory of `lease`."""
        self._before = self.lease.before()
        prefix = self.lease.prefix
        if self._archive is not None and prefix is not None and prefix.complete:
            self._archive.keep(prefix)
        self._sampler = Sampler(self._request.sampling, self._request.mask, self._decoder.device)
        self._admitted = time.monotonic()

    @property
    def tokens_left(self) -> int:
        """Tokens still to be read before the answer begins."""
        return len(self.prefix_ids) + len(self._suffix) - self._tokens_read

    @property
    def _tokens_read(self) -> int:
        prefix = self.lease.prefix
        return (prefix.read if prefix else 0) + min(self.lease.length, len(self._suffix))

    def read(self, chunk: int) -> int:
        """Read up to the next multiple of `chunk`; the last token gives the first of the answer.

        Returns how many tokens of the prefix the model read: none, where the archive had them.
        """
        lease, prefix = self.lease, self.lease.prefix
        if prefix is not None and not prefix.complete:
            if self._archive is not None and (fetched := self._archive.fetch(prefix)) is not None:
                lease.reused_tokens += fetched
                return 0
            start, end = prefix.read, _next(prefix.read, chunk, len(prefix.ids))
            spans = prefix.spans(0, end)
            self._decoder.keep(prefix.ids[start:end], cut(spans, 0, start), cut(spans, start, end))
            self._pool.advance(prefix, end - start)
            if self._archive is not None:
                self._archive.keep(prefix)
            return end - start
        start, end = lease.length, _next(lease.length, chunk, len(self._suffix))
        past = [*lease.before(), *cut([lease.tail], 0, start)]
        logits = self._decoder.read(self._suffix[start:end], past, cut([lease.tail], start, end))
        lease.length = end
        if not self.tokens_left:
            self.report()
            self._first_token = time.monotonic()
            self._choose(logits, int(logits.argmax()))
        return 0

    def seat(self) -> Seat:
        """What writing the next token needs."""
        lease = self.lease
        return Seat(
            self._generated[-1],
            self.document(),
            self._before,
            lease.tail,
            lease.length,
            lease.position + lease.length,
            self._sampler.greedy,
        )

    def document(self) -> int:
        """The same for requests with the same prefix."""
        return id(self.lease.prefix)

    def write(self, written: Written, row: int) -> None:
        """The last token is kept now; what follows it stands in a row of `written`. Raises `NotFinite`."""
        self.lease.length += 1
        if not written.finite[row]:
            raise NotFinite
        self._choose(written.logits[row], written.likeliest[row])

    def report(self) -> None:
        """Tell the caller how far reading is, if it is further than told last."""
        if self._tokens_read > self._reported:
            self._reported = self._tokens_read
            total = len(self.prefix_ids) + len(self._suffix)
            self.generation.put(ReadProgress(self._reported, total, self.lease.reused_tokens))

    def _choose(self, logits: Tensor, likeliest: int) -> None:
        token = self._sampler.choose(logits, likeliest, self._generated)
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


def _next(start: int, chunk: int, end: int) -> int:
    """Where the chunk that begins at `start` ends: at a multiple of `chunk`, so that reads are repeatable."""
    return min((start // chunk + 1) * chunk, end)
