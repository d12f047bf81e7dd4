"""What a save leaves as it was, and what comes back: all that a model holds, whatever its forward pass does to it."""

from __future__ import annotations

import dataclasses
import io
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import perdure
from perdure.errors import InputError, UnsupportedModelError

X = TypeVar("X")


def saved(model: nn.Module, **options: Any) -> bytes:
    file = io.BytesIO()
    perdure.save(model, file, **options)
    return file.getvalue()


class Holder:
    def __init__(self) -> None:
        self.n, self.deep = 0, [[0]]


class Changes(nn.Module):
    """Its forward pass changes everything that it holds but its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.loose = torch.zeros(1)
        self.register_buffer("average", torch.zeros(1))
        self.register_buffer("quiet", torch.zeros(1))
        self.array = np.zeros(1)
        self.unregistered = [nn.BatchNorm1d(2)]
        self.nested, self.holder, self.space = {"a": [[0]]}, Holder(), types.SimpleNamespace(n=0)
        self.noise = torch.Generator().manual_seed(0)
        self.last: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.loose += 1
        self.average += 1
        self.quiet.data += 1
        self.array += 1
        self.unregistered[0](torch.randn(4, 2))
        self.nested["a"][0].append(1)
        self.holder.n, self.space.n = self.holder.n + 1, self.space.n + 1
        self.holder.deep[0].append(1)
        torch.rand(1, generator=self.noise)
        self.last = x
        return self.linear(x) + self.loose

    def seen(self) -> Any:
        tensors = (self.loose, self.average, self.quiet, self.unregistered[0].running_mean)
        held = (self.nested, self.holder.n, self.holder.deep, self.space.n, self.last, self.array.tolist())
        return [tensor.tolist() for tensor in tensors], held, self.noise.get_state().tolist()


@pytest.mark.parametrize("graph", [True, False])
def test_what_a_forward_pass_changes_is_put_back(graph: bool) -> None:
    model = Changes()
    before = str(model.seen())
    content = saved(model, example=torch.randn(2, 2), graph=graph)
    assert str(model.seen()) == before and model.training and model.unregistered[0].training
    loaded: Any = perdure.load(content, trusted=[Changes, Holder], form="class")
    assert str(loaded.seen()) == before


class Grows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.weight += 1
        return x + 1


def test_a_forward_pass_that_changes_parameters_is_said_to(caplog: pytest.LogCaptureFixture) -> None:
    saved(Grows(), example=torch.ones(1), graph=False)
    assert "changed its parameters, which were not put back: weight" in caplog.text


def test_two_threads_that_save_one_model_leave_its_modes() -> None:
    model, x = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train(), torch.randn(2, 2)
    threads = [threading.Thread(target=saved, args=(model,), kwargs={"example": x, "graph": False}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [module.training for module in model.modules()] == [True] * 3


class Named(nn.Module):
    """Its tensors have the names that a graph's constants and a kept example have by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.constant_0 = torch.tensor([5.0])
        self.example = nn.Module()
        self.example.register_buffer("0", torch.tensor([3.0]), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.tensor([7.0]) * self.example.get_buffer("0") + self.constant_0


def test_names_of_constants_and_examples_keep_clear_of_the_models() -> None:
    content, x = saved(Named(), example=torch.ones(1, 1), keep_example=True), torch.ones(2, 1)
    loaded: Any = perdure.load(content, trusted=[Named], form="class", verify="full")
    assert loaded.constant_0.item() == 5 and loaded.example.get_buffer("0").item() == 3
    assert loaded(x).tolist() == perdure.load(content, form="graph")(x).tolist() == [[26.0], [26.0]]


def scaled(by: int) -> nn.Module:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * by

    return Scaled()


def test_two_classes_of_one_name_are_not_taken_for_one() -> None:
    model, x = nn.Sequential(scaled(2), scaled(3)), torch.ones(1)
    with pytest.raises(UnsupportedModelError, match="Scaled is the name of two"):
        saved(model)
    assert perdure.load(saved(model, example=x))(x).item() == 6


def test_a_class_that_was_defined_again_is_not_taken_for_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Grows()
    monkeypatch.setitem(
        globals(), "Grows", type("Grows", (nn.Module,), {"__module__": __name__, "__qualname__": "Grows"})
    )
    with pytest.raises(UnsupportedModelError, match="it was defined again"):
        saved(model)


def test_namespaces_bytes_and_what_tuples_hold_stay_shared() -> None:
    model: Any = nn.Module()
    model.space = types.SimpleNamespace(items=[1])
    model.space.itself, model.same_space, model.items = model.space, model.space, model.space.items
    model.pair = model.same_pair = ([1], {})
    model.bytes = model.same_bytes = bytearray(b"ab")
    loaded: Any = perdure.load(saved(model))
    assert loaded.space is loaded.same_space is loaded.space.itself and loaded.items is loaded.space.items
    assert loaded.pair[0] is loaded.same_pair[0] and loaded.pair[1] is loaded.same_pair[1]
    assert loaded.bytes is loaded.same_bytes and loaded.bytes == b"ab"


def test_weak_references_to_what_is_not_in_the_model() -> None:
    outside = nn.Linear(3000, 3000)
    model: Any = nn.Linear(1, 1)
    model.parent, model.itself = weakref.ref(outside), weakref.ref(model)
    content = saved(model)
    loaded: Any = perdure.load(content)
    assert loaded.parent() is None and loaded.itself() is loaded and len(content) < 10_000


def test_torchscript_is_refused_by_its_name() -> None:
    script = torch.jit.script(nn.Linear(2, 2))
    for model in (script, nn.Sequential(script)):
        with pytest.raises(UnsupportedModelError, match="TorchScript"):
            saved(model)


def test_a_loaded_model_that_has_changed_is_saved_without_its_old_example() -> None:
    loaded = perdure.load(saved(nn.Sequential(nn.Linear(3, 2)), example=torch.randn(1, 3)), form="class")
    loaded[0] = nn.Linear(5, 2)
    file = io.BytesIO()
    report = perdure.save(loaded, file)
    assert report.forms == ("class", "weights") and "does not take the example" in " ".join(report.warnings)
    assert perdure.load(file.getvalue())[0].in_features == 5


@dataclasses.dataclass
class Config:
    act: Callable[..., torch.Tensor] = F.gelu
    norm: type = nn.LayerNorm


@dataclasses.dataclass(frozen=True)
class Key:
    name: str


class Configured(nn.Module, Generic[X]):
    act: Any = nn.ReLU

    def __init__(self) -> None:
        super().__init__()
        self.config = Config(act=F.relu)
        self.act = nn.GELU
        self.table = self.same_table = {Key("a"): 1}
        self.holder = types.SimpleNamespace(keys={Key("b")})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.config.act(x)


def test_defaults_of_fields_keys_of_ones_own_and_generic_modules() -> None:
    loaded: Any = perdure.load(saved(Configured[int]()), trusted=[Configured, Config, Key])
    assert loaded.config == Config(act=F.relu) and loaded.act is nn.GELU
    assert loaded.table == {Key("a"): 1} and loaded.table is loaded.same_table and loaded.holder.keys == {Key("b")}


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self) -> None:
        self.a, self.b = 1, [2]


