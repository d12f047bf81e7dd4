"""Migrations: the data of a class of an earlier version becomes that of the present one, step by step."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from perdure.errors import InputError
from perdure.models.naming import registration
from perdure.records.architecture import Architecture, ModuleRecord, Name, check


@dataclasses.dataclass
class SavedModule:
    """A module as it was saved, for a migration to change.

    Attributes:
        class_name: the name under which its class was registered.
        attributes: its plain attributes by name, as JSON data (see `docs/FORMAT.md` for what is not plain).
        parameters: its own parameters by name. The values stand for tensors, and may be moved to other names.
        buffers: its own buffers likewise.
        modules: the modules that it holds likewise.
    """

    class_name: str
    attributes: dict[str, Any]
    parameters: dict[str, Any]
    buffers: dict[str, Any]
    modules: dict[str, Any]


def migrated(saved: Architecture, code: list[Any], where: str) -> Architecture:
    """Return the architecture with each registered class in its present version.

    Raises:
        InputError: a step is missing, fails, or the file is of a later version than the class.
    """
    for record in saved.objects:
        _check_version(saved.names[record.of], code[record.of], where)
    modules = [_migrate(record, saved, code[record.of], where) for record in saved.modules]
    found = msgspec.structs.replace(saved, modules=tuple(modules))
    check(found, f"{where}, after its migrations")
    return found


def _check_version(name: Name, kind: Any, where: str) -> None:
    """See that a class of plain objects is still of the version that was saved; only modules have migrations."""
    known = registration(kind) if isinstance(kind, type) else None
    if known and name.version and name.version != known.version:
        raise InputError(
            f"loading {where}: {name} was saved in version {name.version}; the class here is of version {known.version}. "
            f"Only classes of modules are migrated: leave its version, and give it a __setstate__ that takes the old state."
        )


def _migrate(record: ModuleRecord, saved: Architecture, kind: Any, where: str) -> ModuleRecord:
    name, known = saved.names[record.of], registration(kind) if isinstance(kind, type) else None
    if known is None or not name.version or name.version == known.version:
        return record
    if name.version > known.version:
        raise InputError(
            f"loading {where}: {name} was saved in version {name.version}; the class here is of version {known.version}. "
            f"Install the later code."
        )
    module = SavedModule(
        str(name), dict(record.attributes), dict(record.parameters), dict(record.buffers), dict(record.modules)
    )
    for version in range(name.version, known.version):
        step = known.migrations.get(version)
        if step is None:
            raise InputError(
                f"loading {where}: {name} has no migration from version {version} to {version + 1}. Give it one: "
                f"@perdure.register({name.registered!r}, version={known.version}, migrations={{{version}: …}})."
            )
        try:
            changed = step(module)
            module = module if changed is None else changed
            if not isinstance(module, SavedModule):
                raise TypeError(f"it returned {changed!r}, where the module or nothing was expected")
        except Exception as error:
            raise InputError(
                f"loading {where}: the migration of {name} from version {version} fails: {type(error).__name__}: {error}."
            ) from error
    return msgspec.structs.replace(
        record,
        attributes=module.attributes,
        parameters=module.parameters,
        buffers=module.buffers,
        modules=module.modules,
    )
