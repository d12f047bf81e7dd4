"""Summaries against torchinfo and fvcore: time and peak memory, each in a fresh process, in random order within a round.

    python bench/summary.py                  # 5 rounds
    python bench/summary.py --rounds 3 --models resnet50
    python bench/summary.py --write          # and write its section of bench/RESULTS.md

What is timed is the whole call, with the making of the model where perdure is given one on `meta` and the others a real one,
after the imports. Peak memory is what the process had at most beyond what it had after them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import report

MIB = 1 << 20
MODELS = ("resnet50", "vit_b_16", "decoder")
TITLES = {"resnet50": "resnet50", "vit_b_16": "vit_b_16", "decoder": "decoder of 24 layers (GPT-2 medium), 128 tokens"}
TOOLS = {
    "perdure": "perdure.summarize, real model",
    "perdure_meta": "perdure.summarize, model on meta",
    "perdure_fvcore": 'perdure.summarize, convention="fvcore"',
    "torchinfo": "torchinfo.summary",
    "fvcore": "fvcore FlopCountAnalysis + parameter_count",
}
LEAST_MEMORY = 5


def main() -> int:
    """Run the bench."""
    options = _options()
    if options.child:
        print(json.dumps(_measured(*options.child)))
        return 0
    samples = _run(options)
    text = _rendered(samples, options)
    print(text)
    if options.write:
        report.write_section("summary", text)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes for each operation")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--write", action="store_true", help="write bench/RESULTS.md")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(options: argparse.Namespace) -> dict[tuple[str, str], list[dict[str, Any]]]:
    chosen = [(model, tool) for model in options.models for tool in TOOLS]
    samples: dict[tuple[str, str], list[dict[str, Any]]] = {key: [] for key in chosen}
    for number in range(options.rounds):
        for model, tool in random.Random(number).sample(chosen, len(chosen)):
            print(f"\rsummary {number + 1}/{options.rounds} {model:10} {tool:16}", end="", file=sys.stderr, flush=True)
            measure.wait_for_quiet()
            done = subprocess.run(
                [sys.executable, __file__, "--child", model, tool], capture_output=True, text=True, check=True
            )
            samples[model, tool].append(json.loads(done.stdout.splitlines()[-1]))
    print(file=sys.stderr)
    return samples


def _measured(model: str, tool: str) -> dict[str, Any]:
    """Measure one tool on one model in this process."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import torch

    import perdure
    import perdure.summaries.module_summaries
    from torchvision_operators import declare_operators

    declare_operators()
    build, example = _model(model, tool.endswith("_meta"))
    call = _tool(tool, build, example)
    _warm_up(tool)
    before = measure.memory_bytes()["VmRSS"]
    measure.reset_peak()
    seconds, found = measure.timed(call)
    assert found and perdure and torch
    return {"seconds": seconds, "peak_bytes": measure.memory_bytes()["VmHWM"] - before}


def _model(name: str, on_meta: bool) -> tuple[Callable[[], Any], Any]:
    """Return what makes a model, and its example."""
    import torch

    if name == "decoder":
        from transformers import GPT2Config, GPT2Model

        config = GPT2Config(n_layer=24, n_embd=1024, n_head=16, use_cache=False)
        made, example = (lambda: GPT2Model(config)), torch.zeros(1, 128, dtype=torch.int64)
    else:
        from torchvision import models

        made, example = (lambda: models.get_model(name, weights=None)), torch.zeros(1, 3, 224, 224)

    def build() -> Any:
        with torch.device("meta" if on_meta else "cpu"):
            return made().eval()

    return build, example


def _tool(tool: str, build: Callable[[], Any], example: Any) -> Callable[[], object]:
    if tool.startswith("perdure"):
        import perdure

        convention = "fvcore" if tool.endswith("fvcore") else "aten"
        return lambda: perdure.summarize(build(), example=example, convention=convention).flops
    if tool == "torchinfo":
        import torchinfo

        return lambda: torchinfo.summary(build(), input_data=example, verbose=0, depth=50).total_mult_adds
    from fvcore.nn import FlopCountAnalysis, parameter_count

    def count() -> object:
        model = build()
        analysis = FlopCountAnalysis(_Tuple.of(model), (example,))
        return analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total(), parameter_count(model)

    return count


class _Tuple:
    """Makes what fvcore's tracer can follow of a model that gives more than tensors."""

    @staticmethod
    def of(model: Any) -> Any:
        from torch import nn

        class Positional(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, *args: Any) -> Any:
                out = self.model(*args)
                return tuple(out.values()) if isinstance(out, dict) else out

        return Positional()


def _warm_up(tool: str) -> None:
    """Let the tool load what it loads on its first call."""
    import torch
    from torch import nn

    _tool(tool, lambda: nn.Sequential(nn.Linear(3, 2)), torch.zeros(2, 3))()


def _rendered(samples: dict[tuple[str, str], list[dict[str, Any]]], options: argparse.Namespace) -> str:
    lines = [
        report.machine(os.curdir),
        "",
        f"Medians of {options.rounds} fresh processes each, in random order within a round.",
    ]
    for model in options.models:
        lines += ["", f"## Summary with operations: {TITLES[model]}", ""]
        lines += _table({tool: samples[model, tool] for tool in TOOLS})
    return "\n".join(lines)


def _table(samples: dict[str, list[dict[str, Any]]]) -> list[str]:
    medians = {tool: statistics.median(sample["seconds"] for sample in rounds) for tool, rounds in samples.items()}
    peaks = {tool: max(sample["peak_bytes"] for sample in rounds) for tool, rounds in samples.items()}
    fastest, leanest = (min(figures["torchinfo"], figures["fvcore"]) for figures in (medians, peaks))
    rows = []
    for tool, rounds in samples.items():
        times = sorted(round(sample["seconds"] * 1000) for sample in rounds)
        ours = tool.startswith("perdure")
        speed = "" if not ours else " **pass**" if medians[tool] <= fastest else " **missed**"
        meets = peaks[tool] * LEAST_MEMORY <= leanest
        memory = "" if tool != "perdure_meta" else " **pass**" if meets else " **missed**"
        rows.append(
            [
                TOOLS[tool],
                f"{medians[tool] * 1000:.0f}",
                f"{times[0]} to {times[-1]}",
                f"{medians[tool] / fastest:.2f}×{speed}",
                f"{peaks[tool] / MIB:.0f}",
                f"{peaks[tool] / leanest:.3f}×{memory}",
            ]
        )
    head = ["tool", "ms", "range", "against the faster peer", "peak memory, MiB", "against the leaner peer"]
    return report.table(head, rows).splitlines()


if __name__ == "__main__":
    sys.exit(main())
