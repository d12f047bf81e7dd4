"""Hostile files of every class: nothing in them runs, and every verb gives the same answer, soon and in little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from click.testing import CliRunner

from attacks.attack import Attack, Place
from attacks.benign import BENIGN
from attacks.corpus import ATTACKS
from attacks.verbs import VERBS, answer, read_all, target_of
from perdure.cli.main import commands
from perdure.errors import MismatchError, PerdureError, ProtocolError, UnsafeError

MIB = 2**20
SECONDS = 2.0
"""Twice what is promised, for the sake of busy machines."""

EXIT_CODES = {"safe": 0, "needs code": 1, "dangerous": 2, "damaged": 3}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "in" / "it").mkdir(parents=True)
    return Place(tmp_path / "in" / "it", tmp_path / "touched")


def test_the_corpus_is_as_large_as_it_should_be() -> None:
    assert len(ATTACKS) >= 120
    assert len({attack.group for attack in ATTACKS.values()}) >= 50


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_all_verbs_answer_an_attack_alike(attack: Attack, place: Place) -> None:
    path = attack.write(place)
    answers = {}
    for verb in VERBS:
        answers[verb], seconds = answer(verb, path)
        assert seconds < SECONDS, (verb, f"{seconds:.2f} s", answers)
    assert not os.path.lexists(place.marker)
    verdict, opened = answers["check"], answers["open"]
    assert verdict in attack.verdicts or isinstance(verdict, ProtocolError), answers
    assert isinstance(opened, UnsafeError) == (verdict == "dangerous"), answers
    if attack.errors:
        assert isinstance(opened, attack.errors), answers
    if isinstance(answers["convert"], PerdureError):
        assert not target_of(path).exists()
    for verb, given in answers.items():
        if isinstance(given, PerdureError):
            _see_that_it_tells(given, verb)
        if verb != "check" and isinstance(answers["info"], PerdureError):
            assert type(given) is type(opened), (verb, answers)


def _see_that_it_tells(error: PerdureError, verb: str) -> None:
    message = str(error)
    assert isinstance(error, MismatchError) or (20 < len(message) < 2000 and message.isprintable()), (
        verb,
        message[:3000],
    )


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_an_attack_takes_little_memory(attack: Attack, place: Place) -> None:
    path = attack.write(place)
    files = [path] if path.is_file() else path.rglob("*")
    allowed = 64 * MIB + sum(file.stat().st_size for file in files if file.is_file())
    for verb in ("open", "check"):
        tracemalloc.start()
        try:
            answer(verb, path)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < allowed, f"{verb}: {peak / MIB:.0f} MiB"


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_the_commands_say_what_the_verbs_say(attack: Attack, place: Place) -> None:
    path = attack.write(place)
    verdict, _ = answer("check", path)
    opened, _ = answer("info", path)
    checked = CliRunner().invoke(commands, ["check", str(path)])
    shown = CliRunner().invoke(commands, ["info", str(path)])
    compared = CliRunner().invoke(commands, ["diff", str(path), str(path)])
    converted = CliRunner().invoke(commands, ["convert", str(path), str(target_of(path))])
    assert not os.path.lexists(place.marker)
    if isinstance(verdict, PerdureError):
        assert checked.exit_code == verdict.exit_code, checked.output
    else:
        assert checked.exit_code == EXIT_CODES[str(verdict)], checked.output
    expected = opened.exit_code if isinstance(opened, PerdureError) else 0
    assert shown.exit_code == expected, shown.output
    if expected:
        assert (compared.exit_code, converted.exit_code) == (expected, expected), compared.output + converted.output


def _run(script: str, folder: Path) -> str:
    tests, sources = Path(__file__).parents[1], Path(__file__).parents[2] / "src"
    path = os.pathsep.join([str(sources), str(tests), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", f"attacks.{script}", str(folder)], capture_output=True, text=True, cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_nothing_is_imported_run_or_written_while_attacks_are_opened(tmp_path: Path) -> None:
    found = json.loads(_run("watched", tmp_path))
    assert found["n_attacks"] == len(ATTACKS)
    assert found["events"] == []
    assert found["touched"] == []


@pytest.mark.slow
def test_the_payloads_run_with_the_loaders_of_others(tmp_path: Path) -> None:
    """Else nothing would be proved by their not running here."""
    lines = [line.split("\t") for line in _run("live", tmp_path).splitlines()]
    idle = [name for state, name in lines if state != "ran"]
    assert sum(state == "ran" for state, _ in lines) >= 60
    assert len(idle) < 10, idle  # one or another function is gone from later versions


@pytest.mark.parametrize("name", BENIGN)
def test_a_benign_file_is_opened_and_is_not_called_dangerous(name: str, tmp_path: Path) -> None:
    write, verdicts = BENIGN[name]
    write(tmp_path / name)
    read_all(tmp_path / name)
    verdict, _ = answer("check", tmp_path / name)
    assert verdict in verdicts
