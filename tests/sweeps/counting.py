"""The operations of every model of the sweep by each convention, compared with the tool that it equals, in one run.

Run `python -m sweeps.counting [LIBRARY ...]` in `tests` for all of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import warnings
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import perdure
from perdure.models.structure import flatten, with_leaves
from perdure.summaries.conventions.registry import CONVENTIONS
from sweeps.cases import LIBRARIES, Case, cases_of
from torchvision_operators import declare_operators


class Positional(nn.Module):
    """A model that takes tensors in place and gives a tuple of tensors, as fvcore's tracer asks for."""

    def __init__(self, model: nn.Module, example: Any) -> None:
        super().__init__()
        self.model, self.example = model, example
        leaves, _ = flatten(example, "the example")
        self.inputs = tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = iter(tensors)
        leaves, _ = flatten(self.example, "the example")
        leaves = [next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        example = with_leaves(self.example, iter(leaves))
        out = self.model(**example) if isinstance(example, dict) else self.model(*example)
        leaves, _ = flatten(out, "the output")
        return tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))


@contextlib.contextmanager
def _slow_path() -> Iterator[None]:
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def by_flop_counter_mode(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Count with PyTorch's own tool, where it sees everything."""
    with _slow_path(), sdpa_kernel(SDPBackend.MATH), torch.no_grad(), FlopCounterMode(display=False) as mode:
        model(*args, **kwargs)
    return mode.get_total_flops()


def by_torchinfo(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Count with torchinfo."""
    import torchinfo

    return torchinfo.summary(model, input_data=args or kwargs, verbose=0, depth=50).total_mult_adds


def by_fvcore(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """Count with fvcore."""
    from fvcore.nn import FlopCountAnalysis

    positional = Positional(model, kwargs or args)
    analysis = FlopCountAnalysis(positional, positional.inputs)
    return analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total()


PEERS: dict[str, Callable[..., float]] = {
    "aten": by_flop_counter_mode,
    "torchinfo": by_torchinfo,
    "fvcore": by_fvcore,
}


@dataclasses.dataclass
class Row:
    """What a convention and its peer count of one model; the peer's error where it fails."""

    library: str
    name: str
    convention: str
    ours: int
    peer: float
    failed: str = ""

    @property
    def equal(self) -> bool:
        return not self.failed and self.ours == self.peer


def rows_of(library: str, name: str) -> Iterator[Row]:
    """Count one model of the sweep by all conventions."""
    case: Case = cases_of(library)[name]
    for convention in (convention.name for convention in CONVENTIONS):
        model, example = _built(case, on_meta=library == "torchvision" and convention != "fvcore")
        args, kwargs = ((), dict(example)) if isinstance(example, dict) else (tuple(example), {})
        ours, peer, failed = 0, 0.0, ""
        try:
            summary = perdure.summarize(model, example=kwargs or args, convention=convention)
            ours = summary.macs if convention == "torchinfo" else summary.flops
            assert summary.n_parameters == sum(parameter.numel() for parameter in model.parameters())
            assert summary.n_trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
        except Exception as error:
            yield Row(library, name, convention, ours, peer, f"OURS {type(error).__name__}: {str(error)[:200]}")
            continue
        try:
            peer = PEERS[convention](model, args, kwargs)
        except Exception as error:
            while error.__cause__ is not None:
                error = error.__cause__
            failed = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        yield Row(library, name, convention, ours, peer, failed)


def _built(case: Case, *, on_meta: bool) -> tuple[nn.Module, Any]:
    """Return a model and its example; on `meta` where its code asks for no values, so that large ones take no time."""
    torch.manual_seed(0)
    example = case.resized(case.batches[0])
    if not on_meta:
        return case.build().eval(), example
    try:
        with torch.device("meta"):
            model = case.build().eval()
    except (RuntimeError, NotImplementedError):
        model = case.build().eval().to("meta")
    leaves, _ = flatten(example, "the example")
    return model, with_leaves(example, (leaf.to("meta") if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves))


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    declare_operators()
    tally: Tally[tuple[str, str]] = Tally()
    for library in sys.argv[1:] or LIBRARIES:
        for name in cases_of(library):
            for row in rows_of(library, name):
                tally[row.convention, "equal" if row.equal else "failed" if row.failed else "differs"] += 1
                if not row.equal:
                    print(row.library, row.name, row.convention, row.ours, row.peer, row.failed, flush=True)
        print(library, dict(tally), flush=True)


if __name__ == "__main__":
    main()
