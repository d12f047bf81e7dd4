"""The peaks of memory that PyTorch measures itself, and the models for which they are compared with the predicted ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torchvision
import transformers
from torch import nn
from torch.profiler import ProfilerActivity, profile


class Recurrent(nn.Module):
    """Classifies sequences of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, 128)
        self.lstm = nn.LSTM(128, 256, 2, batch_first=True)
        self.head = nn.Linear(256, 5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embedding(tokens))[0][:, -1])


class Pyramid(nn.Module):
    """Goes down in resolution, and up again by transposed convolutions, like models of segmentation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.down = nn.Conv2d(32, 64, 3, 2, 1)
        self.up = nn.ConvTranspose2d(64, 32, 2, 2)
        self.join = nn.Sequential(nn.Conv2d(64, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 4, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.first(images).relu()
        return self.join(torch.cat([first, self.up(self.down(first).relu())], 1))


class Mixer(nn.Module):
    """Attention, and layers with a gate of SiLU, over convolved sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.convolve = nn.Conv1d(16, 64, 5, padding=2)
        self.project = nn.Linear(64, 192)
        self.gate, self.value, self.out = nn.Linear(64, 256), nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        x = self.convolve(signal).transpose(1, 2)
        query, key, value = self.project(x).unflatten(2, (3, 4, 16)).permute(2, 0, 3, 1, 4)
        x = x + nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.out(nn.functional.silu(self.gate(x)) * self.value(x))


def _exact() -> nn.Module:
    return nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 8, 3)).double()


def _volumes() -> nn.Module:
    return nn.Sequential(nn.Conv3d(3, 16, 3, padding=1), nn.BatchNorm3d(16), nn.ReLU(), nn.Conv3d(16, 8, 3))


def _last_channels() -> nn.Module:
    return torchvision.models.resnet18().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.GELU(), nn.Linear(2048, 10))


def _decoder() -> nn.Module:
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=2, n_embd=256, n_head=4, vocab_size=2000))


def _images(n: int) -> torch.Tensor:
    return torch.randn(n, 3, 224, 224)


def _tokens() -> torch.Tensor:
    return torch.randint(0, 1000, (4, 64))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], torch.Tensor]]] = {
    "perceptron": (_perceptron, lambda: torch.randn(64, 512)),
    "resnet18": (torchvision.models.resnet18, lambda: _images(2)),
    "mobilenet_v2": (torchvision.models.mobilenet_v2, lambda: _images(2)),
    "lstm": (Recurrent, _tokens),
    "decoder": (_decoder, _tokens),
    "pyramid": (Pyramid, lambda: torch.randn(2, 3, 64, 64)),
    "mixer": (Mixer, lambda: torch.randn(4, 16, 200)),
    "double": (_exact, lambda: torch.randn(2, 8, 32, 32).double()),
    "volumes": (_volumes, lambda: torch.randn(1, 3, 8, 32, 32)),
    "channels_last": (_last_channels, lambda: torch.randn(2, 3, 96, 96).to(memory_format=torch.channels_last)),
    "vit_b_16": (torchvision.models.vit_b_16, lambda: _images(1)),
}


@dataclasses.dataclass
class Peaks:
    """The most that was allocated at once in a forward pass and in a step of training, beyond what was there before."""

    inference: int
    training: int


def loss_of(output: Any) -> torch.Tensor:
    """Return the sum of what a model gives."""
    tensors = output.values() if isinstance(output, dict) else (output,)
    return torch.stack([tensor.sum() for tensor in tensors if isinstance(tensor, torch.Tensor)]).sum()


def measured_on_cpu(model: nn.Module, inputs: torch.Tensor) -> Peaks:
    """Measure by PyTorch's profiler; a step of training is one after the optimizer has its state."""
    with torch.no_grad():
        model.eval()(inputs)
        inference = _peak(lambda: model(inputs))
    optimizer = torch.optim.Adam(model.train().parameters())

    def step() -> Any:
        output = model(inputs)
        loss = loss_of(output)
        loss.backward()
        optimizer.step()
        return output, loss

    step()
    optimizer.zero_grad(set_to_none=True)
    return Peaks(inference, _peak(step))


def _peak(run: Callable[[], Any]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        kept = run()
    events = [event for event in prof.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    del kept
    return peak
