"""`save_weights` and `load_weights` against `torch.save`, `torch.load` and `load_state_dict` on the same models."""

from __future__ import annotations

import io
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.utils import parametrizations

import perdure
from parity.zoo import ZOO, DataState, Kind, Plain, SliceOfFlat, Tied, noise, real_lazy, warmed
from perdure.errors import InputError, MismatchError, MissingTensorError, UnsupportedTensorError, UnsupportedValueError

State = dict[str, Any]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()) if tensor.numel() else b""


def state_bits(model: nn.Module) -> State:
    """Return the whole state of a model, buffers that are not persistent included, in comparable form."""
    state = {**model.state_dict(), **dict(model.named_buffers())}
    return {
        name: (str(value.dtype), tuple(value.shape), bits(value)) if isinstance(value, torch.Tensor) else repr(value)
        for name, value in state.items()
    }


def answer(model: nn.Module, kind: Kind) -> bytes:
    with torch.no_grad():
        return bits(model(*kind.inputs()))


def by_torch(source: nn.Module, target: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    target.load_state_dict(torch.load(file, weights_only=True))
    return target.eval()


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build()


def saved(source: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    perdure.save_weights(source, file, **options)
    return file.getvalue()


# Every kind of model


@pytest.mark.parametrize("name", ZOO)
def test_same_as_torch(name: str, tmp_path: Path) -> None:
    """Saved, loaded into a fresh model: the state and the answer are torch's; objects and the saver stay as they were."""
    kind = ZOO[name]
    source = seeded(kind.build, 0).eval()
    expected_answer, before = answer(source, kind), state_bits(source)
    path = tmp_path / "w.safetensors"
    report = perdure.save_weights(source, path)
    assert report.warnings == ()
    assert state_bits(source) == before and answer(source, kind) == expected_answer
    fresh = real_lazy if name == "lazy" else kind.build
    torchs = by_torch(source, seeded(fresh, 1))
    ours = seeded(fresh, 1)
    objects = {key: id(tensor) for key, tensor in [*ours.named_parameters(), *ours.named_buffers()]}
    strides = {
        key: tensor.stride() for key, tensor in ours.state_dict(keep_vars=True).items() if hasattr(tensor, "stride")
    }
    found = perdure.load_weights(ours, path)
    assert (found.missing, found.unexpected, found.mismatched, found.casts) == ((), (), {}, {})
    assert (found.fraction_loaded, found.verified, found.unknown, found.differences) == (1.0, "checksum", (), ())
    assert state_bits(ours) == state_bits(torchs)
    assert answer(ours, kind) == answer(torchs, kind) == expected_answer
    assert {key: id(tensor) for key, tensor in [*ours.named_parameters(), *ours.named_buffers()]} == objects
    for key, tensor in ours.state_dict(keep_vars=True).items():
        if key in strides and tensor.numel():
            assert tensor.stride() == strides[key], key
    assert not any(module.training for module in ours.modules())


@pytest.mark.parametrize("name", [name for name, kind in ZOO.items() if kind.on_meta])
def test_same_from_meta(name: str, tmp_path: Path) -> None:
    """A model built on meta becomes the saved one, the objects staying the same; buffers not persistent come back too."""
    kind = ZOO[name]
    source = seeded(kind.build, 0).eval()
    path = tmp_path / "w.safetensors"
    perdure.save_weights(source, path)
    build = kind.build if name != "batch norms" else None
    with torch.device("meta"):
        if build is None:
            from parity.zoo import batch_norms as build
        model = build()
    objects = {key: id(tensor) for key, tensor in [*model.named_parameters(), *model.named_buffers()]}
    grads = {key: parameter.requires_grad for key, parameter in model.named_parameters()}
    report = perdure.load_weights(model, path)
    assert report.fraction_loaded == 1.0
    assert state_bits(model) == state_bits(source)
    assert {key: id(tensor) for key, tensor in [*model.named_parameters(), *model.named_buffers()]} == objects
    assert {key: parameter.requires_grad for key, parameter in model.named_parameters()} == grads
    assert answer(model, kind) == answer(source, kind)
    assert all(type(parameter) is nn.Parameter and parameter.is_leaf for parameter in model.parameters())


@pytest.mark.parametrize("shard_bytes", [1, 100, None])
def test_same_from_shards(shard_bytes: int | None, tmp_path: Path) -> None:
    kind = ZOO["tied"]
    source = seeded(kind.build, 0)
    perdure.save_weights(source, tmp_path / "model", shard_bytes=shard_bytes)
    ours = seeded(kind.build, 1)
    report = perdure.load_weights(ours, tmp_path / "model")
    assert report.tied == {"head.weight": "embedding.weight"}
    assert state_bits(ours) == state_bits(source)
    assert ours.head.weight is ours.embedding.weight  # type: ignore[union-attr]


# Batch norm: versions and counters


def old_batch_norm(version: int | None) -> OrderedDict[str, torch.Tensor]:
    """A state dict from before batch norm counted its batches."""
    state = warmed(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)), 5, 3).state_dict()
    del state["0.num_batches_tracked"]
    metadata = OrderedDict({"": {"version": 1}, "1": {"version": 1}})
    if version is not None:
        metadata["0"] = {"version": version}
    state._metadata = metadata  # type: ignore[attr-defined]
    return state


@pytest.mark.parametrize("version", [None, 1])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_batch_norm_without_counters(version: int | None, device: str) -> None:
    """As in torch: the model's own counter stays, and on meta it becomes zero."""
    state = old_batch_norm(version)
    theirs = warmed(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)), 5, 3)
    theirs.load_state_dict(state)
    assert theirs[0].num_batches_tracked.item() == 3
    if device == "cpu":
        ours = warmed(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)), 5, 3)
    else:
        with torch.device("meta"):
            ours = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3))
    counter = ours[0].num_batches_tracked
    report = perdure.load_weights(ours, saved(state))
    assert report.missing == ()
    assert ours[0].num_batches_tracked is counter
    assert (counter.item(), counter.dtype) == (3 if device == "cpu" else 0, torch.int64)
    expected = state_bits(theirs)
    if device == "meta":
        expected["0.num_batches_tracked"] = state_bits(ours)["0.num_batches_tracked"]
    assert state_bits(ours) == expected


def test_batch_norm_of_version_2_must_have_its_counter() -> None:
    state = old_batch_norm(2)
    with pytest.raises(RuntimeError, match="num_batches_tracked"):
        nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)).load_state_dict(state)
    with pytest.raises(MismatchError, match=r"(?s)missing from the file \(1\):\s+0.num_batches_tracked"):
        perdure.load_weights(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)), saved(state))


