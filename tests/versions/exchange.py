"""Models that one PyTorch saves and another loads, and back: by their classes, by their graphs, and as weights.

    python tests/versions/exchange.py OTHER_PYTHON [--only TEXT]

This interpreter and OTHER_PYTHON have different PyTorches; perdure is installed in both. Each saves all models of
`models.py` with what they answered, and loads those of the other, whose proofs must hold. The table tells for each model
the largest difference of an answer, relative to the largest value of that answer, `same` where there is none, or the
error. A difference beyond the tolerance of proofs, and every error other than one that says what a PyTorch does not have,
gives exit code 1.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

import perdure
from parity.test_graphs import resized
from perdure.errors import ProtocolError
from perdure.models.answers import TOLERANCES
from perdure.models.structure import flatten
from perdure.weights.dtypes import short_name
from property.tensors import DTYPES, make, raw
from versions.models import MODELS

FORMS = ("class", "graph", "weights")


def main() -> int:
    """Run the four steps in processes of their own, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("other")
    parser.add_argument("--only", default="")
    parser.add_argument("--step", choices=("save", "load"))
    options = parser.parse_args()
    chosen = [name for name in MODELS if options.only in name]
    if options.step:
        warnings.simplefilter("ignore")
        logging.disable()
        {"save": save, "load": load}[options.step](Path(options.other), chosen)
        return 0
    with tempfile.TemporaryDirectory(prefix="perdure-versions-") as folder:
        pythons = {"this": sys.executable, "other": options.other}
        for step in ("save", "load"):
            for name, python in pythons.items():
                source = name if step == "save" else next(other for other in pythons if other != name)
                command = [python, __file__, f"{folder}/{source}", "--only", options.only, "--step", step]
                subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        return report(*(json.loads((Path(folder) / name / "found.json").read_text()) for name in ("other", "this")))


def save(folder: Path, chosen: list[str]) -> None:
    """Write all models, each with what it answered, and a tensor of each type."""
    folder.mkdir()
    for name in chosen:
        (folder / name).mkdir()
        try:
            save_model(name, folder / name)
        except Exception as error:  # of the model's own code too
            (folder / name / "not saved").write_text(f"{type(error).__name__}: {error}")
    for dtype in DTYPES:
        save_type(dtype, folder / "types")
    (folder / "torch").write_text(str(torch.__version__))


def save_model(name: str, folder: Path) -> None:
    """Write a model, its state as digests, and its answers at the example's sizes and at another batch size."""
    torch.manual_seed(0)
    model, inputs = MODELS[name].build(), MODELS[name].inputs()
    arguments = (copy.deepcopy(inputs), {}) if isinstance(inputs, tuple) else ((), copy.deepcopy(inputs))
    report = perdure.save(model, folder / "model.safetensors", example=inputs)
    model.eval()
    calls = [(given, answer(model, given)) for given in (arguments, resized(arguments, 3)) if takes(folder, given)]
    torch.save(calls or [(arguments, answer(model, arguments))], folder / "calls.pt")
    (folder / "saved.json").write_text(json.dumps({"warnings": report.warnings, "state": state_of(model)}))


def takes(folder: Path, given: Any) -> bool:
    """Tell whether a model's graph takes inputs of these sizes."""
    try:
        answer(perdure.load(folder / "model.safetensors", form="graph"), given)
    except Exception:  # PyTorch's own too, where a condition of the trace does not hold
        return False
    return True


def answer(model: torch.nn.Module, given: Any) -> list[torch.Tensor]:
    """Return the tensors of a model's answer; what it is given stays as it is."""
    args, kwargs = copy.deepcopy(given)
    with torch.no_grad():
        return [leaf for leaf in flatten(model(*args, **kwargs), "the answer")[0] if isinstance(leaf, torch.Tensor)]


def state_of(model: torch.nn.Module) -> dict[str, str]:
    """Return a digest of each tensor of a model's state."""
    state = inner(model).state_dict().items()
    return {key: hashlib.sha256(raw(tensor)).hexdigest() for key, tensor in state if isinstance(tensor, torch.Tensor)}


def inner(model: torch.nn.Module) -> torch.nn.Module:
    """Return what is saved of a model: what it wraps for several devices."""
    return model.module if isinstance(model, torch.nn.DataParallel) else model


def load(folder: Path, chosen: list[str]) -> None:
    """Load all models that another PyTorch has saved, and write down what became of them."""
    rows = {name: {form: load_model(name, form, folder / name) for form in FORMS} for name in chosen}
    for kind in ("weights", "checkpoints"):
        rows[f"{kind} of every type"] = {"weights": load_types(folder / "types", kind)}
    versions = {"saved by": (folder / "torch").read_text(), "loaded by": str(torch.__version__)}
    (folder / "found.json").write_text(json.dumps({**versions, "rows": rows}))


