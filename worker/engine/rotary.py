"""Rotary positions (RoPE, arXiv:2104.09864, section 3.2) as GLM has them: neighbours in part of a head turn.

transformers makes new queries and keys of the product with their weights, which takes 120 us of a layer's
8,448 tokens on an H200. Here the product is turned where it stands, which takes 20.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.glm.modeling_glm import GlmAttention

from worker.engine import passes
from worker.engine.nf4 import NF4Linear, Share

logger = logging.getLogger(__name__)

_TOLERANCE = 1e-2  # relative; bf16 rounds to 2e-3
_TOKENS = 65  # of the self-test


@torch.library.custom_op("unabridged::rotate", mutates_args=("product",), device_types="cuda")
def rotate(product: Tensor, cos: Tensor, sin: Tensor, heads: int, dim: int) -> None:
    """Turn the first `heads` heads of `dim` of a product (..., tokens, outputs), contiguous, in place.

    `cos` and `sin` (..., tokens, n) as transformers gives them: of n / 2 pairs, twice. On a card all in bf16.
    """
    from worker.engine.kernels import rotary  # Triton is there where CUDA is

    rotary.rotate(product, cos, sin, heads, dim)


@rotate.register_kernel("cpu")
def _rotate(product: Tensor, cos: Tensor, sin: Tensor, heads: int, dim: int) -> None:
    pairs = cos.shape[-1] // 2
    turned = product.view(*product.shape[:-1], -1, dim)[..., :heads, : 2 * pairs]
    c, s = (x[..., None, :pairs].float() for x in (cos, sin))
    even, odd = turned[..., 0::2].float(), turned[..., 1::2].float()
    turned[..., 0::2], turned[..., 1::2] = even * c - odd * s, odd * c + even * s


class RotaryInPlace(nn.Module):
    """Attention of a GLM layer, for chunks of tokens. Single tokens go through transformers' own."""

    def __init__(self, plain: GlmAttention, whole: NF4Linear) -> None:
        """`whole`: what `q_proj`, `k_proj` and `v_proj` of `plain` are shares of."""
        super().__init__()
        self.plain, self.whole = plain, whole
        self.dim: int = plain.head_dim
        self.heads: int = plain.config.num_attention_heads
        self.kv_heads = (whole.out_features // self.dim - self.heads) // 2

    def forward(
        self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """What `plain` gives."""
        if hidden_states.shape[1] == 1:
            return self.plain(hidden_states, position_embeddings=position_embeddings, **options)  # type: ignore[no-any-return]
        product = self.whole(hidden_states)
        rotate(product, *position_embeddings, self.heads + self.kv_heads, self.dim)
        by_head = product.view(*product.shape[:-1], -1, self.dim).transpose(1, 2)
        query, key, value = by_head.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        output, _ = passes.forward(self.plain, query, key, value, None, scaling=self.plain.scaling)
        return self.plain.o_proj(output.flatten(2)), None


def adopt(model: nn.Module) -> int:
    """Puts a `RotaryInPlace` in the place of GLM's attention where one product makes its queries and keys.

    Returns how many there were. Where the kernel does not run, or is wrong, transformers' own stays.
    """
    found = []
    for layer in model.modules():
        plain = getattr(layer, "self_attn", None)
        if type(plain) is GlmAttention and isinstance(plain.q_proj, Share):
            found.append((layer, RotaryInPlace(plain, plain.q_proj.whole)))
    if found and (fault := _fault(found[0][1])):
        logger.warning("Queries and keys are rotated by transformers' own code, which is slower: %s", fault)
        return 0
    for layer, attention in found:
        layer.self_attn = attention
    return len(found)


@torch.inference_mode()
def _fault(attention: RotaryInPlace) -> str | None:
    """Why the kernel cannot be used."""
    device, dim, heads = attention.whole.codes.device, attention.dim, attention.heads
    generator = torch.Generator(device).manual_seed(0)
    cos, sin = torch.randn(2, _TOKENS, dim // 2, device=device, generator=generator).bfloat16()
    got = torch.randn(_TOKENS, (heads + 1) * dim, device=device, generator=generator).bfloat16()
    want = got.clone()
    try:
        rotate(got, cos, sin, heads, dim)
    except Exception as exc:  # no compiler, or a card that Triton does not know
        return str(exc)
    _rotate(want, cos, sin, heads, dim)
    error = float((got - want).float().norm() / want.float().norm())
    return None if error <= _TOLERANCE else f"the kernel is off by {error:.2g}"