def test_versions_come_back() -> None:
    """What a module did to its format in `_version` is seen again by its loader, as with torch."""
    seen: list[object] = []

    class Versioned(nn.Module):
        _version = 3

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))
            self._register_load_state_dict_pre_hook(self._look)

        def _look(self, state: State, prefix: str, local: State, *_: Any) -> None:
            seen.append((prefix, local.get("version")))

    model = nn.Sequential(Versioned(), nn.BatchNorm1d(2), Versioned())
    model.load_state_dict(model.state_dict())
    by_torchs, seen[:] = list(seen), []
    perdure.load_weights(model, saved(model))
    assert seen == by_torchs == [("0.", 3), ("2.", 3)]
    seen.clear()
    perdure.load_weights(model, saved(nn.ModuleDict({"part": model})), prefix="part")
    assert seen == [("0.", 3), ("2.", 3)]


def test_metadata_of_a_state_dict_round_trips(tmp_path: Path) -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.MultiheadAttention(4, 2), nn.Linear(2, 2))
    expected = model.state_dict()._metadata  # type: ignore[attr-defined]
    for source in (model, model.state_dict()):
        path = tmp_path / "w.safetensors"
        perdure.save_weights(source, path)
        manifest = perdure.open(path).manifest
        assert manifest is not None
        found = {module: group.metadata for group in manifest.versions for module in group.modules}
        assert found == {module: dict(entry) for module, entry in expected.items()}


# Hooks and modules that load themselves


class Splits(nn.Module):
    """Two parameters that were one in older files."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(4, 3))
        self.key = nn.Parameter(torch.zeros(4, 3))
        self._register_load_state_dict_pre_hook(self._split)

    def _split(self, state: State, prefix: str, *_: Any) -> None:
        if prefix + "both" in state:
            state[prefix + "query"], state[prefix + "key"] = state.pop(prefix + "both").chunk(2)


class Renames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_load_state_dict_pre_hook(self._rename)

    @staticmethod
    def _rename(module: nn.Module, state: State, prefix: str, *_: Any) -> None:
        assert isinstance(module, Renames)
        if prefix + "gamma" in state:
            state[prefix + "weight"] = state.pop(prefix + "gamma")


class Scales(nn.Module):
    """Changes a tensor of the file in place."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self._register_load_state_dict_pre_hook(lambda state, prefix, *_: state[prefix + "weight"].mul_(2))


class Drops(nn.Module):
    """Has no place for what older files hold."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self._register_load_state_dict_pre_hook(lambda state, prefix, *_: state.pop(prefix + "position_ids", None))


class Fills(nn.Module):
    """Makes up what older files lack."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.bias = nn.Parameter(torch.zeros(3))
        self._register_load_state_dict_pre_hook(
            lambda state, prefix, *_: state.setdefault(prefix + "bias", torch.full((3,), 7.0))
        )


class LoadsItself(nn.Module):
    """Overrides the loader, as many modules of libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.linear = nn.Linear(3, 2)
        self.loaded = 0

    def _load_from_state_dict(self, state: State, prefix: str, *rest: Any) -> None:
        old = prefix + "old_weight"
        if old in state:
            state[prefix + "weight"] = state.pop(old) + 1
        self.loaded += 1
        super()._load_from_state_dict(state, prefix, *rest)


class Resizes(nn.Module):
    """Takes a buffer of any length, as growing caches do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", torch.zeros(2))

    def _load_from_state_dict(self, state: State, prefix: str, *rest: Any) -> None:
        self.cache = torch.zeros_like(state[prefix + "cache"])
        super()._load_from_state_dict(state, prefix, *rest)


def ramp(*shape: int) -> torch.Tensor:
    return torch.arange(1.0, 1 + torch.Size(shape).numel()).view(shape)


HOOKED: dict[str, tuple[Callable[[], nn.Module], Callable[[], State]]] = {
    "splits": (Splits, lambda: {"both": ramp(8, 3)}),
    "splits, new file": (Splits, lambda: {"query": ramp(4, 3), "key": -ramp(4, 3)}),
    "renames": (Renames, lambda: {"gamma": ramp(3)}),
    "scales": (Scales, lambda: {"weight": ramp(3)}),
    "drops": (Drops, lambda: {"weight": ramp(3), "position_ids": torch.arange(9)}),
    "fills": (Fills, lambda: {"weight": ramp(3)}),
    "loads itself": (LoadsItself, lambda: {"weight": ramp(3), "linear.weight": ramp(2, 3), "linear.bias": ramp(2)}),
    "loads itself, old": (
        LoadsItself,
        lambda: {"old_weight": ramp(3), "linear.weight": ramp(2, 3), "linear.bias": ramp(2)},
    ),
    "resizes": (Resizes, lambda: {"cache": ramp(5)}),
}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", HOOKED)
def test_hooks_and_own_loaders(name: str, wrapped: bool) -> None:
    build, state = HOOKED[name]
    theirs, ours = (nn.Sequential(build(), nn.Linear(2, 2)) if wrapped else build() for _ in range(2))
    file = state()
    if wrapped:
        ones = {"1.weight": torch.ones(2, 2), "1.bias": torch.ones(2)}
        file = {**{f"0.{key}": value for key, value in file.items()}, **ones}
    report = perdure.load_weights(ours, saved(file))
    theirs.load_state_dict({key: value.clone() for key, value in file.items()})
    assert state_bits(ours) == state_bits(theirs)
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), {})
    if name == "renames":
        start = "0." if wrapped else ""
        assert report.renamed == {start + "gamma": start + "weight"}


@pytest.mark.parametrize("name", HOOKED)
def test_damage_is_found_behind_hooks(name: str, tmp_path: Path) -> None:
    """What a hook or a loader makes of damaged bytes never gets into a model."""
    build, state = HOOKED[name]
    path = tmp_path / "w.safetensors"
    perdure.save_weights(state(), path)
    content = bytearray(path.read_bytes())
    for place in range(4096, len(content), 13):
        content[place] ^= 16
        path.write_bytes(content)
        content[place] ^= 16
        model = build()
        before = state_bits(model)
        damaged = perdure.check(path).findings[0].tensor
        with pytest.raises(perdure.errors.DigestError, match=damaged):
            perdure.load_weights(model, path)
        assert state_bits(model) == before


def test_a_childs_hook_sees_its_own_entries_only() -> None:
    """torch gives each module a dict of its own, of which a hook may make a new one."""

    class Rewrites(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))
            self._register_load_state_dict_pre_hook(self._rewrite)

        def _rewrite(self, state: State, prefix: str, *_: Any) -> None:
            assert list(state) == [prefix + "old"]
            new = {prefix + "weight": state[prefix + "old"]}
            state.clear()
            state.update(new)

    theirs, ours = (nn.Sequential(nn.Linear(2, 2), Rewrites(), nn.Linear(2, 2)) for _ in range(2))
    state = {key: ramp(*value.shape) for key, value in ours.state_dict().items()}
    state["1.old"] = state.pop("1.weight")
    theirs.load_state_dict(state)
    report = perdure.load_weights(ours, saved(state))
    assert state_bits(ours) == state_bits(theirs)
    assert report.renamed == {"1.old": "1.weight"}


def test_a_loader_that_refuses() -> None:
    class Refuses(LoadsItself):
        def _load_from_state_dict(self, state: State, prefix: str, local: State, *rest: Any) -> None:
            rest[-1].append("this weight is from before the flood")

    with pytest.raises(MismatchError, match="before the flood"):
        perdure.load_weights(nn.Sequential(Refuses()), saved({"0.weight": ramp(3)}), strict=False)


