"""The environment of this process, as far as it can be told without importing PyTorch."""

from __future__ import annotations

import functools
import platform
import sys
from collections.abc import Iterable
from importlib import metadata

from perdure.records.environment import Environment


@functools.cache
def version_of(distribution: str) -> str:
    """Return the installed version of a distribution; empty where it is not installed."""
    try:
        return metadata.version(distribution)
    except (metadata.PackageNotFoundError, ValueError):
        return ""


@functools.cache
def processor() -> str:
    """Return the processor's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as info:
            for line in info:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@functools.cache
def _system() -> str:
    return f"{platform.system()} {platform.release()}"


def _torch_version() -> str:
    """Return the version of the PyTorch that is in use, or else of the one that is installed."""
    imported = sys.modules.get("torch")
    return str(getattr(imported, "__version__", "")) or version_of("torch")


def surroundings(distributions: Iterable[str] = ()) -> Environment:
    """Return this process's environment with the versions of some distributions."""
    return Environment(
        torch=_torch_version(),
        python=platform.python_version(),
        os=_system(),
        processor=processor(),
        packages={name: version for name in distributions if (version := version_of(name))},
    )


def is_standard(module: str) -> bool:
    """Tell whether a module belongs to Python itself."""
    root = module.partition(".")[0]
    return root in sys.stdlib_module_names or root in sys.builtin_module_names
