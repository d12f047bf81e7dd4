"""`perdure summary`, run as people run it."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import perdure
from perdure.records.summary.data import to_data
from perdure.records.summary.page import to_html
from perdure.records.summary.rows import down_to
from perdure.records.summary.table import to_markdown
from perdure.records.summary.text import to_text
from perdure.summaries.comparing import compare
from perdure.summaries.files import summarize_file

WITHOUT_TORCH = """
import runpy, sys
sys.argv[0] = "perdure"
try:
    runpy.run_module("perdure", run_name="__main__")
except SystemExit as done:
    assert not done.code, done.code
assert not {"torch", "numpy"} & sys.modules.keys(), "imported"
"""


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "perdure", "summary", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", **options)


class Net(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, width) for _ in range(12))
        self.embedding = nn.Embedding(9, 4)
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.embedding.weight


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("summary")
    perdure.save(Net(), folder / "model.safetensors", graph=False)
    perdure.save_weights(Net(), folder / "sharded", shard_bytes=300)
    perdure.save_weights(Net(5), folder / "wider.safetensors")
    torch.save({"model": Net().state_dict(), "ema": {"w": torch.ones(3)}, "epoch": 3}, folder / "checkpoint.pth")
    safetensors.torch.save_file({"a.b": torch.ones(2, 3)}, folder / "plain.safetensors")
    (folder / "text.safetensors").write_text("hello, this is no model")
    return folder


@pytest.mark.parametrize("file", ["model.safetensors", "sharded", "checkpoint.pth", "plain.safetensors"])
def test_it_prints_the_summary_and_imports_no_torch(files: Path, file: str) -> None:
    every = [["--json"], ["--depth", "1"], ["--markdown"], ["--csv", "-"], ["--html", "-"], ["--no-graph"]]
    for options in [[], *(every if file == "model.safetensors" else [])]:
        command = [sys.executable, "-c", WITHOUT_TORCH, "summary", file, *options]
        done = subprocess.run(command, cwd=files, capture_output=True, text=True)
        assert done.returncode == 0, (options, done.stderr)
    summary = dataclasses.replace(summarize_file(files / file), title=file)
    assert run(file, cwd=files).stdout == to_text(summary) + "\n"
    assert json.loads(run("--json", file, cwd=files).stdout) == json.loads(json.dumps(to_data(summary)))
    if file != "model.safetensors":
        return
    assert run("--depth", 1, file, cwd=files).stdout == to_text(down_to(summary, 1)) + "\n"
    assert run("--markdown", file, cwd=files).stdout.strip() == to_markdown(summary).strip()
    rows = list(csv.DictReader(io.StringIO(run("--csv", "-", file, cwd=files).stdout)))
    assert [(row["name"], int(row["n_parameters"])) for row in rows] == [
        (row.name, row.n_parameters) for row in summary.rows
    ]


def test_what_people_read(files: Path) -> None:
    text = run(files / "model.safetensors").stdout
    assert re.search(r"layers\.\{0\.\.11\} × 12 +\(?Linear\)?|layers\.\{0\.\.11\} × 12 \(Linear\)", text)
    assert re.search(r"parameters +276", text) and "head" in text
    assert "told from names and types" in run(files / "plain.safetensors").stdout
    assert re.search(r"parameters +3\b", run("--prefix", "ema", files / "checkpoint.pth").stdout)


def test_tables_and_pages_go_to_files(files: Path, tmp_path: Path) -> None:
    done = run("--html", tmp_path / "p.html", "--csv", tmp_path / "t.csv", files / "model.safetensors")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [f"wrote {tmp_path / 't.csv'}", f"wrote {tmp_path / 'p.html'}"]
    assert (tmp_path / "p.html").read_text() == to_html(summarize_file(files / "model.safetensors"))
    assert (tmp_path / "t.csv").read_text().startswith("name,kind,")
    done = run("--html", tmp_path / "absent" / "p.html", files / "model.safetensors")
    assert done.returncode == 66 or done.returncode == 74, done.stderr
    assert "writing" in done.stderr and "Traceback" not in done.stderr


def test_two_files(files: Path) -> None:
    same = run(files / "model.safetensors", files / "sharded")
    assert same.returncode == 0 and "0 changed, 0 only in the first, 0 only in the second" in same.stdout
    done = run(files / "model.safetensors", files / "wider.safetensors")
    assert done.returncode == 1
    assert "  ~ layers.{0..11}  weight [4, 4] → [5, 4]; bias [4] → [5]" in done.stdout.splitlines()
    expected = compare(summarize_file(files / "model.safetensors"), summarize_file(files / "wider.safetensors"))
    assert done.stdout == f"{expected}\n"
    data = json.loads(run("--json", files / "model.safetensors", files / "wider.safetensors").stdout)
    assert data == json.loads(json.dumps({"same": False, **dataclasses.asdict(expected)}))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["absent.safetensors"], 66, "no such file"),
        (["text.safetensors"], 65, "reading"),
        (["model.safetensors", "absent.safetensors"], 66, "no such file"),
        (["--prefix", "nothing", "model.safetensors"], 64, "no tensor's name begins with"),
        (["--input-size", "1,x", "model.safetensors"], 64, "such as 1,3,224,224"),
        (["--input-size", "1,-3", "model.safetensors"], 64, "such as 1,3,224,224"),
        (["--no-graph", "--stats", "model.safetensors"], 64, "goes with neither"),
        (["--html", "-", "--json", "model.safetensors"], 64, "only one of"),
        (["--markdown", "model.safetensors", "sharded"], 64, "are for one file"),
        (["--stats", "model.safetensors", "sharded"], 64, "are for one file"),
        (["--prefix", "layers", "--input-size", "1,4", "model.safetensors"], 64, "not for a prefix="),
        ([], 64, "Missing argument"),
    ],
)
def test_exit_codes_and_messages(files: Path, arguments: list[str], code: int, message: str) -> None:
    done = run(*arguments, cwd=files)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr and "Traceback" not in done.stderr


def on_a_terminal(command: list[str], **variables: str) -> str:
    """Return what a command prints on a terminal of 60 columns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "60", "TERM": "xterm-256color", **variables}
    environment.pop("NO_COLOR", None) if "NO_COLOR" not in variables else None
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL, env=environment)
    os.close(theirs)
    read = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        read += part
    os.close(ours)
    assert process.wait() == 0
    return read.decode()