def test_a_loader_that_misses_something() -> None:
    model = nn.Sequential(LoadsItself())
    state = {"0.linear.weight": ramp(2, 3), "0.linear.bias": ramp(2), "0.other": ramp(1)}
    with pytest.raises(MismatchError, match=r"(?s)0.weight.*0.other"):
        perdure.load_weights(model, saved(state))
    report = perdure.load_weights(model, saved(state), strict=False)
    assert (report.missing, report.unexpected) == (("0.weight",), ("0.other",))
    assert torch.equal(model[0].linear.weight, ramp(2, 3))


def test_post_hooks_run() -> None:
    """They see the lists of a load, and may forgive what is missing by emptying them, as torch allows."""
    seen: list[tuple[list[str], list[str]]] = []

    def forgive(module: nn.Module, keys: Any) -> None:
        seen.append((list(keys.missing_keys), list(keys.unexpected_keys)))
        keys.missing_keys.clear()

    theirs, ours = nn.Linear(3, 2), nn.Linear(3, 2)
    for model in (theirs, ours):
        model.register_load_state_dict_post_hook(forgive)
    state = {"weight": ramp(2, 3)}
    theirs.load_state_dict(state)
    assert seen == [(["bias"], [])]
    report = perdure.load_weights(ours, saved(state))
    assert seen == [(["bias"], [])] * 2 and report.missing == ()
    assert torch.equal(ours.weight, theirs.weight)
    assert report.fraction_loaded == 6 / 8  # forgiven, but not loaded


def test_state_dict_hooks_shape_what_is_saved() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

    def drop(module: nn.Module, state: State, prefix: str, local: State) -> None:
        del state[prefix + "1.bias"]

    def add(module: nn.Module, state: State, prefix: str, local: State) -> None:
        state[prefix + "added"] = ramp(1)

    model.register_state_dict_post_hook(drop)
    model[0]._register_state_dict_hook(add)
    weights = dict(perdure.open(saved(model)))
    assert set(weights) == set(model.state_dict()) == {"0.weight", "0.bias", "1.weight", "0.added"}


def test_a_model_with_its_own_state_dict() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def state_dict(self, *arguments: Any, **options: Any) -> Any:
            return {f"renamed.{key}": value for key, value in super().state_dict(*arguments, **options).items()}

    assert set(perdure.open(saved(Own()))) == {"renamed.linear.weight", "renamed.linear.bias"}


def test_an_old_weight_norm_goes_into_a_new_one() -> None:
    """PyTorch's parametrization has a hook for that; the names it changed are in the report."""
    source = seeded(lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3))), 0)
    theirs, ours = (nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3))) for _ in range(2))
    theirs.load_state_dict(source.state_dict())
    report = perdure.load_weights(ours, saved(source))
    assert state_bits(ours) == state_bits(theirs)
    start = "0.parametrizations.weight.original"
    assert report.renamed == {"0.weight_g": f"{start}0", "0.weight_v": f"{start}1"}
    assert bits(ours(torch.ones(1, 4))) == bits(source(torch.ones(1, 4)))


# Lazy modules


def test_lazy_modules_are_refused_until_they_are_initialised() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LazyLinear(5))
    with pytest.raises(UnsupportedTensorError, match=r"'1\.(weight|bias)'.*lazy.*Run the model once"):
        perdure.save_weights(model, io.BytesIO())
    source = warmed(nn.Sequential(nn.Linear(3, 4), nn.LazyLinear(5)), 2, 3)
    assert set(perdure.open(saved(source))) == set(source.state_dict())


def test_loading_into_lazy_modules() -> None:
    """A lazy module takes its sizes from the state dict, as with torch."""
    source = warmed(nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d()), 2, 3)
    theirs, ours = (nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d()) for _ in range(2))
    theirs.load_state_dict(source.state_dict())
    report = perdure.load_weights(ours, saved(source))
    assert report.fraction_loaded == 1.0
    assert state_bits(ours) == state_bits(theirs) == state_bits(source)
    assert [type(parameter) for parameter in ours.parameters()] == [nn.Parameter] * 4
    x = torch.ones(2, 3)
    assert bits(ours.eval()(x)) == bits(theirs.eval()(x))


# Quantized modules


def test_dynamically_quantized_modules_are_refused_by_name(tmp_path: Path) -> None:
    """Their state dict holds packed objects, which are no tensors."""
    model = torch.ao.quantization.quantize_dynamic(
        nn.Sequential(nn.Linear(8, 6)).eval(), {nn.Linear}, dtype=torch.qint8
    )
    with pytest.raises(UnsupportedTensorError, match=r"'0\._packed_params\..*not a tensor"):
        perdure.save_weights(model, tmp_path / "q.safetensors")
    assert list(tmp_path.iterdir()) == []


def prepared() -> nn.Module:
    """A model with the observers of static quantization, which load themselves."""
    model = nn.Sequential(
        torch.ao.quantization.QuantStub(), nn.Conv2d(1, 2, 3), torch.ao.quantization.DeQuantStub()
    ).eval()
    model.qconfig = torch.ao.quantization.get_default_qconfig("x86")  # type: ignore[assignment]
    return torch.ao.quantization.prepare(model)


def test_models_prepared_for_quantization() -> None:
    source = seeded(prepared, 0)
    source(torch.randn(1, 1, 8, 8))
    theirs, ours = seeded(prepared, 1), seeded(prepared, 1)
    theirs.load_state_dict(source.state_dict())
    perdure.load_weights(ours, saved(source))
    assert state_bits(ours) == state_bits(theirs) == state_bits(source)


def test_statically_quantized_models() -> None:
    source, ours = seeded(prepared, 0), seeded(prepared, 1)
    for model in (source, ours):
        model(torch.randn(1, 1, 8, 8))
    source, ours = torch.ao.quantization.convert(source), torch.ao.quantization.convert(ours)
    x = torch.randn(1, 1, 8, 8)
    assert bits(ours(x)) != bits(source(x))
    perdure.load_weights(ours, saved(source))
    assert bits(ours(x)) == bits(source(x))


