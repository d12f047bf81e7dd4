"""The models that are handed from one PyTorch to another: those of the other tests, and what users build of layers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils import prune

from compat.generate import Net
from parity.test_graphs import CASES
from parity.test_whole_models import Everything
from parity.zoo import ZOO, noise, tokens, warmed


class Given(NamedTuple):
    """How to build a model, and the arguments that it is called with, by their place or by their name."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...] | dict[str, Any]]


class Block(nn.Module):
    """Convolutions with a way around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm, self.again = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.again(self.second(torch.relu(self.norm(self.first(x))))))


def residual() -> nn.Module:
    stem = [nn.Conv2d(3, 8, 7, 2, 3), nn.BatchNorm2d(8), nn.ReLU(True), nn.MaxPool2d(3, 2, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(8, 5)]
    return warmed(nn.Sequential(*stem, Block(8), Block(8), *head), 4, 3, 32, 32)


class Decoder(nn.Module):
    """The older transformer, with both of its stacks and a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.transformer = nn.Transformer(8, 2, 1, 1, 16, batch_first=True, activation="gelu")
        self.head = nn.Linear(8, 11)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.transformer(x, x, tgt_mask=mask, tgt_is_causal=True))


class Tagger(nn.Module):
    """Text into an LSTM, the usual way."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(11, 6)
        self.each = nn.Embedding(11, 6, padding_idx=0)
        self.lstm = nn.LSTM(6, 5, 2, batch_first=True, dropout=0.1)
        self.head = nn.Linear(11, 3)

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        _, (hidden, _) = self.lstm(self.each(tokens))
        scores = self.head(torch.cat([hidden[-1], self.embedding(tokens)], -1))
        return {"scores": scores.log_softmax(-1), "best": scores.argmax(-1)}


class Attends(nn.Module):
    """Attention as it is written by hand, in the fused form, with what surrounds it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.pack, self.out = nn.RMSNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.pack(self.norm(x)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        fused = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        by_hand = (q @ k.mT / 2).masked_fill(torch.ones(x.shape[1], x.shape[1]).triu(1).bool(), -1e9).softmax(-1) @ v
        return self.out((fused + by_hand).transpose(1, 2).flatten(2))


class Functions(nn.Module):
    """Operators that other tests do not reach."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        high, where = x.topk(2)
        index = torch.arange(x.shape[-1])
        return {
            "complex": torch.fft.irfft(torch.fft.rfft(x) * 2),
            "counted": torch.bucketize(x, torch.linspace(-1, 1, 5)),
            "einsum": torch.einsum("bij,bkj->bik", x, x),
            "high": high.gather(-1, where % 2),
            "index": torch.where(index % 2 == 0, x, x.clamp(-0.5, 0.5)).index_select(-1, index.flip(0)),
            "interpolated": nn.functional.interpolate(x, scale_factor=2.0, mode="linear"),
            "norms": torch.linalg.vector_norm(x, dim=-1) + x.norm(dim=-1) + x.std(-1) + x.var(-1, correction=0),
            "ordered": x.kthvalue(2)[0] + x.triu(1).sum(-1),
            "padded": nn.functional.pad(x, (1, 2), mode="replicate"),
            "scattered": torch.zeros_like(x).scatter_add(-1, where, high).cumsum(-1),
            "spectrum": torch.stft(x[0], 4, window=torch.hann_window(4), return_complex=True).abs(),
            "solved": torch.linalg.solve(x @ x.mT + torch.eye(x.shape[1]), x),
        }


class Newer(nn.Module):
    """Uses an operator that PyTorch 2.6 does not have, where there is one; it adds nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "Tensor" in torch.ops.aten.randint_like.overloads():
            x = x + torch.randint_like(x, torch.tensor(1))
        return x * 2


def pruned() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


def typed(dtype: torch.dtype) -> Given:
    """A small model of a type, with a buffer that keeps its own."""

    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 2))
        model.register_buffer("codes", torch.arange(4, dtype=torch.uint8))
        return model.to(dtype)

    return Given(build, lambda: (torch.linspace(-1, 1, 18).view(3, 6).to(dtype),))


def _of_transformers() -> dict[str, Given]:
    """Return models of transformers, where it is installed and has them."""
    if importlib.util.find_spec("transformers") is None:
        return {}
    from parity import models as tiny

    def given(name: str) -> Given:
        more = {"use_cache": False} if name in ("gpt2", "llama", "t5") else {}
        return Given(lambda: tiny.build(name, seed=0), lambda: {**tiny.inputs_of(name), **more})

    return {f"transformers: {name}": given(name) for name in tiny.TINY}


OWN: dict[str, Given] = {
    "residual network": Given(residual, noise(2, 3, 32, 32)),
    "encoder": Given(
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2), noise(2, 5, 8)
    ),
    "encoder and decoder": Given(Decoder, tokens),
    "text into an lstm": Given(Tagger, tokens),
    "attention by hand": Given(Attends, noise(2, 5, 8)),
    "functions": Given(Functions, noise(2, 4, 6)),
    "a newer operator": Given(Newer, noise(2, 6)),
    "pruned": Given(pruned, noise(2, 6)),
    "attributes of every kind": Given(Everything, noise(2, 3)),
    "that of the compatibility tests": Given(Net, lambda: (torch.tensor([[0, 1, 2], [3, 4, 5]]),)),
    **{f"in {name}": typed(getattr(torch, name)) for name in ("float16", "bfloat16", "float64")},
}

MODELS: dict[str, Given] = {
    **{name: Given(kind.build, kind.inputs) for name, kind in ZOO.items()},
    **{f"graph: {name}": Given(case[0], lambda case=case: case[1:]) for name, case in CASES.items()},
    **OWN,
    **_of_transformers(),
}
