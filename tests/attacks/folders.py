"""Folders whose index or metadata leads elsewhere, or holds a payload."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from attacks.archives import GOOD, STORAGE, evil
from attacks.archiving import torch_zip
from attacks.assembling import built, call, new, pickled, plain, stacked
from attacks.attack import DAMAGED, DANGEROUS, NEEDS_CODE, Attack, Corpus, Place
from fault.forging import safetensors
from perdure.errors import CorruptError, FileError, PerdureError, UnsafeError

Errors = tuple[type[PerdureError], ...]
_SHARD = {"weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}


def _index(place: Place, shard: object, name: str = "pytorch_model.bin.index.json") -> Path:
    if name.startswith("pytorch"):
        place.write("pytorch_model-00001-of-00001.bin", torch_zip(GOOD, {"0": STORAGE}))
    else:
        place.write("model-00001-of-00001.safetensors", safetensors(_SHARD, STORAGE))
    content = {"metadata": {"total_size": 16}, "weight_map": {"weight": shard}}
    place.write(name, json.dumps(content).encode())
    return place.folder


def _linked(place: Place) -> Path:
    place.write("../elsewhere.bin", torch_zip(GOOD, {"0": STORAGE}))
    _index(place, "linked.bin")
    os.symlink(place.folder.parent / "elsewhere.bin", place.folder / "linked.bin")
    return place.folder


def _hostile_shard(place: Place) -> Path:
    _index(place, "pytorch_model-00001-of-00001.bin")
    place.write("pytorch_model-00001-of-00001.bin", torch_zip(evil(place), {"0": STORAGE}))
    return place.folder


def _metadata(relative_path: str, offset: int = 0, length: int = 100) -> bytes:
    """Return a DCP metadata pickle of one tensor."""
    module = "torch.distributed.checkpoint.metadata"
    size = call("torch:Size", [4])
    properties = built(
        new(f"{module}:TensorProperties"), (stacked("torch", "float32"), call(f"{module}:_MEM_FORMAT_ENCODING", 0))
    )
    chunk = built(new(f"{module}:ChunkStorageMetadata"), {"offsets": call("torch:Size", [0]), "sizes": size})
    tensor = built(new(f"{module}:TensorStorageMetadata"), {"properties": properties, "size": size, "chunks": [chunk]})
    index = built(new(f"{module}:MetadataIndex"), {"fqn": "weight", "offset": call("torch:Size", [0]), "index": 0})
    info = built(new("torch.distributed.checkpoint.filesystem:_StorageInfo"),
                 {"relative_path": relative_path, "offset": offset, "length": length})  # fmt: skip
    state = {"state_dict_metadata": {"weight": tensor}, "planner_data": None}
    whole = plain(state)[:-1] + plain("storage_data") + b"}(" + index + info + b"u" + b"u"
    return pickled(new(f"{module}:Metadata") + whole + b"b")


def _dcp(place: Place, metadata: bytes) -> Path:
    place.write("__0_0.distcp", torch_zip(GOOD, {"0": STORAGE}))
    place.write(".metadata", metadata)
    return place.folder


ROWS: list[tuple[str, str, str, Callable[[Place], Path], tuple[str, ...], Errors]] = [
    ("sharded index", "a shard ../../etc/passwd", "files of the host are named",
     lambda p: _index(p, "../../../../../../etc/passwd"), (DAMAGED,), (FileError,)),
    ("sharded index", "an absolute shard", "files of the host are named", lambda p: _index(p, "/etc/passwd"), (DAMAGED,),
     (FileError,)),
    ("sharded index", "an address", "addresses are fetched", lambda p: _index(p, "http://127.0.0.1:9/x.bin"), (DAMAGED,),
     (FileError,)),
    ("sharded index", "a shard that is missing", "index and shards disagree", lambda p: _index(p, "x.bin"), (DAMAGED,),
     (PerdureError,)),
    ("sharded index", "a shard that is a link to elsewhere", "links", _linked, (DAMAGED, "safe"), ()),
    ("sharded index", "a shard that is a list", "wrong types", lambda p: _index(p, ["x"]), (DAMAGED,), (FileError,)),
    ("sharded index", "itself as a shard", "loops", lambda p: _index(p, "pytorch_model.bin.index.json"), (DAMAGED,),
     (FileError,)),
    ("sharded index", "safetensors with ..", "files of the host are named",
     lambda p: _index(p, "../x.safetensors", "model.safetensors.index.json"), (DAMAGED,), (FileError,)),
    ("sharded index", "a hostile shard", "a payload in one of many", _hostile_shard, (DANGEROUS,), (UnsafeError,)),
    ("DCP", "a payload in .metadata", "torch.distributed.checkpoint unpickles .metadata",
     lambda p: _dcp(p, pickled(call("os:system", p.command))), (DANGEROUS,), (UnsafeError,)),
    ("DCP", "a global off the list in .metadata", "torch.distributed.checkpoint unpickles .metadata",
     lambda p: _dcp(p, pickled(new("nobody:Metadata") + plain({}) + b"b")), (DAMAGED, NEEDS_CODE, DANGEROUS), (FileError,)),
    ("DCP", "a path that leads out", "paths in .metadata", lambda p: _dcp(p, _metadata("../../../etc/passwd")), (DAMAGED,),
     (FileError,)),
    ("DCP", "an absolute path", "paths in .metadata", lambda p: _dcp(p, _metadata("/etc/passwd")), (DAMAGED,), (FileError,)),
    ("DCP", "an extent beyond the file", "extents in .metadata",
     lambda p: _dcp(p, _metadata("__0_0.distcp", 2**62, 2**62)), (DAMAGED,), (FileError,)),
    ("DCP", "a negative extent", "extents in .metadata", lambda p: _dcp(p, _metadata("__0_0.distcp", -5, 10)), (DAMAGED,),
     (FileError,)),
    ("DCP", "an empty .metadata", "truncation", lambda p: _dcp(p, b""), (DAMAGED,), (CorruptError, FileError)),
    ("DCP", "a hostile shard", "a payload in a .distcp file",
     lambda p: (_dcp(p, _metadata("__0_0.distcp", 0, 100)), p.write("__0_0.distcp", pickled(call("os:system", p.command))))[0],
     (DAMAGED, DANGEROUS), (FileError,)),
]  # fmt: skip


def add_to(corpus: Corpus) -> None:
    for group, name, after, write, verdicts, errors in ROWS:
        corpus.add(Attack(f"{group}: {name}", group, after, write, verdicts, errors))
