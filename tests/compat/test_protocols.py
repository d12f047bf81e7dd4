"""Files that earlier protocols wrote are read as they always were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import perdure
from compat.generate import Net, checkpoint

FOLDERS = sorted(path for path in Path(__file__).parent.iterdir() if path.name.startswith("protocol-"))


@pytest.fixture(params=FOLDERS, ids=lambda path: path.name)
def folder(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def answer(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    found = json.loads((folder / "answer.json").read_text())
    return torch.tensor(found["tokens"]), torch.tensor(found["answer"])


@pytest.mark.parametrize("name", ["weights.safetensors", "shards", "model.safetensors"])
def test_weights(name: str, folder: Path, answer: Any) -> None:
    tokens, expected = answer
    assert perdure.check(folder / name).ok
    with torch.device("meta"):
        net = Net()
    report = perdure.load_weights(net, folder / name, verify="full")
    assert report.fraction_loaded == 1.0 and report.tied == {"head.weight": "embedding.weight"}
    assert torch.allclose(net(tokens), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["class", "graph"])
def test_models(form: Any, folder: Path, answer: Any) -> None:
    tokens, expected = answer
    path = folder / "model.safetensors"
    saved_class = {"__main__.Net": Net}
    loaded = perdure.load(path, trusted=saved_class, form=form, verify="full")
    assert torch.allclose(loaded(tokens), expected, rtol=0, atol=1e-6)
    assert loaded(tokens[:1]).shape == (1, 7)
    assert perdure.info(path).labels == list("abcdefg")


def test_checkpoints(folder: Path) -> None:
    found, expected = perdure.load_checkpoint(folder / "checkpoint.safetensors"), checkpoint()
    tied, part = found.pop("tied")
    assert tied.tolist() == [0, 1, 2, 3] and part.data_ptr() == tied[1:].data_ptr()
    del expected["tied"]
    assert found == expected
