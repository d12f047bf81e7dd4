"""The command line: what it prints, how it exits, and that no file can make it drive the terminal."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
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
from fault.forging import safetensors as raw_file
from fault.forging import with_manifest
from fault.gguf_forging import FORMS, gguf
from perdure.cli.info_command import as_text
from perdure.records.reports import TensorSpec
from perdure.version import VERSION

Q4_0, Q8_0 = 2, 8
"""Types of GGUF, which have 18 and 34 bytes for 32 numbers."""


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "perdure", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", **options)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(12))
        self.embedding = nn.Embedding(9, 4)
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.embedding.weight


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    perdure.save_weights(Net(), folder / "weights.safetensors", notes={"epoch": 3, "by": "me"})
    perdure.save_weights(Net(), folder / "sharded", shard_bytes=300)
    perdure.save_checkpoint(
        {"model": Net().state_dict(), "epoch": 3}, folder / "checkpoint.safetensors", notes="a note"
    )
    safetensors.torch.save_file({"a.b": torch.ones(2, 3), "c": torch.ones(1).bfloat16()}, folder / "plain.safetensors")
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "damaged.safetensors").write_bytes(content)
    (folder / "cut.safetensors").write_bytes(content[:-100])
    (folder / "text.safetensors").write_text("hello, this is no model")
    (folder / "empty").mkdir()
    return folder


KINDS = ["weights.safetensors", "sharded", "checkpoint.safetensors", "plain.safetensors"]


def test_info_as_text(files: Path) -> None:
    done = run("info", files / "weights.safetensors")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == str(files / "weights.safetensors")
    text = done.stdout
    assert re.search(rf"written +\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ by perdure {re.escape(VERSION)}, protocol 1", text)
    assert f"PyTorch {torch.__version__}" in text
    assert re.search(r"holds +weights: 26 tensors, 276 elements", text)
    assert re.search(r"notes +\{\"epoch\":3,\"by\":\"me\"\}", text)
    assert re.search(r"digest +[0-9a-f]{64}\n", text)
    assert re.search(r"\{0\.\.11\} × 12 ", text) and len(re.findall(r"float32 \[4, 4\]", text)) == 1
    assert re.search(r"weight +float32 \[9, 4\]  shared  = embedding\.weight", text)
    assert len(lines) < 25


@pytest.mark.parametrize("kind", KINDS)
def test_info_as_json_is_what_info_returns(files: Path, kind: str) -> None:
    done = run("info", "--json", files / kind)
    assert done.returncode == 0 and done.stdout.isascii()
    found = json.loads(done.stdout)
    expected = perdure.info(files / kind)
    assert found["path"] == str(files / kind) and found["forms"] == list(expected.forms)
    assert found["n_bytes"] == expected.n_bytes and (found["digest"] or "") == expected.digest
    assert found["files"] == list(expected.files) and len(found["files"]) == (
        0 if kind != "sharded" else len(expected.files)
    )
    assert [(spec["name"], spec["dtype"], tuple(spec["shape"]), spec["n_bytes"]) for spec in found["tensors"]] == [
        (spec.name, spec.dtype, spec.shape, spec.n_bytes) for spec in expected.tensors
    ]
    if kind == "plain.safetensors":
        assert [found[key] for key in ("writer", "protocol", "time", "environment", "notes", "digest")] == [None] * 6
    else:
        assert found["writer"] == f"perdure {VERSION}" and found["protocol"] == 1
        assert found["environment"]["torch"] == torch.__version__
    if kind in ("weights.safetensors", "sharded"):
        ties = {spec["name"]: spec["tied_to"] for spec in found["tensors"] if spec["tied_to"]}
        assert ties == {"head.weight": "embedding.weight"}


def test_info_says_what_each_kind_is(files: Path) -> None:
    assert "checkpoint: 26 tensors" in run("info", files / "checkpoint.safetensors").stdout
    assert "notes      a note" in run("info", files / "checkpoint.safetensors").stdout
    assert "by another writer" in run("info", files / "plain.safetensors").stdout
    sharded = run("info", files / "sharded").stdout
    assert re.search(r"size .* in \d+ files", sharded)
    shallow = run("info", "--depth", 1, files / "weights.safetensors").stdout
    assert "layers" in shallow and "{0..11}" not in shallow


@pytest.mark.parametrize(("kind", "code"), [(kind, 0) for kind in KINDS] + [
    ("damaged.safetensors", 3), ("cut.safetensors", 3), ("text.safetensors", 3),
])  # fmt: skip
def test_check_exits_with_its_verdict(files: Path, kind: str, code: int) -> None:
    done = run("check", files / kind)
    assert (done.returncode, done.stderr) == (code, "")
    assert ("safe" if code == 0 else "damaged") in done.stdout.splitlines()[0]
    as_json = run("check", "--json", files / kind)
    found = json.loads(as_json.stdout)
    report = perdure.check(files / kind)
    assert (as_json.returncode, found["ok"], found["verdict"]) == (code, report.ok, report.verdict)
    assert [finding["tensor"] for finding in found["findings"]] == [finding.tensor for finding in report.findings]
    if kind == "damaged.safetensors":
        assert [finding.kind for finding in report.findings] == ["DigestError"]
        assert report.findings[0].tensor in done.stdout and "damaged.safetensors" in done.stdout
    if kind == "plain.safetensors":
        assert "no digests" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("info", "absent.safetensors"), 66, "no such file"),
        (("check", "absent.safetensors"), 66, "no such file"),
        (("info", "empty"), 66, "no .safetensors file"),
        (("info", "cut.safetensors"), 65, "cut off"),
        (("info", "text.safetensors"), 65, "reading"),
        (("info",), 64, "Missing argument"),
        (("info", "weights.safetensors", "--depth", "0"), 64, "--depth"),
        (("info", "--nonsense", "x"), 64, "--nonsense"),
        (("nonsense",), 64, "nonsense"),
        (("check", "weights.safetensors", "more"), 64, "extra argument"),
    ],
)
def test_errors_have_exit_codes_and_no_traceback(
    files: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = run(*arguments, cwd=files)
    assert done.returncode == code and done.stdout == ""
    assert message in done.stderr and "Traceback" not in done.stderr


def test_a_later_protocol_is_refused_by_name(files: Path, tmp_path: Path) -> None:
    path = tmp_path / "later.safetensors"
    path.write_bytes(with_manifest((files / "weights.safetensors").read_bytes(), protocol=2, writer="perdure 7.1"))
    for command in ("info", "check"):
        done = run(command, path)
        assert done.returncode == 76
        assert "perdure 7.1" in done.stderr and "protocol 2" in done.stderr and "Upgrade" in done.stderr


def test_help_has_examples() -> None:
    for arguments in (("--help",), ("info", "--help"), ("check", "-h")):
        done = run(*arguments)
        assert done.returncode == 0
        command = arguments[0] if arguments[0] != "--help" else "info"
        assert re.search(rf"Examples:\n +perdure {command} ", done.stdout)
    assert run("--version").stdout == f"perdure, version {VERSION}\n"


def test_the_command_is_installed(files: Path) -> None:
    script = Path(sys.executable).parent / "perdure"
    done = subprocess.run([script, "info", files / "weights.safetensors"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == run("info", files / "weights.safetensors").stdout


def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    perdure.save_weights({f"name{number}": torch.ones(1) for number in range(20_000)}, path)
    command = f"{sys.executable} -m perdure info {path} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout == f"{path}\n" and done.returncode in (1, 141)
    assert "Traceback" not in done.stderr and "Error" not in done.stderr


def test_commands_import_no_torch(files: Path) -> None:
    code = (
        "import sys, runpy; sys.argv[0] = 'perdure'\n"
        "try: runpy.run_module('perdure', run_name='__main__')\n"
        "except SystemExit as done: assert not done.code, done.code\n"
        "assert not {'torch', 'numpy'} & sys.modules.keys(), 'imported'"
    )
    for arguments in (["info", "sharded"], ["check", "sharded"], ["info", "--json", "checkpoint.safetensors"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=files, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


EVIL = "\x1b]0;owned\x07\x1b[2J\x1b[31m\r\n\x00\x08\x7f\x9b31m\u202e\u2066\u200b\ufeff\U000e0041"


def clean(text: str) -> bool:
    """No character that moves, colours or hides anything; line ends and blanks are all there may be."""
    return not re.search(
        "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]", text
    )


def test_control_characters_in_names_never_reach_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "evil.safetensors"
    x = torch.ones(3)
    perdure.save_weights({f"a{EVIL}.b{EVIL}": x, f"tie{EVIL}": x, f"l.0.{EVIL}": torch.ones(1)}, path, notes=f"n{EVIL}")
    done = run("info", path)
    assert done.returncode == 0 and clean(done.stdout) and "\\x1b]0;owned" in done.stdout
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    done = run("check", path)
    assert done.returncode == 3 and clean(done.stdout) and "owned" in done.stdout
    assert len(done.stdout.splitlines()) == 2
    for command in ("info", "check"):
        done = run(command, "--json", path)
        assert clean(done.stdout) and json.loads(done.stdout)


def test_control_characters_in_messages_never_reach_the_terminal(tmp_path: Path) -> None:
    plain = tmp_path / "w.safetensors"
    perdure.save_weights({"a": torch.ones(3)}, plain)
    content = plain.read_bytes()
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    environment = {"torch": f"9{EVIL}", "packages": {f"p{EVIL}": f"1{EVIL}"}, "os": EVIL, "code": {"commit": EVIL}}
    evil = {
        "writer of a later protocol": with_manifest(content, protocol=9, writer=f"w{EVIL}"),
        "writer and feature": with_manifest(content, features=[f"f{EVIL}"], writer=f"w{EVIL}"),
        "writer": with_manifest(content, writer=f"w{EVIL}", time=f"t{EVIL}"),
        "environment": with_manifest(content, environment=environment),
        "kind": with_manifest(content, kind=f"k{EVIL}"),
        "a field": with_manifest(content, **{f"x{EVIL}": 1}, aliases={f"y{EVIL}": 3}),
        "an alias": with_manifest(content, aliases={f"y{EVIL}": {"of": f"z{EVIL}", "shape": [1], "stride": [1]}}),
        "type": raw_file({f"a{EVIL}": {**entry, "dtype": f"F{EVIL}"}}, bytes(4)),
        "hole": raw_file({f"a{EVIL}": {**entry, "data_offsets": [4, 8]}}, bytes(8)),
        "shape": raw_file({f"a{EVIL}": {**entry, "shape": EVIL}}, bytes(4)),
        "twice": raw_file(f"{{{json.dumps(EVIL)}: 1, {json.dumps(EVIL)}: 2}}"),
        "not json": raw_file("{" + EVIL),
        "blob": with_manifest(content, notes={EVIL: EVIL}),
    }
    for name, file in evil.items():
        path = tmp_path / "evil.safetensors"
        path.write_bytes(file)
        for command in ("info", "check"):
            done = run(command, path)
            assert clean(done.stdout) and clean(done.stderr), (name, command, done.stdout + done.stderr)
            assert "Traceback" not in done.stderr, name


def test_control_characters_in_an_index_never_reach_the_terminal(tmp_path: Path) -> None:
    shard = EVIL.replace("\0", "") + ".safetensors"
    index = {"metadata": {}, "weight_map": {f"a{EVIL}": shard}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for command in ("info", "check"):
        done = run(command, tmp_path)
        assert done.returncode in (3, 65) and clean(done.stdout) and clean(done.stderr), command
    (tmp_path / shard).write_bytes(raw_file({"b": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}))
    for command in ("info", "check"):
        done = run(command, tmp_path)
        assert done.returncode in (3, 65) and clean(done.stdout) and clean(done.stderr), command


def test_output_that_is_no_utf8_terminal(files: Path) -> None:
    """A terminal of another encoding gets question marks at worst, not a traceback."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    for command in ("info", "check"):
        done = run(command, files / "weights.safetensors", env=environment)
        assert done.returncode == 0, done.stderr


