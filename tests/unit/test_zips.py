"""Zip archives as PyTorch, NumPy and Python write them: all are taken, and hold what Python's zipfile finds in them."""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perdure.disk.sources import BytesSource, PathSource
from perdure.errors import DigestError
from perdure.foreign.zips import deflated
from perdure.foreign.zips.archives import Archive, read_zip
from perdure.foreign.zips.deflated import DeflatedSource, Kept

OLD_FILES = Path(__file__).parents[1] / "compat/torch-1.13"


def read(content: bytes) -> Archive:
    return read_zip(BytesSource(content), "a.zip")


def assert_as_python_reads_it(content: bytes, without_crc: tuple[str, ...] = ()) -> Archive:
    """See that an archive holds the same by Python's reader; returns it."""
    archive = read(content)
    assert archive.verify() == without_crc
    with zipfile.ZipFile(io.BytesIO(content)) as expected:
        infos = [info for info in expected.infolist() if not info.is_dir()]
        assert list(archive.members) == [info.filename for info in infos]
        for info in infos:
            member = archive.members[info.filename]
            assert (member.name, member.n_bytes, member.crc) == (info.filename, info.file_size, info.CRC)
            if member.has_crc:  # Python takes a missing one for a wrong one
                assert member.read() == expected.read(info)
    return archive


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


class Pipe(io.RawIOBase):
    """A file that cannot be sought in, like a pipe."""

    def __init__(self) -> None:
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.content += bytes(content)
        return len(content)


# PyTorch


def test_state_dicts_are_read_in_place() -> None:
    state = {"a": torch.arange(1000.0), "none": torch.zeros(0), "b": torch.ones(3, dtype=torch.bfloat16)}
    content = saved(state)
    archive = assert_as_python_reads_it(content)
    member = archive.members["archive/data/0"]
    assert member.source is archive.source
    assert content[member.position :][: member.n_bytes] == state["a"].numpy().tobytes()
    assert member.position % 64 == 0


def test_what_pytorch_saves_in_other_ways(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).eval()
    assert_as_python_reads_it(saved(module))
    script = io.BytesIO()
    torch.jit.save(torch.jit.script(module), script)
    code = assert_as_python_reads_it(script.getvalue()).members
    packed = [member for name, member in code.items() if re.search(r"linear(/___torch_mangle_\d+)?\.py$", name)]
    assert b"def forward" in packed[0].read()
    assert isinstance(packed[0].source, DeflatedSource)
    program = io.BytesIO()
    torch.export.save(torch.export.export(module, (torch.ones(2, 3),)), program)
    assert_as_python_reads_it(program.getvalue())
    for name in ("..pt", "no ending", "a.b.c", "ü.pt"):
        torch.save({"a": torch.ones(2)}, tmp_path / name)
        assert_as_python_reads_it((tmp_path / name).read_bytes())


def test_files_of_pytorch_without_checksums_name_what_has_none() -> None:
    torch.serialization.set_crc32_options(False)
    try:
        content = saved({"a": torch.ones(3), "none": torch.zeros(0)})
    finally:
        torch.serialization.set_crc32_options(True)
    unchecked = read(content).verify()
    assert "archive/data/0" in unchecked and "archive/data/1" not in unchecked
    assert_as_python_reads_it(content, unchecked)
    with torch.serialization.skip_data():
        content = saved({"a": torch.ones(3)})
    assert_as_python_reads_it(content, ("archive/data/0",))


@pytest.mark.parametrize(
    "path", [path for path in sorted(OLD_FILES.glob("*.pt")) if ".legacy." not in path.name], ids=lambda path: path.name
)
def test_files_of_pytorch_1_13(path: Path) -> None:
    assert_as_python_reads_it(path.read_bytes())


@pytest.mark.slow
def test_a_file_of_pytorch_that_is_larger_than_four_gibibytes(tmp_path: Path) -> None:
    path = tmp_path / "large.pt"
    n_bytes = 2**32 + 100
    torch.save({"a": torch.zeros(n_bytes, dtype=torch.uint8), "b": torch.arange(10), "c": torch.zeros(0)}, path)
    archive = read_zip(PathSource(path), "large.pt")
    with zipfile.ZipFile(path) as expected:
        assert [(name, member.n_bytes) for name, member in archive.members.items()] == [
            (info.filename, info.file_size) for info in expected.infolist()
        ]
        assert archive.members["large/data/0"].n_bytes == n_bytes
        assert archive.members["large/data/1"].read() == expected.read("large/data/1")
    assert archive.verify() == ()


# NumPy and Python


def test_files_of_numpy() -> None:
    for save in (np.savez, np.savez_compressed):
        for arrays in ({}, {"x": np.arange(5), "X": np.ones((3, 4)), "a/b": np.zeros(0), "ü": np.array(3)}):
            buffer = io.BytesIO()
            save(buffer, **arrays)
            assert_as_python_reads_it(buffer.getvalue())


