"""Every bit of a small file flipped, every cut, random flips of a larger one: a typed error each time, never silence."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import perdure
from fault.forging import header_of, with_manifest
from fault.places import ram_folder
from perdure.errors import CorruptError, DigestError, FileError, FormatError, LimitError, PerdureError, ProtocolError

RANDOM_FLIPS = 10_000


class Small(nn.Module):
    """A tie, a view, a buffer that is not persistent, types of three sizes, an empty tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.tied = nn.Linear(3, 2, bias=False)
        self.tied.weight = self.linear.weight
        self.register_buffer("brain", torch.arange(3).to(torch.bfloat16))
        self.register_buffer("empty", torch.empty(0, 4))
        self.register_buffer("scale", torch.tensor(0.5), persistent=False)


def saved(state: object) -> bytes:
    file = io.BytesIO()
    save = perdure.save_weights if isinstance(state, nn.Module) else perdure.save_checkpoint
    save(state, file)
    return file.getvalue()


def data_start(content: bytes) -> int:
    return 8 + int.from_bytes(content[:8], "little")


def snapshot(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.detach().view(torch.uint8).numpy().tobytes() for name, tensor in _flat(model)}


def _flat(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [(name, tensor.detach().contiguous().flatten()) for name, tensor in model.state_dict().items()]


def refusal(call: Callable[[], object]) -> type[BaseException] | None:
    """Return the type of the error that a call raises, None where it raises none."""
    try:
        call()
    except BaseException as error:
        return type(error)
    return None


def flips(content: bytearray, bits: Iterator[int] | range) -> Iterator[int]:
    """Flip one bit after another in place; yields its number, and turns it back afterwards."""
    for bit in bits:
        content[bit // 8] ^= 1 << bit % 8
        yield bit
        content[bit // 8] ^= 1 << bit % 8


@pytest.fixture
def ram(tmp_path: Path) -> Iterator[Path]:
    with ram_folder(tmp_path) as folder:
        yield folder


def test_load_weights_refuses_every_flipped_bit_and_leaves_the_model() -> None:
    torch.manual_seed(0)
    content = bytearray(saved(Small()))
    target = Small()
    before = snapshot(target)
    odd: dict[int, object] = {}
    for bit in flips(content, range(len(content) * 8)):
        kind = refusal(lambda: load(target, content))
        if kind not in (CorruptError, DigestError, FormatError, LimitError):
            odd[bit] = kind
    assert odd == {}
    assert snapshot(target) == before
    load(target, content)
    assert snapshot(target) != before


def load(model: nn.Module, content: bytearray, verify: str | bool = "checksum") -> object:
    return perdure.load_weights(model, content, verify=verify)


def test_flipped_data_is_a_digest_error_that_names_the_tensor() -> None:
    content = bytearray(saved(Small()))
    header, _ = header_of(bytes(content))
    start = data_start(content)
    n_checked = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        for _ in flips(content, range((start + first) * 8, (start + last) * 8)):
            with pytest.raises(DigestError) as caught:
                load(Small(), content)
            assert repr(name) in str(caught.value)
            n_checked += 1
    assert n_checked == (len(content) - start) * 8 > 0


def test_unverified_loading_of_flipped_files_raises_nothing_but_typed_errors() -> None:
    content = bytearray(saved(Small()))
    target = Small()
    kinds = {refusal(lambda: load(target, content, False)) for _ in flips(content, range(0, len(content) * 8, 3))}
    kinds.discard(None)
    assert kinds and all(kind is not None and issubclass(kind, PerdureError) for kind in kinds), kinds


def test_load_checkpoint_refuses_every_flipped_bit() -> None:
    state = {"weights": torch.arange(6.0), "view": [1, (2.5, None)], 3: "three"}
    state["again"] = state["weights"][2:4]
    content = bytearray(saved(state))
    odd = {}
    for bit in flips(content, range(len(content) * 8)):
        kind = refusal(lambda: perdure.load_checkpoint(content))
        if kind not in (CorruptError, DigestError, FormatError, LimitError):
            odd[bit] = kind
    assert odd == {}
    assert torch.equal(perdure.load_checkpoint(content)["weights"], torch.arange(6.0))


def test_open_refuses_every_flip_of_the_header_and_reading_every_flip_of_the_data() -> None:
    content = bytearray(saved(Small()))
    start = data_start(content)
    odd: dict[int, object] = {}
    for bit in flips(content, range(start * 8)):
        kind = refusal(lambda: perdure.open(content))
        if kind is None or not issubclass(kind, FileError):
            odd[bit] = kind
    assert odd == {}
    names = {}
    for name, entry in header_of(bytes(content))[0].items():
        if name != "__metadata__":
            names |= dict.fromkeys(range(*entry["data_offsets"]), name)
    for bit in flips(content, range(start * 8, len(content) * 8)):
        weights = perdure.open(content)
        name = names[bit // 8 - start]
        reads = (lambda: weights.read(name), lambda: weights[name])  # noqa: B023
        for call in (weights.verify, lambda: weights.verify(full=True), *reads):  # noqa: B023
            if refusal(call) is not DigestError:
                odd[bit] = name
        others = [other for other in names.values() if other != name]
        weights.verify(set(others))
    assert odd == {}


def test_check_finds_every_flipped_bit(ram: Path) -> None:
    content = saved(Small())
    path = ram / "small.safetensors"
    path.write_bytes(content)
    start = data_start(content)
    odd: dict[int, object] = {}
    n_reports = 0
    descriptor = os.open(path, os.O_WRONLY)
    for bit in range(len(content) * 8):
        os.pwrite(descriptor, bytes([content[bit // 8] ^ 1 << bit % 8]), bit // 8)
        try:
            report = perdure.check(path)
        except PerdureError as error:
            odd[bit] = error
        else:
            n_reports += 1
            if report.ok or report.verdict != "damaged" or not report.findings:
                odd[bit] = report
            if bit >= start * 8 and [finding.kind for finding in report.findings] != ["DigestError"]:
                odd[bit] = report
        os.pwrite(descriptor, content[bit // 8 : bit // 8 + 1], bit // 8)
    os.close(descriptor)
    assert odd == {}
    assert n_reports == len(content) * 8
    assert perdure.check(path).verdict == "safe"


def test_every_cut_and_every_addition_is_refused(ram: Path) -> None:
    content = saved(Small())
    path = ram / "cut.safetensors"
    target = Small()
    wrong = [content[:length] for length in range(len(content))]
    wrong += [content + tail for tail in (b"\0", b" ", b"\0" * 4096, content, b"PK\x05\x06" + b"\0" * 18)]
    for candidate in wrong:
        for call in (lambda: perdure.load_weights(target, candidate), lambda: perdure.open(candidate)):  # noqa: B023
            kind = refusal(call)
            assert kind is CorruptError, (len(candidate), kind)
        path.write_bytes(candidate)
        report = perdure.check(path)
        assert (report.ok, report.verdict) == (False, "damaged"), len(candidate)
        assert str(path) in str(report.findings[0].message)


def test_every_cut_of_a_checkpoint_is_refused() -> None:
    content = saved({"a": torch.ones(5), "b": "text"})
    for length in range(len(content)):
        assert refusal(lambda: perdure.load_checkpoint(content[:length])) is CorruptError, length  # noqa: B023


# A larger file


class Part(nn.Module):
    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(128, 300, generator=generator))
        self.fine = nn.Parameter(torch.randn(33, 1001, generator=generator).half())
        self.register_buffer("steps", torch.randint(0, 1 << 40, (1200,), generator=generator))
        self.register_buffer("mask", torch.rand(77, 1333, generator=generator) > 0.5)


@pytest.fixture(scope="module")
def large() -> tuple[nn.ModuleList, bytes]:
    """24 parts of 333 KB, so that a flip is found by loading the part that it hit."""
    generator = torch.Generator().manual_seed(7)
    model = nn.ModuleList(Part(generator) for _ in range(24))
    return model, saved(model)


def hit_names(content: bytes) -> list[tuple[int, int, str]]:
    """Return the stretches of a file in order: where each begins and ends, and its tensor (empty for the header)."""
    header, _ = header_of(content)
    start = data_start(content)
    found = [(0, start, "")]
    for name, entry in header.items():
        if name != "__metadata__":
            found.append((start + entry["data_offsets"][0], start + entry["data_offsets"][1], name))
    return sorted(found)


def random_bits(content: bytes, n: int, seed: int) -> list[int]:
    return random.Random(seed).sample(range(len(content) * 8), n)


def test_random_flips_of_a_large_file_are_refused(large: tuple[nn.ModuleList, bytes]) -> None:
    model, original = large
    assert len(original) > 7_900_000
    content = bytearray(original)
    stretches = hit_names(original)
    odd = {}
    hits = 0
    for bit in flips(content, iter(random_bits(original, RANDOM_FLIPS, 1))):
        name = next(name for start, stop, name in stretches if start <= bit // 8 < stop)
        number = name.partition(".")[0] or "0"
        kind = refusal(lambda: perdure.load_weights(model[int(number)], content, prefix=number))  # noqa: B023
        hits += bool(name)
        if kind is None or not issubclass(kind, FileError) or (name and kind is not DigestError):
            odd[bit] = kind
    assert odd == {}
    assert hits > RANDOM_FLIPS * 0.9


@pytest.mark.parametrize("n", [300, pytest.param(RANDOM_FLIPS, marks=pytest.mark.slow)])
def test_random_flips_are_found_whatever_else_is_loaded(n: int, large: tuple[nn.ModuleList, bytes]) -> None:
    model, original = large
    content = bytearray(original)
    odd = {}
    for bit in flips(content, iter(random_bits(original, n, 2))):
        kind = refusal(lambda: perdure.load_weights(model, content, verify="full" if bit % 2 else "checksum"))  # noqa: B023
        if kind is None or not issubclass(kind, FileError):
            odd[bit] = kind
    assert odd == {}
    assert perdure.load_weights(model, content).verified == "checksum"


def test_check_names_exactly_the_tensors_that_random_flips_hit(large: tuple[nn.ModuleList, bytes], ram: Path) -> None:
    """Flips come in handfuls: each report must name the tensors that were hit, all of them and no others."""
    _, original = large
    stretches = hit_names(original)
    path = ram / "large.safetensors"
    path.write_bytes(original)
    in_data = [bit for bit in random_bits(original, RANDOM_FLIPS + 500, 3) if bit // 8 >= stretches[0][1]]
    assert len(in_data) >= RANDOM_FLIPS
    odd = []
    descriptor = os.open(path, os.O_RDWR)
    for first in range(0, RANDOM_FLIPS, 50):
        bits = in_data[first : first + 50]
        expected = {name for bit in bits for start, stop, name in stretches if start <= bit // 8 < stop}
        _turn(descriptor, bits)
        report = perdure.check(path)
        if report.ok or {finding.tensor for finding in report.findings} != expected:
            odd.append((bits, report))
        _turn(descriptor, bits)
    os.close(descriptor)
    assert odd == []
    assert path.read_bytes() == original
    assert perdure.check(path).ok


def _turn(descriptor: int, bits: list[int]) -> None:
    for bit in bits:
        (byte,) = os.pread(descriptor, 1, bit // 8)
        os.pwrite(descriptor, bytes([byte ^ 1 << bit % 8]), bit // 8)


# A folder of shards


@pytest.fixture
def folder(ram: Path) -> Path:
    path = ram / "model"
    perdure.save_weights(Small(), path, shard_bytes=30)
    return path


def outcomes(folder: Path, target: nn.Module) -> list[object]:
    """What load_weights, open with every tensor verified, and check say; None is silence."""
    report = perdure.check(folder)
    return [
        refusal(lambda: perdure.load_weights(target, folder)),
        refusal(lambda: perdure.open(folder).verify()),
        None if report.ok or report.verdict != "damaged" else FileError,
    ]


def _refused(found: list[object]) -> bool:
    return all(isinstance(kind, type) and issubclass(kind, FileError) for kind in found)


def _sweep(folder: Path, name: str, bits: range) -> dict[int, object]:
    path = folder / name
    content, target = path.read_bytes(), Small()
    before = snapshot(target)
    odd: dict[int, object] = {}
    descriptor = os.open(path, os.O_WRONLY)
    for bit in bits:
        os.pwrite(descriptor, bytes([content[bit // 8] ^ 1 << bit % 8]), bit // 8)
        found = outcomes(folder, target)
        if not _refused(found):
            odd[bit] = found
        os.pwrite(descriptor, content[bit // 8 : bit // 8 + 1], bit // 8)
    os.close(descriptor)
    if not odd:
        assert snapshot(target) == before
    return odd


def test_flips_of_an_index_are_refused(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    assert _sweep(folder, index.name, range(0, index.stat().st_size * 8, 3)) == {}
    assert perdure.load_weights(Small(), folder).missing == ()


def test_flips_of_shards_are_refused(folder: Path) -> None:
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2
    for shard in shards[:2]:
        assert _sweep(folder, shard.name, range(0, shard.stat().st_size * 8, 29)) == {}
        assert _sweep(folder, shard.name, range(4096 * 8, shard.stat().st_size * 8)) == {}


@pytest.mark.slow
def test_every_flip_of_a_folder_is_refused(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        assert _sweep(folder, path.name, range(path.stat().st_size * 8)) == {}, path


def test_cuts_of_a_folder_are_refused(folder: Path) -> None:
    target = Small()
    for path in (folder / "model.safetensors.index.json", sorted(folder.glob("*.safetensors"))[1]):
        content = path.read_bytes()
        wrong = [content[:length] for length in range(0, len(content), 17)] + [content[:-1], content + b"\0"]
        for candidate in wrong:
            path.write_bytes(candidate)
            assert _refused(outcomes(folder, target)), (path.name, len(candidate))
        path.write_bytes(content)


def test_a_later_protocol_is_not_damage() -> None:
    """The one typed error that is no damage: a seal that holds around a protocol that is not ours."""
    assert refusal(lambda: perdure.open(with_manifest(saved(Small()), protocol=2))) is ProtocolError
