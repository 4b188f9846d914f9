"""The architecture of GLM-4-9B-Chat-1M with random weights: for speed, memory and numerics, not for words."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, GlmConfig

NAME = "architecture of GLM-4-9B-Chat-1M (40 layers, 32 and 4 heads of 128), random weights, NF4"


def glm(**options: Any) -> Any:
    """The model on the card, its linear layers in bitsandbytes' NF4. `options` change the configuration."""
    torch.manual_seed(0)
    config = GlmConfig(**({"num_key_value_heads": 4, "max_position_embeddings": 1_048_576} | options))
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    to_nf4(model.model)
    torch.cuda.empty_cache()
    return model


def to_nf4(module: torch.nn.Module, device: str = "cuda") -> None:
    """Quantize the linear layers below `module`, on `device`."""
    from bitsandbytes.nn.modules import Linear4bit, Params4bit

    for name, child in module.named_children():
        if not isinstance(child, torch.nn.Linear):
            to_nf4(child, device)
            continue
        linear = Linear4bit(
            child.in_features,
            child.out_features,
            bias=child.bias is not None,
            compute_dtype=child.weight.dtype,
            compress_statistics=True,
            quant_type="nf4",
            device="meta",
        )
        linear.weight = Params4bit(
            child.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
        ).to(device)  # type: ignore[misc]
        linear.bias = child.bias
        setattr(module, name, linear)
