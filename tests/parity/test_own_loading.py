"""Models that take loading into their own hands: they end as with `load_state_dict`, or as they were."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

import perdure
from perdure.errors import MismatchError

State = dict[str, Any]


def saved(source: Any) -> bytes:
    file = io.BytesIO()
    perdure.save_weights(source, file)
    return file.getvalue()


def values(model: nn.Module) -> dict[str, list[float]]:
    return {
        name: tensor.detach().flatten().tolist() for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }


class Replaces(nn.Module):
    """Its hook puts another parameter in place."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))
        self.register_load_state_dict_pre_hook(self._replace)

    @staticmethod
    def _replace(module: Any, state: State, prefix: str, *_: Any) -> None:
        module.weight = nn.Parameter(torch.full_like(state[prefix + "weight"], 99))


class ChangesData(Replaces):
    """Its hook changes the file's tensors in place, past PyTorch's count of versions."""

    @staticmethod
    def _replace(module: Any, state: State, prefix: str, *_: Any) -> None:
        state[prefix + "weight"].data.mul_(2)


class Doubles(nn.Module):
    """Its hook changes one of the file's tensors, and makes another that the file lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.scale, self.bias = (nn.Parameter(torch.zeros(4)) for _ in range(3))
        self.register_load_state_dict_pre_hook(self._double)

    @staticmethod
    def _double(module: Any, state: State, prefix: str, *_: Any) -> None:
        state[prefix + "weight"] = state[prefix + "weight"] * 2
        state.setdefault(prefix + "scale", torch.ones(4))


def test_what_a_model_changes_or_makes_stands_in_the_report() -> None:
    model = nn.Sequential(Doubles())
    report = perdure.load_weights(model, saved({"0.weight": torch.ones(4), "0.bias": torch.ones(4).half()}))
    assert report.adapted == {"0.weight": "changed by the model", "0.scale": "made by the model"}
    assert report.casts == {"0.bias": ("float16", "float32")} and model[0].weight.tolist() == [2.0] * 4


def test_nothing_is_adapted_that_cannot_be_cast() -> None:
    model = nn.Sequential(Doubles())
    model.register_buffer("index", torch.arange(4))
    content = saved({"0.weight": torch.ones(4), "0.bias": torch.ones(4), "index": torch.ones(6)})
    with pytest.raises(MismatchError) as caught:
        perdure.load_weights(model, content, adapt={"index": "head"})
    assert set(caught.value.mismatched) == {"index"} and model.index.tolist() == [0, 1, 2, 3]


def test_a_counter_that_is_not_in_the_file_stands_in_the_report() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    report = perdure.load_weights(model, saved({"other": torch.ones(4)}), strict=False)
    left = {*report.missing, *report.kept, *report.adapted}
    assert left == set(model.state_dict()) and report.fraction_loaded == 0.0


class RewritesChildren(nn.Module):
    """Its loader renames and changes what its child then loads."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Linear(4, 1, bias=False)

    def _load_from_state_dict(self, state: State, prefix: str, *rest: Any) -> None:
        state[prefix + "weight.weight"] = state.pop(prefix + "weight").view(1, 4) * 3
        super()._load_from_state_dict(state, prefix, *rest)


class OwnVerb(nn.Module):
    """It has a `load_state_dict` of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))

    def load_state_dict(self, state: State, *arguments: Any, **options: Any) -> Any:
        return super().load_state_dict({key: value * 2 for key, value in state.items()}, *arguments, **options)


class OwnLoader(nn.Module):
    """It loads itself, as FrozenBatchNorm of torchvision does, and keeps an extra state."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))
        self.seen: Any = None

    def _load_from_state_dict(self, state: State, prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state, prefix, *rest)

    def get_extra_state(self) -> Any:
        return self.seen

    def set_extra_state(self, state: Any) -> None:
        if state == "refuse":
            raise ValueError("not this")
        self.seen = state


