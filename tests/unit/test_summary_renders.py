"""Summaries as text, tables and data: what is folded, what is shortened, and what hostile names cannot do."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from torch import nn

from golden.building import described, summary_of
from golden.models import GOLDEN, hostile, measured, resnet, shared, transformer
from perdure.cli.summary_styles import styled
from perdure.records.names import neighbours_alike, printable
from perdure.records.summary.data import to_data, to_json
from perdure.records.summary.figures import both, cells, duration, short, shortened, wrapped
from perdure.records.summary.page import to_html
from perdure.records.summary.summary import Summary, SummaryTensor
from perdure.records.summary.table import CSV_COLUMNS, to_csv, to_markdown
from perdure.records.summary.text import to_text
from perdure.records.summary.totals import totals
from perdure.records.summary.tree import MOST_LINES, paths, tree_of, walk


def tensor(name: str, *shape: int, dtype: str = "float32", **fields: object) -> SummaryTensor:
    return SummaryTensor(name, dtype, shape, 4 * math.prod(shape), **fields)  # type: ignore[arg-type]


def labels(found: Summary) -> list[str]:
    return [f"{path} × {branch.n}" if branch.n > 1 else path for path, branch in paths(tree_of(found))]


# ---- figures


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (7, "7"), (999, "999"), (1000, "1.00 K"), (9994, "9.99 K"), (9995, "10.0 K"), (99_949, "99.9 K"),
     (99_950, "100 K"), (999_499, "999 K"), (999_500, "1.00 M"), (25_557_032, "25.6 M"), (1_814_073_344, "1.81 G"),
     (123 * 10**12, "123 T"), (10**18, "1.00 E"), (10**24, "1000000 E")],
)  # fmt: skip
def test_short_figures(number: int, text: str) -> None:
    assert short(number) == text


@given(st.integers(0, 10**20))
def test_short_figures_are_right_to_three_digits(number: int) -> None:
    digits, _, prefix = short(number).partition(" ")
    power = 1000 ** ("", "K", "M", "G", "T", "P", "E").index(prefix)
    assert float(digits) * power == pytest.approx(number, rel=0.00501)
    assert power == 1 or len(digits.replace(".", "")) == 3


def test_other_figures() -> None:
    assert [duration(each) for each in (0, 2.5e-7, 3.14159e-4, 0.0123, 0.99996, 61.5)] == [
        "0.00 µs", "0.25 µs", "314 µs", "12.3 ms", "1.00 s", "61.5 s"
    ]  # fmt: skip
    assert both(9_408) == "9,408" and both(11_689_512) == "11,689,512 (11.7 M)"


texts = st.text(st.characters(codec="utf-8") | st.sampled_from("汉字한e\u0301ａ.…"), max_size=60)


@given(texts, st.integers(0, 40))
def test_what_is_shortened_fits_and_keeps_both_ends(text: str, width: int) -> None:
    shown = shortened(text, width)
    assert cells(shown) <= width or cells(text) <= width
    if cells(text) <= width:
        assert shown == text
    elif width >= 3:
        start, _, end = shown.partition("…") if "…" not in text else (shown[:1], "", "")
        assert text.startswith(start) and text.endswith(end)


@given(texts, st.integers(8, 40))
def test_wrapped_lines_fit_and_lose_nothing(text: str, width: int) -> None:
    lines = list(wrapped(text, width))
    assert all(cells(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == printable(text, 2000).replace(" ", "")


@given(texts)
def test_letters_are_as_wide_as_rich_says(text: str) -> None:
    """Of letters that both know: neither tables of the terminal nor Unicode's own are those of every version."""
    common = "".join(letter for letter in text if (letter.isascii() and letter.isprintable()) or "一" <= letter <= "龥")
    assert cells(common) == cell_len(common)


