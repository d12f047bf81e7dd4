"""`save_checkpoint` and `load_checkpoint`: any nesting of plain values and tensors, without pickle."""

from __future__ import annotations

from typing import Any

from perdure.disk.blobs import pack, unpack
from perdure.disk.stored import StoredTensors
from perdure.errors import CorruptError, FormatError
from perdure.foreign.opening import with_any
from perdure.foreign.placed import ForeignStored
from perdure.records import values
from perdure.records.reports import SaveReport
from perdure.weights.environment import gather
from perdure.weights.nested import TensorCollector, TensorRestorer, names_in
from perdure.weights.opening import Origin
from perdure.weights.restoring import Restorer
from perdure.weights.saving import Target, check_target, new_manifest, write
from perdure.weights.storing import Role, hold
from perdure.weights.thawing import thaw

_BLOB = "values"


def save_checkpoint(state: Any, path: Target, *, notes: Any = None, shard_bytes: int | None = None) -> SaveReport:
    """Save any nesting of dicts, lists, tuples, tensors, NumPy arrays and plain values: the safe `torch.save(state, path)`.

    Args:
        state: what to save. Plain values are None, truth values, numbers, text, bytes, dates, paths, sets; keys of dicts
            may be any of them. Tensors that share memory share it again after loading, and one tensor at several places
            is one again. Lists and dicts at several places become several. Enums come back as their plain values,
            default dicts as dicts, tensors of other devices on the CPU, parameters as parameters.
        path: a name that ends in `.safetensors`; without an ending, a folder of shards; or a binary file.
        notes: plain values kept beside it, shown by `perdure info`.
        shard_bytes: largest size of a shard in bytes.

    Returns:
        A report with the root digest.

    Raises:
        UnsupportedValueError: an object outside the vocabulary; the message gives its place and type.
        UnsupportedTensorError: a tensor that cannot be stored; the message gives its place and the reason.
        PathError, DiskFullError, StorageError, ConflictError: as `save_weights`.

    Example:
        >>> perdure.save_checkpoint({"epoch": 3, "optimizer": optimizer.state_dict()}, "last.safetensors")
    """
    check_target(path, shard_bytes)
    collector = TensorCollector()
    encoded = values.encode(state, "state", collector.hook(""))
    tensors = collector.tensors
    roles = {name: Role("", tensor.requires_grad) for name, tensor in tensors.items()}
    holdings = hold(tensors, roles)
    manifest = new_manifest("checkpoint", holdings, notes=values.encode(notes, "notes"), environment=gather(()))
    content = values.to_text(encoded).encode()
    values.check_count(content)
    key, text = pack(_BLOB, content)
    return write(path, holdings, manifest, {key: text}, shard_bytes)


def load_checkpoint(path: Origin) -> Any:
    """Load what `save_checkpoint` saved, or `torch.save`, verified, with its tensors in memory of their own.

    Args:
        path: a path, bytes, or a seekable binary file; a checkpoint of perdure's, or a pickled one, of which nothing is run.

    Returns:
        The state as it was saved, its tensors on the CPU. In a pickled one objects of classes are records, which name the
        class (`.what`), its arguments and its attributes (`.args`, `.state`), but plain namespaces are dicts.

    Raises:
        FormatError: the file is no checkpoint; the message says how to read it.
        UnsafeError: a pickle that would run something.
        DigestError: its bytes are not those that were saved.
        CorruptError, ProtocolError, StorageError: as `open`.

    Example:
        >>> state = perdure.load_checkpoint("last.safetensors")
    """
    return with_any(path, _load)


def _load(stored: StoredTensors) -> Any:
    if isinstance(stored, ForeignStored):
        return _load_foreign(stored)
    content = unpack(stored.metadata, _BLOB, stored.where) if stored.manifest else None
    if content is None:
        raise FormatError(
            f"reading {stored.where}: it holds weights, not a checkpoint. Use perdure.load_weights or perdure.open."
        )
    encoded = values.from_text(content, stored.where)
    restorer = Restorer(stored)
    names = dict.fromkeys(names_in(encoded))
    absent = names.keys() - set(restorer.names())
    if absent:
        raise CorruptError(f"reading {stored.where}: its values refer to {sorted(absent)[0]!r}, which is not there.")
    tensors = restorer.read(names, "checksum")
    return values.decode(encoded, stored.where, TensorRestorer(tensors.__getitem__, stored.where).hook)


def _load_foreign(stored: ForeignStored) -> Any:
    restorer, names = Restorer(stored), stored.name_of
    tensors = restorer.read(dict.fromkeys(names.values()), "checksum")
    return thaw(stored.content.value, lambda record: tensors[names[id(record)]], stored.where)
