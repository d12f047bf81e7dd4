"""Every architecture, saved whole, loaded in new processes by its classes and by its graph, and compared bit for bit.

    python bench/sweep.py torchvision|transformers [--only TEXT] [--largest MILLIONS] [--folder DIR]

One process saves all models and their answers, one loads them by their classes, and one by their graphs, in which the
library that defines them cannot be imported. The table gives for each what was equal, or why not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

import perdure

STEPS = ("save", "class", "graph")
BATCH = 3


def main() -> int:
    """Run the steps in processes of their own and print the table; 1 where an answer differed."""
    options = _options()
    if options.step:
        warnings.simplefilter("ignore")
        _STEPS[options.step](options)
        return 0
    with tempfile.TemporaryDirectory(prefix="perdure-sweep-", dir=options.folder) as folder:
        for step in STEPS:
            command = [sys.executable, __file__, *sys.argv[1:], "--step", step, "--into", folder]
            subprocess.run(command, check=True)
        found = {step: json.loads(Path(folder, f"{step}.json").read_text()) for step in STEPS}
    return _print_table(found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=("torchvision", "transformers"))
    parser.add_argument("--only", default="", help="only models whose names contain this")
    parser.add_argument("--largest", type=float, default=30, help="millions of parameters")
    parser.add_argument("--folder", help="where the files go meanwhile")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--into", help=argparse.SUPPRESS)
    return parser.parse_args()


def _save(options: argparse.Namespace) -> None:
    import sweep_graph

    cases = sweep_graph.torchvision_cases() if options.library == "torchvision" else sweep_graph.transformers_cases()
    found: dict[str, Any] = {}
    for name, make, example in cases:
        if options.only not in name or sweep_graph.n_parameters(make) > options.largest * 1e6:
            continue
        path = Path(options.into, f"{name}.safetensors")
        try:
            torch.manual_seed(0)
            model = make().train()
            report = perdure.save(model, path, example=_arguments(example))
            inputs = {key: sweep_graph.resized(value, BATCH) for key, value in example.items()}
            with torch.no_grad():
                answer = _plain(_call(model.eval(), inputs))
            leaves = [leaf for leaf in tree_leaves(answer) if isinstance(leaf, torch.Tensor)]
            torch.save((inputs, leaves), path.with_suffix(".pt"))
            found[name] = {"forms": report.forms, "warnings": report.warnings, "n_bytes": path.stat().st_size}
        except Exception as error:
            found[name] = {"forms": [], "warnings": [f"{type(error).__name__}: {error}"]}
        print(f"saved {name}: {'/'.join(found[name]['forms'])}", file=sys.stderr)
    Path(options.into, "save.json").write_text(json.dumps(found))


def _plain(answer: Any) -> Any:
    return list(answer.values()) if isinstance(answer, Mapping) else answer


def _arguments(example: dict[str, torch.Tensor]) -> Any:
    return (example[""],) if "" in example else example


def _call(model: Any, inputs: dict[str, torch.Tensor]) -> Any:
    return model(inputs[""]) if "" in inputs else model(**inputs)


def _by_class(options: argparse.Namespace) -> None:
    if options.library == "torchvision":
        import sweep_graph

        sweep_graph.declare_operators()
    _load(options, "class")


def _by_graph(options: argparse.Namespace) -> None:
    sys.modules[options.library] = None  # type: ignore[assignment]
    _load(options, "graph")


def _load(options: argparse.Namespace, form: Any) -> None:
    saved = json.loads(Path(options.into, "save.json").read_text())
    found: dict[str, str] = {}
    for name, entry in saved.items():
        if form not in entry["forms"]:
            found[name] = "not offered"
            continue
        path = Path(options.into, f"{name}.safetensors")
        inputs, expected = torch.load(path.with_suffix(".pt"))
        try:
            trusted = [options.library, *perdure.info(path).names] if form == "class" else ()
            with torch.no_grad():
                answer = _call(perdure.load(path, form=form, trusted=trusted), inputs)
            leaves = [leaf for leaf in tree_leaves(_plain(answer)) if isinstance(leaf, torch.Tensor)]
            found[name] = _compare(leaves, expected)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {str(error)[:300]}"
        print(f"{form} {name}: {found[name]}", file=sys.stderr)
    Path(options.into, f"{form}.json").write_text(json.dumps(found))


def _compare(leaves: list[torch.Tensor], expected: list[torch.Tensor]) -> str:
    if [leaf.shape for leaf in leaves] != [leaf.shape for leaf in expected]:
        return f"{[tuple(leaf.shape) for leaf in leaves]}, not {[tuple(leaf.shape) for leaf in expected]}"
    if all(torch.equal(a, b) for a, b in zip(leaves, expected, strict=True)):
        return "equal"
    scales = [max(float(b.abs().max()), 1e-30) for b in expected]
    worst = max(float((a - b).abs().max()) / scale for a, b, scale in zip(leaves, expected, scales, strict=True))
    return f"differs by {worst:.1e}"


_STEPS = {"save": _save, "class": _by_class, "graph": _by_graph}


def _print_table(found: dict[str, dict[str, Any]]) -> int:
    for name, entry in found["save"].items():
        said = "; ".join(entry["warnings"])[:200]
        print(f"| {name} | {found['class'].get(name)} | {found['graph'].get(name)} | {said} |")
    total = len(found["save"])
    for form in ("class", "graph"):
        equal = sum(answer == "equal" for answer in found[form].values())
        offered = sum(answer != "not offered" for answer in found[form].values())
        print(f"{form}: {offered} of {total} offered, {equal} equal bit for bit")
    return 0 if all(answer == "equal" for form in ("class", "graph") for answer in found[form].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
