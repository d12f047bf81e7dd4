"""What an older PyTorch does not have is named: here parts are taken away from today's."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

import perdure
from perdure.errors import ProtocolError
from perdure.models import operators


class Sinc(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sinc(x)


@pytest.fixture
def content() -> bytes:
    file = io.BytesIO()
    perdure.save(nn.Sequential(nn.CELU(), Sinc()), file, example=torch.randn(2, 3))
    return file.getvalue()


def test_a_class_of_pytorchs_own(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.nn.modules.activation, "CELU")
    with pytest.raises(ProtocolError, match=r"does not have torch\.nn\.modules\.activation\.CELU\. Use a later one"):
        perdure.load(content, trusted=[Sinc], form="class")
    assert perdure.info(perdure.load(content, trusted=[Sinc])).form == "graph"


def test_an_operator(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    before = operators.overload
    monkeypatch.setattr(operators, "overload", lambda name: None if "sinc" in name else before(name))
    operators.call_of.cache_clear()
    with pytest.raises(ProtocolError, match=r"aten\.sinc\.default, which PyTorch .* does not have\. Use a later one"):
        perdure.load(content)
    assert perdure.info(perdure.load(content, trusted=[Sinc])).form == "class"