KINDS: list[Callable[[], nn.Module]] = [Replaces, ChangesData, RewritesChildren, OwnVerb]
FILE = {"weight": torch.arange(4.0)}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("kind", KINDS)
def test_as_load_state_dict_does(kind: Callable[[], nn.Module], device: str) -> None:
    theirs = kind()
    theirs.load_state_dict({name: tensor.clone() for name, tensor in FILE.items()})
    with torch.device(device):
        ours = kind()
    report = perdure.load_weights(ours, saved(FILE))
    assert values(ours) == values(theirs)
    assert report.fraction_loaded == 1.0
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), {})


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_loader_and_an_extra_state(device: str) -> None:
    """On `meta` too, where PyTorch's own copying does nothing; casts are reported, and the optimizer's object stays."""
    source = nn.Sequential(OwnLoader(), nn.Linear(2, 2))
    source[0].seen = {"steps": 3}
    with torch.device(device):
        model = nn.Sequential(OwnLoader(), nn.Linear(2, 2)).half()
    weight = model[0].weight
    report = perdure.load_weights(model, saved(source))
    assert model[0].weight is weight and model[0].seen == {"steps": 3}
    assert values(model) == values(source.half())
    assert report.fraction_loaded == 1.0
    assert report.casts["0.weight"] == ("float32", "float16")


def test_tensors_of_other_types_are_filled_or_the_file_is_refused() -> None:
    """A wrapper's memory is not its own: exchanging it would change nothing, under a report of 100 %."""
    model = nn.Linear(2, 2)
    model.weight = nn.Parameter(TwoTensor(torch.zeros(2, 2), torch.zeros(2, 2)))
    perdure.load_weights(model, saved({"weight": torch.ones(2, 2), "bias": torch.ones(2)}))
    assert model.weight.a.tolist() == model.weight.b.tolist() == [[1, 1], [1, 1]]  # type: ignore[attr-defined]

    class Plain(nn.Parameter):
        pass

    other = nn.Linear(2, 2)
    other.weight = Plain(torch.zeros(2, 2))
    perdure.load_weights(other, saved({"weight": torch.ones(2, 2), "bias": torch.ones(2)}))
    assert type(other.weight) is Plain and other.weight.tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_model_that_refuses_is_put_back(device: str) -> None:
    """One part refuses after others have taken theirs: values, extra states, devices and lazy tensors are as before."""
    with torch.device(device):
        model = nn.Sequential(OwnLoader(), OwnLoader(), nn.Linear(2, 2), nn.LazyLinear(3))
    before = {name: id(tensor) for name, tensor in model.named_parameters()}
    kinds = [type(tensor) for tensor in model.parameters()]
    source = nn.Sequential(OwnLoader(), OwnLoader(), nn.Linear(2, 2), nn.Linear(5, 3))
    source[0].seen, source[1].seen = "new", "refuse"
    model[0].seen = "old"
    with pytest.raises(ValueError, match="not this"):
        perdure.load_weights(model, saved(source))
    assert model[0].seen == "old"
    assert {name: id(tensor) for name, tensor in model.named_parameters()} == before
    assert [type(tensor) for tensor in model.parameters()] == kinds
    assert all(tensor.device.type == device for tensor in model[:3].parameters())
    if device == "cpu":
        assert model[0].weight.tolist() == [0, 0, 0, 0]


def test_a_strict_mismatch_leaves_the_model() -> None:
    model = nn.Sequential(OwnLoader(), nn.LazyLinear(3), nn.Linear(2, 2))
    source = nn.Sequential(OwnLoader(), nn.Linear(5, 3), nn.Linear(2, 7))
    with torch.no_grad():
        source[0].weight.fill_(5)
    before = values(model[:1]) | values(model[2:])
    with pytest.raises(MismatchError, match=r"2\.weight: \(7, 2\) in the file, \(2, 2\) in the model"):
        perdure.load_weights(model, saved(source))
    assert type(model[1].weight) is nn.UninitializedParameter
    assert values(model[:1]) | values(model[2:]) == before
    report = perdure.load_weights(model, saved(source), strict=False)
    assert set(report.mismatched) == {"2.weight", "2.bias"}
    assert model[0].weight.tolist() == [5] * 4 and tuple(model[1].weight.shape) == (3, 5)


