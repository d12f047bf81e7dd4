"""How environments differ, in words."""

from __future__ import annotations

import sys

import pytest
import torch

import perdure
from perdure.disk.surroundings import is_standard, surroundings, version_of
from perdure.records.environment import CodeVersion, Environment, differences, release
from perdure.weights.environment import gather

HERE = Environment(
    torch="2.13.0+cpu", python="3.11.7", os="Linux 6.1", processor="A", cuda="12.4",
    packages={"transformers": "5.0", "timm": "1.0"},
)  # fmt: skip


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        (Environment(), ()),
        (HERE, ()),
        (Environment(torch="2.14.0+cpu"), ("PyTorch 2.14.0+cpu (a later one), here 2.13.0+cpu",)),
        (Environment(torch="3.0"), ("PyTorch 3.0 (a later one), here 2.13.0+cpu",)),
        (Environment(torch="2.6.0+cpu"), ("PyTorch 2.6.0+cpu, here 2.13.0+cpu",)),
        (Environment(torch="2.13.0+cu128"), ("PyTorch 2.13.0+cu128, here 2.13.0+cpu",)),
        (Environment(torch="2.9.1"), ("PyTorch 2.9.1, here 2.13.0+cpu",)),
        (Environment(packages={"timm": "0.9"}), ("timm 0.9, here 1.0",)),
        (Environment(packages={"peft": "0.9"}), ("peft 0.9, here not installed",)),
        (Environment(python="3.12.1"), ("Python 3.12, here 3.11",)),
        (Environment(python="3.11.2"), ()),
        (Environment(processor="B"), ("processor B, here A",)),
        (Environment(cuda="11.8"), ("CUDA 11.8, here 12.4",)),
        (Environment(rocm="6.0"), ()),
        (Environment(os="Windows 11"), ()),
        (Environment(code=CodeVersion("abc", dirty=True)), ()),
        (
            Environment(torch="1.0", packages={"timm": "2"}, python="3.9.1", processor="B"),
            ("PyTorch 1.0, here 2.13.0+cpu", "timm 2, here 1.0", "Python 3.9, here 3.11", "processor B, here A"),
        ),
    ],
)
def test_differences(saved: Environment, expected: tuple[str, ...]) -> None:
    assert differences(saved, HERE) == expected


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("2.13.0+cpu", (2, 13, 0)), ("2.13.0a0+git1", (2, 13, 0)), ("2.14.0.dev20260101", (2, 14, 0)), ("", ()),
        ("v1", ()), ("2", (2,)), ("2.x.1", (2,)), ("10.0", (10, 0)),
    ],
)  # fmt: skip
def test_release(version: str, expected: tuple[int, ...]) -> None:
    assert release(version) == expected


def test_what_is_gathered_here() -> None:
    """This process's own environment, with the packages of the model's classes and the commit of its code."""
    found = gather(["torch.nn.modules.linear", "transformers.models.bert", "json", __name__])
    assert found.torch == torch.__version__ and found.torch_git == torch.version.git_version
    assert found.python == ".".join(map(str, sys.version_info[:3]))
    assert found.packages == {"transformers": version_of("transformers")}
    assert found.os and found.processor
    assert (found.cuda, found.rocm) == (torch.version.cuda or "", torch.version.hip or "")
    assert differences(found, surroundings(found.packages)) == ()


def test_the_commit_is_that_of_the_models_code(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import subprocess

    folder = tmp_path / "project"
    folder.mkdir()
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(folder)]
    subprocess.run([*git, "init", "-q"], check=True)
    (folder / "net.py").write_text("from torch import nn\nclass Net(nn.Linear):\n    pass\n")
    script = "import net, perdure\nperdure.save_weights(net.Net(2, 2), 'w.safetensors')\n"
    (folder / "run.py").write_text(script)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    for change, dirty in (("", False), ("# changed\n", True)):
        (folder / "run.py").write_text(script + change)
        subprocess.run([sys.executable, "run.py"], cwd=folder, check=True)
        environment = perdure.open(folder / "w.safetensors").environment
        assert environment is not None and environment.code == CodeVersion(commit, dirty)


def test_standard_modules() -> None:
    assert is_standard("json") and is_standard("os.path") and is_standard("builtins")
    assert not is_standard("torch") and not is_standard("perdure.records")
