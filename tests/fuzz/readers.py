"""What is fuzzed: for each reader its seeds, how they are changed, and the peer that must agree on what both accept."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import io
import json
import pickle
import struct
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

import perdure
from attacks.archives import STORAGE, torch_zip
from attacks.assembling import pickled, plain, tensor
from attacks.gadgets import legacy
from attacks.tensors import gguf
from fuzz import images
from fuzz.mutations import BYTES, Mutation
from fuzz.oracle import compare
from fuzz.pickle_mutations import PICKLES
from fuzz.structured_mutations import ARCHIVES, HEADERS, TARS, TEXTS

Peer = Callable[[bytes], Any]


@dataclasses.dataclass(frozen=True)
class Reader:
    """Something that reads files.

    Attributes:
        seeds: gives valid files, by what they are called; a folder is a dict of files.
        mutations: how they are changed.
        peer: reads the same file; raises where it refuses it.
        compare: reads a file, and compares what comes with what the peer reads; returns the outcome.
    """

    seeds: Callable[[], Sequence[bytes]]
    mutations: Sequence[Mutation]
    peer: Peer | None = None
    compare: Callable[[Any, Peer | None], str] = compare


_HARMLESS = {
    "builtins": ("set", "frozenset", "complex", "bytearray", "bytes"),
    "collections": ("OrderedDict", "Counter"),
    "datetime": ("datetime", "date", "timedelta"),
    "pathlib": ("PosixPath",),
    "_codecs": ("encode",),
    "numpy": ("ndarray", "dtype"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.numeric": ("_frombuffer",),
}


class _Plain(pickle.Unpickler):
    """Python's own unpickler, which may import next to nothing."""

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        if name not in _HARMLESS.get(module, ()):
            raise pickle.UnpicklingError(name)
        return super().find_class(module, name)


def _plain_pickle(content: bytes) -> Any:
    return _Plain(io.BytesIO(content)).load()


def _torch(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), weights_only=True)


def _numpy(content: bytes) -> Any:
    found = np.load(io.BytesIO(content), allow_pickle=False)
    return dict(found) if isinstance(found, np.lib.npyio.NpzFile) else found


def _saved(value: Any, **how: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **how)
    return file.getvalue()


def _values() -> list[Any]:
    torch.manual_seed(0)
    weight = torch.arange(6.0).reshape(2, 3)
    net = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    return [
        {"weight": weight, "view": weight[:, 1:], "half": torch.ones(2).bfloat16()},
        collections.OrderedDict(a=torch.ones(1), b=torch.arange(3), c=torch.tensor(True)),
        {"epoch": 1, "state_dict": net.state_dict(), "optimizer": optimizer.state_dict()},
        {"w": nn.Parameter(weight), "s": torch.eye(2).to_sparse(), "z": torch.ones(2, dtype=torch.complex64).conj()},
        [torch.zeros(2), {"n": (1, 2.5, None, "x", b"y")}],
    ]


def _modules() -> list[Any]:
    torch.manual_seed(0)
    return [nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.LSTM(2, 1)]


def _pickles() -> list[bytes]:
    values = [
        {"a": [1, 2.5, None, True, 2**70, -5], "b": "text", "c": (b"bytes", "é"), 3: {1, 2}, "d": frozenset({3})},
        {"w": np.arange(4.0), "s": np.float32(1), "n": np.array(["a"])},
        {"when": datetime.datetime(2024, 1, 2), "o": collections.OrderedDict(a=1), "p": Path("x"), "c": 1 + 2j},
        collections.Counter("abca"),
    ]
    return [pickle.dumps(value, protocol) for value in values for protocol in range(6)]


def _scripts() -> list[bytes]:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), file)
    return [file.getvalue()]


def _programs() -> list[bytes]:
    file = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), file)
    return [file.getvalue()]


def _tars() -> list[bytes]:
    storages = (
        pickle.dumps(1, 2)
        + pickle.dumps(("0", "cpu", "x"), 2)[:-1].replace(b"X\x01\0\0\0x", b"ctorch\nFloatStorage\n")
        + b"."
    )
    storages += struct.pack("<q", 4) + STORAGE + pickle.dumps([], 2)
    entry = pickle.dumps(("1", "0", "x"), 2)[:-1].replace(b"X\x01\0\0\0x", b"ctorch\nFloatTensor\n") + b"."
    tensors = pickle.dumps(1, 2) + entry + struct.pack("<ii5q", 2, 0, 2, 2, 2, 1, 0)
    value = pickled(plain({"weight": plain("1") + b"Q"}), 2)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        for name, content in (("storages", storages), ("tensors", tensors), ("pickle", value)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return [file.getvalue()]


def _arrays() -> list[bytes]:
    arrays = [
        np.arange(6.0).reshape(2, 3),
        np.float16(1),
        np.zeros((0, 2), "<i8"),
        np.asfortranarray(np.ones((2, 2), ">f4")),
        np.ones(3, bool),
    ]
    return [_written(np.save, array) for array in arrays]


def _written(save: Callable[..., None], *args: Any, **kwargs: Any) -> bytes:
    file = io.BytesIO()
    save(file, *args, **kwargs)
    return file.getvalue()


def _npzs() -> list[bytes]:
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(3)}
    return [_written(np.savez, **arrays), _written(np.savez_compressed, **arrays)]


