"""Conventions of counting: published figures, and that fused operators count as what they are made of."""

from __future__ import annotations

import functools
import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

import perdure
from perdure.errors import InputError
from perdure.summaries.conventions.counting import Counter, computes
from perdure.summaries.conventions.registry import CONVENTIONS, convention_named
from perdure.summaries.costs import costs_of
from perdure.summaries.following import Follower
from perdure.summaries.ledger import Ledger
from sweeps.counting import by_torchinfo
from torchvision_operators import declare_operators

aten = torch.ops.aten


def counted(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], convention: str) -> Counter:
    """Count the operations of a call."""
    counter = convention_named(convention).counter
    return costs_of(model, [(args, kwargs)], functools.partial(counter, model)).counter


def flops(run: object, convention: str = "aten") -> int:
    counter = convention_named(convention).counter()
    with Follower(Ledger([]), counter, counter):
        run()  # type: ignore[operator]
    return sum(counter.counts.values())


def by_peer(run: object) -> int:
    with FlopCounterMode(display=False) as mode, sdpa_kernel(SDPBackend.MATH):
        run()  # type: ignore[operator]
    return mode.get_total_flops()


def of_vision(name: str, pixels: int, convention: str) -> tuple[int, int]:
    declare_operators()
    from torchvision import models

    with torch.device("meta"):
        model = models.get_model(name, weights=None).eval()
        counter = counted(model, (torch.empty(1, 3, pixels, pixels),), {}, convention)
    count = sum(counter.counts.values())
    return counter.flops_of(count), counter.macs_of(count)


def test_published_figures() -> None:
    """Of PyTorch's and torchinfo's documentation, and of the paper on vision transformers."""
    with torch.device("meta"):
        declare_operators()
        from torchvision import models

        summary = perdure.summarize(models.resnet152(), input_size=(1, 3, 224, 224), convention="torchinfo")
    assert (summary.n_parameters, round(summary.macs or 0, -7)) == (60_192_808, 11.51e9)
    assert of_vision("resnet18", 224, "torchinfo")[1] == pytest.approx(1.81e9, rel=3e-3)
    assert of_vision("resnet18", 64, "torchinfo")[1] == pytest.approx(148.57e6, rel=1e-4)
    assert of_vision("resnet152", 224, "torchinfo")[1] == pytest.approx(11.51e9, rel=1e-3)
    assert of_vision("resnet18", 224, "aten")[1] == pytest.approx(1.81e9, rel=3e-3)
    assert of_vision("vit_b_16", 224, "aten")[1] == pytest.approx(17.5e9, rel=5e-3)
    assert of_vision("vit_b_16", 224, "torchinfo")[1] == pytest.approx(0.173e9, rel=2e-3)


def test_each_convention_is_described() -> None:
    assert [convention.name for convention in CONVENTIONS] == ["aten", "torchinfo", "fvcore"]
    assert all(convention.counts and convention.reference for convention in CONVENTIONS)
    with pytest.raises(InputError, match="no convention 'thop'"):
        convention_named("thop")
    units = {c.name: (c.counter.flops_of(10), c.counter.macs_of(10)) for c in CONVENTIONS}
    assert units == {"aten": (10, 5), "torchinfo": (20, 10), "fvcore": (10, 10)}


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_on_a_cpu(backward: bool, causal: bool) -> None:
    q, k, v = (torch.randn(1, 12, n, 64, requires_grad=True) for n in (64, 48, 48))

    def run() -> None:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        if backward:
            out.sum().backward()

    with FlopCounterMode(display=False) as blind:
        run()
    assert blind.get_total_flops() == 0
    assert flops(run) == by_peer(run) == (3 if backward else 1) * 2 * 2 * 12 * 64 * 48 * 64
    same = torch.randn(1, 12, 64, 64)
    assert flops(lambda: F.scaled_dot_product_attention(same, same, same)) == 12_582_912


def test_the_fast_paths_of_transformers() -> None:
    x = torch.randn(2, 10, 16)
    layer = nn.TransformerEncoderLayer(16, 4, 37, batch_first=True).eval()
    attention = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    for run in (lambda: layer(x), lambda: attention(x, x, x, need_weights=False)):
        with torch.no_grad():
            fast = flops(run)
            torch.backends.mha.set_fastpath_enabled(False)
            try:
                assert fast == by_peer(run) > 0
            finally:
                torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers(kind: type[nn.Module]) -> None:
    model, x = kind(5, 7, num_layers=2, bidirectional=True), torch.randn(11, 3, 5)
    with torch.no_grad():
        found = flops(lambda: model(x))
        with torch.backends.mkldnn.flags(enabled=False):
            assert found == by_peer(lambda: model(x)) > 0


a, b, c = torch.randn(4, 6), torch.randn(6, 8), torch.randn(4, 8)
x, y = torch.randn(3, 4, 6), torch.randn(3, 6, 8)
image = torch.randn(2, 4, 9, 9)


