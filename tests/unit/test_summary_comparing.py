"""Two summaries side by side."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from torch import nn

import perdure
from perdure.records.summary.summary import Summary
from perdure.summaries.comparing import compare
from perdure.summaries.files import summarize_file


def block(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 4))


def saved(model: nn.Module, path: Path) -> Summary:
    perdure.save(model, path, graph=False)
    return summarize_file(path)


def test_what_differs(tmp_path: Path) -> None:
    first = saved(nn.Sequential(*(block() for _ in range(4)), nn.Linear(4, 10)), tmp_path / "a.safetensors")
    other = nn.Sequential(*(block(8) for _ in range(4)), nn.Linear(4, 12, bias=False), nn.LayerNorm(12))
    other[0][1] = nn.GELU()
    second = saved(other, tmp_path / "b.safetensors")
    found = compare(first, second)
    assert not found.same
    assert found.totals["n_parameters"] == (4 * 40 + 50, 4 * 76 + 48 + 24)
    changed = {change.name: change for change in found.changed}
    assert changed["0.1"].kinds == ("ReLU", "GELU")
    assert {name: (str(a), str(b)) for name, (a, b) in changed["0.0"].tensors.items()} == {
        "weight": ("float32 [4, 4]", "float32 [8, 4]"), "bias": ("float32 [4]", "float32 [8]"),
    }  # fmt: skip
    assert (changed["5"].only_in, changed["5"].n_parameters) == ("second", (None, 24))
    assert changed["4"].tensors["bias"][1] is None
    assert {name for name, change in changed.items() if change.inherited} == {"", "0", "1", "2", "3"}
    assert found.n_equal == 3
    text = str(found).splitlines()
    assert text[0] == f"{tmp_path / 'a.safetensors'} → {tmp_path / 'b.safetensors'}"
    assert [line.split() for line in text[1:3]] == [
        ["parameters", "210", "376", "+79.0%"],
        ["trainable", "210", "376", "+79.0%"],
    ]
    assert "  ~ {0..3}.0  weight [4, 4] → [8, 4]; bias [4] → [8]" in text
    assert "  ~ 0.1  ReLU → GELU" in text
    assert "  + 5  LayerNorm, 24 parameters" in text
    assert "  ~ 4  weight [10, 4] → [12, 4]; bias removed, float32 [10]" in text
    assert text[-1] == "3 modules are alike; 10 changed, 0 only in the first, 1 only in the second"


def test_alike(tmp_path: Path) -> None:
    model = nn.Sequential(block(), nn.ReLU())
    first = saved(model, tmp_path / "a.safetensors")
    assert compare(first, first).same
    perdure.save_weights(model, tmp_path / "b.safetensors")
    found = compare(first, summarize_file(tmp_path / "b.safetensors"))  # which says nothing of classes, nor of ReLU
    assert found.same and found.n_equal == 4, str(found)
    assert "alike; 0 changed" in str(found) and found.totals["n_modules"] == (4, 4)


def test_a_shared_module_is_alike_whether_listed_once_or_twice(tmp_path: Path) -> None:
    shared = block()
    model = nn.ModuleDict({"one": shared, "two": shared})
    first = saved(model, tmp_path / "a.safetensors")
    perdure.save_weights(model, tmp_path / "b.safetensors")
    assert compare(first, summarize_file(tmp_path / "b.safetensors")).same
    assert compare(summarize_file(tmp_path / "b.safetensors"), first).same


def test_types_and_operations(tmp_path: Path) -> None:
    model = nn.Sequential(block())
    first = saved(model, tmp_path / "a.safetensors")
    half = saved(model.half(), tmp_path / "b.safetensors")
    assert "  ~ 0.{0,2}  weight float32 → float16; bias float32 → float16" in str(compare(first, half)).splitlines()
    rows = tuple(dataclasses.replace(row, flops=100) for row in first.rows)
    more = tuple(dataclasses.replace(row, flops=200 if row.name in ("", "0", "0.2") else 100) for row in rows)
    one, other = dataclasses.replace(first, rows=rows, flops=100), dataclasses.replace(first, rows=more, flops=200)
    found = compare(one, other)
    assert [change.name for change in found.changed] == ["", "0", "0.2"]
    assert "  ~ 0.2  FLOPs 100 → 200" in str(found).splitlines() and "  FLOPs  " in str(found)
    differently = dataclasses.replace(other, convention="fvcore")
    assert compare(one, differently).same
    assert "counted as aten and as fvcore" in str(compare(one, differently))
    assert compare(one, first).same  # which does not say


def test_a_comparison_as_json_data(tmp_path: Path) -> None:
    first = saved(block(), tmp_path / "a.safetensors")
    second = saved(block(5), tmp_path / "b.safetensors")
    data = json.loads(json.dumps(dataclasses.asdict(compare(first, second))))
    assert data["changed"][1]["tensors"]["weight"] == [
        {"dtype": "float32", "shape": [4, 4]}, {"dtype": "float32", "shape": [5, 4]},
    ]  # fmt: skip


def test_many_changes_are_cut(tmp_path: Path) -> None:
    for name, size in (("a", 3), ("b", 4)):
        perdure.save_weights(
            {f"m{chr(97 + n % 26)}{n}.w": torch.ones(size + n) for n in range(200)}, tmp_path / f"{name}.safetensors"
        )
    found = compare(*(summarize_file(tmp_path / f"{name}.safetensors") for name in "ab"))
    assert len(found.changed) == 201 and "  … and 140 more lines" in str(found)
