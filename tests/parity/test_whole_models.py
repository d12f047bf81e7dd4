"""`save` and `load` of whole models: by their classes and by their graphs, the same answers, nothing lost."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import io
import json
import logging
import subprocess
import sys
import types
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
from torch.utils._pytree import tree_leaves

import perdure
from parity import zoo
from parity.zoo import ZOO
from perdure.errors import FormatError, InputError, UnsupportedModelError, UntrustedError
from perdure.models.rebuilding import rebuild
from perdure.models.recording import record
from perdure.models.wrapping import unwrapped

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")

OURS = [kind for kind in vars(zoo).values() if isinstance(kind, type) and issubclass(kind, nn.Module)]


def saved(model: nn.Module, **options: Any) -> bytes:
    file = io.BytesIO()
    perdure.save(model, file, **options)
    return file.getvalue()


def same(one: Any, other: Any) -> bool:
    pairs = zip(tree_leaves(one), tree_leaves(other), strict=True)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize("name", [name for name in ZOO if name != "lazy"])
def test_by_classes_and_by_graph(name: str) -> None:
    """The state is the same to the last bit, and so are the answers; the model that was saved is as it was."""
    kind = ZOO[name]
    torch.manual_seed(0)
    model = kind.build().train()
    inner = unwrapped(model)
    inputs = kind.inputs()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items() if isinstance(tensor, torch.Tensor)}
    random = torch.get_rng_state()
    content = saved(model, example=inputs)
    assert torch.equal(torch.get_rng_state(), random) and model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items() if key in before)
    loaded = perdure.load(content, trusted=OURS, form="class")
    model.eval()
    with torch.no_grad():
        expected = model(*inputs)
        assert same(loaded(*inputs), expected)
        assert not any(module.training for module in loaded.modules())
        frozen = perdure.load(content, form="graph")
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(
            tree_leaves(frozen(*inputs)), tree_leaves(expected), strict=True
        ))  # fmt: skip
    assert list(loaded.state_dict()) == list(inner.state_dict())
    for (key, one), (_, other) in zip(inner.named_parameters(), loaded.named_parameters(), strict=True):
        assert one.requires_grad == other.requires_grad and torch.equal(one, other), key
    shared = {key: id(tensor) for key, tensor in inner.named_parameters(remove_duplicate=False)}
    again = {key: id(tensor) for key, tensor in loaded.named_parameters(remove_duplicate=False)}
    assert [[shared[a] == shared[b] for b in shared] for a in shared] == [
        [again[a] == again[b] for b in shared] for a in shared
    ]


def test_in_a_new_process_without_the_code(tmp_path: Path) -> None:
    """The class is nowhere to be found there: the graph answers, to the last bit."""
    (tmp_path / "vanishing.py").write_text(_NET)
    make = (
        "import sys, torch, perdure; torch.manual_seed(0); sys.path.insert(0, '.')\n"
        "from vanishing import Net\n"
        "net = Net().train(); x = torch.randn(3, 4)\n"
        "perdure.save(net, 'net.safetensors', example=x[:1])\n"
        "print(net.eval()(x).flatten().tolist())\n"
    )
    use = (
        "import torch, perdure; torch.manual_seed(0); [torch.nn.Linear(4, 4) for _ in range(2)]; x = torch.randn(3, 4)\n"
        "net = perdure.load('net.safetensors')\n"
        "print(net(x).flatten().tolist()); print(perdure.info(net).form)\n"
    )
    expected = _python(make, tmp_path)
    (tmp_path / "vanishing.py").unlink()
    answer, form = _python(use, tmp_path).splitlines()
    assert (answer, form) == (expected.strip(), "graph")


_NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.drop = nn.Dropout(0.5)
    def forward(self, x):
        return self.b(self.drop(self.a(x)).relu())
"""


