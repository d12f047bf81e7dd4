"""What a file of another writer holds, as inert records: a class is its name, a call is a record. None of it can run.

Readers give nestings of Python's own plain values (None, truth values, numbers, text, bytes, list, tuple, dict, set), and
of the records below where the file has something else. One object at two places is one object here as well, and
nestings may contain themselves.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from perdure.disk.sources import ByteSource
from perdure.foreign.zips.archives import Archive


@dataclasses.dataclass(frozen=True)
class Named:
    """A class, a function or a value of a module, which the file refers to by name.

    Attributes:
        module: the module's name.
        name: the name within it; dots in it reach into what it names.
    """

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclasses.dataclass(eq=False)
class Made:
    """An object that the file asks to be made: by a call, or as an instance of a class without calling it.

    Attributes:
        what: what is called, or whose instance it is; a `Named` in all but hostile files.
        args: positional arguments.
        kwargs: named arguments.
        state: what `__setstate__` or the object's attributes would be given; None where nothing was.
        items: pairs that would be set as its items, in order.
        appended: values that would be appended or added to it, in order.
        called: it is the result of a call, not an instance made by `__new__`.
    """

    what: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[Any, Any] = dataclasses.field(default_factory=dict)
    state: Any = None
    items: list[tuple[Any, Any]] = dataclasses.field(default_factory=list)
    appended: list[Any] = dataclasses.field(default_factory=list)
    called: bool = True

    def __repr__(self) -> str:
        return f"<made by {self.what}>"


class Ordered(dict[Any, Any]):
    """An ordered dict; such a one may have attributes, as a state dict has `_metadata`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.attributes: dict[Any, Any] = {}


@dataclasses.dataclass(eq=False, frozen=True)
class Storage:
    """Bytes that tensors lie in; two tensors of one `Storage` object share memory.

    Attributes:
        source: where the bytes are, as a little-endian machine has them in memory.
        position: where they begin in it.
        n_bytes: how many they are; a reader has seen that the source has them.
        crc32: their CRC-32, where the file keeps one.
    """

    source: ByteSource
    position: int
    n_bytes: int
    crc32: int | None = None


@dataclasses.dataclass(eq=False, frozen=True)
class TypedStorage:
    """A storage together with the type that older pickles of PyTorch give it; `uint8` where they give it none."""

    storage: Storage
    dtype: str


@dataclasses.dataclass(eq=False, frozen=True)
class Tensor:
    """A dense tensor; a reader has seen that it lies within its storage.

    Attributes:
        storage: its bytes.
        dtype: its type as PyTorch names it, less `torch.`.
        shape: its sizes.
        stride: its steps, in elements, none negative.
        offset: of its first element from the storage's beginning, in elements.
        role: `"parameter"` where it is an `nn.Parameter`, `"array"` where it is one of NumPy's, else empty.
        requires_grad: as PyTorch has it.
        marks: of `"conj"` and `"neg"`, those that PyTorch would apply when the tensor is read.
    """

    storage: Storage
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0
    role: str = ""
    requires_grad: bool = False
    marks: tuple[str, ...] = ()


@dataclasses.dataclass(eq=False, frozen=True)
class ComposedTensor:
    """A tensor made of others: a sparse or a quantized one, or one in blocks.

    Attributes:
        layout: one of `records.manifest.PARTS`, or a block format of GGUF in capitals (`Q4_K`).
        shape: its sizes.
        parts: the tensors that it is made of, by the names of `records.manifest.PARTS`; `{"blocks": …}` for block formats.
        dtype: the type that it has, as PyTorch names it; empty where the values' is its own.
        coalesced: of sparse coordinates: they are sorted and there are no doubles.
        axis: of a quantized tensor: the axis that its scales belong to.
        scale: of one with a single scale.
        zero_point: of one with a single scale.
        role: as `Tensor`.
        requires_grad: as `Tensor`.
    """

    layout: str
    shape: tuple[int, ...]
    parts: dict[str, Tensor]
    dtype: str = ""
    coalesced: bool = False
    axis: int = 0
    scale: float = 0.0
    zero_point: int = 0
    role: str = ""
    requires_grad: bool = False


@dataclasses.dataclass(frozen=True)
class Use:
    """What a file does with a name.

    Attributes:
        what: the name.
        how: `"named"` (no more than that), `"called"`, `"instance"` (one is made without a call), `"held"` (given to an
            object that calls it later), `"misused"` (known to be harmless, but called in another way than the harmless
            one), `"changed"` (given a state or items itself), `"result called"` (what its call gives is called in turn),
            `"extension"` (a number that the reading process would look up), or `"opened"` (called on bytes that a
            reader has interpreted as well).
    """

    what: Named
    how: str


@dataclasses.dataclass
class Content:
    """All that a reader found in a file.

    Attributes:
        format: what kind of file it is, for people: `torch zip archive`.
        value: the nesting that it holds.
        uses: every name that its pickles mention and what is done with it, each once, in order.
        code: the parts of it that are code (`code/__torch__.py`), which nothing here reads.
        facts: what it says about itself (`{"torch": "1.13.0"}`), plain values.
        sources: what was opened, to be closed.
        files: the names of the files, where it is a folder.
        archives: within its files, where those are no archives themselves; for their checksums.
        members: of an archive, the members that were read, or that hold nothing but what is known of them.
        unread: a sentence for each part of which nothing can be said.
    """

    format: str
    value: Any
    uses: tuple[Use, ...] = ()
    code: tuple[str, ...] = ()
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    sources: tuple[ByteSource, ...] = ()
    files: tuple[str, ...] = ()
    members: frozenset[str] = frozenset()
    unread: tuple[str, ...] = ()
    archives: tuple[Archive, ...] = ()