def test_a_terminal_gets_colour_and_its_width(files: Path) -> None:
    command = [sys.executable, "-m", "perdure", "summary", str(files / "model.safetensors")]
    coloured, plain = on_a_terminal(command), on_a_terminal(command, NO_COLOR="1")
    assert "\x1b[" in coloured and "\x1b[" not in plain
    assert on_a_terminal(command, NO_COLOR="") == coloured
    bare = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert [line.rstrip() for line in bare.splitlines()] == [line.rstrip() for line in plain.splitlines()]
    assert max(map(len, plain.splitlines()[1:])) <= 60


def test_statistics_show_how_far_they_are(files: Path) -> None:
    at_once = "import perdure.cli.progress, perdure.cli.main; perdure.cli.progress._MOMENT_SECONDS = 0"
    arguments = ["perdure", "summary", "--stats", str(files / "plain.safetensors")]
    command = [sys.executable, "-c", f"{at_once}; import sys; sys.argv = {arguments!r}; perdure.cli.main.main()"]
    assert "24/24 bytes" in on_a_terminal(command)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "cp437", "utf-8"])
def test_any_encoding_will_do(files: Path, encoding: str) -> None:
    """Windows pipes have cp1252; what an encoding has not is printed with letters like it, each in one column."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    perdure.save_weights({"层.w": torch.ones(2)}, files / "wide.safetensors")
    for arguments in (["model.safetensors"], ["wide.safetensors"], ["model.safetensors", "wider.safetensors"]):
        command = [sys.executable, "-m", "perdure", "summary", *arguments]
        done = subprocess.run(command, capture_output=True, cwd=files, env=environment)
        assert done.returncode == len(arguments) - 1, done.stderr
        text = done.stdout.decode(encoding)
        assert ("├─ embedding" in text or "|- embedding" in text) == (arguments == ["model.safetensors"])
        assert (r"\u5c42" in text) == (arguments == ["wide.safetensors"] and encoding != "utf-8")


def test_control_characters_never_reach_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\r\n\x00\x7f\x9b31m\u202e\u2066\u200b"
    for name, size in (("a", 3), ("b", 4)):
        perdure.save_weights(
            {f"m{evil}.w{evil}": torch.ones(size), f"{evil}x": torch.ones(1)}, tmp_path / f"{name}.safetensors"
        )
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for arguments in (
        [first],
        [first, second],
        ["--json", first],
        ["--markdown", first],
        ["--csv", "-", first],
        ["--html", "-", first],
    ):
        done = run(*arguments)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202e\u2066]", done.stdout.replace("\t", "")), (
            arguments
        )
        assert done.returncode in (0, 1)


def test_help_has_examples() -> None:
    done = run("--help")
    assert done.returncode == 0 and "perdure summary before.safetensors after.safetensors" in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines())