def _python(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Level(enum.Enum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Settings:
    width: int = 3
    level: Level = Level.HIGH
    more: dict[str, Any] = dataclasses.field(default_factory=dict)


Pair = collections.namedtuple("Pair", "left right")


def double(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output * 2


class Everything(nn.Module):
    """Attributes of every kind that the vocabulary has."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = Settings(more={"sizes": (1, 2), 3: [Level.LOW]})
        self.linear = nn.Linear(3, 3)
        self.again = [self.linear, {"too": self.linear}]
        self.act, self.leaky = F.gelu, functools.partial(F.leaky_relu, negative_slope=0.3)
        self.pair = Pair(torch.float16, torch.device("cpu"))
        self.log = logging.getLogger("acme.net")
        self.anchor = torch.arange(3.0)
        self.register_buffer("offset", torch.ones(3), persistent=False)
        self.handle = self.linear.register_forward_hook(double)
        self.forward = self._compute  # a method of its own in a method's place
        self.settings_again = self.settings
        self.sets = {frozenset((1, 2))}
        self.kind = nn.Linear
        self.big, self.nan, self.raw = 2**70, float("inf"), b"\0\xff"

    def _compute(self, x: torch.Tensor) -> torch.Tensor:
        assert self.settings.level is Level.HIGH
        return self.act(self.linear(x)) + self.leaky(x) + self.anchor + self.offset


def test_attributes_of_every_kind() -> None:
    model = Everything()
    loaded: Any = perdure.load(saved(model), trusted=[Everything, Settings, Level, Pair, double])
    x = torch.randn(2, 3)
    assert torch.equal(loaded(x), model.eval()(x))
    assert loaded.settings == model.settings and loaded.settings_again is loaded.settings
    assert loaded.again[0] is loaded.linear and loaded.again[1]["too"] is loaded.linear
    assert loaded.pair == model.pair and type(loaded.pair) is Pair
    assert (loaded.sets, loaded.kind, loaded.big, loaded.nan, loaded.raw) == (
        {frozenset((1, 2))}, nn.Linear, 2**70, float("inf"), b"\0\xff",
    )  # fmt: skip
    assert loaded.log is model.log and loaded.forward.__self__ is loaded
    loaded.handle.remove()
    assert not loaded.linear._forward_hooks
    number = max(model.linear._forward_hooks)
    assert loaded.linear.register_forward_hook(double).id > number


def test_what_is_no_data_is_named_and_the_graph_is_taken() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)
            self.twist = lambda x: x * 3

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.twist(self.linear(x))

    model, x = Odd(), torch.randn(2, 2)
    with pytest.raises(UnsupportedModelError, match=r"(?s)twist.*function.*example"):
        saved(model)
    file = io.BytesIO()
    report = perdure.save(model, file, example=x)
    assert report.forms == ("graph", "weights") and "twist" in report.warnings[0]
    loaded = perdure.load(file.getvalue())
    assert torch.equal(loaded(x), model.eval()(x))
    assert "twist" in perdure.info(file.getvalue()).reason
    with pytest.raises(UnsupportedModelError, match="twist"):
        perdure.load(file.getvalue(), form="class")


def test_wrapped_models_are_saved_as_what_they_wrap() -> None:
    inner = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    for model in (torch.compile(inner, backend="eager"), nn.DataParallel(inner), nn.DataParallel(torch.compile(inner))):
        loaded = perdure.load(saved(model))  # type: ignore[arg-type]
        assert type(loaded) is nn.Sequential and list(loaded.state_dict()) == list(inner.state_dict())


def test_a_hook_that_stores_something_else_does_not_change_the_model() -> None:
    model = nn.Linear(3, 2)
    model.register_state_dict_post_hook(lambda _, state, *__: state.update(weight=state["weight"] * 2))
    loaded = perdure.load(saved(model))
    assert torch.equal(loaded.weight, model.weight)
    assert torch.equal(perdure.open(saved(model))["weight"], model.weight * 2)


def test_lazy_models_are_restored_as_they_were() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d())
    loaded = perdure.load(saved(model), mode="train")
    assert type(loaded[0]) is nn.LazyLinear and type(loaded[0].weight) is nn.UninitializedParameter
    assert loaded(torch.randn(3, 5)).shape == (3, 4)
    assert type(loaded[0]) is nn.Linear and loaded[0].weight.shape == (4, 5)
    again = perdure.load(saved(loaded))
    x = torch.randn(3, 5)
    assert torch.equal(again(x), loaded.eval()(x))


def test_lazy_models_that_have_not_run_are_left_alone() -> None:
    model, file = nn.Sequential(nn.LazyLinear(4)), io.BytesIO()
    report = perdure.save(model, file, example=torch.randn(2, 3))
    assert report.forms == ("class", "weights") and all("0.weight has no shape" in said for said in report.warnings)
    assert type(model[0]) is nn.LazyLinear and type(model[0].weight) is nn.UninitializedParameter
    assert model(torch.randn(2, 3)).shape == (2, 4)


class Forgets(nn.Module):
    """What it keeps is not all that it needs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(2, 2), 3.0

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "scale": 1.0}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.scale


def test_a_class_form_is_tried_before_it_is_offered() -> None:
    model, x, file = Forgets(), torch.randn(3, 2), io.BytesIO()
    report = perdure.save(model, file, example=x)
    assert report.forms == ("graph", "weights") and "rebuilt from its data, its answer differs" in report.warnings[0]
    assert torch.equal(perdure.load(file.getvalue())(x), model(x))
    with pytest.raises(UnsupportedModelError, match="its answer differs"):
        perdure.save(model, io.BytesIO(), example=x, graph=False)


def test_an_attribute_in_the_memory_of_a_parameter_is_said_to_be_a_copy() -> None:
    model: Any = nn.Linear(2, 3)
    model.turned, file = model.weight.data.t(), io.BytesIO()
    report = perdure.save(model, file)
    assert report.warnings == ("turned lies in the memory of weight; after loading it is a copy",)
    assert torch.equal(perdure.load(file.getvalue()).turned, model.turned)  # type: ignore[arg-type]


def test_pruned_models_can_be_pruned_on_and_made_permanent() -> None:
    model = nn.Linear(6, 4)
    prune.l1_unstructured(model, "weight", 0.5)
    loaded = perdure.load(saved(model))
    x = torch.randn(2, 6)
    assert torch.equal(loaded(x), model(x))
    for pruned in (model, loaded):
        prune.remove(pruned, "weight")
    assert torch.equal(loaded.weight, model.weight) and isinstance(loaded.weight, nn.Parameter)


@pytest.mark.parametrize("mode", ["eval", "train", "saved", None])
def test_modes(mode: Any) -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))).train()
    model[1].eval()
    loaded = perdure.load(saved(model), mode=mode)
    expected = {"eval": [False] * 5, "train": [True] * 5}.get(mode or "", [True, True, False, False, False])
    assert [module.training for module in loaded.modules()] == expected


