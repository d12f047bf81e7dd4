"""Summaries of modules, and of examples, that are out of the ordinary: nothing is changed, nothing is lost, nothing leaks."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import rnn
from torch.utils import _python_dispatch as dispatching
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import perdure
from perdure.errors import InputError, UnsupportedModelError

PRODUCT = 2 * 2 * 8 * 8
"""Operations of a product of (2, 8) with (8, 8)."""


def ones() -> torch.Tensor:
    return torch.ones(2, 8)


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 8))


@pytest.mark.parametrize("kind", ["scripted", "traced", "inside"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_followed_in_eval_mode_and_never_trained(kind: str) -> None:
    scripted: Any = torch.jit.trace(layers().eval(), ones()) if kind == "traced" else torch.jit.script(layers())
    scripted.train()
    model: Any = nn.Sequential(scripted, nn.Linear(8, 8)) if kind == "inside" else scripted
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = [dict(vars(module)) for module in model.modules()]
    summary = perdure.summarize(model, example=ones())
    assert summary.flops == (3 if kind == "inside" else 2) * PRODUCT
    assert kind == "traced" or not [name for name in summary.uncounted if "div" in name or name.endswith("_legit")]
    assert summary.memory is not None and summary.memory.weights_bytes == summary.n_bytes
    plain = nn.Sequential(layers(), nn.Linear(8, 8)) if kind == "inside" else layers()
    assert summary.activation_bytes == perdure.summarize(plain, example=ones()).activation_bytes
    with pytest.raises(UnsupportedModelError, match=r"step of training of .* TorchScript.* Leave optimizer= out"):
        perdure.summarize(model, example=ones(), optimizer="adam")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert scripted.training and [dict(vars(module)) for module in model.modules()] == attributes


class Cache:
    """What a model keeps from call to call, like the cache of keys and values of a decoder."""

    def __init__(self) -> None:
        self.keys = torch.ones(3, 8)

    def update(self, more: torch.Tensor) -> torch.Tensor:
        self.keys = torch.cat([self.keys, more])
        return self.keys


class Cached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, cache: Cache, lock: Any = None) -> torch.Tensor:
        return self.project(x) @ cache.update(x).T


@pytest.mark.parametrize("arguments", [{}, {"optimizer": "sgd"}, {"latency": True}])
def test_objects_of_an_example_are_left_as_they_were(arguments: dict[str, Any]) -> None:
    cache = Cache()
    keys = cache.keys
    summary = perdure.summarize(Cached(), example=(ones(), cache), **arguments)
    assert cache.keys is keys and type(keys) is torch.Tensor and torch.equal(keys, torch.ones(3, 8))
    assert summary.flops == PRODUCT + 2 * 2 * 8 * 5 and summary.ran == "fake tensors"
    assert summary.memory is not None and summary.memory.input_bytes == (2 + 3) * 8 * 4


def test_an_example_that_cannot_be_copied() -> None:
    summary = perdure.summarize(Cached(), example=(ones(), Cache(), threading.Lock()))
    assert summary.flops == PRODUCT + 2 * 2 * 8 * 5


class Forces(nn.Module):
    """Gives the gradients of an energy, as models of molecules do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.outer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = self.outer(self.inner(x).tanh()).sum()
            return torch.autograd.grad(energy, x, create_graph=True)[0]


def test_what_a_forward_pass_differentiates_belongs_to_it() -> None:
    summary = perdure.summarize(Forces(), example=ones(), optimizer="sgd")
    with FlopCounterMode(display=False) as peer:
        x = ones().requires_grad_()
        model = Forces()
        energy = nn.functional.linear(nn.functional.linear(x, model.inner.weight).tanh(), model.outer.weight).sum()
        (forces,) = torch.autograd.grad(energy, x, create_graph=True)
        forward = peer.get_total_flops()
        forces.sum().backward()
    assert (summary.flops, summary["inner"].flops, summary["outer"].flops) == (forward, 2 * PRODUCT, 2 * PRODUCT)
    assert summary.backward_flops == peer.get_total_flops() - forward
    assert summary["inner"].backward_flops and summary["outer"].backward_flops