def load_model(name: str, form: str, folder: Path) -> dict[str, Any]:
    """Return the largest difference of an answer, or the error."""
    path = folder / "model.safetensors"
    if (folder / "not saved").exists():
        return {"error": "not saved", "said": (folder / "not saved").read_text()}
    saved = json.loads((folder / "saved.json").read_text())
    if form not in perdure.info(path).forms:
        return {"error": "not kept", "said": "; ".join(saved["warnings"]), "wanted": True}
    calls = torch.load(folder / "calls.pt", weights_only=False)
    try:
        model = load_form(path, name, form)
        if form != "graph" and state_of(model) != saved["state"]:
            return {"error": "other weights", "said": "the state is another"}
        return {"difference": max(difference(answer(model, given), expected) for given, expected in calls)}
    except Exception as error:
        return {"error": type(error).__name__, "said": str(error), "wanted": is_wanted(error)}


def load_form(path: Path, name: str, form: str) -> torch.nn.Module:
    """Load a model by its classes, its graph, or its weights."""
    if form == "weights":
        torch.manual_seed(1)
        model = MODELS[name].build()
        perdure.load_weights(inner(model), path, verify="full")
        return model.eval()
    names = perdure.info(path).names if form == "class" else ()
    return perdure.load(path, trusted=list(names), form=form, verify="full")


def is_wanted(error: Exception) -> bool:
    """Tell whether an error says what this PyTorch does not have."""
    return isinstance(error, ProtocolError) and torch.__version__ in str(error)


def difference(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Return the largest difference, relative to the largest value; 0 where all are equal."""
    assert len(found) == len(expected), "the answer has other parts"
    return max(map(_difference, found, expected), default=0.0)


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), "the answer has another type or shape"
    if torch.equal(found, expected):
        return 0.0
    wide = torch.complex128 if found.is_complex() else torch.float64
    a, b = found.to(wide), expected.to(wide)
    relative = float((a - b).abs().max() / b.abs().max())
    allowed = TOLERANCES.get(short_name(found.dtype), 0.0)
    assert relative <= allowed, f"the answer differs by {relative:.2g}, where {allowed:.2g} is allowed"
    return relative


def save_type(dtype: torch.dtype, folder: Path) -> None:
    """Write a tensor of a type, as weights and in a checkpoint, and its bytes."""
    tensor, name = make(5, dtype, (3, 4)), short_name(dtype)
    for kind in ("weights", "checkpoints"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    perdure.save_weights({"a": tensor}, folder / "weights" / f"{name}.safetensors")
    perdure.save_checkpoint({"a": tensor, "of": dtype}, folder / "checkpoints" / f"{name}.safetensors")
    (folder / f"{name}.bytes").write_bytes(raw(tensor))


def load_types(folder: Path, kind: str) -> dict[str, Any]:
    """Load a tensor of each type; the bits must be the same, except for types that are not there."""
    unknown = []
    for path in sorted((folder / kind).iterdir()):
        try:
            found = perdure.open(path)["a"] if kind == "weights" else perdure.load_checkpoint(path)["a"]
        except ProtocolError:
            unknown.append(path.stem)
            continue
        if raw(found) != (folder / f"{path.stem}.bytes").read_bytes():
            return {"error": "other bits", "said": path.stem}
    return {"difference": 0.0, "wanted": True, "said": f"types that are not known here: {', '.join(unknown) or 'none'}"}


def report(*directions: dict[str, Any]) -> int:
    """Print the table, what the errors say, and the sums; 1 where an error should not be."""
    titles = [f"{found['saved by']} → {found['loaded by']}" for found in directions]
    print("| model |", " | ".join(f"{title}: {form}" for title in titles for form in FORMS), "|")
    print("| --- |", " | ".join("---" for _ in titles for _ in FORMS), "|")
    for name in directions[0]["rows"]:
        print(
            f"| {name} |",
            " | ".join(shown(found["rows"][name].get(form)) for found in directions for form in FORMS),
            "|",
        )
    failed = False
    for title, found in zip(titles, directions, strict=True):
        print(f"\n{title}")
        for form in FORMS:
            cells = {name: row[form] for name, row in found["rows"].items() if form in row}
            failed |= summed(form, cells)
    return int(failed)


def shown(cell: dict[str, Any] | None) -> str:
    """Return how the table has a cell."""
    if cell is None:
        return ""
    return cell.get("error") or (f"{cell['difference']:.0e}" if cell["difference"] else "same")


def summed(form: str, cells: dict[str, dict[str, Any]]) -> bool:
    """Print how many were loaded in a form, and what those say that were not; tell whether one of these is a failure."""
    loaded = [cell["difference"] for cell in cells.values() if "error" not in cell]
    same = sum(difference == 0 for difference in loaded)
    largest = f", the largest difference {max(loaded):.1e}" if any(loaded) else ""
    print(f"{form}: {len(loaded)} of {len(cells)} loaded, {same} with the same answers{largest}")
    for name, cell in cells.items():
        if said := cell.get("said"):
            print(f"    {'' if cell.get('wanted') else 'FAILED: '}{name}: {cell.get('error', 'loaded')}: {said}")
    return any("error" in cell and not cell.get("wanted") for cell in cells.values())


if __name__ == "__main__":
    sys.exit(main())
