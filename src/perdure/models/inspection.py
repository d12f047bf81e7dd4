"""The code of a saved model against the code that is installed, for people to look at."""

from __future__ import annotations

import dataclasses

from perdure.disk.stored import Stored
from perdure.errors import UnsupportedModelError
from perdure.models.contents import Contents
from perdure.models.fingerprints import sources_of
from perdure.models.trust import Permissions, Trusted
from perdure.records.sources import Source, changed


@dataclasses.dataclass(frozen=True)
class Change:
    """One class, function or module of the user's.

    Attributes:
        name: its dotted or registered name.
        changed: its code is not what it was.
        origin: the package or commit that it came from when the model was saved.
        saved_text: its code then; empty where the file does not keep it.
        present_text: its code now.
    """

    name: str
    changed: bool
    origin: str = ""
    saved_text: str = ""
    present_text: str = ""


def code_changes(path: str, trusted: Trusted) -> list[Change]:
    """Compare the code that a model was saved with and the code that is installed, which is imported but not run.

    Raises:
        UntrustedError: some of it is not permitted.
        UnsupportedModelError: the file does not say what its code was.
    """
    stored = Stored(path)
    try:
        contents = Contents(stored, verify=False)
        found, saved = contents.architecture, contents.sources
    finally:
        stored.close()
    if found is None or saved is None:
        raise UnsupportedModelError(f"comparing {path}: it does not say what its code was. Save it with perdure.save.")
    code = Permissions(trusted).resolve(found.names, path)
    present = sources_of(zip(found.names, code, strict=True), text=True)
    differing = changed(saved, present)
    return [
        Change(name, name in differing, source.origin, source.text, now.get(name, Source()).text)
        for then, now in ((saved.code, present.code), (saved.modules, present.modules))
        for name, source in then.items()
    ]