# What a load leaves as it is


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, kind: Kind) -> None:
    optimizer.zero_grad()
    model(*kind.inputs()).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize(
    "name", ["plain", "tied", "batch norms", "lstm", "weight norm", "channels last", "shared module"]
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_optimizer_made_earlier_trains_the_loaded_model(name: str, device: str) -> None:
    kind = ZOO[name]
    source = seeded(kind.build, 0)
    content = saved(source)
    theirs = by_torch(source, seeded(kind.build, 1))
    if device == "cpu":
        ours = seeded(kind.build, 2)
    elif name == "batch norms":
        pytest.importorskip("torch")
        from parity.zoo import batch_norms

        with torch.device("meta"):
            ours = batch_norms()
    else:
        with torch.device("meta"):
            ours = kind.build()
    torch.manual_seed(0)
    optimizers = [torch.optim.AdamW(model.parameters(), lr=0.01) for model in (theirs, ours)]
    perdure.load_weights(ours, content)
    before = state_bits(ours)
    assert before == state_bits(theirs)
    for _ in range(3):
        for model, optimizer in zip((theirs, ours), optimizers, strict=True):
            train_step(model, optimizer, kind)
    assert state_bits(ours) == state_bits(theirs)
    assert state_bits(ours) != before


def test_gradients_hooks_and_attributes_of_parameters_stay() -> None:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    called = []
    model.weight.register_hook(lambda gradient: called.append(1))
    model.weight.tag = "mine"  # type: ignore[attr-defined]
    model(torch.ones(1, 3)).sum().backward()
    gradient = model.weight.grad
    model.register_forward_hook(lambda *_: called.append(2))
    perdure.load_weights(model, saved({"weight": ramp(2, 3), "bias": ramp(2)}))
    assert model.weight.grad is gradient and model.weight.tag == "mine"  # type: ignore[attr-defined]
    assert (model.weight.requires_grad, model.bias.requires_grad) == (True, False)
    called.clear()
    model(torch.ones(1, 3)).sum().backward()
    assert called == [2, 1]


def test_attributes_of_parameters_on_meta_stay() -> None:
    with torch.device("meta"):
        model = nn.Linear(3, 2)
    model.weight.tag = "mine"  # type: ignore[attr-defined]
    model.bias.requires_grad_(False)
    perdure.load_weights(model, saved({"weight": ramp(2, 3), "bias": ramp(2)}))
    assert model.weight.tag == "mine"  # type: ignore[attr-defined]
    assert (model.weight.requires_grad, model.bias.requires_grad) == (True, False)
    model(torch.ones(1, 3)).sum().backward()
    assert model.weight.grad is not None and model.bias.grad is None


def test_saving_changes_nothing_of_the_model() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    called: list[str] = []
    for module in model:
        module.register_forward_hook(lambda *_: called.append("forward"))
    model.register_state_dict_pre_hook(lambda *_: called.append("state dict"))
    model(torch.randn(2, 3, 5, 5)).sum().backward()
    called.clear()
    noted = [(id(p), p.data_ptr(), p.requires_grad, p.grad is not None, p._version) for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    before = state_bits(model)
    called.clear()
    saved(model)
    assert called == ["state dict"]
    assert [(id(p), p.data_ptr(), p.requires_grad, p.grad is not None, p._version) for p in model.parameters()] == noted
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert state_bits(model) == before


def test_memory_that_others_hold_is_kept() -> None:
    """Shared memory, and buffers that view a parameter: filled, not replaced, as load_state_dict does."""
    shared = nn.Linear(3, 2).share_memory()
    address = shared.weight.data_ptr()
    perdure.load_weights(shared, saved({"weight": ramp(2, 3), "bias": ramp(2)}))
    assert shared.weight.is_shared() and shared.weight.data_ptr() == address
    assert torch.equal(shared.weight, ramp(2, 3))

    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4))
            self.register_buffer("part", self.weight.data[:2], persistent=False)

    model = Viewing()
    perdure.load_weights(model, saved({"weight": ramp(4)}))
    assert model.part.tolist() == [1, 2]


def test_loading_under_inference_mode() -> None:
    """The parameters stay ordinary ones, which can be trained afterwards."""
    model = nn.Linear(3, 2)
    with torch.device("meta"):
        other = nn.Linear(3, 2)
    content = saved({"weight": ramp(2, 3), "bias": ramp(2)})
    with torch.inference_mode():
        perdure.load_weights(model, content)
        perdure.load_weights(other, content)
    for loaded in (model, other):
        loaded(torch.ones(1, 3)).sum().backward()
        assert loaded.weight.grad is not None and loaded.weight.grad.tolist() == [[1.0] * 3] * 2
        assert not loaded.weight.is_inference()


def test_loading_and_saving_inside_a_device_context() -> None:
    """`with torch.device("meta")` around the calls changes nothing of what they do."""
    source = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ours = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    tensors = {"t": ramp(3, 4).t(), "c": torch.ones(3, dtype=torch.complex64).conj(), "s": torch.eye(3).to_sparse()}
    with torch.device("meta"):
        perdure.load_weights(ours, saved(source))
        found = dict(perdure.open(saved(tensors)))
    assert state_bits(ours) == state_bits(source)
    assert torch.equal(found["t"], tensors["t"]) and torch.equal(found["c"], tensors["c"])
    assert torch.equal(found["s"].to_dense(), torch.eye(3))


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "dense": lambda tensor: tensor,
    "sparse_coo": lambda tensor: tensor.to_sparse(),
    "sparse_csr": lambda tensor: tensor.to_sparse_csr(),
    "quantized": lambda tensor: torch.quantize_per_tensor(tensor, 0.5, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore:Sparse", "ignore:torch.quantize")
@pytest.mark.parametrize("wanted", LAYOUTS)
@pytest.mark.parametrize("stored", LAYOUTS)
def test_layouts_that_differ_are_a_mismatch(stored: str, wanted: str) -> None:
    def build(layout: str, value: torch.Tensor) -> nn.Module:
        module = nn.Module()
        module.register_buffer("first", value[0].clone())
        module.register_buffer("x", LAYOUTS[layout](value))
        return module

    source, model = build(stored, torch.eye(3)), build(wanted, torch.zeros(3, 3))
    content = saved(source)
    if stored == wanted:
        perdure.load_weights(model, content)
        found = model.x.dequantize() if wanted == "quantized" else model.x.to_dense()
        assert torch.equal(found, torch.eye(3)) and model.x.layout == source.x.layout
        return
    with pytest.raises(MismatchError, match="x: "):
        perdure.load_weights(model, content)
    assert torch.equal(model.first, torch.zeros(3))
    report = perdure.load_weights(model, content, strict=False)
    assert list(report.mismatched) == ["x"]
    assert torch.equal(model.first, torch.eye(3)[0])


def test_views_of_a_flat_buffer_stay_views() -> None:
    source, model = SliceOfFlat(), SliceOfFlat()
    content = saved(source)
    assert len(perdure.open(content).manifest.aliases) == 2  # type: ignore[union-attr]
    report = perdure.load_weights(model, content)
    assert report.tied == {"weight": "flat", "bias": "flat"}
    assert state_bits(model) == state_bits(source)
    with torch.no_grad():
        model.flat.fill_(5)
    assert model.weight.tolist() == [[5] * 3] * 4 and model.bias.tolist() == [5] * 4


def test_a_file_with_other_values_for_tied_places_is_refused() -> None:
    """torch takes the last one in silence."""
    state = {**Tied().state_dict(), "head.weight": torch.zeros(11, 6)}
    model = Tied()
    before = state_bits(model)
    with pytest.raises(MismatchError, match=r"'head.weight'.*'embedding.weight'.*different values"):
        perdure.load_weights(model, saved(state))
    assert state_bits(model) == before
    state["head.weight"] = state["embedding.weight"].clone()
    assert perdure.load_weights(model, saved(state)).tied == {"head.weight": "embedding.weight"}


def test_places_that_overlap_in_part() -> None:
    """Each of them is the file's afterwards, or the file is refused; torch lets the last one win in silence."""

    class Overlapping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            memory = torch.zeros(10)
            self.first = nn.Parameter(memory[:6])
            self.second = nn.Parameter(memory[4:])

    model = Overlapping()
    consistent = {"first": ramp(10)[:6].clone(), "second": ramp(10)[4:].clone()}
    perdure.load_weights(model, saved(consistent))
    assert torch.equal(model.first, ramp(10)[:6]) and torch.equal(model.second, ramp(10)[4:])
    assert model.second.data_ptr() == model.first.data_ptr() + 16
    with pytest.raises(MismatchError, match=r"'(first|second)'.*other values"):
        perdure.load_weights(model, saved({"first": torch.ones(6), "second": torch.zeros(6)}))
    assert torch.equal(model.first, ramp(10)[:6]) and torch.equal(model.second, ramp(10)[4:])


def test_half_of_a_tie_is_enough() -> None:
    """A file of another writer that left the second name out, as safetensors does."""
    source = Tied()
    for left_out in ("head.weight", "embedding.weight"):
        state = {key: value for key, value in source.state_dict().items() if key != left_out}
        model = Tied()
        report = perdure.load_weights(model, saved(state))
        assert report.missing == () and report.fraction_loaded == 1.0
        assert state_bits(model) == state_bits(source)


# Arguments


@pytest.mark.parametrize("mode", ["eval", "train", "saved", None])
def test_modes(mode: Any) -> None:
    source = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.Dropout(), nn.Linear(2, 2)))
    source.train()
    source[1][0].eval()
    content = saved(nn.ModuleDict({"part": source, "other": nn.Linear(2, 2)}))
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.Dropout(), nn.Linear(2, 2)))
    model.eval()
    model[0].train()
    perdure.load_weights(model, content, prefix="part", mode=mode)
    found = [module.training for module in model.modules()]
    expected = {
        "eval": [False] * 5, "train": [True] * 5, "saved": [True, True, True, False, True],
        None: [False, True, False, False, False],
    }  # fmt: skip
    assert found == expected[mode]


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_model_that_says_itself_what_a_mode_is(mode: Any) -> None:
    """Many models keep parts frozen by a `train` of their own, which is asked."""

    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(2)
            self.head = nn.Linear(2, 2)

        def train(self, mode: bool = True) -> Any:
            super().train(mode)
            self.norm.eval()
            return self

    model = Frozen()
    for module in model.modules():
        module.training = mode == "eval"
    perdure.load_weights(model, saved(Frozen()), mode=mode)
    assert (model.training, model.norm.training, model.head.training) == (mode == "train", False, mode == "train")
    inside = nn.Sequential(Frozen())
    perdure.load_weights(inside, saved(inside), mode=mode)
    assert (inside.training, inside[0].norm.training, inside[0].head.training) == (
        mode == "train",
        False,
        mode == "train",
    )