class Recomputed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 16)) for _ in range(2))
        self.back = nn.Linear(16, 8)
        self.reentrant = reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = self.back(checkpoint(block, x, use_reentrant=self.reentrant))
        return x


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_is_computed_again_is_counted_where_it_runs(reentrant: bool) -> None:
    model, x = Recomputed(reentrant), ones().requires_grad_()
    summary = perdure.summarize(model, example=x, optimizer="sgd")
    with FlopCounterMode(display=False) as peer:
        out = model(x)
        forward = peer.get_total_flops()
        out.sum().backward()
    assert summary.backward_flops == peer.get_total_flops() - forward
    again = 2 if reentrant else 0  # else it stops before the last product, of which nothing is needed
    for number in (0, 1):
        assert summary[f"blocks.{number}.0"].backward_flops == 3 * PRODUCT
        assert summary[f"blocks.{number}.2"].backward_flops == (4 + again) * PRODUCT
    assert summary["back"].backward_flops == 2 * 4 * PRODUCT


class Masked(nn.Module):
    """Begins with what has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x * torch.ones(8))


def test_gradients_are_counted_where_their_operator_ran() -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), Masked(), nn.Linear(8, 8)), ones()
    summary = perdure.summarize(model, example=x, optimizer="sgd")
    with FlopCounterMode(display=False) as peer:
        model(x).sum().backward()
    for path, products in (("0", 1), ("1", 2), ("1.layer", 2), ("2", 2)):
        row = summary[path]
        assert (row.flops, row.backward_flops) == (PRODUCT, products * PRODUCT)
        assert (1 + products) * PRODUCT == sum(peer.get_flop_counts()[f"Sequential.{path}"].values())


def modes() -> list[Any]:
    return dispatching._get_current_dispatch_mode_stack()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors() -> None:
    parts = [torch.ones(3, 8), torch.ones(5, 8)]
    jagged = torch.nested.nested_tensor(parts, layout=torch.jagged)
    summary = perdure.summarize(nn.Linear(8, 8), example=jagged, optimizer="sgd")
    assert (summary.flops, summary.ran) == (2 * 8 * 8 * 8, "real tensors")
    assert summary.rows[0].input_shapes == ((8 * 8,),) and summary.backward_flops == 2 * 8 * 8 * 8
    strided = torch.nested.nested_tensor(parts)
    summary = perdure.summarize(nn.Linear(8, 8), example=strided)
    assert summary.uncounted == {"aten::linear": 1} and summary.rows[0].output_shapes == ((8 * 8,),)
    assert not modes()


class Sequences(nn.Module):
    """Packs sequences, which depends on their lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.GRU(8, 6, bidirectional=True)
        self.head = nn.Linear(12, 2)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        return self.head(rnn.pad_packed_sequence(self.cells(packed)[0])[0])


def test_training_of_what_depends_on_values() -> None:
    model, example = Sequences(), (torch.ones(4, 3, 8), torch.tensor([2, 4, 1]))
    model.head.weight.grad = torch.ones(2, 12)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    held = dict(model.named_parameters())
    summary = perdure.summarize(model, example=example, optimizer="adam")
    assert summary.ran == "real tensors" and summary.memory is not None
    n_bytes = 4 * summary.n_parameters
    n_states = len(held)
    assert summary.memory.gradients_bytes == n_bytes
    assert summary.memory.optimizer_bytes == 2 * n_bytes + 4 * n_states
    assert summary.memory.training_peak_bytes and summary.memory.training_peak_bytes > 4 * n_bytes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(tensor is held[name] for name, tensor in model.named_parameters())
    assert torch.equal(model.head.weight.grad, torch.ones(2, 12)) and model.cells.weight_hh_l0.grad is None
    with FlopCounterMode(display=False) as peer:
        out = model(*example)
        forward = peer.get_total_flops()
        out.sum().backward()
    assert (summary.flops, summary.backward_flops) == (forward, peer.get_total_flops() - forward)


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.inner: nn.Module | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(x)
        return x if self.inner is None else self.inner(x)


def deep(n: int) -> nn.Module:
    top = module = Deep()
    for _ in range(n - 1):
        module.inner = module = Deep()
    return top


