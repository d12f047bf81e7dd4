"""Summaries of modules: what calls cost, with the model left as it was."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import perdure
from perdure.errors import InputError, UnsupportedModelError
from perdure.records.summary.summary import ModuleCall


class Net(nn.Module):
    """Convolutions with a batch norm, a block that is called twice, and a functional product of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.mix = nn.Parameter(torch.randn(8, 5))
        self.register_buffer("n_calls", torch.zeros((), dtype=torch.int64))
        self.seen: list[Any] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.n_calls += 1
        self.seen.append(x)
        x = self.block(self.block(self.stem(x)))
        return self.drop(x.mean((2, 3))) @ self.mix


IMAGES = (2, 3, 10, 12)
STEM, BLOCK, MIX = 2 * 2 * 8 * 3 * 9 * 8 * 10, 2 * 2 * 8 * 8 * 9 * 8 * 10, 2 * 2 * 8 * 5


def test_operations_and_shapes_by_module() -> None:
    summary = perdure.summarize(Net(), input_size=IMAGES)
    assert (summary.flops, summary.macs) == (STEM + 2 * BLOCK + MIX, (STEM + 2 * BLOCK + MIX) // 2)
    assert summary.ran == "fake tensors"
    assert {row.name: row.flops for row in summary.rows} == {
        "": STEM + 2 * BLOCK + MIX, "stem": STEM, "stem.0": STEM, "stem.1": 0, "stem.2": 0, "block": 2 * BLOCK, "drop": 0,
    }  # fmt: skip
    block = summary["block"]
    assert (block.n_calls, block.calls) == (2, (ModuleCall(((2, 8, 8, 10),), ((2, 8, 8, 10),)),))
    assert (summary["stem"].input_shapes, summary["stem"].output_shapes) == ((IMAGES,), ((2, 8, 8, 10),))
    assert (block.n_parameters, summary.n_parameters) == (8 * 8 * 9 + 8, 8 * 3 * 9 + 16 + 8 * 8 * 9 + 8 + 40)
    assert summary["stem.0"].activation_bytes == 2 * (2 * 8 * 8 * 10 * 4), "its result, and that in oneDNN's own layout"
    with FlopCounterMode(display=False) as peer:
        Net().eval()(torch.randn(IMAGES))
    assert summary.flops == peer.get_total_flops()


@pytest.mark.parametrize("optimizer", [None, "adam"])
@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_it_was(optimizer: str | None, training: bool) -> None:
    model = Net().train(training)
    model.block.eval()
    hooked: list[str] = []
    model.drop.register_forward_hook(lambda *_: hooked.append("drop"))
    model.mix.grad = torch.ones(8, 5)
    example = torch.randn(IMAGES)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = {name: dict(vars(module)) for name, module in model.named_modules()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    perdure.summarize(model, example=example, optimizer=optimizer, latency=True, statistics=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == attributes
    assert [module.training for module in (model, model.block, model.stem[0])] == [training, False, training]
    assert model.seen == [] and model.mix.grad is not None and torch.equal(model.mix.grad, torch.ones(8, 5))
    assert model.block.weight.grad is None and "forward" not in vars(model.block)
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_failing_model_is_left_as_it_was() -> None:
    model = Net()
    with pytest.raises(InputError, match=r"does not take the example.*channels"):
        perdure.summarize(model, input_size=(1, 4, 8, 8))
    assert model.training and model.seen == [] and "forward" not in vars(model.block)


def test_a_model_on_meta_costs_what_a_real_one_does() -> None:
    with torch.device("meta"):
        empty = Net()
    versions = [parameter._version for parameter in empty.parameters()]
    real = perdure.summarize(Net(), example=torch.randn(IMAGES), optimizer="sgd")
    assert perdure.summarize(empty, example=torch.empty(IMAGES, device="meta"), optimizer="sgd") == real
    assert perdure.summarize(empty, input_size=IMAGES, optimizer="sgd") == real
    assert perdure.summarize(empty, input_size=[IMAGES], optimizer="sgd") == real
    assert perdure.summarize(empty, input_size={"x": IMAGES}, optimizer="sgd") == real
    assert [parameter._version for parameter in empty.parameters()] == versions
    assert all(parameter.is_meta and parameter.grad is None for parameter in empty.parameters())


def test_several_examples_are_added_and_the_highest_peak_counts() -> None:
    small, large = torch.randn(1, 3, 10, 12), torch.randn(IMAGES)
    both = perdure.summarize(Net(), example=[small, large])
    one, two = (perdure.summarize(Net(), example=example) for example in (small, large))
    assert both.flops == one.flops + two.flops  # type: ignore[operator]
    assert one.activation_bytes > two.activation_bytes == 17_664  # type: ignore[operator]
    assert both.activation_bytes == one.activation_bytes == 28_160, "one image makes a matrix of its own on a CPU"
    assert both["block"].n_calls == 4
    assert [call.inputs for call in both["block"].calls] == [((1, 8, 8, 10),), ((2, 8, 8, 10),)]


def test_arguments_and_results_of_any_nesting() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, *, parts: dict[str, Any], scale: float = 1.0) -> dict[str, Any]:
            return {"both": [self.linear(parts["a"]), (self.linear(parts["b"][0]) * scale,)], "none": None}

    parts = {"a": torch.randn(2, 4), "b": [torch.randn(5, 4)]}
    summary = perdure.summarize(Pair(), example={"parts": parts, "scale": 2.0})
    assert (summary[""].input_shapes, summary[""].output_shapes) == (((2, 4), (5, 4)), ((2, 3), (5, 3)))
    assert summary["linear"].calls == (ModuleCall(((2, 4),), ((2, 3),)), ModuleCall(((5, 4),), ((5, 3),)))


class Choosing(nn.Module):
    """Does what depends on a value."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) if x.sum().item() > 0 else x


def test_a_model_that_asks_for_values_runs_on_real_tensors() -> None:
    summary = perdure.summarize(Choosing(), example=torch.ones(2, 4))
    assert (summary.ran, summary.flops) == ("real tensors", 2 * 2 * 4 * 4)
    assert perdure.summarize(Choosing(), example=-torch.ones(2, 4)).flops == 0
    with pytest.raises(UnsupportedModelError, match="meta"):
        perdure.summarize(Choosing().to("meta"), example=torch.ones(2, 4))
    assert perdure.summarize(Choosing(), example=torch.ones(2, 4), optimizer="sgd").backward_flops == 2 * 2 * 4 * 4


def test_attention_is_counted_on_a_cpu() -> None:
    """Twice 2·12·64·64·64, with whichever kernel."""

    class Attention(nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return F.scaled_dot_product_attention(q, k, v)

    heads = tuple(torch.randn(1, 12, 64, 64) for _ in range(3))
    assert perdure.summarize(Attention(), example=heads).flops == 12_582_912
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
    by_hand = 2 * (4 * 2 * 7 * 3 * 16 * 16 + 2 * 2 * 7 * 3 * 16 * 32 + 2 * 2 * 3 * 7 * 7 * 16)
    assert perdure.summarize(encoder.eval(), example=torch.randn(3, 7, 16)).flops == by_hand


def test_inference_mode_within_a_model_hides_nothing() -> None:
    class Inferring(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        @torch.inference_mode()
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x)

    assert perdure.summarize(Inferring(), example=torch.randn(2, 5, 4)).flops == 2 * 2 * 5 * 4 * 3


def test_a_step_of_training() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model[0].bias.requires_grad_(False)
    inputs = torch.randn(6, 4)
    summary = perdure.summarize(model, example=inputs, optimizer="adam")
    assert summary.memory is not None
    assert summary.backward_flops == 2 * 6 * 4 * 8 + 2 * (2 * 6 * 8 * 2), "no gradient of the input"
    assert (summary["0"].backward_flops, summary["2"].backward_flops) == (2 * 6 * 4 * 8, 2 * (2 * 6 * 8 * 2))
    assert summary.memory.gradients_bytes == 4 * (32 + 16 + 2)
    assert (summary.memory.optimizer, summary.memory.optimizer_bytes) == ("adam", 2 * 4 * 50 + 3 * 4)
    momentum = perdure.summarize(model, example=inputs, optimizer="momentum").memory
    own = perdure.summarize(model, example=inputs, optimizer=lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)).memory  # type: ignore[arg-type]
    assert momentum is not None and own is not None and momentum.optimizer_bytes == own.optimizer_bytes == 4 * 50

    def loss(module: nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(module(batch["x"]), batch["y"])

    batch = {"x": inputs, "y": torch.randint(0, 2, (6,))}
    with pytest.raises(InputError):
        perdure.summarize(model, example=batch, optimizer="adam", loss=loss)


@pytest.mark.parametrize(
    "name",
    ["sgd", "momentum", "adam", "AdamW", "adagrad", "rmsprop", "nadam", "radam", "adamax", "adadelta", "asgd", "rprop"],
)
def test_optimizers_keep_what_they_keep(name: str) -> None:
    model = nn.Linear(5, 3)
    memory = perdure.summarize(model, example=torch.randn(2, 5), optimizer=name).memory
    kinds = {**{kind.lower(): getattr(torch.optim, kind) for kind in dir(torch.optim)}}
    made = (
        torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        if name == "momentum"
        else kinds[name.lower()](copy.deepcopy(model).parameters())
    )
    for parameter in made.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    made.step()
    kept = sum(
        value.numel() * value.element_size()
        for state in made.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )
    assert memory is not None and memory.optimizer_bytes == kept


def test_latency_by_module() -> None:
    summary = perdure.summarize(Net(), input_size=IMAGES, latency=True)
    seconds = {row.name: row.seconds for row in summary.rows}
    assert all(seconds[name] for name in ("", "stem", "stem.0", "block"))
    assert seconds[""] > seconds["stem"] > seconds["stem.0"] > 0  # type: ignore[operator]
    with pytest.raises(UnsupportedModelError, match="meta"):
        perdure.summarize(Net().to("meta"), input_size=IMAGES, latency=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_size": IMAGES, "example": torch.randn(IMAGES)}, "both"),
        ({"input_size": (1, -3)}, "no shape"),
        ({"input_size": 3}, "shape or a list"),
        ({"convention": "thop", "input_size": IMAGES}, "aten, torchinfo, fvcore"),
        ({"optimizer": "sofia", "input_size": IMAGES}, "adamw"),
        ({"optimizer": "adam"}, "need an example"),
        ({"latency": True}, "need an example"),
        ({"prefix": "model"}, "checkpoint files"),
        ({"example": []}, "empty"),
        ({"depth": -1}, "depth"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        perdure.summarize(Net(), **arguments)
    with pytest.raises(InputError, match="a module or a path"):
        perdure.summarize({"w": torch.ones(1)})  # type: ignore[arg-type]


def test_torchinfo_counts_no_backward_pass() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    inputs = torch.randn(6, 4)
    summary = perdure.summarize(model, example=inputs, optimizer="sgd", convention="torchinfo")
    assert summary.backward_flops is None and all(row.backward_flops is None for row in summary.rows)
    assert summary.memory is not None and summary.memory.training_peak_bytes and "backward" not in str(summary)
    assert perdure.summarize(model, example=inputs, optimizer="sgd", convention="fvcore").backward_flops


def test_statistics_tell_their_progress_in_bytes(tmp_path: Path) -> None:
    model, path = nn.Sequential(nn.Linear(4, 8).double(), nn.BatchNorm1d(8)), tmp_path / "net.safetensors"
    perdure.save_weights(model, path)
    n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    for given in (model, path):
        told: list[tuple[int, int]] = []
        perdure.summarize(given, statistics=True, progress=lambda n, total: told.append((n, total)))  # noqa: B023
        assert sum(n for n, _ in told) == n_bytes and {total for _, total in told} == {n_bytes}


def test_depth_leaves_totals() -> None:
    whole, short = perdure.summarize(Net(), input_size=IMAGES), perdure.summarize(Net(), input_size=IMAGES, depth=1)
    assert [row.name for row in short.rows] == ["", "stem", "block", "drop"]
    assert all(row == whole[row.name] for row in short.rows) and short.flops == whole.flops


def test_wrapped_and_compiled_models_are_summarised_as_what_they_wrap() -> None:
    model = Net()
    expected = perdure.summarize(model, input_size=IMAGES)
    assert perdure.summarize(nn.DataParallel(model), input_size=IMAGES) == expected
    assert perdure.summarize(torch.compile(model), input_size=IMAGES) == expected  # type: ignore[arg-type]


def test_a_file_with_a_graph_costs_what_the_module_does(tmp_path: Path) -> None:
    model, path = Net().eval(), tmp_path / "net.safetensors"
    model.seen = []
    perdure.save(
        nn.Sequential(model.stem, model.block, model.block),
        path,
        example=torch.randn(IMAGES),
        dynamic={"input": {2: "h", 3: "w"}},
    )
    live = perdure.summarize(nn.Sequential(model.stem, model.block, model.block), input_size=IMAGES)
    stored = perdure.summarize(path)
    assert (stored.ran, stored.flops, stored.n_parameters) == ("graph", live.flops, live.n_parameters)
    assert [(row.name, row.flops, row.calls) for row in stored.rows] == [
        (row.name, row.flops, row.calls) for row in live.rows
    ]
    larger = perdure.summarize(path, input_size=(1, 3, 20, 20), convention="fvcore")
    again = perdure.summarize(perdure.load(path, form="graph"), example=torch.randn(1, 3, 20, 20), convention="fvcore")
    assert (
        larger.flops
        == again.flops
        == perdure.summarize(
            nn.Sequential(model.stem, model.block, model.block), input_size=(1, 3, 20, 20), convention="fvcore"
        ).flops
    )
    with pytest.raises(InputError, match=r"^running the graph: axis 1"):  # and nothing of what else was tried
        perdure.summarize(path, input_size=(1, 4, 20, 20))
    with pytest.raises(InputError, match="takes 1 tensors"):
        perdure.summarize(path, input_size=[(1, 3, 9, 9), (2, 2)])
    with pytest.raises(InputError, match="Load the model"):
        perdure.summarize(path, latency=True)
    perdure.save_weights(model, path)
    with pytest.raises(UnsupportedModelError, match="no graph"):
        perdure.summarize(path, input_size=IMAGES)
