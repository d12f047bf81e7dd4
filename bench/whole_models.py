"""Whole models: save and load against `torch.save(model)` and `torch.export`, and the graph's forward pass.

    python bench/whole_models.py [--rounds N] [--models resnet50 vit_b_16 bert] [--write]

Every save and load runs in a fresh process, in random order within each round, after the imports; the file is in the
page cache. The forward passes of the live model and of its graph alternate in one process.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import report

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

MODELS = ("resnet50", "vit_b_16", "bert")
TITLES = {"resnet50": "resnet50, 98 MB", "vit_b_16": "vit_b_16, 346 MB", "bert": "BERT of 12 layers, 438 MB"}
N_FORWARD = 15


def main() -> int:
    """Run the bench and print its tables, which say where a line is missed."""
    options = _options()
    if options.child:
        warnings.simplefilter("ignore")
        print(json.dumps(_child(options.models[0], options.child, Path(options.folder))))
        return 0
    texts = []
    with tempfile.TemporaryDirectory(prefix="perdure-whole-", dir=options.folder) as folder:
        for model in options.models:
            text = _table(model, _measured(model, folder, options.rounds))
            print(text, flush=True)
            texts.append(text)
    head = f"{report.machine(tempfile.gettempdir())}\n\nMedians of {options.rounds} fresh processes each."
    text = "\n\n".join([head, *texts])
    print(head)
    if options.write:
        report.write_section("whole models", text)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="the disk to measure")
    parser.add_argument("--write", action="store_true", help="write bench/RESULTS.md")
    parser.add_argument("--child", choices=OPERATIONS, help=argparse.SUPPRESS)
    return parser.parse_args()


def _measured(model: str, folder: str, n_rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Every operation once in every round, in random order; the files to load from are made first, by the saves."""
    samples: dict[str, list[dict[str, Any]]] = {key: [] for key in OPERATIONS}
    saves = [key for key in OPERATIONS if key.startswith("save")]
    for number in range(n_rounds):
        order = [*saves, *random.Random(number).sample(list(OPERATIONS)[len(saves) :], len(OPERATIONS) - len(saves))]
        for key in order:
            print(f"\r{model} {number + 1}/{n_rounds} {key:24}", end="", file=sys.stderr, flush=True)
            measure.wait_for_quiet()
            command = [sys.executable, __file__, "--models", model, "--child", key, "--folder", folder]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{model} {key}: {done.stderr[-2000:]}")
            samples[key].append(json.loads(done.stdout.splitlines()[-1]))
    print(file=sys.stderr)
    return samples


def _made(name: str) -> tuple[Any, Any]:
    """A model with random weights and an example for it."""
    import torch

    torch.manual_seed(0)
    if name == "bert":
        import transformers

        ids = torch.randint(0, 1000, (1, 64))
        example = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return transformers.BertModel(transformers.BertConfig()).eval(), example
    import torchvision

    return torchvision.models.get_model(name, weights=None).eval(), {"x": torch.randn(1, 3, 224, 224)}


def _child(model: str, key: str, folder: Path) -> dict[str, Any]:
    import numpy  # noqa: F401
    import torch

    import perdure

    _import_library(model)
    _ = perdure.load, perdure.save, torch.export.load
    made = _made(model) if key.startswith(("save", "forward")) else None
    if key == "forward":
        return _forward(*_made(model), folder / f"{model}.safetensors")
    path = folder / (f"{model}." + FILES[key])
    measure.prime()
    if made is None:
        measure.warm(str(path))
    before = measure.memory_bytes()["VmRSS"]
    measure.reset_peak()
    call = OPERATIONS[key]
    seconds, _ = measure.timed(lambda: call(path, made) if made else call(path))
    return {"seconds": seconds, "peak_bytes": measure.memory_bytes()["VmHWM"] - before}


def _import_library(model: str) -> None:
    from torchvision_operators import declare_operators

    declare_operators()  # transformers imports torchvision too, where it is installed
    if model == "bert":
        import transformers

        _ = transformers.BertModel
    else:
        import torchvision  # noqa: F401


