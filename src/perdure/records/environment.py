"""The environment that wrote a file, and how the one that reads it differs."""

from __future__ import annotations

import msgspec


class CodeVersion(msgspec.Struct, frozen=True, omit_defaults=True):
    """The git commit of the code that defined the model; `dirty` when the checkout had uncommitted changes."""

    commit: str
    dirty: bool = False


class Environment(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was installed where the file was written. An empty string means that there was none."""

    torch: str = ""
    torch_git: str = ""
    cuda: str = ""
    cudnn: str = ""
    rocm: str = ""
    python: str = ""
    os: str = ""
    processor: str = ""
    packages: dict[str, str] = {}
    code: CodeVersion | None = None


def release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, `2.13.0+cpu` as (2, 13, 0); what is no number ends it."""
    numbers: list[int] = []
    for part in version.split("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits[:9]))
        if digits != part:
            break
    return tuple(numbers)


def differences(saved: Environment, current: Environment) -> tuple[str, ...]:
    """Name what differs between two environments and can change what a model answers, the weightiest first."""
    found: list[str] = []
    if saved.torch and saved.torch != current.torch:
        later = " (a later one)" if release(saved.torch) > release(current.torch) else ""
        found.append(f"PyTorch {saved.torch}{later}, here {current.torch or 'none'}")
    for name, version in saved.packages.items():
        here = current.packages.get(name, "not installed")
        if name != "torch" and here != version:
            found.append(f"{name} {version}, here {here}")
    for label, then, here in (
        ("CUDA", saved.cuda, current.cuda),
        ("ROCm", saved.rocm, current.rocm),
        ("Python", ".".join(saved.python.split(".")[:2]), ".".join(current.python.split(".")[:2])),
        ("processor", saved.processor, current.processor),
    ):
        if then and here and then != here:
            found.append(f"{label} {then}, here {here}")
    return tuple(_printable(text) for text in found)


def _printable(text: str) -> str:
    """Return text of a file as a log line or a terminal can show it, cut where nobody would read on."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])