def test_types_of_a_file_cannot_drive_the_terminal(files: Path, tmp_path: Path) -> None:
    path = tmp_path / "it.safetensors"
    spec = TensorSpec("w", "\x1b[31mred", (1,), 4)
    found = dataclasses.replace(perdure.info(files / "weights.safetensors"), tensors=(spec,), path=str(path))
    assert "\x1b" not in "\n".join(as_text(found, None))


def test_notes_are_shown_as_they_were_given(tmp_path: Path) -> None:
    path = tmp_path / "it.safetensors"
    notes = {
        "when": datetime.date(2026, 1, 2),
        "pair": (1, 2),
        "path": Path("a/b"),
        "set": {3},
        "inf": float("inf"),
        4: b"\x01",
    }
    perdure.save_weights({"w": torch.ones(1)}, path, notes=notes)
    assert perdure.info(path).notes == notes and perdure.open(path).notes == notes
    shown = {"when": "2026-01-02", "pair": [1, 2], "path": str(Path("a/b")), "set": [3], "inf": "inf", "4": "01"}
    assert json.loads(run("info", "--json", path).stdout)["notes"] == shown
    assert '"when":"2026-01-02","pair":[1,2]' in run("info", path).stdout
    perdure.save_weights({"w": torch.ones(1)}, path)
    assert perdure.info(path).notes is None and perdure.open(path).notes is None


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("scale", torch.ones(7), persistent=False)

    def get_extra_state(self) -> dict[str, int]:
        return {"a": 1}

    def set_extra_state(self, state: object) -> None:
        pass