def test_a_tensor_twice_in_an_extra_state() -> None:
    source, model = OwnLoader(), OwnLoader()
    steps = torch.arange(3.0)
    source.seen = {"now": steps, "best": [steps]}
    perdure.load_weights(model, saved(source))
    assert model.seen["now"].tolist() == [0, 1, 2] and model.seen["best"][0] is model.seen["now"]


# What the fast way minds


def test_memory_that_somebody_else_holds_is_filled() -> None:
    """As `load_state_dict` does: a flat buffer outside of the model, an array, a state dict that was taken before."""
    flat = torch.zeros(9)
    model = nn.Linear(2, 3)
    model.weight.data, model.bias.data = flat[:6].view(3, 2), flat[6:]
    perdure.load_weights(model, saved({"weight": torch.ones(3, 2), "bias": torch.full((3,), 2.0)}))
    assert flat.tolist() == [1] * 6 + [2] * 3
    other = nn.Linear(2, 3)
    array, state, alias = other.weight.detach().numpy(), other.state_dict(), other.weight.data
    perdure.load_weights(other, saved(model))
    assert array.tolist() == state["weight"].tolist() == alias.tolist() == [[1, 1]] * 3


def test_a_backward_pass_under_way_does_not_take_the_new_values_for_its_own() -> None:
    model = nn.Linear(2, 2)
    loss = model(torch.ones(1, 2, requires_grad=True)).sum()
    perdure.load_weights(model, saved(nn.Linear(2, 2)), mode=None)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_hooks_of_parameters_on_meta_stay() -> None:
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    called: list[str] = []
    model.weight.register_hook(lambda _: called.append("gradient"))
    model.weight.register_post_accumulate_grad_hook(lambda _: called.append("accumulated"))
    perdure.load_weights(model, saved(nn.Linear(2, 2)))
    model(torch.ones(1, 2)).sum().backward()
    assert called == ["gradient", "accumulated"]


def test_a_kernel_of_one_pixel_stays_channels_last() -> None:
    def build(device: str = "cpu") -> nn.Module:
        with torch.device(device):
            return nn.Sequential(nn.Conv2d(16, 32, 1)).to(memory_format=torch.channels_last)

    source = build()
    x = torch.randn(2, 16, 5, 5)
    for model in (build(), build("meta")):
        perdure.load_weights(model, saved(source))
        assert model[0].weight.stride() == source[0].weight.stride()
        assert model(x).stride() == source(x).stride() and torch.equal(model(x), source(x))


def test_a_view_whose_owner_is_not_loaded_gets_memory_of_its_own() -> None:
    row, table = torch.randn(5), torch.randn(4, 8)
    expanded = saved({"row": row, "fc.weight": row.expand(4, 5), "fc.bias": torch.zeros(4)})
    sliced = saved({"table": table, "fc.weight": table[:, :5], "fc.bias": table[:, 6]})
    for content, weight in ((expanded, row.expand(4, 5)), (sliced, table[:, :5])):
        model = nn.Linear(5, 4)
        perdure.load_weights(model, content, prefix="fc", mode="train")
        assert torch.equal(model.weight, weight) and model.weight.stride() == (5, 1)
        assert model.weight.untyped_storage().nbytes() == 80
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.ones(1, 5)).sum().backward()
        optimizer.step()


def test_two_parameters_that_were_one_are_named(caplog: pytest.LogCaptureFixture) -> None:
    weight = torch.ones(2, 2)
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    perdure.load_weights(model, saved({"0.weight": weight, "1.weight": weight}))
    assert model[0].weight.data_ptr() == model[1].weight.data_ptr()
    assert "'0.weight' and '1.weight' were one tensor" in caplog.text


