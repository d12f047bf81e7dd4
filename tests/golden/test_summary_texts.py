"""The texts of summaries: as they are kept here, and such that whoever adds up what stands in them gets the totals."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from golden.models import GOLDEN, WIDTHS, path_of
from perdure.records.summary.figures import cells
from perdure.records.summary.text import to_text

CASES = [(name, width) for name in GOLDEN for width in WIDTHS]
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
FIGURE = re.compile(r"\(?\+?([\d,.]+)(?: ([KMGT])(?!i))?\)?")


@pytest.mark.parametrize(("name", "width"), CASES)
def test_the_text_is_the_one_that_is_kept(name: str, width: int) -> None:
    """`tests/golden/generate.py` writes them anew."""
    assert to_text(GOLDEN[name](), width=width) + "\n" == path_of(name, width).read_text("utf-8")


@pytest.mark.parametrize(("name", "width"), CASES)
def test_lines_fit(name: str, width: int) -> None:
    lines = path_of(name, width).read_text("utf-8").splitlines()
    assert all(cells(line) <= width for line in lines)
    assert all(line == line.rstrip() and line.isprintable() for line in lines)


class Line(NamedTuple):
    """What one line of the tree says: how deep it is, how many it stands for, and a figure with how far it is rounded."""

    depth: int
    times: int
    counted: float
    elsewhere: float
    slack: float


@pytest.mark.parametrize("column", ["parameters", "FLOPs"])
@pytest.mark.parametrize(("name", "width"), CASES)
def test_what_stands_below_a_module_adds_up_to_it(name: str, width: int, column: str) -> None:
    """Parameters always; FLOPs here too, since no module of these has any beside those of the modules below it."""
    text = path_of(name, width).read_text("utf-8")
    lines = list(tree(text, column))
    if not lines:
        assert column == "FLOPs" or name == "empty"
        return
    for place, line in enumerate(lines):
        below = [*children(lines, place)]
        if below:
            total = sum(child.counted * child.times for child in below)
            slack = line.slack + sum(child.slack * child.times for child in below)
            assert total == pytest.approx(line.counted, abs=slack + 1e-9), (line, below)
    (stated,) = re.findall(rf"^{column} +([\d,]+)", text, re.MULTILINE)
    assert lines[0].counted == pytest.approx(int(stated.replace(",", "")), abs=lines[0].slack + 1e-9)
    (leaves,) = [sum(product * line.counted for line, product in leaves_of(lines))]
    slack = sum(product * line.slack for line, product in leaves_of(lines)) + lines[0].slack
    assert leaves == pytest.approx(lines[0].counted, abs=slack + 1e-9)


def test_the_wide_texts_are_exact() -> None:
    """So that the sums above are not only true because of what they leave open."""
    for name in ("resnet", "transformer", "shared", "gguf"):
        assert all(line.slack == 0 for line in tree(path_of(name, 160).read_text("utf-8"), "parameters"))


def tree(text: str, column: str) -> Iterator[Line]:
    """Read the tree of a text: where the column begins and ends is told by its title and the gaps beside it."""
    lines = text.splitlines()
    head = next((line for line in lines if line.startswith("module")), "")
    place = re.search(rf"{column}\b", head)
    if place is None:
        return
    for line in lines[lines.index(head) + 2 :]:
        if not line:
            return
        name = line[: re.search(r"[^│├└─ ]", line).start()]  # type: ignore[union-attr]
        times = re.search(r" × (\d+)(?: |$)", line)
        end = columns_before(line, place.end())
        found = (
            [figure(each) for each in FIGURE.finditer(re.split(r" {2,}", line[:end])[-1])]
            if end and line[end - 1] != " "
            else []
        )
        counted = [each for each in found if not each[0]]
        elsewhere = [each for each in found if each[0]]
        yield Line(
            len(name) // 3,
            int(times[1]) if times else 1,
            sum(each[1] for each in counted),
            sum(each[1] for each in elsewhere),
            sum(each[2] for each in counted),
        )


def columns_before(line: str, width: int) -> int:
    """Return how many letters of a line lie in so many columns."""
    taken = 0
    for number, letter in enumerate(line):
        if taken >= width:
            return number
        taken += cells(letter)
    return len(line) if taken == width else 0


def figure(found: re.Match[str]) -> tuple[bool, float, float]:
    """Return whether a figure stands in brackets, what it is, and how far it may be from what it was rounded from."""
    digits, unit = found[1].replace(",", ""), UNITS[found[2] or ""]
    decimals = len(digits.partition(".")[2])
    return found[0].startswith("("), float(digits) * unit, 0.5 * unit / 10**decimals if unit > 1 else 0.0


def children(lines: list[Line], place: int) -> Iterator[Line]:
    for line in lines[place + 1 :]:
        if line.depth <= lines[place].depth:
            return
        if line.depth == lines[place].depth + 1:
            yield line


def leaves_of(lines: list[Line]) -> Iterator[tuple[Line, int]]:
    """Give the lines with none below them, with how many modules of the model each stands for."""
    above: list[int] = []
    for place, line in enumerate(lines):
        del above[line.depth :]
        above.append((above[-1] if above else 1) * line.times)
        if place + 1 == len(lines) or lines[place + 1].depth <= line.depth:
            yield line, above[-1]
