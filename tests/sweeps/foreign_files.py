"""Models saved with torch.save in all its ways, and opened by perdure where the libraries that define them are not.

    python tests/sweeps/foreign_files.py zoo transformers torchvision --most-bytes 200000000

prints each model whose tensors are not those of `torch.load(weights_only=False)`, and how many were compared.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch.nn.parameter import is_lazy

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1])]

import perdure
from sweeps.cases import LIBRARIES, cases_of
from sweeps.sweeping import DEFINING, Process

CONTENTS = ("state dict", "whole model", "checkpoint")
LEGACY = (False, True)


@dataclasses.dataclass
class Opened:
    """What came of one model: how many tensors of how many files were compared, and what differed."""

    n_files: int = 0
    n_tensors: int = 0
    differing: tuple[str, ...] = ()
    n_bytes: int = 0
    refused_by_torch: tuple[str, ...] = ()


class ForeignSweep:
    """Two processes: one that has the libraries, and one that cannot import them."""

    def __init__(self) -> None:
        self._saver, self._opener = Process(), Process(*DEFINING)

    def __enter__(self) -> ForeignSweep:
        return self

    def __exit__(self, *error: object) -> None:
        self._saver.end()
        self._opener.end()

    def names(self, library: str) -> list[str]:
        """Return the names of a library's cases."""
        return self._saver.run(_names, library)

    def opened(self, library: str, name: str, most_bytes: int) -> Opened:
        """Save a model in every way and compare what perdure opens; a larger one than that is saved in one way alone."""
        total = Opened()
        with tempfile.TemporaryDirectory(prefix="perdure-sweep-") as folder:
            n_bytes = self._saver.run(_build, library, name)
            ways = [(content, legacy) for content in CONTENTS for legacy in LEGACY]
            for content, legacy in ways if n_bytes <= most_bytes else ways[2:3]:
                path = Path(folder, "model.pth")
                said = self._saver.run(_save, path, content, legacy)
                if said:
                    total.refused_by_torch += (said,)
                    continue
                n_tensors, differing = self._opener.run(_compare, path)
                total.n_files += 1
                total.n_tensors += n_tensors
                total.differing += tuple(f"{content}{', legacy' * legacy}: {text}" for text in differing)
        total.n_bytes = n_bytes
        return total


_MODEL: list[torch.nn.Module] = []


def _names(library: str) -> list[str]:
    return list(cases_of(library))


def _build(library: str, name: str) -> int:
    torch.manual_seed(0)
    _MODEL[:] = [cases_of(library)[name].build()]
    tensors = (tensor for tensor in _MODEL[0].state_dict().values() if isinstance(tensor, torch.Tensor))
    return sum(tensor.nbytes for tensor in tensors if not is_lazy(tensor))


def _save(path: Path, content: str, legacy: bool) -> str:
    """Save the model; beside it, as plain tensors, what torch.load makes of the file."""
    model = _MODEL[0]
    state: Any = model.state_dict()
    saved = {
        "state dict": state,
        "whole model": model,
        "checkpoint": {
            "epoch": 3,
            "args": Namespace(lr=0.1),
            "state_dict": state,
            "optimizer": torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], 0.1).state_dict(),
        },
    }[content]
    try:
        torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
        loaded = torch.load(path, weights_only=False)
    except Exception as error:
        return f"torch itself fails ({type(error).__name__}: {str(error)[:80]})"
    state = loaded.state_dict() if content == "whole model" else loaded.get("state_dict", loaded)
    tensors = {
        key: value.detach() for key, value in state.items() if isinstance(value, torch.Tensor) and not is_lazy(value)
    }
    torch.save(tensors, path.with_suffix(".reference"))
    return ""


def _compare(path: Path) -> tuple[int, list[str]]:
    """Open the file where the libraries are not; returns how many tensors there are, and those that differ."""
    expected = torch.load(path.with_suffix(".reference"), weights_only=True)
    try:
        with perdure.open(path) as weights:
            names = {name for name in expected.keys() ^ weights.keys() if not _is_extra(name)}
            differing = [name for name in expected.keys() & weights.keys() if not _same(weights[name], expected[name])]
    except Exception as error:
        return 0, [f"{type(error).__name__}: {error}"]
    return len(expected), [*(f"only in one: {name}" for name in sorted(names)), *differing]


def _is_extra(name: str) -> bool:
    """Tell an extra state, which only its class can give when a whole model is asked."""
    return name.rpartition(".")[2] == "_extra_state"


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether two tensors are alike to the last bit, in type, shape and steps as well."""
    alike = one.dtype == other.dtype and one.shape == other.shape and one.stride() == other.stride()
    return alike and one.is_quantized == other.is_quantized and _bytes(one) == _bytes(other)


def _bytes(tensor: torch.Tensor) -> bytes:
    plain = tensor.int_repr() if tensor.is_quantized else tensor
    return plain.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def main() -> int:
    """Sweep whole libraries; the exit status is 1 if a tensor differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", nargs="*", default=LIBRARIES)
    parser.add_argument("--most-bytes", type=int, default=200_000_000)
    options = parser.parse_args()
    failed = 0
    with ForeignSweep() as sweep:
        for library in options.libraries:
            found = {name: sweep.opened(library, name, options.most_bytes) for name in sweep.names(library)}
            for name, opened in found.items():
                failed += bool(opened.differing)
                for text in opened.differing[:5]:
                    print(f"{library} {name}: {text}")
            n_files = sum(opened.n_files for opened in found.values())
            n_tensors = sum(opened.n_tensors for opened in found.values())
            print(f"{library}: {len(found)} models, {n_files} files, {n_tensors} tensors compared", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
