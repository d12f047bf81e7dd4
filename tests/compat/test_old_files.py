"""Files that old versions of PyTorch and NumPy wrote: real ones of 1.13, and older formats byte by byte."""

import io
import pickle
import re
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import perdure
from perdure.errors import CorruptError

FOLDER = Path(__file__).parent / "torch-1.13"
FILES = sorted(path.name for path in FOLDER.glob("*.pt"))


def loaded_by_torch(path: Path) -> dict[str, torch.Tensor]:
    if ".jit." in path.name:
        return torch.jit.load(path).state_dict()
    found = torch.load(path, weights_only=False)
    return found if isinstance(found, dict) else found.state_dict()


@pytest.mark.filterwarnings("ignore::torch.serialization.SourceChangeWarning", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", FILES)
def test_files_of_pytorch_1_13(name):
    expected = loaded_by_torch(FOLDER / name)
    with perdure.open(FOLDER / name) as weights:
        assert weights.keys() == expected.keys()
        for key, tensor in expected.items():
            assert torch.equal(weights[key], tensor) and weights[key].stride() == tensor.stride()
    assert perdure.check(FOLDER / name).verdict == ("safe" if ".sd." in name else "needs code")


def test_there_are_all_of_them():
    assert len(FILES) == 24


@pytest.mark.parametrize("kind", ["whole", "legacy", "sd", "jit"])
def test_a_model_of_1_13_answers_as_it_did_then(kind):
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Linear(16, 3))
    report = perdure.load_weights(model, FOLDER / f"linear_bn.{kind}.pt")
    assert report.fraction_loaded == 1
    with perdure.open(FOLDER / "inputs_outputs.safetensors") as answers:
        torch.testing.assert_close(model(answers["linear_bn.input"]), answers["linear_bn.output"], rtol=0, atol=1e-6)


class _Pickler:
    """Writes the pickles of the tar format: with the classes of storages, and persistent ids."""

    class FloatStorage:
        pass

    class LongStorage:
        pass


def _pickled(value, persistent=lambda value: None) -> bytes:
    class Writer(pickle._Pickler):
        def persistent_id(self, obj):
            return persistent(obj)

        def save_global(self, obj, name=None):
            if obj in (_Pickler.FloatStorage, _Pickler.LongStorage):
                self.write(b"ctorch\n" + obj.__name__.encode() + b"\n")
            else:
                super().save_global(obj, name)

        dispatch = {**pickle._Pickler.dispatch, type: save_global}  # noqa: RUF012

    written = io.BytesIO()
    Writer(written, 2).dump(value)
    return written.getvalue()


class Key:
    """Stands for a tensor in the value; its persistent id is the tensor's key."""

    def __init__(self, key):
        self.key = key