@given(st.text(max_size=30))
def test_nothing_printable_drives_a_terminal(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert all(unicodedata.category(letter)[0] != "C" for letter in shown)


# ---- the tree


def test_neighbours_that_are_alike() -> None:
    assert neighbours_alike([("0", 1), ("1", 1), ("2", 2), ("3", 1), ("4", 1)]) == [[0, 1], [2], [3, 4]]
    assert neighbours_alike([("00", 1), ("01", 1), ("1", 1)]) == [[0, 1], [2]]
    assert neighbours_alike([("a", 1), ("b", 1), ("0", None), ("1", None), ("x", 1), ("0", 1)]) == [
        [n] for n in range(6)
    ]


def test_layers_are_folded_where_all_below_is_alike() -> None:
    layers = [tensor(f"layers.{n}.{name}.weight", 4, 4) for n in range(6) for name in ("q", "k")]
    assert labels(described("a", *layers)) == ["", "layers.{0..5} × 6", "layers.{0..5}.q", "layers.{0..5}.k"]
    other = dataclasses.replace(layers[4], dtype="int8", n_bytes=16)
    odd = labels(described("a", *layers[:4], other, *layers[5:]))
    assert [each for each in odd if each.count(".") == 1 or "×" in each] == [
        "layers.{0..1} × 2", "layers.2", "layers.{3..5} × 3"
    ]  # fmt: skip


def test_folds_in_folds_and_what_is_no_list_of_layers() -> None:
    tensors = [tensor(f"blocks.{b}.experts.{e}.weight", 2, 2) for b in range(3) for e in range(4)]
    found = described("moe", *tensors, tensor("scale", 1))
    assert labels(found) == ["", "scale", "blocks.{0..2} × 3", "blocks.{0..2}.experts.{0..3} × 4"]
    lists = described("lists", *(tensor(f"a.{i}.{j}.w", 2) for i in range(2) for j in range(3)))
    assert labels(lists) == ["", "a.{0..1} × 2", "a.{0..1}.{0..2} × 3"]
    (*_, expert) = (branch for branch, _ in walk(tree_of(found)))
    assert len(expert.rows) == 12


def test_calls_and_costs_keep_layers_apart() -> None:
    found = summary_of(nn.Sequential(*(nn.Linear(3, 3) for _ in range(4))))
    assert labels(found) == ["", "{0..3} × 4"]
    rows = [
        dataclasses.replace(row, flops=18 if row.name != "2" else 9, seconds=float(row.name or 6)) for row in found.rows
    ]
    costly = dataclasses.replace(found, rows=tuple(rows))
    assert labels(costly) == ["", "{0..1} × 2", "2", "3"]
    fold = tree_of(costly).children[0]
    assert (fold.seconds, fold.row.flops, fold.seconds * fold.n) == (0.5, 18, 0 + 1)


def test_ties_count_where_they_stand_first() -> None:
    found = shared()
    assert [found[name].n_tied for name in ("", "body", "again", "a", "b")] == [0, 0, 272, 0, 4]
    assert found["again"].tied_bytes == found["body"].n_bytes
    assert found[""].n_parameters == sum(
        found[name].n_parameters - found[name].n_tied for name in ("body", "again", "a", "b")
    )
    assert transformer()["lm_head"].n_tied == 50257 * 768
    text = to_text(found, width=80)
    assert re.search(r"again \(Sequential\) = body +\(272\)", text) and re.search(r"= a\.bias.* 64 \(\+4\)", text)


def test_a_summary_that_was_cut_at_a_depth_adds_up() -> None:
    found = transformer()
    cut = dataclasses.replace(found, rows=tuple(row for row in found.rows if row.depth <= 1))
    below = tree_of(cut).children
    assert sum((branch.row.n_parameters - branch.row.n_tied) * branch.n for branch in below) == found.n_parameters


def test_str_is_the_text() -> None:
    found = resnet()
    assert str(found) == to_text(found) and max(map(len, str(found).splitlines())) <= 120


@pytest.mark.parametrize("width", [1, 40, 61, 120, 1000])
@pytest.mark.parametrize("name", GOLDEN)
def test_every_width(name: str, width: int) -> None:
    found = GOLDEN[name]()
    lines = to_text(found, width=width).splitlines()
    assert all(cells(line) <= max(width, 40) for line in lines)
    assert styled(found, width=width).plain.splitlines() == lines


def test_names_of_many_levels() -> None:
    found = described("deep", tensor(".".join(["a"] * 900) + ".weight", 2), tensor("b" * 10_000 + ".weight", 2))
    assert len(to_text(found, width=80).splitlines()) == 3 + 51 + 4
    assert all(cells(line) <= 80 for line in to_text(found, width=80).splitlines())
    assert len(to_csv(found).splitlines()) == 1 + 51 and to_json(found) and to_markdown(found) and to_html(found)


def names_in(text: str) -> list[str]:
    """Return the guides and names of the lines of a tree, without what stands in columns."""
    return [re.split(r"  +(?=[\[\d])", line)[0].rstrip() for line in text.splitlines()[3:]]


def test_guides_are_whole_where_there_is_room() -> None:
    text = to_text(described("deep", *(tensor(f"a.0.b.{n}.{name}.w", n + 2) for n in range(2) for name in "cd")))
    assert names_in(text)[:7] == [
        "(model)", "└─ a", "   └─ 0", "      └─ b", "         ├─ 0", "         │  ├─ c", "         │  └─ d",
    ]  # fmt: skip


def test_tensors_are_named_within_their_module() -> None:
    others = (tensor("a.b.w", 2, role=""), tensor("a.c", 2), tensor("a.d.w", 2))
    found = tree_of(described("odd", *others, modules={"": "Net", "a": "A", "a.d": "D"}))
    assert {path for path, branch in paths(found) if branch.tensor} == {"a.b.w", "a.c"}


def test_names_of_nothing_are_seen() -> None:
    found = described("odd", tensor("", 1), tensor(".", 2), tensor("a..w", 3))
    assert names_in(to_text(found))[:5] == ["(model)", '├─ ""', "├─ .", "└─ a", '   └─ ""']
    assert '| `""` |' in to_markdown(found) and to_markdown(found).count("`(model)`") == 1


def test_what_nobody_reads_to_its_end_is_cut() -> None:
    names = [f"w{n}x" for n in range(MOST_LINES + 1000)]
    found = described("many", *(tensor(name, 2) for name in names))
    values = dict.fromkeys(names, next(iter(measured().statistics.values())))
    text = to_text(dataclasses.replace(found, statistics=values))
    assert len(text.splitlines()) < 2 * MOST_LINES + 20
    assert "… and 1,001 more lines" in text and text.splitlines()[-1].startswith("… and 1,000 more lines")
    markdown = to_markdown(found).splitlines()
    assert sum(line.startswith("| `") for line in markdown) == MOST_LINES and "… and 1,001 more" in "\n".join(markdown)
    assert len(json.loads(to_json(found))["rows"][0]["tensors"]) == len(names)


def test_what_a_file_says_of_itself_in_words() -> None:
    facts = {
        "file_bytes": 46_845_760, "n_files": 3, "writer": "perdure 0.1.0", "torch": "2.13.0", "prefix": "state_dict",
        "beside": "epoch, optimizer", "name": "Tiny",
    }  # fmt: skip
    said = dict(totals(described("a", facts=facts)))
    assert said["file"] == "44.7 MiB in 3 files, written by perdure 0.1.0 with PyTorch 2.13.0"
    assert (said["prefix"], said["name"]) == ("state_dict, beside epoch, optimizer", "Tiny")
    assert not said.keys() & {"file_bytes", "n_files", "writer", "torch", "beside"}
    said = dict(totals(described("a", facts={"file_bytes": 100, "torch": "2.13.0"})))
    assert said["file"] == "100 bytes, written with PyTorch 2.13.0"
    assert dict(totals(described("a", facts={"beside": "epoch"})))["beside"] == "epoch"
    assert to_data(described("a", facts=facts))["facts"] == facts


def test_operators_without_a_number() -> None:
    operators = {"aten::add": 25, "my::op": 2, **{f"aten::op{n}": 1 for n in range(9)}}
    said = dict(totals(described("a", uncounted=operators, convention="fvcore")))["not counted"]
    assert said.startswith("by fvcore: add × 25, my::op × 2, op0 × 1") and said.endswith(", op5 × 1, 3 others × 3")


# ---- tables and data


def test_csv_has_every_row_with_exact_figures() -> None:
    found = resnet()
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert tuple(rows[0]) == CSV_COLUMNS and len(rows) == len(found.rows)
    for written, row in zip(rows, found.rows, strict=True):
        assert written["name"] == row.name and int(written["n_parameters"]) == row.n_parameters
        assert int(written["flops"] or -1) == row.flops and float(written["seconds"]) == row.seconds
    assert rows[0]["input_shapes"] == "1x3x224x224" and rows[0]["output_shapes"] == "1x1000"
    assert (
        sum(int(row["n_parameters"]) - int(row["n_tied"]) for row in rows if row["depth"] == "1") == found.n_parameters
    )


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "＝1+1", "\r\n=1"])
def test_csv_cells_are_no_formulas(name: str) -> None:
    (_, row) = csv.DictReader(io.StringIO(to_csv(described("a", tensor(f"{name}.w", 2), modules={"": "=A()"}))))
    assert row["name"][0] in "'\\" and "\n" not in row["name"] and "\r" not in row["name"]


