"""Archives of `torch.package`: pickles, the code of their classes, which is listed and not read, and shared storages."""

from __future__ import annotations

from typing import Any

from perdure.foreign.inert import Content, Use
from perdure.foreign.pickles.files import interpret_whole
from perdure.foreign.pytorch.zip_files import Storages
from perdure.foreign.zips.archives import Archive


def package_folder(archive: Archive) -> str | None:
    """Return the folder within an archive that `torch.package` wrote into, with its slash; None where there is none."""
    for name in archive.members:
        if name.endswith(".data/extern_modules") and name.count("/") <= 2:
            return name.removesuffix(".data/extern_modules")
    return None


def read_torch_package(archive: Archive, folder: str, where: str, uses: list[Use]) -> Content:
    """Read an archive of `torch.package`.

    Args:
        archive: it.
        folder: where in it the package is.
        where: names the file in messages.
        uses: receives what its pickles name, also where reading fails.

    Returns:
        What each of its pickles holds, by the path of the pickle; of a single one, that alone.

    Raises:
        CorruptError: it contradicts itself.
        UnsafeError, LimitError: as `interpret`.
    """
    storages = Storages(archive, f"{folder}.data/", where, ending=".storage")

    def persistent(pid: Any) -> Any:
        return pid if isinstance(pid, tuple) and pid[:1] == ("reduce_package",) else storages(pid)

    found = {}
    for name, member in archive.members.items():
        if name.endswith(".pkl") and not name.startswith(f"{folder}.data/"):
            start, stop = member.position, member.position + member.n_bytes
            content = interpret_whole(member.source, start, stop, member.where, persistent=persistent, uses=uses)
            found[name.removeprefix(folder)] = content
    value = next(iter(found.values())) if len(found) == 1 else found
    code = tuple(name for name in archive.members if name.endswith(".py"))
    known = {name for name in archive.members if name.startswith(f"{folder}.data/") and not name.endswith(".storage")}
    known |= {*code, *(folder + name for name in found), *storages.members}
    return Content("torch.package archive", value, code=code, members=frozenset(known))