def tar_of(members: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return written.getvalue()


def tar_file(**changes: object) -> bytes:
    """A state dict in the tar format: two tensors on one storage, a view of it, and a scalar of another."""
    floats = np.arange(6, dtype="<f4")
    storages = _pickled(2)
    storages += _pickled((11, "cpu", _Pickler.FloatStorage)) + struct.pack("<q", changes.get("n", 6)) + floats.tobytes()
    storages += _pickled((12, "cpu", _Pickler.LongStorage)) + struct.pack("<qq", 1, -7)
    storages += _pickled([(13, 11, 2, 3)])

    def tensor(key, storage, shape, stride, offset):
        numbers = (*shape, *stride, offset)
        head = struct.pack("<ii", len(shape), 0)
        return _pickled((key, storage, _Pickler.FloatStorage)) + head + struct.pack(f"<{len(numbers)}q", *numbers)

    tensors = _pickled(4) + tensor(21, 11, (2, 3), (3, 1), 0) + tensor(22, 11, (3, 2), (1, 3), 0)
    tensors += tensor(23, 13, (2,), (1,), changes.get("offset", 1)) + tensor(24, 12, (), (), 0)
    value = {"weight": Key(21), "turned": Key(22), "part": Key(23), "count": Key(24)}
    pickled = _pickled(value, lambda item: str(item.key) if isinstance(item, Key) else None)
    return tar_of({"storages": storages, "tensors": tensors, "pickle": pickled, "sys_info": _pickled({})})


def test_the_tar_format_of_2016():
    with perdure.open(tar_file()) as weights:
        assert weights.format == "torch tar archive"
        assert weights["weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert weights["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
        assert weights["part"].tolist() == [3, 4]
        assert weights["count"].item() == -7 and weights["count"].dtype == torch.int64
        assert weights["weight"].data_ptr() == weights["turned"].data_ptr()


@pytest.mark.filterwarnings("ignore")
def test_torch_reads_the_same_of_it(tmp_path):
    path = tmp_path / "old.pt"
    path.write_bytes(tar_file())
    expected = torch.load(path, weights_only=False)
    with perdure.open(path) as weights:
        assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items()) and len(expected) == 4


@pytest.mark.parametrize("changes", [{"offset": 2}, {"offset": -1}, {"n": 7}, {"n": -1}])
def test_a_tar_archive_that_contradicts_itself(changes):
    with pytest.raises(CorruptError):
        perdure.open(tar_file(**changes))


def test_a_tar_archive_with_links_or_doubles_or_cut_off():
    entry = tarfile.TarInfo("storages")
    entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        archive.addfile(entry)
    whole = tar_file()
    double = tar_of({"storages": b""})[:512] + whole
    for content in (written.getvalue(), double, *(whole[:n] for n in range(600, len(whole.rstrip(bytes(1))), 97))):
        with pytest.raises(CorruptError):
            perdure.open(content)


def big_endian_zip(state: dict[str, torch.Tensor]) -> bytes:
    """What torch.save writes on a big-endian machine: the same archive, with other bytes and a note."""
    from zipfile import ZipFile

    written, swapped = io.BytesIO(), io.BytesIO()
    torch.save(state, written)
    sizes = {str(number): tensor.element_size() for number, tensor in enumerate(state.values())}
    with ZipFile(written) as before, ZipFile(swapped, "w") as after:
        for name in before.namelist():
            content = before.read(name)
            if name.endswith("byteorder"):
                content = b"big"
            elif "/data/" in name:
                content = np.frombuffer(content, f"u{sizes[name.rpartition('/')[2]]}").byteswap().tobytes()
            after.writestr(name, content)
    return swapped.getvalue()


def test_files_of_big_endian_machines():
    state = {
        "float": torch.randn(3, 5),
        "long": torch.arange(-3, 9),
        "half": torch.randn(7).half(),
        "byte": torch.arange(5, dtype=torch.uint8),
    }
    content = big_endian_zip(state)
    expected = torch.load(io.BytesIO(content), weights_only=True)
    with perdure.open(content) as weights:
        for name, tensor in state.items():
            assert torch.equal(weights[name], tensor) and torch.equal(expected[name], tensor)


def test_the_format_before_1_6_of_a_big_endian_machine():
    written = io.BytesIO()
    torch.save({"w": torch.tensor([1.5, -2])}, written, _use_new_zipfile_serialization=False)
    content = re.sub(rb"(little_endianq.)\x88", lambda found: found[1] + b"\x89", written.getvalue())
    assert content != written.getvalue()
    content = content[:-16] + struct.pack(">qff", 2, 1.5, -2)
    assert perdure.open(content)["w"].tolist() == [1.5, -2]


NUMPY_1 = (
    b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85U\x01b\x87Rq\x02(K\x01K\x02K\x02"
    b"\x86cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10"
    b"\x00\x00\x80?\x00\x00\x00@\x00\x00@@\x00\x00\x80@tb."
)
"""An array of two by two as NumPy 1 and Python 2 pickled it: its bytes are a string, its module is `numpy.core`."""


def test_arrays_as_numpy_1_and_python_2_pickled_them():
    assert pickle.loads(NUMPY_1, encoding="latin1").tolist() == [[1, 2], [3, 4]]
    assert perdure.load_checkpoint(NUMPY_1).tolist() == [[1, 2], [3, 4]]
    assert perdure.open(NUMPY_1)["tensor"].tolist() == [[1, 2], [3, 4]]


def test_numbers_of_numpy_1():
    scalar = (
        b"\x80\x02}X\x04\x00\x00\x00bestcnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\x00\x00\x00f8K\x00K\x01\x87R(K\x03"
        b"X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbc_codecs\nencode\nX\x0b\x00\x00\x00"
        + "\x00\x00\x00\x00\x00\x00\xf8?".encode()[:11]
        + b"X\x06\x00\x00\x00latin1\x86R\x86Rs."
    )
    content = scalar.replace(
        b"X\x0b\x00\x00\x00", b"X" + struct.pack("<I", len("\x00\x00\x00\x00\x00\x00\xf8?".encode()))
    )
    assert pickle.loads(content)["best"] == 1.5
    assert perdure.load_checkpoint(content) == {"best": 1.5}