@pytest.mark.parametrize("mode", ["eval", "train", "saved"])
def test_modes_of_a_scripted_model(mode: Any) -> None:
    """TorchScript keeps the mode outside of Python; dropout tells what it is."""

    def build() -> nn.Module:
        return torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4)))

    source, model = build().train(mode != "eval"), build().train(mode == "eval")
    x = torch.ones(64, 4)
    assert (bits(model(x)) == bits(model(x))) == (mode != "eval")
    perdure.load_weights(model, saved(source), mode=mode)
    assert (bits(model(x)) == bits(model(x))) == (mode == "eval")
    source.eval(), model.eval()
    assert mode != "eval" or bits(model(x)) == bits(source(x))


def test_mode_saved_needs_to_be_in_the_file() -> None:
    model = nn.Linear(2, 2).train()
    with pytest.raises(InputError, match="train mode"):
        perdure.load_weights(model, saved(model.state_dict()), mode="saved")


@pytest.mark.parametrize("training", [True, False])
def test_mode_saved_when_all_are_alike(training: bool) -> None:
    source = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train(training)
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train(not training)
    perdure.load_weights(model, saved(source), mode="saved")
    assert [module.training for module in model.modules()] == [training] * 3


@pytest.mark.parametrize(
    "options",
    [{"mode": "eavl"}, {"mode": True}, {"verify": "crc"}, {"verify": True}, {"verify": None}, {"prefix": 3}],
    ids=str,
)
def test_wrong_arguments(options: State) -> None:
    with pytest.raises(InputError):
        perdure.load_weights(nn.Linear(2, 2), saved(nn.Linear(2, 2)), **options)


def test_a_pinned_digest() -> None:
    """The root digest pins a file; BLAKE3 of what is read is then compared too."""
    file = io.BytesIO()
    digest = perdure.save_weights(nn.Linear(2, 2), file).digest
    assert perdure.load_weights(nn.Linear(2, 2), file.getvalue(), digest=digest).verified == "full"
    model = nn.Linear(2, 2)
    before = state_bits(model)
    for other in (digest[::-1], digest[:10], "", "0" * 64):
        with pytest.raises(perdure.errors.DigestError, match=digest):
            perdure.load_weights(model, file.getvalue(), digest=other)
    plain = io.BytesIO()
    import safetensors.torch

    plain.write(safetensors.torch.save(nn.Linear(2, 2).state_dict()))
    with pytest.raises(perdure.errors.DigestError, match="no digest"):
        perdure.load_weights(model, plain.getvalue(), digest=digest)
    assert state_bits(model) == before


def test_wrong_sources_and_targets() -> None:
    with pytest.raises(InputError, match="module"):
        perdure.load_weights({}, saved(nn.Linear(2, 2)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="module or a mapping"):
        perdure.save_weights([torch.ones(1)], io.BytesIO())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="binary file"):
        perdure.save_weights({}, io.StringIO())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="named by text"):
        perdure.save_weights({1: torch.ones(1)}, io.BytesIO())  # type: ignore[dict-item]
    with pytest.raises(UnsupportedTensorError, match=r"'a'.*save_checkpoint"):
        perdure.save_weights({"a": [torch.ones(1)]}, io.BytesIO())  # type: ignore[dict-item]


