"""`annotate`: what is added, and that nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import perdure
from perdure.errors import FormatError, InputError, PerdureError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)
        self.register_buffer("packed", torch.ones(3, dtype=torch.uint8).view(torch.uint4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(x)) * self.scale


@pytest.mark.parametrize("name", ["m.safetensors", "folder"])
def test_what_is_added_and_what_stays(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    model = Net()
    perdure.save(model, path, notes={"epoch": 3})
    before = perdure.info(path)
    report = perdure.annotate(path, labels=["a", "b"])
    assert report.digest == perdure.info(path).digest != before.digest
    perdure.annotate(path, example=torch.tensor([[1, 2]]), trusted=[Net])
    after = perdure.info(path)
    assert after.forms == ("class", "graph", "weights") and after.labels == ["a", "b"] and after.notes == {"epoch": 3}
    assert [(spec.name, spec.digest) for spec in after.tensors] == [(spec.name, spec.digest) for spec in before.tensors]
    assert after.manifest is not None and before.manifest is not None
    assert (after.manifest.time, after.environment) == (before.manifest.time, before.environment)
    assert perdure.check(path).ok
    x = torch.tensor([[0, 4, 2], [1, 1, 1]])
    for form in ("class", "graph"):
        loaded: Any = perdure.load(path, trusted=[Net], form=form)  # type: ignore[arg-type]
        assert torch.equal(loaded(x), model.eval()(x))
        assert loaded.head.weight is loaded.embedding.weight


def test_what_cannot_be_annotated(tmp_path: Path) -> None:
    weights, foreign = tmp_path / "w.safetensors", tmp_path / "f.safetensors"
    perdure.save_weights(nn.Linear(2, 2), weights)
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, foreign)
    content = weights.read_bytes()
    with pytest.raises(InputError, match="nothing to add"):
        perdure.annotate(weights)
    with pytest.raises(FormatError, match="another writer"):
        perdure.annotate(foreign, labels=["a"])
    with pytest.raises(PerdureError):
        perdure.annotate(weights, example=torch.ones(1, 2))
    assert weights.read_bytes() == content
    perdure.annotate(weights, notes="found in a drawer")
    assert perdure.info(weights).notes == "found in a drawer" and perdure.info(weights).forms == ("weights",)
    with pytest.raises(InputError, match="labels are"):
        perdure.annotate(weights, labels="cat")