def test_info_counts_parameters_and_buffers_apart(tmp_path: Path) -> None:
    perdure.save_weights(Counted(), tmp_path / "it.safetensors")
    perdure.save_weights(Counted(), tmp_path / "it", shard_bytes=12)
    perdure.save_weights({"a": torch.ones(5)}, tmp_path / "plain.safetensors")
    for path in (tmp_path / "it.safetensors", tmp_path / "it"):
        found = json.loads(run("info", "--json", path).stdout)
        assert found["n_parameters"] == 6 and [spec["name"] for spec in found["volatile"]] == ["scale"]
        assert found["extra_state"] == ["_extra_state"]
        text = run("info", path).stdout
        assert re.search(r"parameters +2 tensors, 6 elements", text) and re.search(
            r"buffers +3 tensors, 7 elements", text
        )
        assert re.search(r"beside +1 buffers that are not persistent: scale", text) and "state of 1 modules" in text
    assert json.loads(run("info", "--json", tmp_path / "plain.safetensors").stdout)["n_parameters"] == 5


def test_a_folder_is_as_large_as_its_save_said(tmp_path: Path) -> None:
    report = perdure.save_weights(Net(), tmp_path / "it", shard_bytes=100)
    assert perdure.info(tmp_path / "it").n_bytes == report.n_bytes