def test_strict_false_loads_what_fits_and_reports_the_rest() -> None:
    """Unlike torch (pytorch#40859), other shapes are reported too and nothing is raised."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = {
        "0.weight": ramp(4, 3), "0.bias": ramp(4), "1.weight": ramp(9, 4), "1.bias": torch.ones(5, dtype=torch.complex64),
        "3.weight": ramp(1),
    }  # fmt: skip
    report = perdure.load_weights(model, saved(state), strict=False)
    assert report.missing == ("2.weight", "2.bias")
    assert report.unexpected == ("3.weight",)
    assert set(report.mismatched) == {"1.weight", "1.bias"}
    assert "9" in str(report.mismatched["1.weight"][0]) and "complex64" in str(report.mismatched["1.bias"][0])
    assert report.fraction_loaded == 16 / (16 + 25 + 12)
    assert torch.equal(model[0].weight, ramp(4, 3)) and torch.equal(model[0].bias, ramp(4))
    for key in ("1.weight", "1.bias", "2.weight", "2.bias"):
        assert torch.equal(model.state_dict()[key], before[key])


def test_strict_false_does_not_leave_anything_on_meta() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    with pytest.raises(MismatchError, match=r"on meta.*'1.weight'"):
        perdure.load_weights(model, saved({"0.weight": ramp(4, 3), "0.bias": ramp(4)}), strict=False)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_prefix() -> None:
    source = nn.ModuleDict({"encoder": nn.Linear(3, 2), "encoder2": nn.Linear(3, 2), "head": nn.Linear(2, 2)})
    model = nn.Linear(3, 2)
    report = perdure.load_weights(model, saved(source), prefix="encoder")
    assert (report.missing, report.unexpected) == ((), ())
    assert torch.equal(model.weight, source["encoder"].weight)  # type: ignore[arg-type]
    with pytest.raises(MissingTensorError, match=r"'enc\.'"):
        perdure.load_weights(model, saved(source), prefix="enc")


def test_prefix_takes_nothing_from_its_neighbours() -> None:
    """Versions, extra states and buffers that are not persistent too, where a neighbour's name is as long."""
    seen: list[object] = []

    class Part(nn.Module):
        def __init__(self, version: int, value: float) -> None:
            super().__init__()
            self._version = version
            self.value = value
            self.register_buffer("table", torch.full((2,), value), persistent=False)
            self.register_buffer("kept", torch.full((2,), value))
            self._register_load_state_dict_pre_hook(lambda state, prefix, local, *_: seen.append(local["version"]))

        def get_extra_state(self) -> float:
            return self.value

        def set_extra_state(self, state: float) -> None:
            self.value = state

    for names in (("part", "tart"), ("tart", "part")):
        source = nn.ModuleDict({name: Part(*((3, 1.0) if name == "part" else (4, 2.0))) for name in names})
        with torch.device("meta"):
            model = Part(0, 0.0)
        seen.clear()
        perdure.load_weights(model, saved(source), prefix="part")
        assert (seen, model.value, model.table.tolist(), model.kept.tolist()) == ([3], 1.0, [1, 1], [1, 1])


def test_prefix_of_a_compiled_and_a_parallel_model() -> None:
    source = nn.Linear(3, 2)
    for wrapped, prefix in ((torch.compile(source), "_orig_mod"), (nn.DataParallel(source), "module")):
        content = saved(wrapped)
        model = nn.Linear(3, 2)
        report = perdure.load_weights(model, content)
        assert report.renamed == {f"{prefix}.weight": "weight", f"{prefix}.bias": "bias"}
        assert state_bits(model) == state_bits(source)
        model = nn.Linear(3, 2)
        assert perdure.load_weights(model, content, prefix=prefix).renamed == {}
        assert state_bits(model) == state_bits(source)
        perdure.load_weights(wrapped, content)  # type: ignore[arg-type]


CASTS = [
    (torch.float32, torch.float16), (torch.float16, torch.float32), (torch.float32, torch.bfloat16),
    (torch.float64, torch.float32), (torch.float8_e4m3fn, torch.float32), (torch.int32, torch.float32),
    (torch.bool, torch.float32), (torch.float32, torch.complex64), (torch.int64, torch.int32), (torch.uint16, torch.float32),
]  # fmt: skip


@pytest.mark.parametrize(("stored", "wanted"), CASTS, ids=str)
def test_casts_are_those_of_torch_and_reported(stored: torch.dtype, wanted: torch.dtype) -> None:
    def build(dtype: torch.dtype) -> nn.Module:
        module = nn.Module()
        module.register_buffer("x", torch.zeros(3, 4, dtype=dtype))
        module.register_buffer("same", torch.zeros(2))
        return module

    values = (torch.randn(3, 4, generator=torch.Generator().manual_seed(0)) * 3).abs().to(stored)
    theirs, ours = build(wanted), build(wanted)
    theirs.load_state_dict({"x": values, "same": torch.ones(2)})
    report = perdure.load_weights(ours, saved({"x": values, "same": torch.ones(2)}))
    assert state_bits(ours) == state_bits(theirs)
    assert report.casts == {"x": (str(stored)[6:], str(wanted)[6:])}
    assert f"cast: x: {str(stored)[6:]} to {str(wanted)[6:]}" in str(report)


@pytest.mark.parametrize("stored", [torch.float32, torch.complex64])
def test_casts_that_would_lose_their_meaning_are_refused(stored: torch.dtype) -> None:
    module = nn.Module()
    module.register_buffer("x", torch.zeros(3, dtype=torch.int64))
    with pytest.raises(MismatchError, match=rf"x: {str(stored)[6:]} \(3,\) in the file, int64 \(3,\) in the model"):
        perdure.load_weights(module, saved({"x": torch.ones(3, dtype=stored)}))


def test_tied_tensors_stay_tied_through_a_cast() -> None:
    source = Tied()
    model = Tied().to(torch.float16)
    model.head.weight = nn.Parameter(torch.zeros(11, 6, dtype=torch.float16))
    perdure.load_weights(model, saved(source))
    assert model.head.weight.data_ptr() == model.embedding.weight.data_ptr()
    assert torch.equal(model.head.weight, source.head.weight.half())


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tied_places_of_another_layout_share_new_memory(device: str) -> None:
    """Kernels tied in the file, for a model that keeps them channels last; a part of them keeps the file's order."""
    kernel = ramp(4, 3, 2, 2)
    saved_tied = saved({"a": kernel, "b": kernel})
    saved_part = saved({"a": kernel, "b": kernel, "part": kernel[1:3]})

    def built(names: str) -> nn.Module:
        module = nn.Module()
        for name in names.split():
            empty = torch.zeros(2 if name == "part" else 4, 3, 2, 2, device=device)
            module.register_parameter(name, nn.Parameter(empty.to(memory_format=torch.channels_last)))
        return module

    model = built("a b")
    assert perdure.load_weights(model, saved_tied).tied == {"b": "a"}
    assert model.a.data_ptr() == model.b.data_ptr() and model.a.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(model.a, kernel) and torch.equal(model.b, kernel)
    model = built("a b part")
    assert perdure.load_weights(model, saved_part).tied == {"b": "a", "part": "a"}
    assert model.part.data_ptr() == model.a[1:].data_ptr() and torch.equal(model.part, kernel[1:3])


def test_a_tie_that_two_types_cut_is_not_reported() -> None:
    source = Tied()
    model = Tied()
    model.head.weight = nn.Parameter(torch.zeros(11, 6, dtype=torch.float64))
    report = perdure.load_weights(model, saved(source))
    assert torch.equal(model.head.weight, source.head.weight.double())
    assert torch.equal(model.embedding.weight, source.head.weight)
    assert report.tied == {} and set(report.casts) == {"head.weight"}


