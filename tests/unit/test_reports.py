"""What the verbs report: frozen records, their text, and errors that travel between processes."""

from __future__ import annotations

import dataclasses
import inspect
import io
import pickle

import pytest
import torch

import perdure
from perdure import errors
from perdure.records.reports import CheckReport, Finding, LoadReport, SaveReport, TensorSpec


def test_text_of_a_save_report() -> None:
    whole = SaveReport("w.safetensors", 5, "ab" * 32, ("class", "graph", "weights"))
    assert str(whole) == "saved w.safetensors: class/graph/weights, 5 bytes, digest abababababababab…"
    report = SaveReport("w.safetensors", 3 * 2**20, "ab" * 32, ("weights",), ("one thing.", "another."))
    assert str(report) == (
        "saved w.safetensors: 3.0 MiB, digest abababababababab…\nwarning: one thing.\nwarning: another."
    )
    assert (
        str(SaveReport("", 5, "cd" * 32, ("checkpoint",)))
        == "saved to a file object: 5 bytes, digest cdcdcdcdcdcdcdcd…"
    )


def test_fields_of_a_save_report(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "w.safetensors"
    report = perdure.save_weights({"a": torch.ones(100)}, path)
    assert (report.path, report.forms, report.warnings) == (str(path), ("weights",), ())
    assert report.n_bytes == path.stat().st_size == perdure.info(path).n_bytes
    assert report.digest == perdure.open(path).digest == perdure.info(path).digest and len(report.digest) == 64
    report = perdure.save_checkpoint({"a": 1}, str(tmp_path / "c.safetensors"))
    assert report.forms == ("checkpoint",)
    memory = io.BytesIO()
    report = perdure.save_weights({"a": torch.ones(100)}, memory)
    assert (report.path, report.n_bytes) == ("", len(memory.getvalue()))
    folder = tmp_path / "folder"
    report = perdure.save_weights({"a": torch.ones(100), "b": torch.ones(9)}, folder, shard_bytes=400)
    assert report.n_bytes == sum(file.stat().st_size for file in folder.iterdir())
    assert report.digest == perdure.open(folder).digest


def test_text_of_a_load_report() -> None:
    report = LoadReport(
        missing=("layers.0.w", "layers.1.w"),
        unexpected=("x",),
        mismatched={"head": ("(2, 3)", "(4, 3)")},
        tied={"a": "b"},
        casts={"c": ("float32", "float16")},
        fraction_loaded=0.125,
        unknown=("digests",),
        differences=("PyTorch 1, here 2",),
    )
    assert str(report).splitlines() == [
        "loaded 12.5% of the parameters, not verified",
        "  missing from the file: layers.{0..1}.w",
        "  in the file only: x",
        "  shape differs: head: (2, 3) in the file, (4, 3) in the model",
        "  tied: a = b",
        "  cast: c: float32 to float16",
        "  the file has no digests",
        "  saved with PyTorch 1, here 2",
    ]
    assert str(LoadReport(verified="checksum")) == "loaded 100.0% of the parameters, checksums verified"
    assert str(LoadReport(verified="full")).endswith("BLAKE3 verified")


def test_a_load_report_stays_short() -> None:
    """What changed alike stands in one line; the data are complete."""
    names = [f"layers.{number}.{key}" for number in range(40) for key in ("w", "b")]
    report = LoadReport(
        renamed={f"module.{name}": name for name in names}
        | {"old.x": "new.x", "q": "qkv", "layers.0.gamma": "layers.0.weight"},
        adapted={f"layers.{number}.table": "resize, (9, 2) to (25, 2)" for number in range(40)},
        kept={f"layers.{number}.index": "skipped by adapt" for number in range(40)},
        unused={f"layers.{number}.inv_freq": "not persistent in the model" for number in range(3)}
        | {"n_averaged": "of the wrapper alone"},
        casts=dict.fromkeys(names, ("bfloat16", "float32")),
        missing=tuple(f"name{number}" for number in range(30)),
    )
    lines = str(report).splitlines()
    assert lines[11] == "  missing from the file: … and 20 more lines"
    assert lines[12:] == [
        "  renamed: module.* is *, 80 names",
        "  renamed: old.x is new.x",
        "  renamed: q is qkv",
        "  renamed: layers.0.gamma is layers.0.weight",
        "  adapted: layers.{0..39}.table: resize, (9, 2) to (25, 2)",
        "  kept: layers.{0..39}.index: skipped by adapt",
        "  not used: layers.{0..2}.inv_freq: not persistent in the model",
        "  not used: n_averaged: of the wrapper alone",
        "  cast: 80 tensors: bfloat16 to float32",
    ]
    assert len(report.renamed) == 83 and len(report.casts) == 80


def test_text_of_a_check_report() -> None:
    finding = Finding("DigestError", "tensor 'a' is damaged.", "w.safetensors", "a")
    report = CheckReport("w.safetensors", False, "damaged", (finding,), 3, 2048)
    assert str(report) == "w.safetensors: damaged (3 tensors, 2.0 KiB read)\n  tensor 'a' is damaged."


@pytest.mark.parametrize(
    "report",
    [TensorSpec("a", "float32", (2,), 8), SaveReport("", 1, "", ()), LoadReport(), CheckReport("", True, "safe", ())],
    ids=lambda report: type(report).__name__,
)
def test_reports_are_frozen_and_compare_by_value(report: object) -> None:
    field = dataclasses.fields(report)[0].name  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(report, field, "changed")
    assert dataclasses.replace(report) == report  # type: ignore[type-var]
    assert pickle.loads(pickle.dumps(report)) == report


def test_specs(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from blake3 import blake3

    path = tmp_path / "w.safetensors"
    x = torch.arange(6, dtype=torch.int16).view(2, 3)
    perdure.save_weights({"x": x, "row": x[0], "bits": torch.zeros(3, dtype=torch.uint8).view(torch.bits8)}, path)
    expected = {
        "x": TensorSpec("x", "int16", (2, 3), 12, blake3(x.numpy().tobytes()).hexdigest()),
        "row": TensorSpec("row", "int16", (3,), 0),
        "bits": TensorSpec("bits", "bits8", (3,), 3, blake3(b"\0\0\0").hexdigest()),
    }
    assert perdure.open(path).specs == expected
    assert {spec.name: spec for spec in perdure.info(path).tensors} == expected
    inside = perdure.open(path)
    assert inside.spec("x") == expected["x"] and len(inside) == 3 and "x" in inside and "y" not in inside


ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.PerdureError)]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_errors_travel_between_processes(kind: type[errors.PerdureError]) -> None:
    error = kind("reading 'x': it is so. Do that.")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and str(again) == str(error) == "reading 'x': it is so. Do that."


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_is_in_the_tree_and_has_an_exit_code(kind: type[errors.PerdureError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")
    assert kind.__doc__
    assert 64 <= kind.exit_code <= 78
    line = next(line for line in (errors.__doc__ or "").splitlines() if kind.__name__ in line.split())
    ancestors = [base for base in kind.__mro__[1:] if issubclass(base, errors.PerdureError)]
    assert line.index(kind.__name__) == 4 + 4 * len(ancestors)


def test_a_missing_tensor_is_a_key_error() -> None:
    content = io.BytesIO()
    perdure.save_weights({"a": torch.ones(1)}, content)
    weights = perdure.open(content.getvalue())
    with pytest.raises(KeyError) as caught:
        weights["b"]
    assert type(caught.value) is errors.MissingTensorError and str(caught.value).startswith("reading ")
    assert weights.get("b") is None
    for ask in (weights.spec, weights.read, lambda name: weights.verify([name])):
        with pytest.raises(errors.MissingTensorError):
            ask("b")