def _forward(model: Any, example: Any, path: Path) -> dict[str, Any]:
    """Alternate forward passes of the live model and of its graph; seconds of each."""
    import torch

    import perdure

    graph = perdure.load(path, form="graph")
    seconds: dict[str, list[float]] = {"live": [], "graph": []}
    with torch.inference_mode():
        for number in range(N_FORWARD + 2):
            for name, one in (("live", model), ("graph", graph)):
                taken, _ = measure.timed(lambda one=one: one(**example))
                if number >= 2:
                    seconds[name].append(taken)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def _save_torch(path: Path, made: Any) -> None:
    import torch

    torch.save(made[0], path)


def _save_export(path: Path, made: Any) -> None:
    import torch

    torch.export.save(torch.export.export(made[0], (), kwargs=made[1]), path)


def _save(path: Path, made: Any) -> None:
    import perdure

    perdure.save(made[0], path)


def _save_example(path: Path, made: Any) -> None:
    import perdure

    perdure.save(made[0], path, example=made[1])


def _load_torch(path: Path) -> Any:
    import torch

    return torch.load(path, weights_only=False)


def _load_export(path: Path) -> Any:
    import torch

    return torch.export.load(path).module()


def _load_class(path: Path, **options: Any) -> Any:
    import perdure

    return perdure.load(path, trusted=perdure.info(path).names, form="class", **options)


def _load_graph(path: Path) -> Any:
    import perdure

    return perdure.load(path, form="graph")


OPERATIONS: dict[str, Callable[..., Any]] = {
    "save_torch": _save_torch,
    "save_export": _save_export,
    "save": _save,
    "save_example": _save_example,
    "load_torch": _load_torch,
    "load_class": _load_class,
    "load_class_proof": _load_class,
    "load_class_unverified": lambda path: _load_class(path, verify=False),
    "load_export": _load_export,
    "load_graph": _load_graph,
    "forward": _forward,
}
FILES = {
    "save_torch": "pt", "load_torch": "pt", "save_export": "pt2", "load_export": "pt2", "save": "plain.safetensors",
    "load_class": "plain.safetensors", "save_example": "safetensors", "load_class_proof": "safetensors",
    "load_class_unverified": "safetensors", "load_graph": "safetensors",
}  # fmt: skip
_LABELS = {
    "save_torch": "torch.save(model), not durable",
    "save_export": "torch.export.export and save, at one batch size",
    "save": "perdure.save, classes",
    "save_example": "perdure.save with an example: classes, graph, tried at other sizes, and proof",
    "load_torch": "torch.load(weights_only=False)",
    "load_class": "perdure.load, classes, checked",
    "load_class_proof": "perdure.load, classes, checked, and the proof run",
    "load_class_unverified": "perdure.load, classes, verify=False",
    "load_export": "torch.export.load().module()",
    "load_graph": "perdure.load, graph, checked",
}


def _table(model: str, samples: dict[str, list[dict[str, Any]]]) -> str:
    """The lines that are held, and all figures of one model."""
    seconds = {key: [sample["seconds"] for sample in found] for key, found in samples.items() if key in _LABELS}
    median = {key: statistics.median(found) for key, found in seconds.items()}
    ratio = statistics.median(sample["graph"] / sample["live"] for sample in samples["forward"])
    lines = (
        ("load: perdure's classes / torch.load", median["load_class"] / median["load_torch"], 1.0, False),
        ("load: torch.export.load / perdure's graph", median["load_export"] / median["load_graph"], 20.0, True),
        ("forward pass: graph / live model", ratio, 1.05, False),
    )
    held = [value >= bound if at_least else value <= bound for _, value, bound, at_least in lines]
    rows = [
        [text, f"{'≥' if at_least else '≤'} {bound:g}", f"{value:.2f}", "**pass**" if good else "**missed**"]
        for (text, value, bound, at_least), good in zip(lines, held, strict=True)
    ]
    figures = [
        [
            label,
            f"{median[key] * 1e3:.0f}",
            f"{min(seconds[key]) * 1e3:.0f} to {max(seconds[key]) * 1e3:.0f}",
            f"{statistics.median(sample['peak_bytes'] for sample in samples[key]) / 1e6:.0f}",
        ]
        for key, label in _LABELS.items()
    ]
    parts = [
        f"## Whole models: {TITLES[model]}",
        report.table(["line", "bound", "measured", ""], rows),
        report.table(["operation", "ms", "range", "peak MB"], figures),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