def test_csv_has_a_line_for_each_row_whatever_the_names() -> None:
    assert len(to_csv(hostile()).splitlines()) == 1 + len(hostile().rows)


def test_markdown_names_are_code() -> None:
    lines = to_markdown(hostile()).splitlines()
    table = [line for line in lines if line.startswith("|")]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
    assert widths == {table[1].count("|")} and len(table) == 2 + 12
    assert "| `<script>alert(1)</script>` |" in "\n".join(table)
    assert r"| ``\"quoted\" & ''.`ticks`\|pipe`` |".replace('\\"', '"') in "\n".join(table)
    outside = [re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", line) for line in lines]
    assert not any(re.search(r"[<>&@]|=1", line) for line in outside), outside


def test_markdown_of_folds_and_totals() -> None:
    text = to_markdown(transformer())
    assert re.search(r"\| `layers\.\{0\.\.11\}` × 12 \| `Layer` \|", text)
    assert "- parameters: 124,439,808 (124 M): 123,653,376 trainable, 786,432 frozen" in text


def test_data_has_every_field_and_is_json() -> None:
    found = dataclasses.replace(measured(), facts={"nan": math.nan, "bytes": b"\x00", 3: (1, 2)})
    data = json.loads(to_json(found))
    assert data.keys() == {field.name for field in dataclasses.fields(Summary)}
    assert data == to_data(found)
    assert data["rows"][1]["tensors"][0] == {
        "name": "fc.weight", "dtype": "float32", "shape": [8, 4], "n_bytes": 128, "role": "parameter", "trainable": False,
        "tied_to": "",
    }  # fmt: skip
    assert data["facts"] == {"nan": "nan", "bytes": "00", "3": [1, 2]}
    assert data["statistics"]["fc.weight"]["histogram"][:2] == [0, 1]
    called = json.loads(to_json(resnet()))
    assert called["rows"][0]["calls"] == [{"inputs": [[1, 3, 224, 224]], "outputs": [[1, 1000]]}]
    assert called["memory"]["optimizer"] == "adamw"


def test_a_page_embeds_what_it_shows_and_nothing_ends_its_data() -> None:
    page = to_html(dataclasses.replace(hostile(), notes=("</script><img src=x onerror=alert(3)>",)))
    assert page.isprintable() or page.count("\x00") == 0
    (embedded,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert "<" not in embedded and embedded.isascii()
    assert json.loads(embedded)["rows"][1]["name"] == "<script>alert(1)</script>"
    assert page.count("<script") == 2 == page.count("</script") and "<img" not in page and "<!--" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page) and "http" not in page.replace("http-equiv", "")


def test_renders_need_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys\nimport perdure.cli.summary_styles, perdure.records.summary.page\n"
         "import perdure.records.summary.table, perdure.records.summary.data\nprint('torch' in sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "False\n"
