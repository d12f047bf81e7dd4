"""From training on real digits to answers from PNG files, where the network's class cannot be had."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

import perdure

NET = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
        )
        self.dropout = nn.Dropout(0.25)
        self.fc = nn.Linear(512, 10)
    def forward(self, images):
        return self.fc(self.dropout(self.features(images).flatten(1)))
"""
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
PREPROCESS = {"decode": {"mode": "L"}, "resize": (16, 16), "filter": "bicubic", "mean": 0.3, "std": 0.35}


class Trained:
    """A trained network as a file, the images that it never saw as PNG files, and what it said to them in memory."""

    def __init__(self, folder: Path) -> None:
        data = load_digits()
        self.paths = [folder / "images" / f"{number:04}.png" for number in range(len(data.target))]
        (folder / "images").mkdir()
        for path, image in zip(self.paths, data.images, strict=True):
            Image.fromarray(np.round(image * 255 / 16).astype(np.uint8)).save(path)
        torch.manual_seed(0)
        preprocess = perdure.Preprocess(**PREPROCESS)
        pixels, self.truth = preprocess(self.paths), torch.from_numpy(data.target)
        net = _net(folder)
        held_out = torch.arange(len(pixels)) % 4 == 0
        _train(net, pixels[~held_out], self.truth[~held_out])
        with torch.no_grad():
            self.answers = net.eval()(pixels[held_out])
        self.paths = [path for path, kept in zip(self.paths, held_out, strict=True) if kept]
        self.truth = self.truth[held_out]
        self.file = folder / "digits.safetensors"
        self.report = perdure.save(net, self.file, preprocess=preprocess, labels=NAMES)

    @property
    def names(self) -> list[str]:
        return [NAMES[number] for number in self.answers.argmax(1)]

    @property
    def n_right(self) -> int:
        return int((self.answers.argmax(1) == self.truth).sum())


def _net(folder: Path) -> Any:
    """Return the network, of a class in a file that nobody else can import."""
    (folder / "net").mkdir()
    path = folder / "net" / "net_of_digits.py"
    path.write_text(NET)
    spec = importlib.util.spec_from_file_location("net_of_digits", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["net_of_digits"] = module
    spec.loader.exec_module(module)
    return module.Net()


def _train(net: nn.Module, pixels: torch.Tensor, truth: torch.Tensor) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(6):
        for batch in torch.randperm(len(pixels)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(pixels[batch]), truth[batch]).backward()
            optimizer.step()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("digits"))


def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1"}
    done = [sys.executable, "-m", "perdure", "predict", *map(str, arguments)]
    return subprocess.run(done, capture_output=True, text=True, cwd=cwd, env=environment)


def test_the_command_line_has_the_accuracy_of_training(trained: Trained, tmp_path: Path) -> None:
    assert trained.report.forms == ("class", "graph", "weights") and trained.n_right / len(trained.truth) > 0.95
    importing = subprocess.run([sys.executable, "-c", "import net_of_digits"], capture_output=True, cwd=tmp_path)
    assert importing.returncode == 1
    done = command("--top", 1, "--csv", trained.file, *trained.paths, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["name"] for row in rows] == [str(path) for path in trained.paths]
    assert [row["label"] for row in rows] == trained.names
    n_right = sum(int(row["number"]) == truth for row, truth in zip(rows, trained.truth, strict=True))
    assert n_right == trained.n_right
    wanted = trained.answers.double().softmax(1).max(1).values
    assert torch.allclose(torch.tensor([float(row["probability"]) for row in rows]).double(), wanted, atol=1e-6)


def test_json_folders_and_bad_images(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in (3, 1):
        (folder / f"{number}.png").write_bytes(trained.paths[number].read_bytes())
    (folder / "2.png").write_bytes(b"no image")
    done = command("--json", trained.file, folder, cwd=tmp_path)
    assert done.returncode == 65 and "2.png" in done.stderr and done.stdout == ""
    done = command("--json", "--skip-bad", trained.file, folder, cwd=tmp_path)
    assert done.returncode == 1 and "skipped" in done.stderr
    found = json.loads(done.stdout)
    assert [image["name"] for image in found["images"]] == [str(folder / "1.png"), str(folder / "3.png")]
    assert [image["predictions"][0]["label"] for image in found["images"]] == [trained.names[1], trained.names[3]]
    assert [Path(image["name"]).name for image in found["skipped"]] == ["2.png"]
    for image in found["images"]:
        likely = [prediction["probability"] for prediction in image["predictions"]]
        assert len(likely) == 5 and likely == sorted(likely, reverse=True)
    done = command("--top", 2, trained.file, folder / "1.png", cwd=tmp_path)
    assert done.stdout.startswith(f"{folder / '1.png'}: {trained.names[1]} ") and done.stdout.count("%") == 2


def test_a_table_on_a_terminal(trained: Trained, tmp_path: Path) -> None:
    pty = importlib.import_module("pty")
    ours, its = pty.openpty()
    environment = {**os.environ, "COLUMNS": "100", "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    arguments = ["predict", "--top", "2", str(trained.file), *map(str, trained.paths[:2])]
    subprocess.run([sys.executable, "-m", "perdure", *arguments], stdout=its, cwd=tmp_path, env=environment, check=True)
    os.close(its)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "\x1b[" in shown and all(name in shown for name in trained.names[:2]) and shown.count("%") == 4


def test_what_the_command_line_refuses(trained: Trained, tmp_path: Path) -> None:
    for arguments in (
        ["--csv", "--json", trained.file, "x.png"],
        [trained.file],
        ["--top", "0", trained.file, "x.png"],
    ):
        assert command(*arguments, cwd=tmp_path).returncode == 64
    assert command(trained.file, "nowhere.png", cwd=tmp_path).returncode == 66


def test_eight_threads_share_a_predictor(trained: Trained) -> None:
    predictor = perdure.Predictor(trained.file)
    assert predictor.info is not None and predictor.info.form == "graph"
    alone = predictor.predict(trained.paths)
    assert [prediction.label for prediction in alone] == trained.names
    found: dict[int, Any] = {}

    def work(number: int) -> None:
        found[number] = [predictor.predict(trained.paths[number::8]) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    serial = {number: predictor.predict(trained.paths[number::8]) for number in range(8)}
    assert found == {number: [answer] * 3 for number, answer in serial.items()}
    together = {prediction.name: prediction.label for answers in found.values() for prediction in answers[0]}
    assert together == {prediction.name: prediction.label for prediction in alone}
