"""Runs of numbered layers folded into one line, and sizes for people."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.records.names import fold, human_bytes

EXAMPLES: dict[str, tuple[list[str], list[str]]] = {
    "nothing": ([], []),
    "no numbers": (["weight", "bias"], ["weight", "bias"]),
    "one layer": (["layers.0.w"], ["layers.0.w"]),
    "a run": ([f"layers.{n}.w" for n in range(12)], ["layers.{0..11}.w"]),
    "two names in each layer": (
        [f"layers.{n}.{key}" for n in range(3) for key in ("w", "b")], ["layers.{0..2}.w", "layers.{0..2}.b"],
    ),
    "gaps": (["l.0.w", "l.1.w", "l.2.w", "l.7.w"], ["l.{0..2,7}.w"]),
    "out of order": (["l.2.w", "x", "l.0.w"], ["l.{0,2}.w", "x"]),
    "number first": (["0.w", "1.w", "10.w"], ["{0..1,10}.w"]),
    "number last stays": (["w.0", "w.1"], ["w.0", "w.1"]),
    "the second number": (["blocks.0.0.w", "blocks.0.1.w"], ["blocks.0.{0..1}.w"]),
    "leading zeros are names": (["l.01.w", "l.02.w"], ["l.01.w", "l.02.w"]),
    "a digit in a word": (["conv1.w", "conv2.w"], ["conv1.w", "conv2.w"]),
    "huge": ([f"l.{10**30}.w", f"l.{10**30 + 1}.w"], [f"l.{10**30}.w", f"l.{10**30 + 1}.w"]),
    "other scripts": (["l.٣.w", "l.٤.w"], ["l.٣.w", "l.٤.w"]),
    "with a message behind": (["l.0.w: (1,) here", "l.1.w: (1,) here"], ["l.{0..1}.w: (1,) here"]),
    "nul": (["a\0b.0.w", "a\0b.1.w"], ["a\0b.{0..1}.w"]),
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_fold(name: str) -> None:
    names, expected = EXAMPLES[name]
    assert fold(names) == expected
    assert fold(iter(names)) == expected


def unfold(lines: list[str]) -> list[str]:
    """Write a folded line out again."""
    found: list[str] = []
    for line in lines:
        match = re.search(r"\{([\d,.]+)\}", line)
        if not match:
            found.append(line)
            continue
        for part in match[1].split(","):
            low, _, high = part.partition("..")
            numbers = range(int(low), int(high or low) + 1)
            found += [line[: match.start()] + str(number) + line[match.end() :] for number in numbers]
    return found


parts = st.sampled_from(["layers", "w", "bias", "0", "1", "2", "3", "10", "007", "x1"])


@given(st.lists(st.lists(parts, min_size=1, max_size=4).map(".".join), max_size=20))
def test_folding_loses_no_name_and_makes_up_none(names: list[str]) -> None:
    folded = fold(names)
    assert sorted(unfold(folded)) == sorted(set(names))
    assert len(folded) <= len(set(names))


@pytest.mark.parametrize(
    ("n_bytes", "expected"),
    [
        (0, "0 bytes"), (1, "1 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (2**20, "1.0 MiB"),
        (5 * 2**30, "5.0 GiB"), (3 * 2**40, "3.0 TiB"), (2**60, "1048576.0 TiB"),
    ],
)  # fmt: skip
def test_human_bytes(n_bytes: int, expected: str) -> None:
    assert human_bytes(n_bytes) == expected
