"""A short run of the fuzzer; `make fuzz` is the long one."""

from __future__ import annotations

import pytest

from fuzz.fuzzing import make, run
from fuzz.readers import FOLDERS, READERS

N_MUTANTS, N_FOLDERS = 150, 40


@pytest.mark.parametrize("name", READERS)
def test_mutants_of_files_are_read_or_refused(name: str) -> None:
    outcomes = run(name, 1, 0, N_MUTANTS)
    assert sum(outcomes.values()) == N_MUTANTS
    assert len(outcomes) > 1  # some are read, some are not


@pytest.mark.parametrize("name", FOLDERS)
def test_mutants_of_folders_are_read_or_refused(name: str) -> None:
    outcomes = run(name, 1, 0, N_FOLDERS)
    assert sum(outcomes.values()) == N_FOLDERS
    assert len(outcomes) > 1


def test_a_mutant_can_be_made_again() -> None:
    assert [make("torch zip", 3, n) for n in range(5)] == [make("torch zip", 3, n) for n in range(5)]
    assert len({make("pickle", 3, n) for n in range(100)}) > 90