def test_a_half_model_from_a_float_file_answers_as_torchs_does() -> None:
    source = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    theirs, ours = (nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)).half() for _ in range(2))
    by_torch(source, theirs)
    report = perdure.load_weights(ours, saved(source))
    assert len(report.casts) == 4
    x = torch.ones(2, 6, dtype=torch.float16)
    assert bits(ours(x)) == bits(theirs(x))


def test_device_argument() -> None:
    model = nn.Linear(3, 2)
    perdure.load_weights(model, saved({"weight": ramp(2, 3), "bias": ramp(2)}), device="cpu")
    assert torch.equal(model.weight, ramp(2, 3))
    with torch.device("meta"):
        other = nn.Linear(3, 2)
    perdure.load_weights(other, saved(model), device=torch.device("cpu"))
    assert torch.equal(other.weight, ramp(2, 3)) and other.weight.device.type == "cpu"


# Reports


def test_fields_of_a_load_report() -> None:
    content = saved(Tied())
    report = perdure.load_weights(Tied(), content, verify="full")
    assert report.verified == "full"
    assert report.tied == {"head.weight": "embedding.weight"}
    assert (report.renamed, report.adapted, report.unknown) == ({}, {}, ())
    assert "loaded 100.0% of the parameters" in str(report) and "head.weight = embedding.weight" in str(report)
    assert perdure.load_weights(Tied(), content, verify=False).verified == ""


def test_report_of_another_writers_file(tmp_path: Path) -> None:
    import safetensors.torch

    model = nn.Linear(3, 2)
    safetensors.torch.save_model(model, str(tmp_path / "t.safetensors"))
    report = perdure.load_weights(nn.Linear(3, 2), tmp_path / "t.safetensors")
    assert report.unknown == ("digests", "environment")
    assert (report.verified, report.differences) == ("", ())
    assert "the file has no digests" in str(report)


def test_another_environment_is_one_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import msgspec

    from perdure.disk.seal import BLANK, DIGEST_KEY, MANIFEST_KEY, seal
    from perdure.records import manifest as manifests

    path = tmp_path / "w.safetensors"
    perdure.save_weights(nn.Linear(3, 2), path)
    with caplog.at_level(logging.WARNING, "perdure"):
        assert perdure.load_weights(nn.Linear(3, 2), path).differences == ()
    assert caplog.records == []
    # the same file as a later PyTorch would have written it
    import json
    import struct

    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    manifest = manifests.decode(header["__metadata__"][MANIFEST_KEY], "here")
    later = msgspec.structs.replace(manifest, environment=msgspec.structs.replace(manifest.environment, torch="99.1.0"))
    header["__metadata__"] |= {MANIFEST_KEY: manifests.encode(later), DIGEST_KEY: BLANK}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    sealed, _ = seal(struct.pack("<Q", len(text)) + text)
    path.write_bytes(sealed + content[8 + length :])
    with caplog.at_level(logging.WARNING, "perdure"):
        report = perdure.load_weights(nn.Linear(3, 2), path)
    assert len(caplog.records) == 1
    assert "PyTorch 99.1.0 (a later one), here " in caplog.text
    assert len(report.differences) == 1 and report.differences[0].startswith("PyTorch 99.1.0 (a later one)")


# Messages


def refusal(model: nn.Module, state: Any) -> str:
    before = state_bits(model)
    with pytest.raises(MismatchError) as caught:
        perdure.load_weights(model, saved(state))
    assert state_bits(model) == before
    return str(caught.value)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.Linear(2, 2)
        self.mlp = nn.Linear(2, 2)


class Deep(nn.Module):
    def __init__(self, n_layers: int = 12) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(n_layers))
        self.head = nn.Linear(2, 3)


def test_one_message_lists_all_three_groups_with_layers_folded() -> None:
    state = {key: value for key, value in Deep().state_dict().items() if ".mlp." not in key}
    state |= {f"layers.{number}.extra": ramp(1) for number in (0, 1, 2, 7)}
    state["head.weight"] = ramp(5, 2)
    message = refusal(Deep(), state)
    lines = [line.strip() for line in message.splitlines()]
    assert "The model was left as it was." in message
    assert lines[lines.index("missing from the file (24):") + 1 :][:2] == [
        "layers.{0..11}.mlp.weight", "layers.{0..11}.mlp.bias",
    ]  # fmt: skip
    assert "layers.{0..2,7}.extra" in lines
    assert any(line.startswith("in the file, but not in the model (4)") for line in lines)
    assert "head.weight: (5, 2) in the file, (3, 2) in the model" in lines
    assert "likeliest cause:" in message and "strict=False" in message


def test_the_message_stays_short() -> None:
    """A thousand differences do not make a thousand lines."""
    state = {f"name{number}": ramp(1) for number in range(1000)}
    message = refusal(Deep(), state)
    assert len(message.splitlines()) < 60
    assert "(1000)" in message and "980 more" in message


CAUSES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], str]] = {
    "part of another": (
        Deep, lambda: nn.ModuleDict({"backbone": Deep(), "neck": nn.Sequential(*[nn.Linear(1, 1) for _ in range(40)])}),
        r"prefix='backbone'",
    ),
    "two copies": (Deep, lambda: nn.ModuleDict({"model": Deep(), "ema_model": Deep()}), r"prefix='model' or prefix='ema_model'"),
    "other classes": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 10)), lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 7)),
        r"number of outputs",
    ),
    "wider": (
        lambda: nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 10)), lambda: nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 10)),
        r"other sizes",
    ),
    "the file holds more": (lambda: Deep(11), Deep, r"holds more than the model"),
    "the model holds more": (Deep, lambda: Deep(11), r"holds more than the file"),
    "statistics": (
        lambda: nn.Sequential(nn.BatchNorm1d(3)), lambda: nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)),
        r"statistics",
    ),
    "another architecture": (Deep, lambda: {"a": ramp(1), "b": ramp(2)}, r"another architecture \(0 of 50"),
    "renamed": (
        Deep, lambda: {key.replace(".mlp.", ".ff."): value for key, value in Deep().state_dict().items()}, r"renamed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CAUSES)
def test_likeliest_causes(name: str) -> None:
    build, state, expected = CAUSES[name]
    message = refusal(build(), state())
    cause = next(line for line in message.splitlines() if "likeliest cause" in line)
    import re

    assert re.search(expected, cause), message


def test_what_wraps_a_model_is_found() -> None:
    """Both ways: the saved model was wrapped, or the one that is loaded is."""
    wrapped: list[Callable[[], Any]] = [
        lambda: nn.DataParallel(Deep()), lambda: torch.compile(Deep()), lambda: nn.DataParallel(torch.compile(Deep())),
        lambda: nn.ModuleDict({"model": Deep()}), lambda: nn.DataParallel(nn.Sequential(Deep())),
    ]  # fmt: skip
    for build in wrapped:
        inside, bare = build(), Deep()
        report = perdure.load_weights(bare, saved(inside))
        assert list(state_bits(bare).values()) == list(state_bits(inside).values())
        assert set(report.renamed) == set(inside.state_dict()) and set(report.renamed.values()) == set(
            bare.state_dict()
        )
        inside, bare = build(), Deep()
        report = perdure.load_weights(inside, saved(bare))
        assert list(state_bits(bare).values()) == list(state_bits(inside).values())
        assert set(report.renamed) == set(bare.state_dict()) and report.fraction_loaded == 1.0


@pytest.mark.parametrize(
    "name", ["part of another", "two copies", "other classes", "the file holds more", "the model holds more", "renamed"]
)
def test_causes_lead_to_a_load_that_works(name: str) -> None:
    """The remedy of the error is tried."""
    build, state, _ = CAUSES[name]
    content = saved(state())
    with pytest.raises(MismatchError) as caught:
        perdure.load_weights(build(), content)
    assert caught.value.remedy, caught.value
    report = perdure.load_weights(build(), content, **caught.value.remedy)
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), {})