def test_training_goes_on() -> None:
    """A model loaded by its classes trains as the saved one does, step for step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    loaded = perdure.load(saved(model), mode="train")
    batches = [torch.randn(5, 4) for _ in range(3)]
    for net in (model, loaded):
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
        for batch in batches:
            optimizer.zero_grad()
            net(batch).square().sum().backward()
            optimizer.step()
    assert same(loaded.state_dict(), model.state_dict())


def test_a_graph_stays_in_eval_mode_and_can_be_tuned() -> None:
    content = saved(nn.Sequential(nn.Linear(3, 2), nn.Dropout()), example=torch.randn(2, 3))
    with pytest.raises(InputError, match="stays in eval mode"):
        perdure.load(content, form="graph", mode="train")
    frozen = perdure.load(content, form="graph")
    with pytest.raises(InputError, match=r"trusted=\["):
        frozen.train()
    frozen(torch.randn(2, 3)).sum().backward()
    assert all(parameter.grad is not None for parameter in frozen.parameters())
    again = perdure.load(saved(frozen))
    x = torch.randn(5, 3)
    assert torch.equal(again(x), frozen(x)) and perdure.info(again).form == "graph"


def test_dtype_and_device() -> None:
    content = saved(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
    loaded = perdure.load(content, dtype=torch.bfloat16, device="cpu")
    assert loaded[0].weight.dtype is torch.bfloat16 and loaded[1].num_batches_tracked.dtype is torch.int64
    for options in ({"dtype": torch.int8}, {"device": "cdua"}, {"form": "classes"}, {"mode": "test"}, {"verify": 1}):
        with pytest.raises(InputError):
            perdure.load(content, **options)  # type: ignore[arg-type]


_NAMES = ("Everything", "Everything._compute", "Settings", "Level", "Pair", "double")


def test_info_tells_what_is_needed_and_what_was_used(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = Everything()
    report = perdure.save(model, path, example=torch.randn(2, 3), labels=["cat", "dog", "owl"], notes="first")
    assert report.forms == ("class", "graph", "weights")
    found = perdure.info(path)
    assert found.forms == ("class", "graph", "weights") and found.labels == ["cat", "dog", "owl"]
    module = __name__
    assert set(found.names) == {f"{module}.{name}" for name in _NAMES}
    graph, rebuilt = perdure.load(path), perdure.load(path, trusted=list(found.names))
    assert (perdure.info(graph).form, perdure.info(rebuilt).form) == ("graph", "class")
    assert "not permitted" in perdure.info(graph).reason
    with pytest.raises(InputError):
        perdure.info(model)
    printed = subprocess.run(
        [sys.executable, "-m", "perdure", "info", str(path)], capture_output=True, text=True, check=True
    ).stdout
    assert "from its graph" in printed and f"'{module}.Everything'" in printed and "owl" in printed
    told = json.loads(
        subprocess.run(
            [sys.executable, "-m", "perdure", "info", "--json", str(path)], capture_output=True, text=True, check=True
        ).stdout
    )
    assert told["forms"] == ["class", "graph", "weights"] and set(told["names"]) == set(found.names)


def test_what_a_save_takes_over(tmp_path: Path) -> None:
    """Labels and the example come along, with the file that the model came from as parent."""
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    digest = perdure.save(nn.Linear(3, 2), first, example=torch.randn(4, 3), labels={0: "no", 1: "yes"}).digest
    report = perdure.save(perdure.load(first), second)
    assert report.forms == ("class", "graph", "weights")
    found = perdure.info(second)
    assert found.labels == {0: "no", 1: "yes"}
    assert found.manifest is not None and found.manifest.parents == (digest,)
    assert perdure.load(second, form="graph")(torch.randn(7, 3)).shape == (7, 2)


def test_saved_twice_the_same_bytes_but_for_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from perdure.weights import saving

    class Clock:
        @staticmethod
        def now(zone: Any) -> Any:
            import datetime

            return datetime.datetime(2026, 1, 1, tzinfo=zone)

    monkeypatch.setattr(saving, "datetime", Clock)
    model = Everything()
    options: Any = {"example": torch.randn(2, 3), "labels": ["a"], "sources": True}
    assert saved(model, **options) == saved(model, **options)


def test_files_without_a_model_say_so() -> None:
    weights, checkpoint = io.BytesIO(), io.BytesIO()
    perdure.save_weights(nn.Linear(2, 2), weights)
    perdure.save_checkpoint({"a": 1}, checkpoint)
    with pytest.raises(FormatError, match="load_weights"):
        perdure.load(weights.getvalue())
    with pytest.raises(FormatError, match="load_checkpoint"):
        perdure.load(checkpoint.getvalue())
    with pytest.raises(UntrustedError, match=r"trusted=\['.*Everything'"):
        perdure.load(saved(Everything()))


def test_a_file_of_a_model_is_one_of_weights(tmp_path: Path) -> None:
    """safetensors opens it, and `load_weights` and `open` do; a folder of shards too."""
    from safetensors.torch import load_file

    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    perdure.save(model, tmp_path / "m.safetensors", example=torch.randn(2, 3))
    perdure.save(model, tmp_path / "folder", example=torch.randn(2, 3), shard_bytes=40)
    read = load_file(tmp_path / "m.safetensors")
    assert all(torch.equal(read[name], tensor) for name, tensor in model.state_dict().items()) and len(read) == 7
    for path in (tmp_path / "m.safetensors", tmp_path / "folder"):
        other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        perdure.load_weights(other, path)
        assert same(other.state_dict(), model.state_dict())
        x = torch.randn(5, 3)
        for form in ("class", "graph"):
            assert torch.equal(perdure.load(path, form=form)(x), model.eval()(x))  # type: ignore[arg-type]
        assert perdure.check(path).ok


def test_a_damaged_file_is_never_loaded(caplog: pytest.LogCaptureFixture) -> None:
    content = bytearray(saved(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), example=torch.randn(2, 3)))
    for bit in range(len(content) * 8):
        content[bit // 8] ^= 1 << bit % 8
        with pytest.raises(perdure.errors.FileError):
            perdure.load(bytes(content))
        content[bit // 8] ^= 1 << bit % 8
    assert "left aside" not in caplog.text  # what is damaged is said so, and no other form is tried
    assert perdure.load(bytes(content)) is not None


class Counts(nn.Module):
    """It changes its buffers even in eval mode, and its input."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(3))
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.average.mul_(0.5).add_(x.mean(0))
        self.calls += 1
        return x.add_(1) * 2


