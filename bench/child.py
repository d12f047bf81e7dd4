"""The fresh process in which one operation is measured; its one line of JSON is the result."""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

import loads  # noqa: F401  (registers its operations)
import measure
import models
import pth_loads  # noqa: F401
import saves  # noqa: F401
from operations import FILES, OPERATIONS, Operation, Work

REPEATS_OF_SMALL = 6


def main(model: str, key: str, folder: str) -> None:
    """Measure one operation and print its samples: the big model once, the small one several times."""
    files = {writer: os.path.join(folder, model, name) for writer, name in FILES.items()}
    if key.startswith("make_"):
        print(json.dumps(_make(model, key.removeprefix("make_"), files)))
        return
    operation = OPERATIONS[key]
    _import(operation.imports)
    after_imports = measure.memory_bytes()["VmRSS"]
    repeats = 1 if model == "big" else REPEATS_OF_SMALL
    samples = [_one(operation, _work(model, folder, files, i), after_imports) for i in range(repeats)]
    print(json.dumps(samples))


def _work(model: str, folder: str, files: dict[str, str], i: int) -> Work:
    return Work(model, os.path.join(folder, f"saved-{i}.safetensors"), files)


def _one(operation: Operation, work: Work, after_imports: int) -> dict[str, Any]:
    call = operation.prepare(work)
    saving = operation.group == "save"
    if work.model == "big":
        measure.prime()
    if operation.file:
        path = work.files[operation.file]
        measure.cool(path) if operation.group == "cold" else measure.warm(path)
    if saving:
        os.sync()
    before = measure.memory_bytes()
    measure.reset_peak()
    seconds, result = measure.timed(call)
    after = measure.memory_bytes()
    base = before["VmRSS"] if saving else after_imports
    sample = {
        "seconds": seconds,
        "peak_bytes": after["VmHWM"] - base,
        "anonymous_bytes": after["RssAnon"] - before["RssAnon"],
        "checksum": _checksum(result),
    }
    if saving:
        sample["file_bytes"] = os.path.getsize(work.target)
        os.unlink(work.target)
    return sample


def _checksum(result: Any) -> str | None:
    """The digest of what a load returned: a module, or tensors by name; None for anything else."""
    if hasattr(result, "state_dict"):
        result = result.state_dict()
    return models.checksum(result) if isinstance(result, dict) else None


def _make(model: str, writer: str, files: dict[str, str]) -> dict[str, Any]:
    """Write the file that the loads read; return the checksum of the model in it."""
    import torch

    source = models.fill(models.module(model))
    os.makedirs(os.path.dirname(files[writer]), exist_ok=True)
    if writer == "torch":
        torch.save(source.state_dict(), files[writer])
    elif writer == "safetensors":
        from safetensors.torch import save_file

        save_file(source.state_dict(), files[writer])
    else:
        import perdure

        perdure.save_weights(source, files[writer])
    measure.cool(files[writer])
    return {"checksum": models.checksum(source.state_dict())}


def _import(names: tuple[str, ...]) -> None:
    """Import modules; `package:name` also resolves the name, for packages that import lazily."""
    for entry in names:
        module, _, name = entry.partition(":")
        imported = importlib.import_module(module)
        if name:
            getattr(imported, name)


if __name__ == "__main__":
    main(*sys.argv[1:])