def test_modules_nested_as_deeply_as_python_lets_them() -> None:
    model, x = deep(200), torch.ones(2, 4)
    assert model(x).shape == (2, 4)
    assert perdure.summarize(model, example=x, optimizer="sgd").flops == 200 * 2 * 2 * 4 * 4
    assert perdure.summarize(deep(2000)).n_parameters == 2000 * 20
    with pytest.raises(UnsupportedModelError, match=r"more deeply than Python.*sys\.setrecursionlimit"):
        perdure.summarize(deep(2000), example=x)
    assert not modes()


def test_examples_of_a_wrong_kind_do_not_fit(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"does not take the example.*same dtype.*Double and Float"):
        perdure.summarize(nn.Linear(8, 8), example=ones().double())
    with pytest.raises(InputError, match=r"same dtype.*Long and Float"):
        perdure.summarize(nn.Linear(8, 8), example=ones().long())
    with pytest.raises(UnsupportedModelError, match="one dtype, but got float32 and int64"):
        perdure.summarize(nn.Linear(8, 8, device="meta"), example=ones().long())
    with pytest.raises(InputError, match="shapes cannot be multiplied"):
        perdure.summarize(nn.Linear(8, 8), example=torch.ones(2, 9))
    assert capfd.readouterr() == ("", ""), "nor does PyTorch log what was tried"
    with pytest.raises(
        UnsupportedModelError, match=r"^running Sequential: 0\.weight has no shape .* Run it once before\.$"
    ):
        perdure.summarize(nn.Sequential(nn.LazyLinear(8)), example=ones())


@pytest.mark.parametrize("sizes", [(10**20,), (2**40, 2**40)])
def test_sizes_of_no_tensor(sizes: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="no tensor can be as large"):
        perdure.summarize(nn.Linear(8, 8), input_size=sizes)


def test_models_and_examples_without_content_already(capfd: pytest.CaptureFixture[str]) -> None:
    with FakeTensorMode() as mode:
        model = layers()
        example = ones()
    several: list[dict[str, Any]] = [
        {"example": example},
        {"example": ones()},
        {"example": ones().to("meta")},
        {"input_size": (2, 8)},
    ]
    for arguments in several:
        summary = perdure.summarize(model, optimizer="sgd", **arguments)
        assert (summary.flops, summary.backward_flops, summary.ran) == (2 * PRODUCT, 3 * PRODUCT, "fake tensors")
    with mode:
        assert perdure.summarize(layers(), example=example).flops == 2 * PRODUCT
    with pytest.raises(InputError, match="does not take the example"):
        perdure.summarize(model, example=torch.ones(2, 9))
    assert not modes() and capfd.readouterr() == ("", "")


def test_training_within_inference_mode() -> None:
    model = layers()
    with torch.inference_mode():
        assert perdure.summarize(model, example=ones(), optimizer="sgd").backward_flops == 3 * PRODUCT


def test_a_compiled_part_is_left_as_it_was() -> None:
    compiled: Any = torch.compile(layers())
    model = nn.Sequential(compiled, nn.Linear(8, 8))
    attributes = [dict(vars(module)) for module in model.modules()]
    assert perdure.summarize(model, example=ones()).flops == 3 * PRODUCT
    assert [dict(vars(module)) for module in model.modules()] == attributes


class Experts(nn.Module):
    """Products of groups of rows with a matrix for each group."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 16, 32))

    def forward(self, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        return nn.functional.grouped_mm(x, self.weight, offs=ends).relu_()


@pytest.mark.skipif(not hasattr(nn.functional, "grouped_mm"), reason="of PyTorch 2.10 and later")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_of_any_type_on_meta(dtype: torch.dtype) -> None:
    example = torch.ones(24, 16, dtype=dtype), torch.tensor([10, 24], dtype=torch.int32)
    summary = perdure.summarize(Experts().to("meta", dtype), example=example, optimizer="sgd")
    assert (summary.flops, summary.ran) == (2 * 24 * 16 * 32, "fake tensors")
    assert summary.rows[0].output_shapes == (tuple(Experts().to(dtype)(*example).shape),)
    assert summary.activation_bytes == 24 * 32 * dtype.itemsize


def test_a_model_that_tells_parameters_from_other_tensors() -> None:
    class Telling(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert isinstance(self.weight, nn.Parameter) and self.weight.is_leaf and self.weight.requires_grad
            return super().forward(x)

    assert perdure.summarize(Telling(3, 2), example=torch.zeros(2, 3)).ran == "fake tensors"
