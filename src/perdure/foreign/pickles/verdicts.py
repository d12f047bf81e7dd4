"""What would happen if a pickle were unpickled, judged by what it does with names.

No list of bad names decides: a call is safe only where it is on the exact list of `known_names`; what is off it is judged
by where its name leads.
"""

from __future__ import annotations

import re
import sys
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Sequence
from typing import NamedTuple

from perdure.foreign.inert import Named, Use
from perdure.foreign.pickles.known_names import BUILDERS, HARMLESS_FACTORIES, REFERENCES, canonical

SEVERITIES = ("safe", "needs code", "dangerous")
"""In ascending order."""

_GONE = """
    asynchat asyncore audioop binhex cgi cgitb chunk commands compiler crypt distutils dl exceptions formatter ihooks
    imageop imghdr imp lib2to3 macpath macurl2path mailcap md5 msilib new nis nntplib ntpath os2 ossaudiodev parser pipes
    popen2 posix posixfile rexec riscos sets sha sha1 smtpd sndhdr spwd statvfs sunau symbol telnetlib test this tputil uu
    xdrlib
"""
"""Of the standard library of other versions and systems than this Python's."""

STANDARD_LIBRARY = frozenset(sys.stdlib_module_names) | frozenset(IMPORT_MAPPING) | frozenset(_GONE.split())

_WELL_KNOWN = ("torch", "numpy", "_numpy", "functorch", "torchgen")
"""Packages whose harmless calls are all on the list, so that no other call can be taken for one."""

_HARMLESS_CLASSES = ("torch.nn.", "torch.optim.", "torch.distributions.", "torch._dynamo.eval_frame.")
"""Where in them classes are that run nothing when they are made, and that pickles of whole models call."""

_RECONSTRUCTOR = re.compile(r"(_?rebuild|_?reconstruct|_?unpickle|__pyx_unpickle)(_|\Z|[A-Z])|_new_[A-Z]|newObj\Z")
_ORDINARY = """
    calendar cmd code codecs collections config copy dataclasses datetime enum graphlib html io json logging numbers
    operator parser pathlib platform profile profiles queue random select signal statistics string symbol token tokenize
    trace types typing uuid
"""
"""Names of the standard library that packages often give to modules of their own."""


class Judgement(NamedTuple):
    """What one use of a name amounts to: one of `SEVERITIES`, the name, and a sentence that says why."""

    severity: str
    what: Named
    sentence: str


def judge(uses: Sequence[Use]) -> list[Judgement]:
    """Judge every use, in the order in which they stand.

    Args:
        uses: what a file does with names, as `pickles.interpret` finds it.
    """
    return [_judge(use) for use in uses]


def worst(judgements: Sequence[Judgement]) -> str:
    """Return the highest severity among them; `"safe"` where there are none."""
    return max((judgement.severity for judgement in judgements), key=SEVERITIES.index, default="safe")


def _judge(use: Use) -> Judgement:
    reason = _danger(use.what, use.how)
    if reason:
        return Judgement("dangerous", use.what, f"{_shown(use.what)} {reason}.")
    if is_known(use.what, use.how):
        return Judgement("safe", use.what, f"{_shown(use.what)} is {_DONE[use.how]}; it is known to be harmless.")
    return Judgement(
        "needs code", use.what, f"{_shown(use.what)} is {_DONE[use.how]}; it is code that the file does not hold."
    )


_DONE = {
    "named": "only referred to",
    "called": "called",
    "instance": "made an instance of",
    "held": "kept to be called later",
    "opened": "called, and what it would unpickle was looked into",
}
_ALWAYS = {
    "misused": "is called in another way than the one that is harmless",
    "changed": "would itself be changed",
    "result called": "is called, and what it returns is called in turn",
    "extension": "stands for whatever the reading process has registered under that number",
}


def is_known(what: Named, how: str) -> bool:
    """Tell whether a use is on the exact list of harmless ones."""
    key = canonical(what)
    if how == "held":
        return key in HARMLESS_FACTORIES or key in REFERENCES
    return key in BUILDERS or (how == "named" and key in REFERENCES)


def _danger(what: Named, how: str) -> str:
    """Return why a use is dangerous, as the end of a sentence; empty where it is not."""
    if how in _ALWAYS:
        return _ALWAYS[how]
    if str(what) == "torch.storage._load_from_bytes" and how == "called":
        return "is called; it would unpickle bytes that were not looked into"
    if is_known(what, how):
        return ""
    if not _is_reached_by_classes(what):
        return "reaches through something that is not a class"
    if how == "named":
        return ""
    if _package(what) in STANDARD_LIBRARY:
        return f"is {_DONE[how]}; it is of Python's own library and not on the list of what is harmless"
    if how == "held":
        return ""
    if what.module.rpartition(".")[2] in STANDARD_LIBRARY - frozenset(_ORDINARY.split()) and "." in what.module:
        return f"is {_DONE[how]}; its path leads into Python's own library"
    if how != "called":
        return ""
    if _is_class_like(what.name) and f"{what.module}.".startswith(_HARMLESS_CLASSES):
        return ""
    if _package(what) in _WELL_KNOWN:
        return f"is called, and is not on the list of what is harmless of {_package(what)}"
    if not _is_class_like(what.name) and not _RECONSTRUCTOR.match(_last(what.name)):
        return "is a function that would be called"
    return ""


def _package(what: Named) -> str:
    return what.module.partition(".")[0]


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _is_class_like(name: str) -> bool:
    return _last(name).lstrip("_")[:1].isupper()


def _is_reached_by_classes(what: Named) -> bool:
    """Tell whether all that a dotted name reaches through looks like classes, as for a class within a class."""
    *through, last = what.name.split(".")
    return all(_is_class_like(part) and part != "<locals>" for part in through) and (not through or last[:2] != "__")


def _shown(what: Named) -> str:
    return ascii(str(what)[:200])[1:-1]
