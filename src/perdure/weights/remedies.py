"""What to change in a call so that a file loads that does not fit: found from names and shapes, and tried on the plan."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from perdure.errors import InputError
from perdure.weights.adapting.adaptation import Adaptation
from perdure.weights.adapting.channels import channels
from perdure.weights.adapting.grids import seems_grid
from perdure.weights.adapting.head import head
from perdure.weights.adapting.pad import pad
from perdure.weights.adapting.reshape import reshape
from perdure.weights.adapting.resize import resize
from perdure.weights.adapting.truncate import truncate
from perdure.weights.adapting.vocabulary import vocabulary
from perdure.weights.causes import fitting_prefixes, one_sided_norms
from perdure.weights.correspondences import correspondences, rules_for
from perdure.weights.dtypes import can_cast
from perdure.weights.matching import Kind, Kinds, Match
from perdure.weights.plans import Asked, Plan, Target, plan

_DERIVED = ("position_ids", "relative_position_index", "relative_coords_table", "attn_mask", "num_batches_tracked")
"""Buffers that a model computes from its sizes: the file's would be those of other sizes."""

_MAX_DEPTH = 16
_MAX_TESTS = 1_000_000
"""Of names by patterns: more would take seconds, and nobody could read them."""

_POSITIONS = re.compile(r"pos(?![a-z])|pos_|posit|rel_pos|relative_position", re.IGNORECASE)
_IMAGES = re.compile(r"vis|image|patch|vit|pixel", re.IGNORECASE)
_TOKENS = re.compile(r"embed|wte|token|vocab|lm_head|logits_bias|shared", re.IGNORECASE)


def remedy(
    found: Match, file: Kinds, target: Target, *, planned: Plan, asked: Asked, prefix: str | None
) -> dict[str, Any]:
    """Return arguments of `load_weights` with which the file loads, the caller's own included; none where too little fits.

    Args:
        found: what fits and what does not.
        file: the tensors of the file, by their names under the prefix.
        target: the model.
        planned: the plan that did not do.
        asked: what the caller asked for.
        prefix: the caller's prefix.
    """
    changed: dict[str, Any] = {}
    inner = _under_prefix(found, file, target, asked)
    if inner is not None:
        more, file, planned = inner
        found, changed["prefix"] = planned.match, f"{prefix.rstrip('.')}.{more}" if prefix else more
    elif prefix:
        changed["prefix"] = prefix
    unexpected = _offered(planned, set(found.unexpected))
    missing = {name: target.kinds[name] for name in found.missing if name in target.kinds}
    pairs = correspondences(unexpected, missing, list(planned.ruled.values()), list(target.kinds))
    n_known = len(found.fitting) + len(found.mismatched) + len(pairs)
    if 2 * n_known < min(len(file), len(target.kinds)) or not isinstance(asked.rename, Mapping | None):
        return {}
    if any(one_sided_norms(found)) or _renumbers(pairs, found):
        return {}
    extra = [name for name in unexpected if name not in pairs]
    ruled = set(planned.ruled.values())
    rename: dict[str, Any] = dict.fromkeys(_beginnings(extra, ruled, r"^{}\.", r"^{}$", re.escape))
    rename |= rules_for(pairs, list(planned.ruled.values()))  # behind: what they name may begin like what is left out
    adapt = _adaptations(found, planned, target, {name for name in missing if name not in pairs.values()})
    if adapt is None:
        return {}
    if len(rename) * len(file) + len(adapt) * len(target.kinds) > _MAX_TESTS:
        return {}
    changed |= {"rename": {**(asked.rename or {}), **rename}} if rename or asked.rename else {}
    changed |= {"adapt": {**(asked.adapt or {}), **adapt}} if adapt or asked.adapt else {}
    return changed if _loads(file, target, asked, changed) or target.loads_itself else {}


def _renumbers(pairs: Mapping[str, str], found: Match) -> bool:
    """Tell whether layers would get other numbers among those that have theirs: all may have moved, nobody can know."""
    numbered = {parent for name in (*found.fitting, *found.mismatched) for parent in _numbered(name)}
    for name, place in pairs.items():
        old, new = name.split("."), place.split(".")
        depth = next((at for at, (one, other) in enumerate(zip(old, new, strict=False)) if one != other), -1)
        if depth >= 0 and old[depth].isdecimal() and new[depth].isdecimal() and ".".join(old[:depth]) in numbered:
            return True
    return False


def _numbered(name: str) -> list[str]:
    """Return what stands before each number in a name."""
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth, part in enumerate(parts[:_MAX_DEPTH]) if part.isdecimal()]


def _under_prefix(found: Match, file: Kinds, target: Target, asked: Asked) -> tuple[str, Kinds, Plan] | None:
    """Return the prefix under which the file has the model, what is under it, and the plan for that."""
    for prefix in fitting_prefixes(file, target.kinds) if found.missing or found.unexpected else ():
        inner = {name[len(prefix) + 1 :]: kind for name, kind in file.items() if name.startswith(f"{prefix}.")}
        try:
            return prefix, inner, plan(inner, target, asked, "")
        except InputError:
            continue
    return None


