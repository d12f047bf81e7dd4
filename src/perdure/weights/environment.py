"""The environment of a save: PyTorch's build, the packages whose classes the model uses, the commit of the code."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import msgspec
import torch

from perdure.disk.surroundings import is_standard, surroundings, version_of
from perdure.records.environment import CodeVersion, Environment

_GIT_SECONDS = 5


def gather(modules: Iterable[str]) -> Environment:
    """Return the environment of this process for a model whose classes come from these Python modules.

    What is found is kept for the life of the process; only the first save pays for it.
    """
    names = set(modules)
    roots = sorted({name.partition(".")[0] for name in names})
    packages = dict(found for root in roots if (found := package_of(root)))
    return msgspec.structs.replace(_build(), packages=packages, code=_code(frozenset(names)))


@functools.cache
def _build() -> Environment:
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    return msgspec.structs.replace(
        surroundings(),
        torch=str(torch.__version__),
        torch_git=str(torch.version.git_version or ""),
        cuda=str(torch.version.cuda or ""),
        cudnn=str(cudnn or ""),
        rocm=str(getattr(torch.version, "hip", None) or ""),
    )


@functools.cache
def package_of(root: str) -> tuple[str, str] | None:
    """Return the distribution that a package came with, and its version; None for the user's own modules."""
    if root in ("torch", "__main__") or is_standard(root):
        return None
    if version := version_of(root):
        return root, version
    for distribution in _distributions().get(root, ()):
        return distribution, version_of(distribution)
    return None


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())


@functools.cache
def _code(modules: frozenset[str]) -> CodeVersion | None:
    """Return the commit of the first checkout that the model's own code, or else the running script, lies in."""
    own = [name for name in sorted(modules) if not is_standard(name) and not package_of(name.partition(".")[0])]
    for name in [*own, "__main__"]:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and name.partition(".")[0] != "torch" and "site-packages" not in Path(file).parts:
            found = _commit(os.path.dirname(os.path.abspath(file)))
            if found:
                return found
    return None


def commit_of(module: str) -> CodeVersion | None:
    """Return the commit of the checkout that a Python module lies in."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return _commit(os.path.dirname(os.path.abspath(file))) if file else None


@functools.cache
def _commit(folder: str) -> CodeVersion | None:
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    return CodeVersion(commit.strip(), bool(_git(folder, "status", "--porcelain", "--untracked-files=no")))


def _git(folder: str, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", folder, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