class Empty:
    def __getstate__(self) -> Any:
        return None

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("pickling does not call it without a state")


class Fails:
    def __getstate__(self) -> Any:
        raise ValueError("not this one")


def test_objects_keep_the_state_that_pickling_would() -> None:
    model: Any = nn.Linear(1, 1)
    model.slotted, model.empty = Slotted(), Empty()
    loaded: Any = perdure.load(saved(model), trusted=[Slotted, Empty])
    assert (loaded.slotted.a, loaded.slotted.b) == (1, [2]) and type(loaded.empty) is Empty
    model.fails = Fails()
    with pytest.raises(UnsupportedModelError, match=r"fails: .*Fails, which cannot be pickled .*not this one"):
        saved(model)


class Tells(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return {"y": x * 2, "mean": x.mean().item(), "how": object(), "n": 3}


def test_parts_of_an_answer_that_are_no_tensors() -> None:
    """Numbers may differ by rounding, and objects are compared by their type."""
    content = saved(Tells(), example=torch.randn(2, 3), graph=False)
    loaded = perdure.load(content, trusted=[Tells], form="class", verify="full")
    assert loaded(torch.ones(1))["n"] == 3


@perdure.register("test_state.Settings", version=2)
@dataclasses.dataclass
class Settings:
    a: int = 1


def test_registered_objects_of_another_version_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from perdure.models import naming

    model: Any = nn.Linear(1, 1)
    model.settings = Settings()
    content = saved(model)
    assert perdure.load(content, trusted=[Settings]).settings == Settings()  # type: ignore[arg-type]
    monkeypatch.setitem(naming._registered, Settings, naming.Registration("test_state.Settings", 3, {}))
    with pytest.raises(InputError, match="saved in version 2; the class here is of version 3"):
        perdure.load(content, trusted=[Settings])


def test_a_model_that_cannot_be_copied_keeps_its_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(tensor: torch.Tensor) -> torch.Tensor:
        raise MemoryError

    model = nn.BatchNorm1d(2).train()
    monkeypatch.setattr("perdure.models.preserving.copied", fails)
    with pytest.raises(MemoryError):
        saved(model, example=torch.randn(2, 2))
    assert model.training


def test_in_inference_mode() -> None:
    """Its tensors do not count how often they are written into."""
    x = torch.randn(3, 2)
    with torch.inference_mode():
        made_within, counts = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), Counts()
        saved_within = saved(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), example=x)
        for form in ("class", "graph"):
            assert perdure.load(saved_within, form=form, verify="full")(x).shape == (3, 2)  # type: ignore[arg-type]
    loaded: Any = perdure.load(saved(made_within, example=x), form="class", mode="train")
    loaded(x).sum().backward()
    assert loaded[0].weight.grad is not None
    loaded = perdure.load(saved(counts, example=x), trusted=[Counts], form="class")
    assert counts.n.item() == loaded.n.item() == 0


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("n", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            self.n += 1
        return x + 0


def test_more_values_than_are_loaded_again_are_refused_when_saved() -> None:
    model: Any = nn.Linear(2, 2)
    model.table = [0] * 4_100_000
    with pytest.raises(UnsupportedModelError, match="plain values; at most 4000000"):
        saved(model)
    x = torch.randn(1, 2)
    assert torch.equal(perdure.load(saved(model, example=x))(x), model(x))