def _ggufs() -> list[bytes]:
    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    def info(name: bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
        return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)

    metadata = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
    metadata += text(b"tokens") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"b")
    infos = info(b"a", (4, 2), 0, 0) + info(b"q", (32,), 2, 32) + info(b"k", (256,), 12, 64)
    header = gguf(3, 2, metadata + infos)
    return [header + bytes(-len(header) % 32) + bytes(32) + bytes(range(18)) + bytes(14) + bytes(144)]


def _files(save: Callable[..., Any], *values: Any) -> list[bytes]:
    return [_written(lambda file, value: save(value, file), value) for value in values]


def _ours() -> list[bytes]:
    torch.manual_seed(0)
    net, weight = nn.Linear(2, 2), torch.arange(6.0)
    tied = {"a": weight, "b": weight[:3], "s": torch.eye(2).to_sparse(), "t": weight.reshape(2, 3).t()}
    return [
        *_files(perdure.save_weights, net, tied),
        *_files(perdure.save_checkpoint, {"epoch": 1, "model": net.state_dict(), "n": (1, None)}),
        _written(lambda file: perdure.save(net, file, example=torch.ones(1, 2))),
    ]


def _plain_files() -> list[bytes]:
    tensors = {"weight": torch.arange(4.0).reshape(2, 2), "bias": torch.ones(2).half(), "n": torch.tensor(3)}
    return [safetensors.torch.save(tensors), safetensors.torch.save({"x": torch.ones(0)}, {"format": "pt"})]


def _forged() -> list[bytes]:
    return [
        torch_zip(
            pickled(plain({"weight": tensor(), "more": [tensor(offset=1, shape=(1,), stride=(1,))]}), 2), {"0": STORAGE}
        )
    ]


READERS: dict[str, Reader] = {
    "pickle": Reader(_pickles, PICKLES, _plain_pickle),
    "pickle of PyTorch": Reader(lambda: [legacy(pickle.dumps({"a": 1}, 2)), *_forged()], PICKLES, _torch),
    "torch zip": Reader(lambda: [*(_saved(value) for value in _values()), *_forged()], ARCHIVES, _torch),
    "whole model": Reader(lambda: [_saved(module) for module in _modules()], ARCHIVES),
    "torch legacy": Reader(
        lambda: [_saved(value, _use_new_zipfile_serialization=False) for value in _values()], PICKLES, _torch
    ),
    "torch tar": Reader(_tars, TARS),
    "TorchScript": Reader(_scripts, ARCHIVES),
    "pt2": Reader(_programs, ARCHIVES),
    "npy": Reader(_arrays, BYTES, _numpy),
    "npz": Reader(_npzs, ARCHIVES, _numpy),
    "GGUF": Reader(_ggufs, BYTES),
    "safetensors": Reader(_plain_files, HEADERS, safetensors.torch.load),
    "perdure": Reader(_ours, HEADERS),
    **{
        kind: Reader(seeds, images.MUTATIONS[kind], images.by_pillow, images.compare)
        for kind, seeds in images.SEEDS.items()
    },
}

Folder = dict[str, bytes]


@dataclasses.dataclass(frozen=True)
class FolderReader:
    """Something that reads folders: one of their files is changed at a time."""

    seeds: Callable[[], Sequence[Folder]]
    mutations: dict[str, Sequence[Mutation]]


def _sharded() -> list[Folder]:
    shards = {f"pytorch_model-0000{n}-of-00002.bin": {f"w{n}": torch.ones(n)} for n in (1, 2)}
    index = {
        "metadata": {"total_size": 12},
        "weight_map": {key: name for name, value in shards.items() for key in value},
    }
    files = {name: _saved(value) for name, value in shards.items()}
    return [{"pytorch_model.bin.index.json": json.dumps(index).encode(), **files}]


def _distributed() -> list[Folder]:
    import torch.distributed.checkpoint as dcp

    with tempfile.TemporaryDirectory() as folder:
        dcp.save({"w": torch.arange(4.0), "m": {"step": 3, "v": torch.ones(2)}}, checkpoint_id=folder)
        return [{path.name: path.read_bytes() for path in Path(folder).iterdir()}]


def _sharded_safetensors() -> list[Folder]:
    shards = {f"model-0000{n}-of-00002.safetensors": {f"w{n}": torch.ones(n)} for n in (1, 2)}
    index = {
        "metadata": {"total_size": 12},
        "weight_map": {key: name for name, value in shards.items() for key in value},
    }
    files = {name: safetensors.torch.save(value) for name, value in shards.items()}
    return [{"model.safetensors.index.json": json.dumps(index).encode(), **files}]


_BY_ENDING = {".json": TEXTS, ".bin": ARCHIVES, ".metadata": PICKLES, ".distcp": ARCHIVES, ".safetensors": HEADERS}

FOLDERS: dict[str, FolderReader] = {
    "sharded .bin": FolderReader(_sharded, _BY_ENDING),
    "sharded safetensors": FolderReader(_sharded_safetensors, _BY_ENDING),
    "distributed": FolderReader(_distributed, _BY_ENDING),
}


@cache
def seeds_of(name: str) -> Sequence[Any]:
    """Return the seeds of a reader, made once."""
    return (READERS.get(name) or FOLDERS[name]).seeds()