def test_missing_and_unexpected_extra_state() -> None:
    plain = {key: value for key, value in DataState().state_dict().items() if not key.endswith("_extra_state")}
    message = refusal(DataState(), plain)
    assert "missing from the file (1)" in message and "_extra_state" in message
    model = nn.Module()
    model.linear = nn.Linear(3, 3)
    message = refusal(model, DataState())
    assert "in the file, but not in the model (1)" in message and "_extra_state" in message
    report = perdure.load_weights(model, saved(DataState()), strict=False)
    assert report.unexpected == ("_extra_state",)


def test_extra_state_that_is_no_data_is_refused() -> None:
    model = DataState()
    model.labels = [lambda: 1]
    with pytest.raises(UnsupportedValueError, match=r"extra state '_extra_state'\['labels'\]\[0\].*function"):
        saved(model)


# What cannot be saved


class Subclass(torch.Tensor):
    pass


class SubclassedParameter(nn.Parameter):
    pass


@pytest.fixture(scope="module")
def process_group() -> Iterator[None]:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_distributed_tensors_are_refused_by_type(process_group: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (1,))
    tensor = distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)])
    assert isinstance(tensor, DTensor)
    with pytest.raises(UnsupportedTensorError, match=r"'layer.weight'.*DTensor.*full_tensor\(\)"):
        perdure.save_weights({"layer.weight": tensor}, io.BytesIO())
    model = nn.Linear(2, 4)
    model.weight = nn.Parameter(tensor)
    with pytest.raises(UnsupportedTensorError, match=r"'weight'.*DTensor"):
        perdure.save_weights(model, io.BytesIO())
    perdure.save_weights({"layer.weight": tensor.full_tensor()}, io.BytesIO())


def test_subclasses_are_refused_by_type() -> None:
    for value in (torch.ones(2).as_subclass(Subclass), SubclassedParameter(torch.ones(2))):
        with pytest.raises(UnsupportedTensorError, match=rf"'a\.b'.*{type(value).__name__}"):
            perdure.save_weights({"fine": torch.ones(1), "a.b": value}, io.BytesIO())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_tensors_without_plain_bytes_are_refused_by_name() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.empty(3)
    cases = {
        "meta": (torch.empty(3, device="meta"), "meta device"),
        "nested": (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested"),
        "jagged": (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged), "[Nn]ested"),
        "fake": (fake, "Fake"),
        "lazy": (nn.LazyLinear(2).weight, "lazy module"),
        "number": (3, "int"),
        "none": (None, "NoneType"),
    }
    for value, reason in cases.values():
        with pytest.raises(UnsupportedTensorError, match=f"'the.name'.*{reason}"):
            perdure.save_weights({"the.name": value}, io.BytesIO())  # type: ignore[dict-item]

    def inside(x: torch.Tensor) -> torch.Tensor:
        with pytest.raises(UnsupportedTensorError, match=r"'the.name'.*transform"):
            perdure.save_weights({"the.name": x}, io.BytesIO())
        return x

    torch.func.vmap(inside)(torch.ones(3, 2))
    torch.func.grad(lambda x: inside(x).sum())(torch.ones(3))


def test_a_model_on_meta_cannot_be_saved() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UnsupportedTensorError, match=r"'0.weight'.*meta.*Load or initialise"):
        perdure.save_weights(model, io.BytesIO())


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    perdure.save_weights({"a": torch.ones(3)}, path)
    before = path.read_bytes()
    with pytest.raises(UnsupportedTensorError):
        perdure.save_weights({"a": torch.zeros(3), "b": torch.empty(1, device="meta")}, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.safetensors"]


# Buffers that are not persistent


class Rotary(nn.Module):
    def __init__(self, n: int = 8) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / (100.0 ** (torch.arange(0, n, 2).float() / n)), persistent=False)
        self.linear = nn.Linear(4, 4)


def test_buffers_that_are_not_persistent_are_never_among_the_tensors() -> None:
    content = saved(nn.Sequential(Rotary(), Rotary()))
    weights = perdure.open(content)
    assert set(weights) == {"0.linear.weight", "0.linear.bias", "1.linear.weight", "1.linear.bias"}
    with torch.device("meta"):
        model = nn.Sequential(Rotary(), Rotary())
    perdure.load_weights(model, content)
    assert bits(model[1].inv_freq) == bits(Rotary().inv_freq)
    assert model[1].inv_freq.data_ptr() != model[0].inv_freq.data_ptr()
    with torch.device("meta"):
        part = Rotary()
    perdure.load_weights(part, content, prefix="1")
    assert bits(part.inv_freq) == bits(Rotary().inv_freq)


def test_a_real_models_own_buffers_stay() -> None:
    """What its constructor made for this model counts, not what the saved one had."""
    model = Rotary()
    model.inv_freq.fill_(3)
    perdure.load_weights(model, saved(Rotary()))
    assert model.inv_freq.tolist() == [3.0] * 4


def test_a_file_without_them_cannot_fill_a_model_on_meta() -> None:
    with torch.device("meta"):
        model = Rotary()
    with pytest.raises(MismatchError, match=r"'inv_freq'.*not persistent"):
        perdure.load_weights(model, saved(Rotary().state_dict()))


def test_buffers_too_large_for_the_header_are_named_in_a_warning() -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("noise", torch.randn(5_000_000), persistent=False)
            self.linear = nn.Linear(1, 1)

    file = io.BytesIO()
    report = perdure.save_weights(Large(), file)
    assert len(report.warnings) == 1 and "noise" in report.warnings[0] and "left out" in report.warnings[0]
    with torch.device("meta"):
        model = Large()
    with pytest.raises(MismatchError, match="'noise'"):
        perdure.load_weights(model, file.getvalue())
    real = Large()
    kept = real.noise.clone()
    perdure.load_weights(real, file.getvalue())
    assert torch.equal(real.noise, kept)


def test_plain_keeps_its_table_through_meta() -> None:
    source = Plain()
    with torch.device("meta"):
        model = Plain()
    perdure.load_weights(model, saved(source))
    assert torch.equal(model.table, source.table)
    assert model._non_persistent_buffers_set == {"table"}
    assert answer(model, Kind(Plain, noise(2, 3))) == answer(source, Kind(Plain, noise(2, 3)))