CONTENTS = st.one_of(
    st.binary(max_size=300), st.builds(bytes.__mul__, st.binary(min_size=1, max_size=3), st.integers(0, 3000))
)
NAMES = st.lists(
    st.text("abcß0_. ", min_size=1, max_size=5).filter(lambda part: part.strip(".")), min_size=1, max_size=3
).map("/".join)


@given(
    st.lists(
        st.tuples(NAMES, CONTENTS, st.booleans(), st.booleans()),
        max_size=6,
        unique_by=lambda entry: entry[0].casefold(),
    ),
    st.booleans(),
    st.binary(max_size=20).filter(lambda comment: b"PK" not in comment),
)
def test_archives_of_python_in_all_its_ways(
    entries: list[tuple[str, bytes, bool, bool]], piped: bool, comment: bytes
) -> None:
    """Stored and deflated, with zip64 forced and not, into a file that can be sought in and one that cannot."""
    target = Pipe() if piped else io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.comment = comment
        archive.writestr("a folder/", "")
        for name, content, packed, wide in entries:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
            with archive.open(info, "w", force_zip64=wide) as file:
                file.write(content)
    content = bytes(target.content) if isinstance(target, Pipe) else target.getvalue()
    found = assert_as_python_reads_it(content)
    assert {name: member.read() for name, member in found.members.items()} == {
        name: content for name, content, *_ in entries
    }


def test_files_put_in_from_a_folder_keep_their_modes_and_a_link_among_them_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello")
    os.symlink("a", tmp_path / "link")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.write(tmp_path, "m")
        archive.write(tmp_path / "a", "m/a")
        archive.write(tmp_path / "link", "m/link")
    assert list(assert_as_python_reads_it(buffer.getvalue()).members) == ["m/a", "m/link"]


# Reading


def packed(content: bytes, kept: Kept | None = None, place: int = 0) -> DeflatedSource:
    squeezer = zlib.compressobj(6, zlib.DEFLATED, -15)
    raw = squeezer.compress(content) + squeezer.flush()
    source = BytesSource(b"?" * place + raw)
    return DeflatedSource(source, place, len(raw), len(content), "packed", kept or Kept())


def test_deflated_content_is_read_at_any_place_and_by_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(1000) * 5000 + bytes(100)
    source = packed(content)
    assert source.read(4000, 50) == content[4000:4050]
    assert source._kept.get(0) is None  # what is read of its beginning does not inflate it all
    calls: list[int] = []
    blocks = DeflatedSource.blocks
    monkeypatch.setattr(DeflatedSource, "blocks", lambda self, *args: calls.append(1) or blocks(self, *args))
    wrong: list[int] = []

    def work(number: int) -> None:
        for begin in range(number * 1000, len(content), 500_000):
            end = min(begin + 100_000, len(content))
            if source.read(begin, end - begin) != content[begin:end]:
                wrong.append(begin)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert calls == [1]
    assert source.read(len(content), 0) == b""


def test_inflated_contents_are_let_go_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deflated, "KEPT_BYTES", 25_000)
    kept = Kept()
    sources = [packed(bytes([number]) * 10_000, kept, number) for number in range(4)]
    for source in sources:
        assert source.read(5000, 5000) == bytes([source._position]) * 5000
    assert [kept.get(number) is not None for number in range(4)] == [False, False, True, True]
    assert sources[0].read(0, 10_000) == bytes(10_000)
    assert [kept.get(number) is not None for number in range(4)] == [True, False, False, True]
    large = packed(bytes(100_000), kept, 9)
    assert large.read(0, 100_000) == bytes(100_000)
    assert [kept.get(number) is not None for number in (0, 3, 9)] == [False, False, True]
    large.close()
    assert kept.get(9) is None


def test_checksums_are_compared_in_threads_with_progress(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({str(number): torch.full((300_000,), number) for number in range(8)}, path)
    told: list[tuple[int, int]] = []
    archive = read_zip(PathSource(path), "a.pt")
    assert archive.verify(lambda *numbers: told.append(numbers)) == ()
    total = sum(member.n_bytes for member in archive.members.values())
    assert sum(n_bytes for n_bytes, _ in told) == total
    assert {of for _, of in told} == {total}
    spoilt = bytearray(path.read_bytes())
    spoilt[archive.members["a/data/5"].position + 2_000_001] ^= 1
    path.write_bytes(spoilt)
    with pytest.raises(DigestError, match="entry 'a/data/5': it is damaged, its CRC-32"):
        read_zip(PathSource(path), "a.pt").verify()
    with contextlib.suppress(DigestError):
        archive.members["a/data/4"].check_crc()


def test_ten_thousand_entries_are_read_in_a_blink() -> None:
    content = saved({f"layer.{number}.weight": torch.ones(number % 7 + 1) for number in range(10_000)})
    source = BytesSource(content)
    taken = []
    for _ in range(3):
        begun = time.process_time()
        archive = read_zip(source, "a.pt")
        taken.append(time.process_time() - begun)
    assert len(archive.members) > 10_000
    assert min(taken) < 0.4  # 0.09 s on an idle machine