def test_layers_with_zeros_before_their_numbers(tmp_path: Path) -> None:
    tensors = {f"layer.{n:02}.w": torch.ones(2) for n in range(12)} | {f"x.{n}.w": torch.ones(2) for n in range(3)}
    perdure.save_weights(tensors, tmp_path / "it.safetensors")
    text = run("info", tmp_path / "it.safetensors").stdout
    assert "{00..11} × 12" in text and "{0..2} × 3" in text


def test_layers_of_another_size_stand_alone(tmp_path: Path) -> None:
    """Blocks of GGUF have the type that they are read as; by how many bytes they take they differ."""
    infos, n = [], 0
    for layer, (kind, n_bytes) in enumerate([(Q4_0, 18), (Q4_0, 18), (Q4_0, 18), (Q8_0, 34)]):
        infos.append(FORMS[3].info(f"blk.{layer}.w", (32,), kind, n))
        n += n_bytes + -n_bytes % 32
    (tmp_path / "it.gguf").write_bytes(gguf([], infos, bytes(n)))
    text = run("info", tmp_path / "it.gguf").stdout
    assert "{0..2} × 3  18 bytes" in text and "3  34 bytes" in text


@pytest.mark.parametrize("arguments", [["info"], ["check"], ["check", "--json"]])
def test_output_that_cannot_be_written(arguments: list[str], files: Path) -> None:
    command = [sys.executable, "-m", "perdure", *arguments, str(files / "weights.safetensors")]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 74 and len(done.stderr.splitlines()) == 1
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_fault_of_perdures_own_is_no_verdict(files: Path) -> None:
    script = "import sys, perdure.cli.check_command as c, perdure.cli.main as m; c.check = None; m.main()"
    command = [sys.executable, "-c", script, "check", str(files / "weights.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 70 and len(done.stderr.splitlines()) == 1 and "report" in done.stderr
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PERDURE_DEBUG": "1"})
    assert done.returncode == 70 and "Traceback" in done.stderr


def test_convert(files: Path, tmp_path: Path) -> None:
    done = run("convert", files / "weights.safetensors", tmp_path / "new.pth")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(rf"saved {re.escape(str(tmp_path))}/new.pth: [\d.]+ KiB\n", done.stdout)
    done = run("convert", files / "sharded", tmp_path / "new.npz", "--dtype", "float16", "--json")
    report = json.loads(done.stdout)
    assert report["n_bytes"] == os.path.getsize(tmp_path / "new.npz") and "head.weight" in report["warnings"][0]
    for arguments, code in (
        ((files / "weights.safetensors", tmp_path / "x.h5"), 64),
        ((files / "weights.safetensors", tmp_path / "x.pth", "--dtype", "int8"), 64),
        ((files / "damaged.safetensors", tmp_path / "x.pth"), 65),
        ((files / "none.safetensors", tmp_path / "x.pth"), 66),
        ((files / "weights.safetensors", tmp_path / "no" / "x.pth"), 66),
    ):
        done = run("convert", *arguments)
        assert done.returncode == code and done.stderr.startswith("perdure: ") and "Traceback" not in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["new.npz", "new.pth"]


def test_diff(files: Path, tmp_path: Path) -> None:
    done = run("diff", files / "weights.safetensors", files / "weights.safetensors")
    assert (done.returncode, done.stderr) == (0, "") and "26 equal (26 of them by digest" in done.stdout
    safetensors.torch.save_file(
        {"a.b": torch.full((2, 3), float("nan")), "\x1b[31m": torch.ones(1)}, tmp_path / "n.safetensors"
    )
    done = run("diff", files / "plain.safetensors", tmp_path / "n.safetensors")
    assert done.returncode == 1 and "\x1b" not in done.stdout and "inf" in done.stdout
    done = run("diff", files / "plain.safetensors", tmp_path / "n.safetensors", "--json")
    found = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(name))
    assert (found["same"], found["removed"], found["changed"]["a.b"]["max_abs"]) == (False, ["c"], "inf")
    done = run("diff", "--no-values", files / "plain.safetensors", files / "plain.safetensors", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["n_unread"] == 2
    assert run("diff", files / "plain.safetensors", files / "none.safetensors").returncode == 66
    assert run("diff", files / "cut.safetensors", files / "plain.safetensors").returncode == 65
