"""Each fast path switched off: saving, loading, opening and checking still work, and give the same bits."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import perdure
from perdure.disk import capabilities
from perdure.errors import InputError

FLAGS = sorted(name for name, value in vars(capabilities).items() if name.isupper() and type(value) is bool)
SWITCHES = [(flag,) for flag in FLAGS] + [tuple(FLAGS)]
KINDS = ["file", "folder", "stream"]


class Net(nn.Module):
    """Ties, a view's worth of odd sizes, several types, a buffer that is not persistent, and one large weight."""

    def __init__(self, n_large: int) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 5)
        self.tied = nn.Linear(7, 5)
        self.tied.weight = self.linear.weight
        self.norm = nn.BatchNorm1d(5)
        self.large = nn.Parameter(torch.randn(n_large // 3, 3))
        self.transposed = nn.Parameter(torch.randn(31, n_large // 310 + 1).t())
        self.register_buffer("brain", torch.randn(1001).bfloat16())
        self.register_buffer("steps", torch.arange(77))
        self.register_buffer("empty", torch.empty(0, 3))
        self.register_buffer("scale", torch.tensor([0.5, 2.0]), persistent=False)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def same(found: dict[str, torch.Tensor], model: nn.Module) -> bool:
    expected = model.state_dict()
    return found.keys() == expected.keys() and all(
        bits(found[name]) == bits(tensor) for name, tensor in expected.items()
    )


@pytest.fixture(params=[3_000, 10_000_000], ids=["small", "large"], scope="module")
def model(request: pytest.FixtureRequest) -> Net:
    torch.manual_seed(3)
    return Net(request.param)


@pytest.fixture(scope="module")
def reference(model: Net) -> bytes:
    """The bytes of the model, written with all capabilities in their ordinary state."""
    file = io.BytesIO()
    perdure.save_weights(model, file)
    return file.getvalue()


def normalized(content: bytes) -> bytes:
    """Leave out the header, which has the time in it."""
    return content[8 + int.from_bytes(content[:8], "little") :]


def round_trip(model: Net, reference: bytes, tmp_path: Path) -> None:
    for kind in KINDS:
        path = tmp_path / ("model" if kind == "folder" else "model.safetensors")
        for _ in range(2 if len(reference) < 1_000_000 else 1):  # the second time over what is there
            if kind == "stream":
                with open(path, "wb") as file:
                    perdure.save_weights(model, file)
            else:
                perdure.save_weights(model, path, shard_bytes=9_000_000 if kind == "folder" else None)
        if kind != "folder":
            assert normalized(path.read_bytes()) == normalized(reference)
        assert [name for name in os.listdir(tmp_path) if name.endswith("tmp")] == []
        report = perdure.check(path)
        assert report.ok and report.n_tensors == len(model.state_dict()) - 1
        for mapped in (True, False):
            with perdure.open(path, map=mapped) as weights:
                assert same(dict(weights), model)
                assert weights["linear.weight"].data_ptr() == weights["tied.weight"].data_ptr()
                assert all(tensor.data_ptr() % 64 == 0 for tensor in weights.values() if tensor.numel())
                weights.verify(full=True)
                assert torch.equal(weights.read("large", slice(5, 9)), model.large[5:9])
                assert torch.equal(weights.read("large", -1), model.large[-1])
        target = Net(len(model.large) * 3)
        with torch.device("meta"):
            on_meta = Net(len(model.large) * 3)
        for verify in ("checksum", "full", False):
            perdure.load_weights(target, path, verify=verify)
            assert same(dict(target.state_dict()), model)
        perdure.load_weights(on_meta, path)
        assert same(dict(on_meta.state_dict()), model) and bits(on_meta.scale) == bits(model.scale)
        assert on_meta.tied.weight is on_meta.linear.weight
    _damage(tmp_path / "model.safetensors")


def _damage(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    assert perdure.check(path).verdict == "damaged"
    with pytest.raises(perdure.errors.DigestError), perdure.open(path) as weights:
        weights.verify()


def test_the_flags_are_those_that_are_meant() -> None:
    assert set(FLAGS) >= {"VECTOR_READS", "VECTOR_WRITES", "DIRECT_IO", "PREALLOCATION", "HUGE_PAGES", "FILE_LOCKS"}


@pytest.mark.parametrize("flags", SWITCHES, ids=lambda flags: "all" if len(flags) > 1 else flags[0])
def test_without_a_capability_all_is_as_with_it(
    flags: tuple[str, ...], model: Net, reference: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for flag in flags:
        monkeypatch.setattr(capabilities, flag, False)
    round_trip(model, reference, tmp_path)


def test_as_if_on_a_network_file_system(
    model: Net, reference: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capabilities, "on_network", lambda descriptor: True)
    round_trip(model, reference, tmp_path)
    path = tmp_path / "fresh.safetensors"
    perdure.save_weights(model, path)
    with perdure.open(path) as weights:
        kept = weights["large"]
        os.truncate(path, 100)  # a map of it would kill this process when it is touched
        assert torch.equal(kept, model.large)


@pytest.mark.parametrize("n", [1, 5])
def test_with_any_number_of_processors(
    n: int, model: Net, reference: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capabilities, "n_processors", lambda: n)
    round_trip(model, reference, tmp_path)


def test_what_was_written_without_is_read_with_and_the_reverse(
    model: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    with monkeypatch.context() as context:
        for flag in FLAGS:
            context.setattr(capabilities, flag, False)
        perdure.save_weights(model, path)
        slow = path.read_bytes()
    with perdure.open(path) as weights:
        assert same(dict(weights), model)
    perdure.save_weights(model, path)
    assert normalized(path.read_bytes()) == normalized(slow)
    for flag in FLAGS:
        monkeypatch.setattr(capabilities, flag, False)
    with perdure.open(path, map=False) as weights:
        assert same(dict(weights), model)


def test_the_mount_table_is_understood() -> None:
    mounts = (
        "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "22 1 0:50 / /mnt/a\\040b rw - nfs4 server:/x rw,vers=4.2\n"
        "23 1 0:51 / /mnt/c rw shared:2 master:3 - fuse.sshfs me@host: rw\n"
        "24 1 0:52 /- /mnt/d rw - fuseblk /dev/sdb1 rw\n"
        "broken\n"
    )
    kinds = {device: capabilities._kinds_of(mounts, device) for device in ("8:1", "0:50", "0:51", "0:52", "9:9")}
    assert kinds == {"8:1": ["ext4"], "0:50": ["nfs4"], "0:51": ["fuse.sshfs"], "0:52": ["fuseblk"], "9:9": []}
    descriptor = os.open("/", os.O_RDONLY)
    try:
        assert capabilities.on_network(descriptor) is False
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("act", ["save", "open", "load", "load checkpoint"])
def test_a_big_endian_machine_is_refused_and_not_served_swapped_bytes(
    act: str, model: Net, reference: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = io.BytesIO()
    perdure.save_checkpoint({"a": torch.ones(2)}, checkpoint)
    acts = {
        "save": lambda: perdure.save_weights(model, io.BytesIO()),
        "open": lambda: perdure.open(reference),
        "load": lambda: perdure.load_weights(model, reference),
        "load checkpoint": lambda: perdure.load_checkpoint(checkpoint.getvalue()),
    }
    monkeypatch.setattr(sys, "byteorder", "big")
    with pytest.raises(InputError, match="big-endian"):
        acts[act]()
