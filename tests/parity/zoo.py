"""Small models that use what PyTorch's modules can do to a state dict; each with an input to answer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrizations

warnings.filterwarnings("ignore", message=".*weight_norm.*deprecated")
warnings.filterwarnings("ignore", message=".*torch.ao.quantization is deprecated.*")


class Kind(NamedTuple):
    """How to build a model, what to give it, and whether it can be built on `meta`."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[torch.Tensor, ...]]
    on_meta: bool = True


def noise(*shape: int) -> Callable[[], tuple[torch.Tensor, ...]]:
    return lambda: (torch.randn(*shape, generator=torch.Generator().manual_seed(7)),)


class Plain(nn.Module):
    """Places of every sort: none, 0-dim, empty, whole numbers, frozen, not persistent."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))
        self.frozen = nn.Parameter(torch.randn(4), requires_grad=False)
        self.register_parameter("absent", None)
        self.scalar = nn.Parameter(torch.randn(()))
        self.empty = nn.Parameter(torch.empty(0, 3))
        self.register_buffer("counts", torch.randint(0, 9, (3,)))
        self.register_buffer("mask", torch.rand(4) > 0.5)
        self.register_buffer("nothing", None)
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("table", torch.arange(5.0), persistent=False)
        self.new_style = nn.Buffer(torch.randn(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.weight.t() + self.frozen) * self.scalar * self.mask + self.table[:4] + self.new_style.sum()


class Lists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.list = nn.ParameterList([torch.randn(3, 3) for _ in range(3)])
        self.dict = nn.ParameterDict({"a": torch.randn(3), "b b": torch.randn(3)})
        self.modules_by_name = nn.ModuleDict({"x": nn.Linear(3, 3), "y": nn.ModuleList([nn.Linear(3, 3)])})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for weight in self.list:
            x = x @ weight
        return self.modules_by_name["x"](x) * self.dict["a"] + self.dict["b b"]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.body = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.embedding(tokens)))


class SharedModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.list = nn.ModuleList([self.first, nn.Linear(4, 4), self.first])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.list:
            x = layer(x)
        return self.again(x)


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x)[0]


class First(nn.Module):
    """The first output of a module that gives several."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)[0]


class DataState(nn.Module):
    """Keeps plain data beside its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.labels: Any = ["new"]

    def get_extra_state(self) -> Any:
        return {"labels": self.labels, "nested": ({"x": [1.5, None]}, b"\0"), "size": torch.Size([2, 3])}

    def set_extra_state(self, state: Any) -> None:
        assert state["nested"] == ({"x": [1.5, None]}, b"\0") and type(state["size"]) is torch.Size
        self.labels = state["labels"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * len(self.labels)


class TensorState(nn.Module):
    """Its extra state is a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.scale = torch.ones(3)

    def get_extra_state(self) -> torch.Tensor:
        return self.scale

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.scale = state.clone()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.scale


class TensorsInState(nn.Module):
    """Its extra state is data with tensors inside."""

    def __init__(self) -> None:
        super().__init__()
        self.history: Any = []

    def get_extra_state(self) -> Any:
        return {"history": self.history, "count": len(self.history)}

    def set_extra_state(self, state: Any) -> None:
        self.history = [tensor.clone() for tensor in state["history"]]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * sum(tensor.sum() for tensor in self.history)


def with_history() -> nn.Module:
    model = nn.Sequential(TensorsInState(), nn.Linear(3, 2))
    model[0].history = [torch.randn(3), torch.randn(2, 2)]
    return model


def with_labels() -> nn.Module:
    model = nn.Sequential(DataState(), nn.ReLU())
    model[0].labels = ["a", "b", "c"]
    return model


def with_scale() -> nn.Module:
    model = nn.Sequential(TensorState())
    model[0].scale = torch.randn(3)
    return model


def warmed(model: nn.Module, *shape: int) -> nn.Module:
    """Run a model in train mode, so that its statistics are not those it was born with."""
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(*shape))
    return model


def lazy() -> nn.Module:
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(5))
    return warmed(model, 2, 3, 5, 5)


def real_lazy() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 5))


