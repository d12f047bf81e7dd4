"""Run in a new process: `python answer.py NAME FOLDER` builds the model NAME anew in all ways, loads what lies in FOLDER,
and prints as JSON what it answers and what the load reported."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

import perdure
from parity.models import answer, build, build_on_meta, class_of


def loaded(model: Any, name: str, path: Path) -> dict[str, Any]:
    before = [id(parameter) for parameter in model.parameters()]
    report = perdure.load_weights(model, path)
    return {
        "answer": answer(model, name),
        "complete": not (report.missing or report.unexpected or report.mismatched or report.casts),
        "fraction": report.fraction_loaded,
        "verified": report.verified,
        "tied": report.tied,
        "on_meta": [key for key, tensor in [*model.named_parameters(), *model.named_buffers()] if tensor.is_meta],
        "same_objects": before == [id(parameter) for parameter in model.parameters()],
        "training": model.training,
    }


def pretrained(name: str, folder: Path) -> dict[str, Any]:
    model, info = class_of(name).from_pretrained(folder, output_loading_info=True)
    problems = {key: sorted(map(str, value)) for key, value in info.items() if value}
    return {"answer": answer(model.eval(), name), "problems": problems}


def main(name: str, folder: Path) -> None:
    found = {
        "untouched": {"answer": answer(build(name, seed=1), name)},
        "file": loaded(build(name, seed=1), name, folder / "single" / "model.safetensors"),
        "file, meta": loaded(build_on_meta(name), name, folder / "single" / "model.safetensors"),
        "folder": loaded(build(name, seed=2), name, folder / "sharded"),
        "folder, meta": loaded(build_on_meta(name), name, folder / "sharded"),
        "from_pretrained, file": pretrained(name, folder / "single"),
        "from_pretrained, folder": pretrained(name, folder / "sharded"),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
