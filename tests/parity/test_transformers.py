"""Models of transformers, saved here and loaded in a new process, answer the same to the last bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import perdure
from parity.models import REAL, TINY, answer, build, class_of, real_folder

ANSWER = Path(__file__).parent / "answer.py"
TIES: dict[str, set[str]] = {
    "bert": set(),
    "bert, tied head": {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"},
    "gpt2": {"lm_head.weight"},
    "llama": set(),
    "t5": {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"},
    "vit": set(),
    REAL: set(),
}
VOLATILE = {"bert", "bert, tied head", "llama", REAL}
"""Models with buffers that are not persistent: position ids, rotary frequencies."""


def real_model() -> Any:
    return class_of(REAL).from_pretrained(real_folder()).eval()


def in_new_process(name: str, folder: Path) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(ANSWER), name, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", [*TINY, REAL])
def test_same_answer_in_a_new_process(name: str, tmp_path: Path) -> None:
    model = real_model() if name == REAL else build(name, seed=0)
    expected = answer(model, name)
    volatile = {key for key, _ in model.named_buffers()} - model.state_dict().keys()
    assert bool(volatile) == (name in VOLATILE)
    single, sharded = tmp_path / "single", tmp_path / "sharded"
    single.mkdir()
    sharded.mkdir()
    model.config.save_pretrained(single)
    model.config.save_pretrained(sharded)
    perdure.save_weights(model, single / "model.safetensors")
    n_bytes = perdure.info(single / "model.safetensors").n_bytes
    perdure.save_weights(model, sharded, shard_bytes=n_bytes // 6)
    assert len(list(sharded.glob("model-*.safetensors"))) >= 3
    assert (sharded / "config.json").exists()
    assert answer(model, name) == expected

    found = in_new_process(name, tmp_path)
    assert found["threads"] == torch.get_num_threads()
    assert found["untouched"]["answer"] != expected
    for way in ("file", "file, meta", "folder", "folder, meta"):
        assert found[way]["answer"] == expected, way
        assert found[way]["complete"] and found[way]["same_objects"] and not found[way]["training"], way
        assert found[way]["on_meta"] == [], way
        assert (found[way]["fraction"], found[way]["verified"]) == (1.0, "checksum"), way
    for way in ("from_pretrained, file", "from_pretrained, folder"):
        assert found[way]["answer"] == expected, way
        assert found[way]["problems"] == {}, way
    ties = TIES[name]
    assert len(found["file"]["tied"]) == len(ties)
    assert {*found["file"]["tied"], *found["file"]["tied"].values()} >= ties


@pytest.mark.parametrize("name", [name for name in TIES if TIES[name]])
def test_ties_are_stored_once_and_come_back(name: str, tmp_path: Path) -> None:
    """Also into a model whose ties were cut: what the file tied is tied again."""
    model = build(name, seed=0)
    path = tmp_path / "model.safetensors"
    perdure.save_weights(model, path)
    weights = perdure.open(path)
    assert weights.manifest is not None
    aliases = weights.manifest.aliases
    assert len(aliases) == len(TIES[name])
    stored = safetensors.torch.load_file(path)
    assert stored.keys() == model.state_dict().keys() - aliases.keys()
    cut = build(name, seed=1)
    for module in cut.modules():
        for key, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[key] = torch.nn.Parameter(parameter.detach().clone())
    assert len(list(cut.parameters())) > len(list(model.parameters()))
    report = perdure.load_weights(cut, path)
    state = cut.state_dict()
    for alias, record in aliases.items():
        assert state[alias].data_ptr() == state[record.of].data_ptr()
    assert set(report.tied) == set(aliases)
    assert answer(cut, name) == answer(model, name)


def test_the_real_file_is_read_as_it_is(tmp_path: Path) -> None:
    """Another writer's file of real weights, loaded as it is, and after a save of ours: the same bits."""
    theirs = real_folder() / "model.safetensors"
    model = build(REAL, seed=3)
    report = perdure.load_weights(model, theirs, strict=False)
    assert report.missing == () and report.mismatched == {}
    assert set(report.unexpected) <= {"embeddings.position_ids"}
    assert report.unknown == ("digests", "environment") and report.verified == ""
    assert answer(model, REAL) == answer(real_model(), REAL)
    expected = safetensors.torch.load_file(theirs)
    ours = tmp_path / "ours.safetensors"
    perdure.save_weights(dict(perdure.open(theirs)), ours)
    found = safetensors.torch.load_file(ours)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key].view(torch.uint8), expected[key].view(torch.uint8)) for key in found)


def test_what_transformers_saves_is_read(tmp_path: Path) -> None:
    """A folder of `save_pretrained`, single and sharded."""
    model = build("gpt2", seed=0)
    for folder, size in ((tmp_path / "one", "5GB"), (tmp_path / "many", "20KB")):
        model.save_pretrained(folder, max_shard_size=size)
        again = build("gpt2", seed=1)
        report = perdure.load_weights(again, folder)
        assert report.missing == () and report.unexpected == ()
        assert answer(again, "gpt2") == answer(model, "gpt2")
        assert perdure.check(folder).verdict == "safe"
    assert len(perdure.info(tmp_path / "many").files) > 1


def test_a_model_in_half_precision(tmp_path: Path) -> None:
    model = build("llama", seed=0).to(torch.bfloat16)
    path = tmp_path / "model.safetensors"
    perdure.save_weights(model, path)
    wide = build("llama", seed=1)
    report = perdure.load_weights(wide, path)
    assert set(report.casts.values()) == {("bfloat16", "float32")}
    assert set(report.casts) == set(wide.state_dict())
    for key, tensor in wide.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key].float())
    narrow = build("llama", seed=1).to(torch.bfloat16)
    assert perdure.load_weights(narrow, path).casts == {}
    assert answer(narrow.float(), "llama") == answer(model.float(), "llama")
