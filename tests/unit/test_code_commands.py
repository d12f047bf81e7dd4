"""`perdure drift` and `perdure sources`: what has changed in the code of a model, and what it was saved with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

NET = '''import torch
from torch import nn

import acme_helper


class Net(nn.Module):
    """A network."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x):
        return self.fc(x) * acme_helper.SCALE
'''
SAVE = "import perdure, acme_net; perdure.save(acme_net.Net(), 'net.safetensors', sources=True)"
SCRIPT = Path(sys.executable).with_name("perdure")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("code")
    (folder / "acme_net.py").write_text(NET)
    (folder / "acme_helper.py").write_text("SCALE = 1\n")
    subprocess.run([sys.executable, "-c", SAVE], cwd=folder, check=True)
    return folder


def perdure(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *arguments], cwd=folder, capture_output=True, text=True)


def test_drift_shows_what_has_changed_line_by_line(saved: Path) -> None:
    """Comments do not count; modules lie in the current folder, where the script is run."""
    same = perdure(saved, "drift", "net.safetensors", "--trusted", "acme_net")
    assert (same.returncode, same.stdout) == (
        0,
        "net.safetensors: 0 of 3 classes, functions and modules have changed\n",
    )
    (saved / "acme_net.py").write_text(NET.replace("import acme_helper", "import acme_helper  # a helper"))
    assert perdure(saved, "drift", "net.safetensors", "--trusted", "acme_net").returncode == 0
    (saved / "acme_net.py").write_text(NET.replace("self.fc(x) *", "self.fc(x) +"))
    found = perdure(saved, "drift", "net.safetensors", "--trusted", "acme_net")
    assert found.returncode == 1
    assert (
        "  -        return self.fc(x) * acme_helper.SCALE\n  +        return self.fc(x) + acme_helper.SCALE"
        in found.stdout
    )
    told = json.loads(perdure(saved, "drift", "net.safetensors", "--trusted", "acme_net", "--json").stdout)
    assert told["changed"] == ["acme_net.Net", "acme_net"]
    (saved / "acme_net.py").write_text(NET)
    (saved / "acme_helper.py").write_text("SCALE = 2\n")
    helper = perdure(saved, "drift", "net.safetensors", "--trusted", "acme_net")
    assert helper.returncode == 1 and "  -SCALE = 1\n  +SCALE = 2\n" in helper.stdout
    (saved / "acme_helper.py").write_text("SCALE = 1\n")


def test_drift_imports_nothing_that_is_not_permitted(saved: Path) -> None:
    found = perdure(saved, "drift", "net.safetensors")
    assert found.returncode > 1 and "trusted=['acme_net.Net']" in found.stderr and "Traceback" not in found.stderr


def test_sources_writes_the_kept_code_out_for_a_person_to_read(saved: Path) -> None:
    found = perdure(saved, "sources", "net.safetensors", "code")
    assert found.returncode == 0
    assert (saved / "code" / "acme_net.Net.py.txt").read_text().startswith("class Net(nn.Module):")
    assert (saved / "code" / "acme_net.py.txt").read_text() == NET
    assert (saved / "code" / "acme_helper.py.txt").read_text() == "SCALE = 1\n"
    again = perdure(saved, "sources", "net.safetensors", "code")
    assert again.returncode != 0 and "Traceback" not in again.stderr  # nothing is written over