@pytest.mark.parametrize(
    ("fused", "plain"),
    [
        (lambda: aten.addmm_(c.clone(), a, b), lambda: torch.addmm(c, a, b)),
        (lambda: torch.addbmm(c, x, y), lambda: torch.bmm(x, y)),
        (lambda: x.new_zeros(3, 4, 8).baddbmm_(x, y), lambda: torch.bmm(x, y)),
        (lambda: aten._addmm_activation(c[0], a, b), lambda: torch.addmm(c, a, b)),
        (
            lambda: torch._int_mm(torch.ones(32, 16, dtype=torch.int8), torch.ones(16, 24, dtype=torch.int8)),
            lambda: torch.ones(32, 16) @ torch.ones(16, 24),
        ),
        (lambda: torch.sparse.addmm(c, a.to_sparse(), b), lambda: torch.addmm(c, a, b)),
        (
            lambda: torch.conv_tbc(torch.randn(9, 2, 4), torch.randn(3, 4, 5), torch.zeros(5), 1),
            lambda: F.conv1d(torch.randn(2, 4, 9), torch.randn(5, 4, 3), padding=1),
        ),
        (
            lambda: aten.mkldnn_convolution(image, torch.randn(6, 2, 3, 3), None, (1, 1), (2, 2), (1, 1), 2),
            lambda: F.conv2d(image, torch.randn(6, 2, 3, 3), stride=2, padding=1, groups=2),
        ),
        (
            lambda: aten.slow_conv_transpose2d(image, torch.randn(4, 5, 3, 3), (3, 3)),
            lambda: F.conv_transpose2d(image, torch.randn(4, 5, 3, 3)),
        ),
        (
            lambda: aten.slow_conv_dilated2d(image, torch.randn(5, 4, 3, 3), (3, 3), None, (1, 1), (2, 2), (2, 2)),
            lambda: F.conv2d(image, torch.randn(5, 4, 3, 3), padding=2, dilation=2),
        ),
    ],
    ids=[
        "addmm_",
        "addbmm",
        "baddbmm_",
        "_addmm_activation",
        "_int_mm",
        "sparse",
        "conv_tbc",
        "mkldnn_convolution",
        "transposed",
        "dilated",
    ],
)
def test_fused_operators_count_as_what_they_are_made_of(fused: object, plain: object) -> None:
    assert flops(fused) == by_peer(plain) > 0


@pytest.mark.filterwarnings("ignore")
def test_quantized_linear_layers() -> None:
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), torch.randn(5, 6)
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
    with torch.no_grad():
        assert flops(lambda: quantized(x)) == by_peer(lambda: model(x)) == 2 * 5 * (6 * 8 + 8 * 3)


def test_groups_of_products() -> None:
    left, right, ends = (
        torch.randn(16, 8).bfloat16(),
        torch.randn(2, 8, 16).bfloat16(),
        torch.tensor([4, 16], dtype=torch.int32),
    )
    assert flops(lambda: aten._grouped_mm(left, right, ends)) == by_peer(
        lambda: [left[:4] @ right[0], left[4:] @ right[1]]
    )


def test_what_is_not_counted_is_listed() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Flatten(), nn.Softmax(-1), nn.Dropout())
    example = (torch.randn(2, 3),)
    assert counted(model.eval(), example, {}, "aten").uncounted == {"aten::relu": 1, "aten::_softmax": 1}
    assert counted(model, example, {}, "fvcore").uncounted == {"aten::softmax": 1}
    assert counted(model, example, {}, "torchinfo").uncounted == {"aten::relu": 1, "aten::_softmax": 1}
    assert (
        not computes(aten.view.default) and not computes(aten.empty.memory_format) and not computes(aten.clone.default)
    )
    assert computes(aten.add_.Tensor) and computes(aten.exp.default) and computes(aten.max.dim)


def test_by_module() -> None:
    shared = nn.Linear(3, 3, bias=False)
    model = nn.Sequential(shared, shared, nn.Sequential(nn.Linear(3, 5)))
    expected = {"aten": (72, 60), "torchinfo": (36, 40), "fvcore": (36, 30)}
    for convention, (first, last) in expected.items():
        counts = counted(model, (torch.randn(2, 3),), {}, convention).counts
        assert {path: count for path, count in counts.items() if count} == {"0": first, "2.0": last}


def test_pruned_parameters_count_by_their_masks() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5)), torch.randn(2, 3, 8, 8)
    prune.l1_unstructured(model[0], "weight", 0.5)
    assert sum(counted(model, (x,), {}, "torchinfo").counts.values()) == by_torchinfo(model, (x,), {})


class Odd(nn.Module):
    """What fvcore counts, and what it does not."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        image = y.view(1, 2, 4, 6)
        return (
            torch.einsum("bij,bjk->bik", x, y),
            torch.einsum("b i j, b j k, k l -> i l", [x, y, y[0].mT]),
            torch.bmm(x, y) + x @ y[0],
            F.conv2d(image, torch.ones(3, 2, 3, 3), padding="same"),
            F.conv2d(image, torch.ones(3, 2, 3, 3), padding=1),
            F.conv_transpose2d(image, torch.ones(2, 3, 2, 2)),
            F.interpolate(image, scale_factor=2),
            F.interpolate(image, scale_factor=2, mode="bilinear"),
            F.adaptive_avg_pool2d(image, (2, 3)),
            F.instance_norm(image),
            F.group_norm(image, 2),
            F.grid_sample(image, torch.zeros(1, 3, 3, 2), align_corners=False),
            F.scaled_dot_product_attention(x, x, x),
        )


def test_fvcore_on_odd_functions() -> None:
    from fvcore.nn import FlopCountAnalysis

    logging.disable(logging.WARNING)
    example = torch.randn(2, 3, 4), torch.randn(2, 4, 6)
    analysis = FlopCountAnalysis(Odd(), example)
    counter = counted(Odd(), example, {}, "fvcore")
    assert sum(counter.counts.values()) == analysis.total()
    assert counter.uncounted["aten::_convolution_mode"] == analysis.unsupported_ops()["aten::_convolution_mode"] == 1
    assert counter.uncounted["aten::scaled_dot_product_attention"] == 1
    logging.disable(logging.NOTSET)
