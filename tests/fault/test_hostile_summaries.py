"""Summaries of files that are made to take long, to take much memory, or to confuse the tree of modules."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import nn

import perdure
from fault.forging import safetensors, with_values
from fault.test_headers import MIB, bounded, raised
from fault.test_hostile_architectures import LINEAR, SEQUENTIAL, content_of, linear, model
from perdure.errors import LimitError, PerdureError
from perdure.records.summary.rows import MAX_DEPTH, MAX_MODULES, rows_of
from perdure.records.summary.summary import Summary, SummaryTensor
from perdure.summaries.comparing import compare
from perdure.summaries.files import summarize_file


def named(*names: str) -> bytes:
    """A file of empty tensors of these names."""
    return safetensors({name: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for name in names})


def summary_of(content: bytes) -> Summary:
    return summarize_file(content)  # type: ignore[arg-type]


def test_a_name_of_a_hundred_thousand_dots() -> None:
    name = "a" + "." * 100_000
    with bounded(seconds=2):
        found = summary_of(named(name, "a.b"))
    assert len(found.rows) < 60 and max(row.depth for row in found.rows) == MAX_DEPTH
    assert [tensor.name for row in found.rows for tensor in row.tensors] == ["a.b", name]


def test_a_name_of_twenty_million_letters() -> None:
    content = safetensors('{"%s": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}' % ("é" * 20_000_000))
    with bounded(memory_bytes=300 * MIB, seconds=2):
        assert len(str(summary_of(content))) < 1000


def test_names_that_are_paths_empty_or_strange() -> None:
    names = ["a", "a.b", "a.b.c", ".", "..", ".w", "w.", "a..b", "a/b.c", "../x", "", " ", "0.0", "00.0"]
    found = summary_of(named(*names))
    assert sorted(tensor.name for row in found.rows for tensor in row.tensors) == sorted(names)
    assert [tensor.name for tensor in found["a"].tensors] == ["a.b"] and found["a.b"].tensors[0].name == "a.b.c"
    assert len({row.name for row in found.rows}) == len(found.rows)
    parents = {row.name.rpartition(".")[0] for row in found.rows[1:]}
    assert parents <= {row.name for row in found.rows}
    assert compare(found, found).same


def test_many_long_names_take_no_more_than_their_length() -> None:
    deep = [f"{n}." + "x." * 240 + "w" for n in range(20_000)]
    tensors = [SummaryTensor(name, "uint8", (1,), 1) for name in deep]
    with bounded(memory_bytes=400 * MIB, seconds=8):
        rows = rows_of({}, tensors)
    assert rows[0].n_parameters == 20_000 and len(rows) <= MAX_MODULES + 1
    long = [f"{n}" + ("x" * 2000 + ".") * 50 for n in range(500)]
    with bounded(seconds=2):
        rows = rows_of({}, [SummaryTensor(name, "uint8", (1,), 1) for name in long])
    assert len(rows) == 1 and len(rows[0].tensors) == 500


def test_many_tensors_in_one_tie() -> None:
    first = SummaryTensor("m0.w", "uint8", (1,), 1)
    more = [SummaryTensor(f"m{n}.w", "uint8", (1,), 0, tied_to="m0.w") for n in range(1, 50_000)]
    with bounded(memory_bytes=200 * MIB, seconds=4):
        rows = rows_of({}, [first, *more])
    assert (rows[0].n_parameters, rows[0].n_bytes) == (1, 1) and rows[-1].n_tied == 1


def test_modules_that_are_shared_beyond_all_measure() -> None:
    tensors = [SummaryTensor(f"big.{n}", "uint8", (1,), 1) for n in range(3000)]
    same = {f"again{n}": "big" for n in range(3000)}
    with bounded(memory_bytes=2000 * MIB, seconds=8):
        assert type(raised(lambda: rows_of({}, tensors, same))) is LimitError
    doubled = {f"{'a.' * level}b": f"{'a.' * level}a" for level in range(199)}
    with bounded():
        rows = rows_of({"a." * 199 + "a": ""}, [SummaryTensor("a." * 200 + "w", "uint8", (1,), 1)], doubled)
    assert rows[0].n_parameters == 1


def test_architectures_that_do_not_fit_their_file() -> None:
    absent = [{"name": "nowhere", "parameter": True}, {"name": "weight", "in_blob": True}]
    found = summary_of(content_of(model(linear(parameters={"weight": 0, "bias": 1}), tensors=absent)))
    assert [
        tensor.name for tensor in found.rows[0].tensors
    ] == []  # what is listed is not there, what is there is listed
    found = summary_of(content_of(model(linear(parameters={"a.b": 0, "": 1}))))
    assert found.n_parameters == 6 and {row.name for row in found.rows} >= {"", "a"}
    twice = model(linear(parameters={"weight": 0, "bias": 0}, buffers={"mean": 0, "bias": 1}))
    found = summary_of(content_of(twice))
    assert (found.n_parameters, found.n_buffers, found.n_bytes) == (4, 2, 24)


def test_architectures_with_long_and_many_paths() -> None:
    key = "k" * 50_000
    chain = [linear(of=1, parameters={}, modules={key: n + 1}) for n in range(150)]
    content = content_of(model(*chain, linear(), names=(LINEAR, SEQUENTIAL)))
    with bounded(memory_bytes=300 * MIB, seconds=3):
        found = summary_of(content)
    assert found.n_parameters == 6 and len(found.rows) < 10
    doubled = [linear(of=1, parameters={}, modules={"a": n + 1, "b": n + 1}) for n in range(15)]
    found = summary_of(content_of(model(*doubled, linear(), names=(LINEAR, SEQUENTIAL))))
    assert len(found.rows) == 1 + 2 * 15 and found.n_parameters == 6


def test_values_of_checkpoints_that_name_other_tensors() -> None:
    file = io.BytesIO()
    perdure.save_checkpoint(
        {"model": {"w": torch.ones(3)}, "optimizer": {"param_groups": [], "m": torch.ones(5)}}, file
    )
    assert summary_of(file.getvalue()).n_parameters == 3
    tensor = '{"$":"tensor","name":"nowhere"}'
    for text in (
        f'{{"model":{{"w":{tensor}}}}}',
        "[]",
        "3",
        '{"model":{"w":3}}',
        "[" * 500 + "]" * 500,
        '{"$":"ordered","of":3}',
    ):
        try:
            assert summary_of(with_values(file.getvalue(), text)).n_parameters in (3, 8), text
        except PerdureError as error:
            assert text.startswith(("[[", '{"$"')), (text, error)
    several = f'{{"model":{{"w":{tensor.replace("nowhere", "model.w")},"v":{tensor.replace("nowhere", "model.w")}}}}}'
    found = summary_of(with_values(file.getvalue(), several))
    assert [(tensor.name, tensor.tied_to) for tensor in found.rows[0].tensors] == [("w", ""), ("v", "w")]


def test_a_truncated_or_spoilt_file_raises_what_info_raises(tmp_path: Path) -> None:
    path = tmp_path / "it.safetensors"
    perdure.save(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), path, graph=False)
    content = path.read_bytes()
    for at in range(0, len(content), 61):
        spoilt = content[:at] + bytes([content[at] ^ 8]) + content[at + 1 :]
        for case in (content[:at], spoilt):
            error, expected = raised(lambda: summary_of(case)), raised(lambda: perdure.info(case))  # noqa: B023
            assert type(error) is type(expected) and (error is None or isinstance(error, PerdureError)), at
