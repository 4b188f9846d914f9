"""Text and tokens of a transformers fast tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from llguidance import LLTokenizer
from numpy.typing import NDArray
from tokenizers import Tokenizer

from worker.engine.errors import ModelLoadError


class FastCodec:
    """A `Codec` over the tokenizer that a model came with."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer`: a `transformers.PreTrainedTokenizerFast`."""
        if not getattr(tokenizer, "is_fast", False):
            raise ModelLoadError("The model has no fast tokenizer (tokenizer.json); one is needed.")
        spec = json.loads(tokenizer.backend_tokenizer.to_str())
        # Truncation and padding would change documents; post-processors add tokens and trim the spans.
        spec |= {"truncation": None, "padding": None, "post_processor": None}
        self._template = Tokenizer.from_str(json.dumps(spec))
        # Added tokens are matched in any text, those not flagged special even with special tokens off.
        added = [(token["id"], token["content"]) for token in spec["added_tokens"]]
        self._text = Tokenizer.from_str(json.dumps(spec | {"added_tokens": []}))
        self._spec = json.dumps(spec, sort_keys=True)
        self.fingerprint = hashlib.sha256(self._spec.encode()).hexdigest()
        for token_id, content in added:
            if token_id in self._text.encode(content, add_special_tokens=False).ids:
                raise ModelLoadError(f"A document could forge the token {content!r} in this tokenizer.")

    def encode(self, text: str) -> tuple[list[int], NDArray[np.int32]]:
        encoding = self._text.encode(text, add_special_tokens=False)
        return encoding.ids, np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)

    def encode_template(self, text: str) -> list[int]:
        ids: list[int] = self._template.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._template.decode(ids, skip_special_tokens=True)
        return text

    def grammar_vocabulary(self, stop_ids: Sequence[int]) -> LLTokenizer:
        known = [token for token in stop_ids if self._template.id_to_token(token) is not None]
        return LLTokenizer(self._spec, eos_token=known)  # a model may name others, too