def spectral_old() -> nn.Module:
    return warmed(nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 5)), nn.ReLU()), 3, 4)


def batch_norms() -> nn.Module:
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, momentum=None)]
    return nn.Sequential(
        *layers, nn.BatchNorm2d(4, track_running_stats=False), nn.InstanceNorm2d(4, track_running_stats=True)
    )


def channels_last() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).to(memory_format=torch.channels_last)


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 2, nn.LayerNorm(8), enable_nested_tensor=False)


def twice_parametrized() -> nn.Module:
    layer = nn.Linear(4, 4)
    parametrizations.orthogonal(layer)
    other = parametrizations.weight_norm(nn.Conv1d(4, 3, 2))
    return nn.ModuleList([layer, other])


class TwiceParametrized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = twice_parametrized()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[1](self.layers[0](x).transpose(1, 2))


class SliceOfFlat(nn.Module):
    """Parameters that are views of one flat buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("flat", torch.randn(20))
        self.weight = nn.Parameter(self.flat[:12].view(4, 3))
        self.bias = nn.Parameter(self.flat[14:18])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight, self.bias) + self.flat.sum()


def tokens() -> tuple[torch.Tensor, ...]:
    return (torch.randint(0, 11, (2, 5), generator=torch.Generator().manual_seed(2)),)


ZOO: dict[str, Kind] = {
    "plain": Kind(Plain, noise(2, 3)),
    "lists": Kind(Lists, noise(2, 3)),
    "tied": Kind(Tied, tokens),
    "shared module": Kind(SharedModule, noise(2, 4)),
    "batch norms": Kind(lambda: warmed(batch_norms(), 4, 3, 6, 6), noise(2, 3, 6, 6)),
    "weight norm": Kind(lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)), nn.ReLU()), noise(2, 4)),
    "old weight norm": Kind(lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3)), nn.ReLU()), noise(2, 4)),
    "spectral norm": Kind(
        lambda: warmed(nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 3))), 2, 4), noise(2, 4), on_meta=False
    ),
    "old spectral norm": Kind(spectral_old, noise(2, 4), on_meta=False),
    "orthogonal": Kind(TwiceParametrized, noise(2, 5, 4), on_meta=False),
    "attention": Kind(Attention, noise(2, 5, 8)),
    "attention, other sizes": Kind(lambda: Attention(kdim=8, vdim=8, add_bias_kv=True), noise(2, 5, 8)),
    "transformer": Kind(transformer, noise(2, 5, 8)),
    "lstm": Kind(lambda: First(nn.LSTM(4, 5, 2, bidirectional=True, proj_size=2)), noise(3, 2, 4)),
    "gru": Kind(lambda: First(nn.GRU(4, 5, 2, batch_first=True)), noise(3, 2, 4)),
    "rnn cell": Kind(lambda: nn.RNNCell(4, 5), noise(3, 4)),
    "lazy": Kind(lazy, noise(2, 3, 5, 5), on_meta=False),
    "data as extra state": Kind(with_labels, noise(2, 3)),
    "a tensor as extra state": Kind(with_scale, noise(2, 3)),
    "tensors in extra state": Kind(with_history, noise(2, 3)),
    "channels last": Kind(channels_last, noise(2, 3, 8, 8)),
    "views of a flat buffer": Kind(SliceOfFlat, noise(2, 3), on_meta=False),
    "half": Kind(lambda: nn.Linear(4, 3).to(torch.bfloat16), lambda: (torch.ones(2, 4, dtype=torch.bfloat16),)),
    "double": Kind(lambda: nn.Linear(4, 3).double(), lambda: (torch.ones(2, 4, dtype=torch.float64),)),
    "complex": Kind(
        lambda: nn.Linear(4, 3, dtype=torch.complex64), lambda: (torch.full((2, 4), 1 + 2j, dtype=torch.complex64),)
    ),
    "data parallel": Kind(lambda: nn.DataParallel(nn.Linear(4, 3)), noise(2, 4)),
    "averaged": Kind(lambda: torch.optim.swa_utils.AveragedModel(nn.Linear(4, 3)), noise(2, 4)),
}