def test_a_buffer_that_grew_before_the_save() -> None:
    """Rotary tables grow with the longest input; a model on meta takes the one that was saved."""

    class Rotary(nn.Module):
        def __init__(self, length: int) -> None:
            super().__init__()
            self.register_buffer("table", torch.arange(float(length)), persistent=False)
            self.linear = nn.Linear(2, 2)

    with torch.device("meta"):
        model = Rotary(4)
    perdure.load_weights(model, saved(Rotary(8)))
    assert model.table.tolist() == list(range(8))


def test_a_failing_cast_leaves_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory may run out while the last of many is cast; nothing has been placed by then."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).double()
    from perdure.weights.placing import Placer

    convert, calls = Placer._convert, []

    def failing(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("out of memory")
        return convert(self, *arguments)

    monkeypatch.setattr(Placer, "_convert", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        perdure.load_weights(model, saved(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))))
    assert all(tensor.is_meta for tensor in model.parameters())


@pytest.mark.parametrize("device", ["cdua", "meta", "cuda:77", object()])
def test_a_device_that_is_none(device: Any) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(perdure.errors.InputError, match="device"):
        perdure.load_weights(model, saved(nn.Linear(2, 2)), device=device)


def test_modes_of_modules_that_have_verbs_of_their_own() -> None:
    class Merges(nn.Linear):
        merged = False

        def train(self, mode: bool = True) -> Any:
            self.merged = not mode
            return super().train(mode)

    source = nn.Sequential(Merges(2, 2), nn.Dropout())
    source[1].eval()
    model = nn.Sequential(Merges(2, 2), nn.Dropout())
    model.eval()
    perdure.load_weights(model, saved(source), mode="saved")
    assert (model[0].training, model[0].merged, model[1].training) == (True, False, False)
    perdure.load_weights(model, saved(source))
    assert (model[0].training, model[0].merged) == (False, True)


# What is planned before such a model sees its state dict


class Versioned(nn.Linear):
    """It asks for the version that it was saved with, and has a hook."""

    _version = 3

    def _load_from_state_dict(self, state: State, prefix: str, local: State, *rest: Any) -> None:
        assert local.get("version") == 3, local
        super()._load_from_state_dict(state, prefix, local, *rest)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_wrappers_rules_and_adaptations_come_first(device: str) -> None:
    """The versions of modules follow their names; what a model says is told by the names of the file."""

    def build(n: int) -> nn.ModuleDict:
        return nn.ModuleDict({"body": Versioned(2, 2), "head": Versioned(2, n)})

    source = build(3)
    wrapped = nn.DataParallel(nn.ModuleDict({"old": source["body"], "head": source["head"]}))
    with torch.device(device):
        model = build(4)
    content = saved(wrapped)
    with pytest.raises(MismatchError) as caught:
        perdure.load_weights(model, content, rename={r"\bold\.": "body."})
    assert set(caught.value.mismatched) == {"head.weight", "head.bias"}
    assert caught.value.remedy["adapt"] == {"head.*": "head"}
    adapt = {"head.weight": {"how": "head", "new": "zeros"}, "head.bias": {"how": "head", "new": "mean"}}
    report = perdure.load_weights(model, content, rename={r"\bold\.": "body."}, adapt=adapt)
    assert torch.equal(model["body"].weight, source["body"].weight)
    assert torch.equal(model["head"].weight[:3], source["head"].weight) and model["head"].weight[3].tolist() == [0, 0]
    assert report.renamed["module.old.bias"] == "body.bias" and set(report.adapted) == {"head.weight", "head.bias"}
    assert report.fraction_loaded == (6 + 9) / (6 + 12)
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), {})
    kept = build(4)
    before = kept["head"].weight.detach().clone()
    report = perdure.load_weights(kept, content, rename={r"\bold\.": "body."}, adapt={"head.*": "skip"})
    assert torch.equal(kept["head"].weight, before)
    assert report.kept == dict.fromkeys(("head.weight", "head.bias"), "skipped by adapt")
    assert set(report.unused) == {"module.head.weight", "module.head.bias"}
