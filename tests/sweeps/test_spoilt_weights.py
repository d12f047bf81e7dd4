"""Architectures times spoilings: strict says what is wrong, the remedy loads it, and nothing differs that is not reported."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import perdure
from perdure.errors import MismatchError
from perdure.records.reports import LoadReport
from sweeps.cases import cases_of
from sweeps.spoiling import SPOILINGS, Spoilt, State, checkpoint, with_weight_norm
from torchvision_operators import declare_operators

declare_operators()

ARCHITECTURES = {
    "transformers": (
        "bert", "bert-mlm", "roberta", "distilbert", "albert", "deberta-v2", "gpt2", "gpt-neox", "opt", "llama", "mixtral",
        "mamba", "t5", "bart", "whisper", "wav2vec2", "vit", "beit", "dinov2", "swin", "convnext", "segformer", "clip",
        "patchtst",
    ),
    "torchvision": ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "mobilenet_v2", "efficientnet_b0"),
}  # fmt: skip


@functools.cache
def model_of(library: str, name: str) -> nn.Module:
    torch.manual_seed(0)
    return cases_of(library)[name].build().eval()


@functools.cache
def normed_model_of(library: str, name: str) -> nn.Module:
    torch.manual_seed(0)
    return with_weight_norm(cases_of(library)[name].build().eval())


def state_of(model: nn.Module) -> State:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def blank(model: nn.Module) -> State:
    """Fill a model with values that no file has; returns them."""
    with torch.no_grad():
        for number, tensor in enumerate(model.state_dict().values()):
            tensor.fill_(True if tensor.dtype is torch.bool else -(number % 50) - 2)
    return state_of(model)


def excused(report: LoadReport) -> set[str]:
    """The names of the model whose values may differ from the file's, since the report says so."""
    return {*report.missing, *report.mismatched, *report.adapted, *report.kept}


def names_of_each_memory(model: nn.Module) -> dict[str, list[str]]:
    """For each name those that mean the same tensor."""
    owners: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        owners.setdefault(id(tensor), []).append(name)
    return {name: names for names in owners.values() for name in names}


def check(model: nn.Module, before: State, spoilt: Spoilt, report: LoadReport, prefix: str) -> None:
    """See that each value is the file's, cast, or stands in the report; and that what is kept was kept."""
    of_memory = names_of_each_memory(model)
    renamed = {place: name for name, place in report.renamed.items()}
    for name, tensor in model.state_dict().items():
        places = [place for place in of_memory[name] if place in spoilt.origins]
        if any(place in excused(report) for place in of_memory[name]):
            if name in report.kept and not places:
                assert torch.equal(tensor, before[name]), name
            continue
        assert places, name
        origin = spoilt.origins[places[0]]
        stored = spoilt.state[origin]
        assert torch.equal(tensor, stored.to(tensor.dtype)), name
        assert stored.dtype == tensor.dtype or report.casts[places[0]] == (str(stored.dtype)[6:], str(tensor.dtype)[6:])
        inner = origin.removeprefix(f"{prefix}.")
        assert renamed.get(places[0], places[0]) == inner, name
    taken = {renamed.get(name, name) for name in model.state_dict()}
    assert prefix or spoilt.state.keys() - taken <= {*report.unexpected, *report.unused}


def write(state: State, path: Path, spoiling: str, how: str) -> None:
    """Save what was spoilt: as safetensors, or as `torch.save` does now and did before 1.6; nested always by it."""
    content = checkpoint(state) if spoiling == "nested" else state
    if how == "safetensors" and spoiling != "nested":
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how != "legacy")


BY_TORCH = ("vit", "gpt2", "bart", "resnet18")
"""Architectures whose files are also written by `torch.save`."""


@pytest.mark.parametrize("spoiling", SPOILINGS)
@pytest.mark.parametrize(
    ("library", "name", "how"),
    [(library, name, "safetensors") for library, names in ARCHITECTURES.items() for name in names]
    + [(library, name, how) for library, names in ARCHITECTURES.items() for name in names if name in BY_TORCH
       for how in ("zip", "legacy")],
)  # fmt: skip
def test_spoilt(library: str, name: str, how: str, spoiling: str, tmp_path: Path) -> None:
    build = normed_model_of if spoiling == "old weight norm" else model_of
    model = build(library, name)
    blank_before = state_of(model)
    distinct = {
        key: tensor + number if tensor.is_floating_point() else tensor
        for number, (key, tensor) in enumerate(untied(model).items())
    }
    spoilt = SPOILINGS[spoiling](model, distinct)
    path = tmp_path / "spoilt"
    write(spoilt.state, path, spoiling, how)
    before = blank(model)
    twins = names_of_each_memory(model)
    spoilt = spoilt._replace(missing=frozenset(name for one in spoilt.missing for name in twins[one]))
    wrong = spoilt.missing | spoilt.unexpected | spoilt.mismatched
    try:
        arguments = {}
        if wrong:
            with pytest.raises(MismatchError) as caught:
                perdure.load_weights(model, path)
            error = caught.value
            assert (set(error.missing), set(error.unexpected), set(error.mismatched)) == spoilt[1:4]
            assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
            assert error.remedy, error
            arguments = error.remedy
        report = perdure.load_weights(model, path, **arguments)
        assert (report.missing, report.unexpected, report.mismatched) == ((), (), {})
        check(model, before, spoilt, report, arguments.get("prefix", ""))
        if wrong:
            blank(model)
            loose = perdure.load_weights(model, path, strict=False)
            assert (set(loose.missing), set(loose.unexpected), set(loose.mismatched)) == spoilt[1:4]
    finally:
        model.load_state_dict(blank_before)


def untied(model: nn.Module) -> State:
    """Return a state dict that has each memory once."""
    seen: set[int] = set()
    found: State = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen or not tensor.numel():
            seen.add(tensor.data_ptr())
            found[name] = tensor.clone()
    return found
