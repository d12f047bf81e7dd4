"""Any file into any model: what fits is loaded bit for bit, what was tied is tied, and nothing else changes."""

from __future__ import annotations

import io
from typing import NamedTuple

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import perdure
from perdure.errors import MismatchError
from perdure.weights.dtypes import can_cast, kind_of
from property.tensors import Drawn, covers_itself, make, raw, shared, step

NAMES = ["a", "b", "c", "d", "e"]
SHAPES = [(), (4,), (2, 3), (2, 3, 2, 2), (0, 2)]
TYPES = [torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.complex64, torch.int4]

Tensors = dict[str, torch.Tensor]


@st.composite
def states(draw: st.DrawFn) -> Tensors:
    """State dicts, often with ties and with views of each other."""
    found: list[torch.Tensor] = []
    for number in range(draw(st.integers(1, 5))):
        if found and draw(st.integers(0, 3)):
            of = draw(st.sampled_from(found))
            found.append(draw(st.sampled_from([of, of.detach(), draw(step(of))])))
        else:
            found.append(make(number * 3 + 1, draw(st.sampled_from(TYPES)), draw(st.sampled_from(SHAPES))))
    return Drawn(zip(draw(st.permutations(NAMES)), found, strict=False))


class Model(NamedTuple):
    """A model and its places by name."""

    module: nn.Module
    places: Tensors


@st.composite
def models(draw: st.DrawFn, state: Tensors) -> Model:
    """Models whose places mostly have the shapes of the state: real, on meta, tied, permuted, parts of one memory."""
    root = nn.Module()
    places = Drawn()
    chosen = NAMES if draw(st.integers(0, 9)) == 0 else list(state)
    for name in draw(st.permutations(chosen)):
        if draw(st.integers(0, 9)) == 0:
            continue
        like = state.get(name)
        shape = tuple(like.shape) if like is not None and draw(st.integers(0, 9)) else draw(st.sampled_from(SHAPES))
        dtype = like.dtype if like is not None and draw(st.integers(0, 3)) else draw(st.sampled_from(TYPES))
        alike = [place for place in places.values() if (place.shape, place.dtype) == (shape, dtype)]
        kind = draw(st.sampled_from(["real", "real", "permuted", "permuted", "meta", "part", "same", "same memory"]))
        if kind in ("same", "same memory") and alike:
            place = draw(st.sampled_from(alike))
            tensor = place if kind == "same" else place.detach()
        elif kind == "meta" and like is not None and draw(st.integers(0, 3)):
            tensor = torch.empty(shape, dtype=dtype, device="meta")
        elif kind == "permuted":
            tensor = make(0, dtype, tuple(reversed(shape))).permute(tuple(reversed(range(len(shape)))))
        elif kind == "part":
            tensor = make(0, dtype, (3, *shape))[1]
        else:
            tensor = make(0, dtype, shape)
        trained = tensor.is_floating_point() and draw(st.booleans())
        if not isinstance(tensor, nn.Parameter) and draw(st.booleans()):
            tensor = nn.Parameter(tensor, requires_grad=trained)
        if isinstance(tensor, nn.Parameter):
            root.register_parameter(name, tensor)
        else:
            root.register_buffer(name, tensor)
        places[name] = tensor
    return Model(root, places)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensors, Model]:
    state = draw(states())
    return state, draw(models(state))


def bits(tensor: torch.Tensor) -> bytes:
    return b"" if tensor.is_meta else raw(tensor)


def overlapping(tensors: Tensors) -> dict[tuple[str, str], set[object]]:
    """Return which elements each pair of real tensors shares."""
    real = {name: tensor for name, tensor in tensors.items() if not tensor.is_meta and tensor.numel()}
    return {
        (one, other): set(shared(real[one], real[other]))
        for one in real
        for other in real
        if one != other and shared(real[one], real[other])
    }


@settings(max_examples=1500)
@given(pairs(), st.sampled_from([False, False, True]))
def test_any_file_into_any_model(pair: tuple[Tensors, Model], strict: bool) -> None:
    state, (module, places) = pair
    file = io.BytesIO()
    perdure.save_weights(state, file)
    aliases = perdure.open(file.getvalue()).manifest.aliases  # type: ignore[union-attr]
    before = {name: (bits(place), place.requires_grad, place.dtype, place.shape) for name, place in places.items()}
    were_shared = overlapping(places)
    fitting = {name for name in places if name in state and fits(state[name], places[name])}
    try:
        report = perdure.load_weights(module, file.getvalue(), strict=strict)
    except MismatchError:
        assert {name: (bits(p), p.requires_grad, p.dtype, p.shape) for name, p in places.items()} == before
        on_meta = any(place.is_meta for place in places.values())
        assert strict or on_meta or were_shared or len(set(map(id, places.values()))) < len(places)
        return
    for name, place in places.items():
        assert getattr(module, name) is place
        assert not place.is_meta
        assert (place.requires_grad, place.dtype, place.shape) == before[name][1:]
        if name in fitting:
            assert raw(place) == raw(cast(state[name], place.dtype)), name
        elif not any(name in pair for pair in overlapping(places)):
            assert bits(place) == before[name][0], name
    now = overlapping(places)
    for pair_of, elements in were_shared.items():
        assert now[pair_of] == elements
    assert set(report.missing) <= places.keys() - state.keys()
    assert set(report.unexpected) == state.keys() - places.keys()
    assert set(report.mismatched) == (places.keys() & state.keys()) - fitting
    for name, owner in report.tied.items():
        assert places[name] is places[owner] or (name, owner) in now, (name, owner)
    bound = {name for pair in were_shared for name in pair}
    bound |= {name for name in fitting if covers_itself(state[name])}  # expanded ones become whole
    root = {name: aliases[name].of if name in aliases else name for name in fitting}
    for one in fitting - bound:
        for other in fitting - bound - {one}:
            if root[one] == root[other] and places[one].dtype == places[other].dtype and places[one].numel():
                elements = shared(state[one], state[other])
                assert now.get((one, other), set()) == set(elements), (one, other)


def cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def fits(file: torch.Tensor, place: torch.Tensor) -> bool:
    return file.shape == place.shape and (file.dtype == place.dtype or can_cast(kind_of(file)[0], kind_of(place)[0]))
