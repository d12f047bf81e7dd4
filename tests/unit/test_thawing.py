"""What is in another writer's file beside its tensors, as `load_checkpoint` and `Weights.extra` give it."""

import io
from collections import Counter, OrderedDict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import perdure
from perdure.errors import FormatError, MissingTensorError


def saved(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def test_containers_and_devices_are_what_torch_load_gives() -> None:
    steps = deque([torch.ones(2), 3], maxlen=4)
    value = {"milestones": Counter([3, 3, 5]), "steps": steps, "device": torch.device("cuda:1")}
    found, expected = perdure.load_checkpoint(saved(value)), torch.load(io.BytesIO(saved(value)), weights_only=False)
    assert found["milestones"] == expected["milestones"] and type(found["milestones"]) is Counter
    assert type(found["steps"]) is deque and found["steps"].maxlen == 4
    assert torch.equal(found["steps"][0], torch.ones(2)) and found["steps"][1] == 3
    assert found["device"] == expected["device"]


def test_a_state_dict_within_a_checkpoint_keeps_the_versions_of_its_modules() -> None:
    state = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).state_dict()
    found = perdure.load_checkpoint(saved({"model": state, "n": 1}))["model"]
    assert type(found) is OrderedDict
    assert found._metadata == state._metadata and found._metadata["1"] == {"version": 2}  # type: ignore[attr-defined]


def test_tensors_may_stand_wherever_a_value_may() -> None:
    tensors = [torch.full((2,), float(number)) for number in range(4)]
    state = OrderedDict(a=tensors[0])
    state.note = tensors[3]  # type: ignore[attr-defined]
    content = saved({"set": {tensors[1]}, ("key", tensors[2]): 1, "state": state})
    for found in (perdure.load_checkpoint(content), perdure.open(content).extra):
        (member,), ((_, key), one) = found["set"], list(found.items())[1]
        assert torch.equal(member, tensors[1]) and torch.equal(key, tensors[2]) and one == 1
    assert torch.equal(perdure.load_checkpoint(content)["state"].note, tensors[3])
    assert torch.equal(perdure.open(content)["a"], tensors[0])


def test_extra_is_there_whichever_state_dict_was_chosen() -> None:
    content = saved({"model": {"w": torch.ones(2)}, "ema": {"w": torch.zeros(2)}, "epoch": 3})
    with perdure.open(content, prefix="ema") as weights:
        assert torch.equal(weights["w"], torch.zeros(2))
        assert weights.extra["epoch"] == 3 and torch.equal(weights.extra["model"]["w"], torch.ones(2))
    with pytest.raises(MissingTensorError):
        perdure.open(content, prefix="epoch")


def test_names_stand_in_the_order_of_the_state_dict() -> None:
    base = torch.arange(12.0)
    state = {
        "view": base[2:6],
        "sparse": torch.eye(3).to_sparse(),
        "base": base,
        "tied": base,
        "turned": base.view(3, 4).t(),
        "last": torch.ones(1),
    }
    assert list(perdure.open(saved(state))) == list(torch.load(io.BytesIO(saved(state)), weights_only=False))


def test_a_pickle_of_joblib_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    joblib.dump({"w": np.arange(100.0)}, tmp_path / "a.joblib")
    with pytest.raises(FormatError, match=r"joblib.*numpy\.savez"):
        perdure.open(tmp_path / "a.joblib")
    report = perdure.check(tmp_path / "a.joblib")
    assert report.verdict == "damaged" and any("joblib" in finding.message for finding in report.findings)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_storage_that_stands_for_itself_is_the_flat_tensor_of_its_elements(tmp_path, legacy):
    torch.save([torch.arange(4.0).storage()], tmp_path / "s.pt", _use_new_zipfile_serialization=not legacy)
    (found,) = perdure.load_checkpoint(tmp_path / "s.pt")
    assert torch.equal(found, torch.arange(4.0))
