"""The summaries whose texts are kept in this folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from golden.building import described, summary, summary_of
from perdure.records.summary.rows import rows_of
from perdure.records.summary.summary import Summary, SummaryTensor, ValueStatistics


class Block(nn.Module):
    def __init__(self, width: int, stride: int = 1, into: int | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, into or width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(into or width)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(into or width, into or width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(into or width)
        self.downsample = (
            nn.Sequential(nn.Conv2d(width, into, 1, stride, bias=False), nn.BatchNorm2d(into)) if into else None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (self.downsample(x) if self.downsample else x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Block(64), Block(64))
        self.layer2 = nn.Sequential(Block(64, 2, 128), Block(128))
        self.layer3 = nn.Sequential(Block(128, 2, 256), Block(256))
        self.layer4 = nn.Sequential(Block(256, 2, 512), Block(512))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(self.avgpool(self.layer4(self.layer3(self.layer2(self.layer1(x))))).flatten(1))


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.out((q @ k.mT).softmax(-1) @ v)
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Twelve layers, a parameter of its own beside them, a head tied to the embedding, and a part that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(50257, 768)
        self.position = nn.Parameter(torch.zeros(1024, 768))
        self.layers = nn.ModuleList(Layer(768) for _ in range(12))
        self.norm = nn.LayerNorm(768)
        self.lm_head = nn.Linear(768, 50257, bias=False)
        self.lm_head.weight = self.wte.weight
        self.position.requires_grad_(False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.wte(tokens) + self.position[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x))


class Shared(nn.Module):
    """A module under two names, called three times; and two layers that share one bias."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
        self.again = self.body
        self.a, self.b = nn.Linear(16, 4), nn.Linear(16, 4)
        self.b.bias = self.a.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.again(self.body(self.body(x)))
        return self.a(x) + self.b(x)


def resnet() -> Summary:
    with torch.device("meta"):
        found = summary_of(ResNet(), torch.empty(1, 3, 224, 224), timed=True)
    return dataclasses.replace(
        found, uncounted={"aten::batch_norm": 20, "aten::relu_": 17, "aten::add_": 8, "aten::mean": 1}
    )


def transformer() -> Summary:
    with torch.device("meta"):
        return summary_of(Transformer(), torch.empty(1, 128, dtype=torch.long))


def shared() -> Summary:
    with torch.device("meta"):
        return summary_of(Shared(), torch.empty(2, 16))


def empty() -> Summary:
    return summary("Identity", rows_of({"": "Identity"}, ()))


def gguf() -> Summary:
    """32 layers of a large model, two kinds of blocks in turn."""
    tensors = [SummaryTensor("token_embd.weight", "Q4_K", (32000, 4096), 32000 * 4096 // 256 * 144)]
    for number in range(32):
        kind, size = ("Q6_K", 210) if number < 4 else ("Q4_K", 144)
        tensors += [
            SummaryTensor(f"blk.{number}.{name}.weight", kind, shape, shape[0] * shape[1] // 256 * size)
            for name, shape in (("attn_q", (4096, 4096)), ("attn_k", (1024, 4096)), ("ffn_down", (4096, 14336)))
        ]
        tensors.append(SummaryTensor(f"blk.{number}.attn_norm.weight", "float32", (4096,), 16384))
    tensors.append(SummaryTensor("output_norm.weight", "float32", (4096,), 16384))
    note = "Parameters and buffers are told apart by their names, which is a guess."
    return described(
        "model-Q4_K_M.gguf",
        *tensors,
        format="gguf",
        notes=(note,),
        facts={"file_bytes": 1_600_000_000, "architecture": "llama"},
    )


def hostile() -> Summary:
    """Names that want to be markup, formulas, or to drive the terminal."""
    names = [
        "<script>alert(1)</script>.w",
        "\"quoted\" & ''.`ticks`|pipe.w",
        "=1+1.@x\n\x1b[2J.w",
        "\u202eright\u2066.\u2028.w",
    ]
    names += ["</script><!--.w", "汉字" * 30 + ".w", "x" * 10_000 + ".w", "w"]
    tensors = [SummaryTensor(name, "float32", (4, place + 1), 16 * (place + 1)) for place, name in enumerate(names)]
    return described("</title><script>alert(2)</script>\x07.safetensors", *tensors)


def measured() -> Summary:
    """With statistics of the values."""
    found = described(
        "a.safetensors",
        SummaryTensor("fc.weight", "float32", (8, 4), 128),
        SummaryTensor("fc.bias", "float32", (8,), 32),
    )
    values = {
        "fc.weight": ValueStatistics(0.01, 0.5, -1.25, 1.5, 3, 0, 0, 2.125, tuple(range(16)) + tuple(range(16, 0, -1))),
        "fc.bias": ValueStatistics(None, None, None, None, 0, 7, 1, None, ()),
    }
    return dataclasses.replace(found, statistics=values)


GOLDEN: dict[str, Callable[[], Summary]] = {
    made.__name__: made for made in (resnet, transformer, shared, empty, gguf, hostile, measured)
}
WIDTHS = (60, 100, 160)


def path_of(name: str, width: int) -> Path:
    return Path(__file__).with_name(f"{name}-{width}.txt")
