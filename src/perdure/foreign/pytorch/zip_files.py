"""What `torch.save` writes since PyTorch 1.6: a zip archive with a pickle and one member for each storage.

TorchScript writes the same, with its code beside; see `script`.
"""

from __future__ import annotations

from typing import Any

from perdure.disk.faults import broken
from perdure.foreign.byte_order import swapped
from perdure.foreign.inert import Content, Storage, TypedStorage, Use
from perdure.foreign.pickles.files import interpret_whole
from perdure.foreign.pytorch.storages import ITEM_BYTES, number_bytes, storage_id
from perdure.foreign.zips.archives import Archive
from perdure.foreign.zips.directory import shown

_MAX_NOTE_BYTES = 1000
_OWN_MEMBERS = ("data.pkl", "version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id")


def folder_of(archive: Archive) -> str | None:
    """Return the folder within an archive that `torch.save` wrote into, with its slash; None where there is none."""
    found = [name for name in archive.members if name == "data.pkl" or name.endswith("/data.pkl")]
    tops = [name for name in found if name.count("/") <= 1]
    return tops[0].removesuffix("data.pkl") if len(tops) == 1 else None


def read_torch_zip(archive: Archive, folder: str, where: str, uses: list[Use]) -> Content:
    """Read an archive of `torch.save`.

    Args:
        archive: it.
        folder: where in it the pickle is.
        where: names the file in messages.
        uses: receives what the pickle names, also where reading fails.

    Raises:
        CorruptError: it contradicts itself.
        UnsafeError, LimitError: as `interpret`.
    """
    facts = {name: note for name in ("version", "byteorder") if (note := _note(archive, folder + name))}
    value, members = read_part(archive, folder, "data", where, uses)
    return Content("torch zip archive", value, facts=facts, members=members | _known(folder))


def read_part(archive: Archive, folder: str, part: str, where: str, uses: list[Use]) -> tuple[Any, frozenset[str]]:
    """Read one pickle of an archive, whose storages lie in a folder of its name; gives its value and the members read.

    Raises:
        CorruptError, UnsafeError, LimitError: as `read_torch_zip`.
    """
    order = _note(archive, f"{folder}byteorder") or "little"
    if order not in ("little", "big"):
        raise broken(where, f"its byte order is {order[:20]!r}.")
    storages = Storages(archive, f"{folder}{part}/", where, swap=order == "big")
    pickle = archive.members[f"{folder}{part}.pkl"]
    start, stop = pickle.position, pickle.position + pickle.n_bytes
    value = interpret_whole(pickle.source, start, stop, f"{where}, its {part}.pkl", persistent=storages, uses=uses)
    return value, frozenset([pickle.name, *storages.members])


def _known(folder: str) -> set[str]:
    """Return the members, beside storages, that say nothing but what is known of them."""
    return {f"{folder}{name}" for name in _OWN_MEMBERS}


def _note(archive: Archive, name: str) -> str:
    """Return a short text member; empty where there is none."""
    member = archive.members.get(name)
    if member is None or member.n_bytes > _MAX_NOTE_BYTES:
        return ""
    return member.source.read(member.position, member.n_bytes).decode("ascii", "replace").strip()


class Storages:
    """Gives the storage that a persistent id stands for: the same one for the same key.

    Args:
        archive: the archive.
        folder: where in it the storages are, by their keys.
        where: names the file in messages.
        swap: a machine of the other byte order wrote them.
        ending: what follows the key in the name of a member.

    Attributes:
        members: those that were asked for.
    """

    def __init__(self, archive: Archive, folder: str, where: str, *, swap: bool = False, ending: str = "") -> None:
        self._members, self._folder, self._where, self._swap = archive.members, folder, where, swap
        self._ending = ending
        self._made: dict[str, tuple[Storage, str]] = {}
        self.members: set[str] = set()

    def __call__(self, pid: Any) -> TypedStorage:
        wanted = storage_id(pid, self._where)
        if wanted.key not in self._made:
            self._made[wanted.key] = self._make(wanted.key, wanted.dtype, wanted.n_elements), wanted.dtype
        storage, dtype = self._made[wanted.key]
        if dtype != wanted.dtype or wanted.n_elements * ITEM_BYTES[dtype] > storage.n_bytes:
            raise broken(self._where, f"its pickle contradicts itself on the storage {wanted.key[:40]!r}.")
        return TypedStorage(storage, wanted.dtype)

    def _make(self, key: str, dtype: str, n_elements: int) -> Storage:
        member = self._members.get(self._folder + key + self._ending)
        if member is None:
            name = f"{self._folder}{key}{self._ending}"
            raise broken(self._where, f"its pickle names the storage {key[:40]!r}, but it has no {shown(name)}.")
        self.members.add(member.name)
        item_bytes = ITEM_BYTES[dtype]
        if member.n_bytes // item_bytes != n_elements:
            raise broken(
                self._where,
                f"its storage {key[:40]!r} should take {n_elements * item_bytes} bytes and takes {member.n_bytes}.",
            )
        if self._swap:
            return swapped(member.source, member.position, member.n_bytes, number_bytes(dtype))
        return Storage(member.source, member.position, member.n_bytes, member.crc if member.has_crc else None)
