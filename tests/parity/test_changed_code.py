"""A model's code changes in seven ways after the save: the right answer each time, or an error; never another answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NET = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, slope=0.2):
        super().__init__()
        self.slope = slope
        self.body = nn.Linear(4, 8)
        self.fc = nn.Linear(8, 2)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)
    def forward(self, x):
        return self.fc(self.drop(nn.functional.leaky_relu(self.norm(self.body(x)), self.slope)))
"""

CHANGES = {
    "same": NET,
    "renamed": NET.replace("class Net", "class Network"),
    "gone": "",
    "attribute added": NET.replace("self.slope = slope", "self.slope = slope; self.scale = 1.0").replace(
        "return self.fc(", "return self.scale * self.fc("
    ),
    "forward changed": NET.replace("return self.fc(", "return 2 * self.fc("),
    "layer renamed": NET.replace("self.fc", "self.head"),
    "default changed": NET.replace("slope=0.2", "slope=0.4"),
}

SAVE = """
import json, sys
import torch
import perdure
from net import Net
torch.manual_seed(0)
net = Net().train()
net(torch.randn(16, 4))
x = torch.randn(5, 4)
torch.save(x, "x.pt")
perdure.save(net, "net.safetensors", example=x, sources=True)
perdure.save(net, "bare.safetensors")
print(json.dumps(net.eval()(x).tolist()))
"""

LOAD = """
import json, logging, sys
import torch
import perdure
import net
x = torch.load("x.pt")
found = {}
messages = []
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
logging.getLogger("perdure").addHandler(handler)
for key, path, options in json.loads(sys.argv[1]):
    if options.get("trusted") == "mapping":
        options["trusted"] = {"net.Net": net.Network}
    try:
        model = perdure.load(path, **options)
        found[key] = {"form": perdure.info(model).form, "answer": model(x).tolist(), "training": model.training}
    except Exception as error:
        found[key] = {"error": type(error).__name__, "said": str(error)}
print(json.dumps([found, messages]))
"""


def run(code: str, folder: Path, *arguments: str) -> Any:
    (folder / "run.py").write_text(code)
    command = [sys.executable, "-B", "run.py", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("changed")


@pytest.fixture(scope="module")
def expected(folder: Path) -> Any:
    (folder / "net.py").write_text(NET)
    return run(SAVE, folder)


@pytest.mark.parametrize("change", CHANGES)
def test_right_answers_whatever_became_of_the_code(change: str, folder: Path, expected: Any) -> None:
    (folder / "net.py").write_text(CHANGES[change])
    trusted: Any = "mapping" if change == "renamed" else ["net"]
    orders = [
        ["auto", "net.safetensors", {}],
        ["trusted", "net.safetensors", {"trusted": trusted}],
        ["class", "net.safetensors", {"trusted": trusted, "form": "class"}],
        ["bare", "bare.safetensors", {"trusted": trusted}],
    ]
    found, messages = run(LOAD, folder, json.dumps(orders))
    assert found["auto"] == {"form": "graph", "answer": expected, "training": False}
    sound = change in ("same", "renamed", "default changed")
    assert found["trusted"] == {"form": "class" if sound else "graph", "answer": expected, "training": False}
    if sound:
        assert found["class"]["answer"] == expected and found["bare"]["answer"] == expected
        return
    assert "error" in found["class"]
    if change in ("forward changed", "attribute added", "layer renamed"):
        assert found["class"]["error"] == "DriftError" and "net.Net" in found["class"]["said"]
    assert any("graph" in message for message in messages)
    if change == "forward changed":  # nothing proves it without an example, so it is said
        assert any("net.Net" in message and "no proof" in message for message in messages)
    else:
        assert "error" in found["bare"]


MIGRATED = """
import torch
from torch import nn
import perdure
def rename(module):
    module.modules["head"] = module.modules.pop("fc")
    return module
def scale(module):
    module.attributes["scale"] = 1.0
@perdure.register("acme.Net", version=3, migrations={1: rename, 2: scale})
class Elsewhere(nn.Module):
    def forward(self, x):
        y = nn.functional.leaky_relu(self.norm(self.body(x)), self.slope)
        return self.scale * self.head(self.drop(y))
"""


def test_a_registered_class_migrates(folder: Path) -> None:
    """Moved, renamed, a layer renamed, an attribute added: one model, with its class of today."""
    (folder / "net.py").write_text(NET.replace("class Net", 'import perdure\n@perdure.register("acme.Net")\nclass Net'))
    expected = run(SAVE, folder)
    (folder / "net.py").write_text(MIGRATED)
    code = LOAD.replace('"mapping"', '"class"').replace('{"net.Net": net.Network}', "[net.Elsewhere]")
    found, _ = run(code, folder, json.dumps([["a", "net.safetensors", {"trusted": "class", "form": "class"}]]))
    assert found["a"] == {"form": "class", "answer": expected, "training": False}
    (folder / "net.py").write_text(MIGRATED.replace("1: rename, ", ""))
    found, _ = run(code, folder, json.dumps([["a", "net.safetensors", {"trusted": "class", "form": "class"}]]))
    assert "no migration from version 1 to 2" in found["a"]["said"]
