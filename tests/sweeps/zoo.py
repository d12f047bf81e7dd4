"""What else PyTorch lets a model be, beyond `parity.zoo`: wrappers, hooks, other numbers, several inputs and outputs."""

from __future__ import annotations

import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, rnn

warnings.filterwarnings("ignore", message=".*weight_norm.*deprecated")

Pair = namedtuple("Pair", "left right")


class NestedShared(nn.Module):
    """A block at three places, inside of blocks that share others."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.one = nn.Sequential(self.inner, nn.Linear(4, 4), self.inner)
        self.two = nn.ModuleDict({"same": self.one, "inner": self.inner, "head": self.one[1]})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two["head"](self.two["inner"](self.two["same"](self.one(x))))


class TiedAcross(nn.Module):
    """One weight as an embedding, transposed and in a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.convolution = nn.Conv1d(6, 11, 1)
        self.convolution.weight = nn.Parameter(self.embedding.weight.data.unsqueeze(-1))
        self.head = nn.Linear(6, 11)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        return self.head(x) + self.convolution(x.mT).mT


class Scale(nn.Module):
    """A parametrization."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / weight.norm()

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * 2


def parametrized() -> nn.Module:
    line = nn.Linear(4, 3)
    parametrize.register_parametrization(line, "weight", Scale())
    parametrize.register_parametrization(line, "weight", Scale())
    return nn.Sequential(line, nn.ReLU())


def spectral_convolutions() -> nn.Module:
    convolutions = (nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 3, 3))
    return nn.Sequential(parametrizations.spectral_norm(convolutions[0]), nn.utils.spectral_norm(convolutions[1]))


def weight_norms() -> nn.Module:
    layers = [
        nn.utils.weight_norm(nn.Conv1d(4, 4, 3), dim=None),
        parametrizations.weight_norm(nn.Conv1d(4, 4, 3), dim=1),
    ]
    return nn.Sequential(*layers, nn.Tanh())


def pruned() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 4))
    prune.ln_structured(model[0], "weight", amount=0.5, n=2, dim=0)
    prune.random_unstructured(model[0], "bias", amount=2)
    prune.l1_unstructured(model[3], "weight", amount=0.5)
    prune.random_structured(model[3], "weight", amount=1, dim=1)
    return model


def pruned_globally() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    prune.global_unstructured([(model[0], "weight"), (model[2], "weight")], prune.L1Unstructured, amount=0.4)
    prune.remove(model[2], "weight")
    return model


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(5))


def initialised_lazy() -> nn.Module:
    model = lazy()
    model(torch.randn(2, 3, 5, 5))
    return model


def double(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    return output * 2


def shift(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (args[0] + 1,)


def shift_by_keyword(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {**kwargs, "shift": 3.0}


def scale_with_keywords(module: nn.Module, args: Any, kwargs: dict[str, Any], output: torch.Tensor) -> torch.Tensor:
    return output * kwargs["shift"]


class Shifted(nn.Linear):
    """A layer with an argument by keyword."""

    def forward(self, input: torch.Tensor, shift: float = 0.0) -> torch.Tensor:
        return super().forward(input) + shift


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Shifted(4, 3))
    model[0].register_forward_hook(double)
    model[1].register_forward_pre_hook(shift)
    model[2].register_forward_pre_hook(shift_by_keyword, with_kwargs=True)
    model[2].register_forward_hook(scale_with_keywords, with_kwargs=True)
    model.register_forward_hook(double)
    return model


class Complex(nn.Module):
    """Complex parameters, as in Fourier layers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5, dtype=torch.complex64))
        self.register_buffer("phase", torch.polar(torch.ones(5), torch.arange(5.0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft(x, n=8) * self.weight * self.phase
        return torch.fft.irfft(spectrum, n=8)


class Inputs(nn.Module):
    """Several inputs, some with defaults, some that are no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Bilinear(3, 5, 4)

    def forward(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        mask: torch.Tensor | None = None,
        *,
        scale: float = 1.0,
        name: str = "no",
    ) -> torch.Tensor:
        z = self.left(x) + self.right(x, y) * scale
        return z if mask is None else z.masked_fill(mask[:, None], 0)


class Outputs(nn.Module):
    """Dicts and tuples in, dicts and tuples out."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 2)

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        x, (y, _) = batch["x"], batch["more"]
        z = self.line(x)
        return {"z": z, "pair": Pair(z + 1, [y, (z * y.sum(1, keepdim=True), None)]), "n": 3, "name": "z", "same": z}


def ordered() -> nn.Module:
    return nn.Sequential(OrderedDict([("first", nn.Linear(3, 3)), ("act", nn.PReLU(3)), ("last", nn.Softmax(-1))]))


class OddNames(nn.Module):
    """Names of parameters and buffers that are words of Python, attributes of modules, or no identifiers."""

    NAMES = ("class", "lambda", "weight-1", "größe", "a b", "self", "0", "_parameters_", "code", "graph", "T")

    def __init__(self) -> None:
        super().__init__()
        for number, name in enumerate(self.NAMES):
            self.register_parameter(name, nn.Parameter(torch.full((3,), float(number))))
        self.register_buffer("in", torch.tensor(2.0))
        self.blocks = nn.ModuleDict({"from": nn.Linear(3, 3), "x/y": nn.Linear(3, 3), "import": nn.Identity()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in self.NAMES:
            x = x * self._parameters[name] + 1
        return self.blocks["from"](self.blocks["x/y"](x)) * getattr(self, "in")


class Scalars(nn.Module):
    """Buffers and parameters without axes, of several types, and one without numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("count", torch.tensor(4))
        self.register_buffer("flag", torch.tensor(True))
        self.register_buffer("shift", torch.tensor(0.25, dtype=torch.float64), persistent=False)
        self.register_buffer("none", torch.empty(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(self.flag, x * self.gain + self.shift, x) / self.count + self.none.sum()


class Volatile(nn.Module):
    """Buffers that are not persistent, one of them shared, and a plain tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(4, 3), persistent=False)
        self.inner = nn.Module()
        self.inner.register_buffer("same", self.table, persistent=False)
        self.plain = torch.randn(3)
        self.many = [torch.randn(3), {"a": torch.randn(3)}]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.table.T @ self.inner.same + self.plain + self.many[0] * self.many[1]["a"]


class Images(nn.Module):
    """Sizes that are computed: interpolation, padding, pooling, attention over pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = (
            nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1),
            nn.Conv2d(4, 3, 3, stride=2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.down(self.up(x))
        y = F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)
        z = F.interpolate(x, scale_factor=0.5, mode="nearest")
        z = F.interpolate(z, scale_factor=2.0, mode="bicubic", align_corners=True)
        grid = F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), list(x.shape), align_corners=False)
        return F.grid_sample(y + z, grid, align_corners=False) + F.adaptive_avg_pool2d(
            F.pad(x, (1, 2, 3, 0)), x.shape[-2:]
        )


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose1d(3, 6, 4, stride=2, groups=3),
        nn.Conv1d(6, 6, 3, padding="same", padding_mode="circular", dilation=2),
        nn.BatchNorm1d(6),
        nn.Conv1d(6, 4, 3, padding=1, padding_mode="reflect"),
        nn.Unflatten(1, (2, 2)),
        nn.ConvTranspose2d(2, 3, 3, dilation=2, bias=False),
        nn.PixelShuffle(1),
        nn.Upsample(scale_factor=2),
        nn.LPPool2d(2, 2),
        nn.AdaptiveMaxPool2d((2, 3)),
        nn.LocalResponseNorm(2),
        nn.Softmax2d(),
    )


def volumes() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1),
        nn.BatchNorm3d(4, eps=1e-3, momentum=None),
        nn.ConvTranspose3d(4, 2, 2, stride=2),
        nn.InstanceNorm3d(2, affine=True, track_running_stats=True),
        nn.MaxPool3d(2),
        nn.AvgPool3d(2),
        nn.Dropout3d(0.5),
        nn.ReplicationPad3d(1),
    )


def norms() -> nn.Module:
    return nn.Sequential(
        nn.GroupNorm(2, 4),
        nn.LayerNorm([4, 6]),
        nn.RMSNorm(6),
        nn.InstanceNorm1d(4),
        nn.BatchNorm1d(4, track_running_stats=False),
        nn.SyncBatchNorm(4),
    )


def activations() -> nn.Module:
    kinds = "ELU Hardshrink Hardsigmoid Hardtanh Hardswish LeakyReLU LogSigmoid PReLU ReLU6 RReLU SELU CELU GELU Sigmoid SiLU"
    kinds += " Mish Softplus Softshrink Softsign Tanh Tanhshrink"
    layers = [getattr(nn, kind)() for kind in kinds.split()]
    return nn.Sequential(*layers, nn.Threshold(0.1, 0.2), nn.GLU(), nn.AlphaDropout(0.3), nn.FeatureAlphaDropout(0.1))


class Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.maximum = nn.EmbeddingBag(11, 4), nn.EmbeddingBag(11, 4, mode="max", padding_idx=0)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.mean(tokens) + self.maximum(tokens)


class Sequences(nn.Module):
    """Recurrent layers with states given and left out."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, 2, batch_first=True, bidirectional=True, proj_size=3, dropout=0.5)
        self.gru = nn.GRU(6, 5, batch_first=True, bidirectional=True)
        self.rnn = nn.RNN(10, 4, nonlinearity="relu", batch_first=True, bias=False)
        self.cell = nn.LSTMCell(4, 3)
        self.start = nn.Parameter(torch.randn(2, 1, 5))

    def forward(self, x: torch.Tensor) -> Any:
        y, (hidden, cell) = self.lstm(x)
        y, last = self.gru(y, self.start.expand(2, len(x), 5).contiguous())
        y, _ = self.rnn(y)
        return self.cell(y[:, -1]), hidden, cell, last, y


class Packed(nn.Module):
    """Sequences of several lengths, packed inside."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 3, batch_first=True)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=x.shape[1])[0]


def encoder(**options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options)
        return nn.TransformerEncoder(layer, 2, enable_nested_tensor=not options.get("norm_first", False))

    return build


class Padded(nn.Module):
    """An encoder whose padding is filled by the model itself: what the fast path puts there is zero, else it is not."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        return self.inner(x, src_key_padding_mask=padding).masked_fill(padding[..., None], 0)


class Masked(nn.Module):
    """An encoder with a mask and padding."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.inner(x, mask=mask, src_key_padding_mask=padding, is_causal=True)


def translation() -> nn.Module:
    return nn.Transformer(8, 2, 2, 2, 16, batch_first=True)


class Weighted(nn.Module):
    """Attention with all that it takes, and its weights."""

    def __init__(self) -> None:
        super().__init__()
        options: dict[str, Any] = {
            "kdim": 6,
            "vdim": 5,
            "add_bias_kv": True,
            "add_zero_attn": True,
            "batch_first": True,
        }
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, **options)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, padding: torch.Tensor) -> Any:
        return self.attention(query, key, value, key_padding_mask=padding, average_attn_weights=False)


class Counter(nn.Module):
    """It draws random numbers in train mode alone, and writes into a buffer in both."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 3)
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.training:
            x = x + torch.rand_like(x)
        return F.dropout(self.line(x), 0.5, self.training) + self.calls


class State(nn.Module):
    """Extra state that the forward pass uses."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 3)
        self.table: dict[str, Any] = {}

    def get_extra_state(self) -> Any:
        return self.table

    def set_extra_state(self, state: Any) -> None:
        self.table = state

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(x) * self.table["scale"] + self.table["shift"]


def with_state() -> nn.Module:
    model = nn.Sequential(State(), State())
    model[0].table = {"scale": 2.5, "shift": torch.tensor([1.0, 2.0, 3.0])}
    model[1].table = {"scale": torch.tensor(3.0), "shift": 0}
    return model


class Lists(nn.Module):
    """Lists and dicts of parameters, nested, with places that are empty, one tied."""

    def __init__(self) -> None:
        super().__init__()
        self.list = nn.ParameterList([torch.randn(3), nn.Parameter(torch.randn(3)), torch.randn(3, 3)])
        self.list.append(self.list[0])
        self.dict = nn.ParameterDict({"a b": torch.randn(3), "inner": nn.ParameterList([torch.randn(3)])})
        self.empty = nn.ParameterDict()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x * self.list[0] + self.list[1]) @ self.list[2] * self.list[3]
        return x + self.dict["a b"] * self.dict["inner"][0] + len(self.empty)


class Branches(nn.Module):
    """A way that depends on numbers, and one on sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.cond(x.sum() > 0, lambda z: self.one(z), lambda z: self.two(z), (x,))
        return y * x.shape[-1] if x.shape[-1] > 2 else y


def compiled() -> nn.Module:
    return torch.compile(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU()), backend="eager")  # pyright: ignore[reportReturnType]


def compiled_inside() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[0].compile(backend="eager")
    return model


def wrapped_twice() -> nn.Module:
    return torch.compile(nn.DataParallel(nn.Linear(3, 3)), backend="eager")  # pyright: ignore[reportReturnType]