def test_saving_and_proving_leave_buffers_and_the_example() -> None:
    model, x = Counts(), torch.randn(2, 3)
    before = x.clone()
    content = saved(model, example=x)
    assert model.average.tolist() == [0, 0, 0] and model.calls.item() == 0 and torch.equal(x, before)
    loaded = perdure.load(content, trusted=[Counts], form="class")
    assert loaded.average.tolist() == [0, 0, 0] and loaded.calls.item() == 0


class Defaults(nn.Module):
    """What the vocabulary has words for, and what else models hold."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = collections.defaultdict(list, {"a": [1]})
        self.norm = functools.partial(nn.LayerNorm, eps=1e-3)
        self.first = self.norm(4)
        self.kind = float

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen["calls"].append(self.kind(1))
        return self.first(x)


def test_defaults_partials_of_classes_and_types() -> None:
    loaded: Any = perdure.load(saved(Defaults()), trusted=[Defaults], form="class")
    loaded(torch.randn(2, 4))
    assert loaded.seen == {"a": [1], "calls": [1.0]} and loaded.norm(3).eps == 1e-3


def test_what_would_come_back_as_something_else_is_named() -> None:
    class Own(nn.Parameter):
        pass

    def other(self: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    odd = [nn.Linear(2, 2) for _ in range(3)]
    odd[0].weight = Own(torch.ones(2, 2))
    odd[1].forward = other.__get__(odd[1])  # type: ignore[method-assign]
    odd[2].act = torch.arange(3).tolist  # type: ignore[assignment]
    for model in odd:
        with pytest.raises(UnsupportedModelError):
            saved(model)


def test_marks_on_tensors_come_along_and_what_is_no_data_is_left_out() -> None:
    model: Any = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[0].weight.mark = {"decay": 0.1, "of": model[0], "itself": model[0].weight}
    model[0].bias.loader = lambda x: x
    model[1].running_mean.mark = 3
    model[0].bias.register_hook(lambda gradient: gradient)
    file = io.BytesIO()
    report = perdure.save(model, file)
    assert [warning.split(":")[1].strip() for warning in report.warnings] == ["0.bias", "0.bias.loader"]
    loaded: Any = perdure.load(file.getvalue())
    mark = loaded[0].weight.mark
    assert mark["decay"] == 0.1 and mark["of"] is loaded[0] and mark["itself"] is loaded[0].weight
    assert loaded[1].running_mean.mark == 3 and not hasattr(loaded[0].bias, "loader")


class Random(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


def test_saved_again_without_a_proof_and_with_a_kept_example() -> None:
    """A model that has no proof, and one whose file keeps the real example, take their example over all the same."""
    x = torch.randn(2, 3)
    for model, options in ((Random(), {}), (nn.Linear(3, 2), {"keep_example": True})):
        file, again = io.BytesIO(), io.BytesIO()
        first = perdure.save(model, file, example=x, **options)
        report = perdure.save(perdure.load(file.getvalue(), trusted=[Random]), again)
        assert report.forms == first.forms == ("class", "graph", "weights")
        assert bool(report.warnings) == isinstance(model, Random)
        perdure.save(perdure.load(again.getvalue(), form="graph"), io.BytesIO())


class Flags(enum.Flag):
    A = 1
    B = 2


class Options(dict[str, Any]):
    """A dict whose keys can be read as attributes."""

    __getattr__ = dict.__getitem__

    def __setitem__(self, key: str, value: Any) -> None:
        raise AssertionError("no code of the class is needed to fill it")


class Ordered(collections.OrderedDict[str, Any]):
    pass


class Shares(nn.Module):
    """Its parts talk to each other through containers that they share, one of which holds itself."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Any] = []
        self.log.append(self.log)
        self.first, self.second = Writes(self.log), Writes(self.log)
        self.options = {"settings": (settings := {"scale": 2.0}), "again": [settings]}
        self.queue = collections.deque([1, 2, 3], 3)
        self.same_queue = [self.queue]
        self.counts = collections.defaultdict(list)
        self.first.counts = self.counts  # type: ignore[assignment]
        self.ordered = Ordered(b=self.log, a=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.options["again"][0]["scale"] = 3.0
        return self.second(self.first(x)) * self.options["settings"]["scale"] + len(self.log)


class Writes(nn.Module):
    def __init__(self, log: list[Any]) -> None:
        super().__init__()
        self.log = log

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.log.append(1)
        return x + len(self.log)

    @staticmethod
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2


def test_containers_that_are_shared_stay_shared() -> None:
    model, x = Shares(), torch.randn(2)
    loaded: Any = perdure.load(saved(model, example=x), trusted=[Shares, Writes, Ordered], form="class")
    assert loaded.log is loaded.first.log is loaded.second.log is loaded.log[0] is loaded.ordered["b"]
    assert loaded.options["settings"] is loaded.options["again"][0]
    loaded.queue.append(4)
    assert list(loaded.same_queue[0]) == [2, 3, 4] and list(loaded.ordered) == ["b", "a"]
    assert loaded.counts is loaded.first.counts and loaded.counts["x"] == []
    assert len(model.log) == len(loaded.log) == 1  # neither the trace nor the proof has left anything
    assert torch.equal(loaded(x), model(x))


class Various(nn.Module):
    """What models keep besides."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.flags, self.options = Flags.A | Flags.B, Options(a=1, b=[2])
        self.rate, self.sizes = np.float64(0.5), np.arange(4.0).reshape(2, 2)
        self.same_sizes, self.names = [self.sizes], np.array(["ab", "c"])
        self.steps, self.part, self.rest = range(2, 8, 2), slice(1, None), ...
        self.space = types.SimpleNamespace(a=1)
        self.weak, self.noise = weakref.ref(self.linear), torch.Generator().manual_seed(3)
        self.twice, self.where = Writes.twice, torch.device("cpu")
        self.anchor = torch.ones(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weak()(x) * self.rate + self.twice(x)[self.part.start] + self.anchor


def test_values_of_numpy_and_python_that_attributes_hold() -> None:
    model, x = Various(), torch.randn(2)
    trusted = [Various, Flags, Options, Writes.twice]
    loaded: Any = perdure.load(saved(model, example=x), trusted=trusted, form="class")
    assert loaded.flags is Flags.A | Flags.B and loaded.options.b == [2] and type(loaded.options) is Options
    assert type(loaded.rate) is np.float64 and loaded.sizes.tolist() == [[0, 1], [2, 3]] and loaded.sizes.dtype == "f8"
    assert loaded.same_sizes[0] is loaded.sizes and loaded.names.tolist() == ["ab", "c"]
    assert (loaded.steps, loaded.part, loaded.rest, loaded.space.a) == (range(2, 8, 2), slice(1, None), ..., 1)
    assert loaded.weak() is loaded.linear and loaded.twice is Writes.twice
    assert torch.equal(torch.rand(3, generator=loaded.noise), torch.rand(3, generator=model.noise))
    assert torch.equal(loaded(x), model(x))


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * 2


class Applies(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = Double.apply

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(x)


def test_a_function_of_autograd_is_bound_to_its_class() -> None:
    loaded: Any = perdure.load(saved(Applies()), trusted=[Applies, Double])
    assert loaded.act.__self__ is Double and loaded(torch.ones(2)).tolist() == [2, 2]
    with pytest.raises(UntrustedError, match="Double"):
        perdure.load(saved(Applies()), trusted=[Applies])


def test_what_attributes_hold_follows_the_device() -> None:
    model = Various()
    recorded = record(model, dict(model.named_parameters()), {})
    tensors = {**dict(model.named_parameters()), **recorded.loose}
    moved: Any = rebuild(
        recorded.architecture, recorded.code, lambda ref: tensors[ref.name].detach(), "here", torch.device("meta")
    )
    assert {moved.anchor.device.type, moved.where.type, moved.linear.weight.device.type} == {"meta"}
    assert moved.noise.device.type == "cpu" and moved.sizes.tolist() == model.sizes.tolist()