def _offered(planned: Plan, names: set[str]) -> dict[str, Kind]:
    """Return what the caller's rules left of some of the file's names, with the kinds."""
    return {
        planned.ruled[name]: offer.kind for name, offer in planned.offers.items() if planned.own_name(name) in names
    }


def _loads(file: Kinds, target: Target, asked: Asked, changed: Mapping[str, Any]) -> bool:
    new = Asked(changed.get("rename"), changed.get("adapt"), asked.old_labels)
    try:
        return plan(file, target, new, "").match.complete
    except InputError:
        return False


def _beginnings(
    names: Iterable[str], all_names: set[str], module: str, single: str, escape: Callable[[str], str]
) -> list[str]:
    """Write names as few patterns: a module whose names are all meant by its beginning, others one by one.

    Args:
        names: those that are meant.
        all_names: among which.
        module: the pattern of a module.
        single: the pattern of a single name.
        escape: makes a name literal.
    """
    meant = set(names)
    spoilt = {start for name in all_names - meant for start in _starts(name)}
    found: dict[str, None] = {}
    for name in names:
        start = next((start for start in _starts(name) if start not in spoilt), None)
        found[single.format(escape(name)) if start is None else module.format(escape(start))] = None
    return list(found)


def _starts(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:n_parts]) for n_parts in range(1, min(len(parts), _MAX_DEPTH))]


def _adaptations(found: Match, planned: Plan, target: Target, missing: set[str]) -> dict[str, Any] | None:
    """Return what `adapt` would fit what does not, or None where the model is of other sizes throughout."""
    rows = {
        (offer.kind[1][:1], target.kinds[name][1][:1])
        for name, offer in planned.offers.items()
        if name in target.kinds and _TOKENS.search(name) and not _POSITIONS.search(name)
    }
    of_images = {start for name in target.kinds if _IMAGES.search(name) for start in _starts(name)}
    ways: dict[str, list[str]] = {}
    specs: dict[str, Any] = {}
    n_cut = 0
    for name in found.mismatched:
        offer = planned.offers.get(name)
        spec = "skip" if offer is None else _fitting(name, offer.kind, target.kinds, rows, of_images)
        n_cut += spec in ("truncate", "pad", "skip") and not name.endswith(_DERIVED)
        specs[repr(spec)] = spec
        ways.setdefault(repr(spec), []).append(name)
    if n_cut > max(2, len(found.fitting) // 4):
        return None
    if missing:
        specs["'skip'"] = "skip"
        ways.setdefault("'skip'", []).extend(name for name in target.kinds if name in missing)
    return {pattern: specs[way] for way, names in ways.items() for pattern in _patterns(names, set(target.kinds))}


def _fitting(name: str, file: Kind, model: Kinds, rows: set[Any], of_images: set[str]) -> Any:
    """Return the adaptation that fits a place, the most telling first.

    Args:
        name: the place.
        file: what the file has for it.
        model: all places.
        rows: first sizes, the file's and the model's, of what has a row for each token.
        of_images: modules that hold something whose name tells of images.
    """
    old, new = file[1], model[name][1]
    if old == new or name.endswith(_DERIVED) or not can_cast(file[0], model[name][0]):
        return "skip"
    candidates: list[tuple[Adaptation, dict[str, Any]]] = []
    if _POSITIONS.search(name):
        beside = name.rpartition(".")[0].rpartition(".")[0]
        axes = 2 if _IMAGES.search(name) or beside in of_images or seems_grid(old) else 1
        if axes == 2 and resize.refuse_kinds(file, model[name], resize.options({"axes": 2})[0]):
            return "skip"  # the sides of its grids are not known, and it is no row
        candidates += [(resize, {}), (resize, {"axes": axes})]
    tokens = _TOKENS.search(name) or (old[:1], new[:1]) in rows
    candidates += [(reshape, {}), (vocabulary if tokens else head, {}), (channels, {}), (truncate, {}), (pad, {})]
    for how, given in candidates:
        options, _ = how.options(given)
        if not how.refuse_kinds(file, model[name], options):
            return {"how": how.name, **given} if given else how.name
    return "skip"


def _patterns(names: list[str], all_names: set[str]) -> list[str]:
    """Write names of the model as few patterns of `fnmatch` that match nothing else."""
    found = _beginnings(names, all_names, "{}.*", "{}", lambda text: re.sub(r"([*?[])", r"[\1]", text))
    groups: dict[str, list[str]] = {}
    for pattern in found:
        groups.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", pattern), []).append(pattern)
    meant, patterns = set(names), list[str]()
    for folded, members in groups.items():
        if len(members) == 1:
            patterns += members
            continue
        test = re.compile(fnmatch.translate(folded)).match
        patterns += [folded] if all(name in meant for name in all_names if test(name)) else members
    return patterns
