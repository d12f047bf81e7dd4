"""What the fuzzer found, each in a few lines, so that it stays found."""

from __future__ import annotations

import builtins
import collections
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import perdure
from attacks.archiving import torch_zip
from attacks.assembling import EMPTY_DICT, SETITEM, built, call, new, number, pickled, plain, storage, tensor
from perdure.errors import CorruptError, PerdureError
from perdure.foreign.inert import Made


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def test_tensors_are_found_in_sets_and_deques_and_as_keys() -> None:
    value = {
        "set": {torch.ones(2)},
        "deque": collections.deque([torch.zeros(1)], 5),
        "keys": {torch.full((1,), 3.0): 7},
    }
    loaded = perdure.load_checkpoint(saved(value))
    assert [found.tolist() for found in loaded["set"]] == [[1, 1]]
    assert (loaded["deque"].maxlen, loaded["deque"][0].tolist()) == (5, [0])
    assert [(key.tolist(), found) for key, found in loaded["keys"].items()] == [([3], 7)]


def test_an_array_as_a_key_is_damage() -> None:
    made = pickle.dumps(np.arange(2.0), 2)[2:-1]
    with pytest.raises(CorruptError, match="is a key, which it cannot be"):
        perdure.load_checkpoint(pickled(EMPTY_DICT + made + number(1) + SETITEM, 2))


def test_an_object_as_a_key_that_would_become_a_dict_stays_a_record() -> None:
    namespace = built(new("argparse:Namespace"), {"a": 1})
    (key,) = perdure.load_checkpoint(pickled(EMPTY_DICT + namespace + number(1) + SETITEM))
    assert isinstance(key, Made) and key.state == {"a": 1}


def test_names_of_a_file_are_shown_escaped() -> None:
    with pytest.raises(CorruptError) as caught:
        perdure.open(torch_zip(pickled(plain({"weight": tensor(storage("\x1b[2J"))}), 2)))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_names_of_shards_are_shown_escaped(name: str, tmp_path: Path) -> None:
    index = {"metadata": {}, "weight_map": {"w": f"x\x7f{Path(name).suffix}"}}
    (tmp_path / f"{name}.index.json").write_text(json.dumps(index))
    with pytest.raises(CorruptError, match="is missing") as caught:
        perdure.open(tmp_path)["w"]
    assert str(caught.value).isprintable()


def test_a_storage_named_as_two_types_is_damage() -> None:
    """Readers would disagree: torch.load gives the second tensor the type of the first."""
    two = [tensor(), tensor(storage(n=2, kind="LongStorage"), (2,), (1,))]
    with pytest.raises(CorruptError, match="contradicts itself on the storage"):
        perdure.open(torch_zip(pickled(plain(two), 2)))


@pytest.mark.parametrize("state", [None, "x"])
def test_a_place_in_distributed_metadata_that_is_none_is_damage(state: str | None, tmp_path: Path) -> None:
    module = "torch.distributed.checkpoint.metadata"
    index = built(new(f"{module}:MetadataIndex"), {"fqn": "w", "offset": call("torch:Size", [0]), "index": 0})
    info = new("torch.distributed.checkpoint.filesystem:_StorageInfo")
    info = info if state is None else built(info, state)
    places = EMPTY_DICT + index + info + SETITEM
    metadata = built(
        new(f"{module}:Metadata"), {"state_dict_metadata": {}, "planner_data": None, "storage_data": places}
    )
    (tmp_path / ".metadata").write_bytes(pickled(metadata))
    with pytest.raises(CorruptError):
        perdure.open(tmp_path)


def test_a_mark_of_a_tensor_that_is_not_true_is_damage() -> None:
    """PyTorch takes a mark that is there as set, whatever its value."""
    marked = tensor(storage(), (2, 2), (2, 1), 0, {"conj": False})
    with pytest.raises(CorruptError, match="metadata of a tensor"):
        perdure.open(torch_zip(pickled(plain({"w": marked}), 2)))


def test_a_bare_storage_of_half_an_element_is_damage() -> None:
    bare = storage(n=2, kind="ShortStorage")
    with pytest.raises(CorruptError, match="5 bytes"):
        perdure.load_checkpoint(torch_zip(pickled(plain({"s": bare}), 2), storages={"0": bytes(5)}))


def test_half_a_surrogate_pair_in_a_message_is_escaped() -> None:
    wrong = tensor(storage(), ("\ud800",), (1,))
    with pytest.raises(PerdureError, match=r"\\ud800") as caught:
        perdure.open(torch_zip(pickled(plain({"w": wrong}), 2)))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", ["list", "set", "dict", "bytearray", "OrderedDict", "Counter", "deque", "defaultdict"])
def test_a_container_that_is_made_without_a_call_is_empty(kind: str) -> None:
    module = "builtins" if hasattr(builtins, kind) else "collections"
    made = pickled(plain({"x": new(f"{module}:{kind}", [])}), 2)
    filled = pickled(plain({"x": new(f"{module}:{kind}", [1, 2])}), 2)
    assert (
        pickle.loads(filled) == pickle.loads(made) == perdure.load_checkpoint(filled) == perdure.load_checkpoint(made)
    )
