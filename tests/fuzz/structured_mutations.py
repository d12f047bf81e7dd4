"""Changes to archives and headers that keep their form, so that what lies within is reached."""

from __future__ import annotations

import dataclasses
import io
import json
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

from attacks.archiving import Part, archive
from fault.forging import sealed
from fuzz.mutations import BYTES, NUMBERS, Mutation, mutate
from fuzz.pickle_mutations import PICKLES

_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    1.5,
    "",
    "x",
    "F32",
    "I32",
    "F16",
    "BF16",
    "U8",
    "w",
    [],
    [0],
    [1, 1],
    {},
    *NUMBERS,
)


def change_json(random: random.Random, value: Any) -> Any:
    """Change one place of a value of JSON."""
    if not isinstance(value, dict | list) or not value or random.random() < 0.15:
        return random.choice(_VALUES)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = random.choice(keys)
    drawn = random.random()
    if drawn < 0.6:
        changed = change_json(random, value[key])
    elif drawn < 0.75:
        changed = value[random.choice(keys)]
    else:
        return _without_or_more(random, value, key)
    return {**value, key: changed} if isinstance(value, dict) else [*value[:key], changed, *value[key + 1 :]]


def _without_or_more(random: random.Random, value: Any, key: Any) -> Any:
    more = random.random() < 0.5
    if isinstance(value, dict):
        if random.random() < 0.3:  # another name for the same
            return {(f"{other}.x" if other == key else other): inner for other, inner in value.items()}
        if more:
            return {**value, random.choice(("x", "weight", "dtype", "perdure", "")): value[key]}
        return {other: inner for other, inner in value.items() if other != key}
    return [*value[:key], *([value[key]] * 2 if more else []), *value[key + 1 :]]


def change_header(random: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    """Change the JSON header of a safetensors file, and leave its length right."""
    (length,) = struct.unpack("<Q", content[:8]) if len(content) >= 8 else (0,)
    try:
        header = json.loads(content[8 : 8 + length])
    except ValueError:
        return content
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if isinstance(metadata, dict) and isinstance(metadata.get("perdure"), str) and random.random() < 0.7:
        try:
            metadata["perdure"] = json.dumps(change_json(random, json.loads(metadata["perdure"])))
        except ValueError:
            return content
    else:
        header = change_json(random, header)
    data = content[8 + length :]
    kept = header.get("__metadata__") if isinstance(header, dict) else None
    if isinstance(kept, dict) and isinstance(metadata, dict) and "perdure.digest" in metadata and random.random() < 0.9:
        return sealed(header, data)
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def change_data(random: random.Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    """Change what follows the header of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8]) if len(content) >= 8 else (0,)
    head, data = content[: 8 + length], content[8 + length :]
    return head + mutate(random, data, [data or b"x"], BYTES[:8])


def change_text(random: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    """Change a file that is JSON."""
    try:
        return json.dumps(change_json(random, json.loads(content))).encode()
    except ValueError:
        return content


def change_archive(random: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    """Write a zip archive anew, with a member or an entry that is not what it was."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as made:
            parts = [
                Part(info.filename, made.read(info), info.compress_type if info.compress_type in (0, 8) else 0)
                for info in made.infolist()
                if info.file_size < 2**20
            ]
    except Exception:  # the content is a mutant, and zipfile says it in many ways
        return content
    if not parts:
        return content
    part = random.choice(parts)
    drawn = random.randrange(12)
    if drawn < 6:
        part.content = _change_member(random, part)
    elif drawn == 6:
        field, value = random.choice(
            (("flags", 1 << random.randrange(16)), ("crc", random.choice(NUMBERS) & 0xFFFFFFFF), ("method", random.choice((0, 8, 14))),
             ("n_bytes", random.choice(NUMBERS) & 0xFFFFFFFF), ("local_name", part.name[:-1]), ("local_flags", 8),
             ("offset", random.randrange(len(content))), ("attributes", random.choice(NUMBERS) & 0xFFFFFFFF),
             ("extra", random.randbytes(random.randrange(12))), ("padding", b"x"), ("listed", False), ("comment", b"PK\5\6"))
        )  # fmt: skip
        setattr(part, field, value)
    elif drawn == 7:
        part.name = random.choice(
            (random.choice(parts).name, part.name + "x", part.name.upper(), "../" + part.name, "data.pkl")
        )
    elif drawn == 8:
        parts.remove(part)
    elif drawn == 9:
        parts.append(dataclasses.replace(random.choice(parts), name=random.choice(("x", part.name, "archive/data/9"))))
    elif drawn == 10:
        random.shuffle(parts)
    else:
        part.method = 8 - part.method if part.method in (0, 8) else 0
    return _written(parts, content)


def _change_member(random: random.Random, part: Part) -> bytes:
    return mutate(random, part.content, [part.content or b"\0"], PICKLES if part.name.endswith(".pkl") else BYTES)


def _written(parts: list[Part], content: bytes) -> bytes:
    try:
        return archive(parts)
    except (struct.error, OverflowError):
        return content


def change_tar(random: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    """Write a tar archive anew, with a member that is not what it was."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as made:
            members = {info.name: file.read() for info in made if (file := made.extractfile(info))}
    except Exception:  # the content is a mutant, and tarfile says it in many ways
        return content
    if not members:
        return content
    changed = random.choice(list(members))
    members[changed] = mutate(random, members[changed], [members[changed] or b"\0"], PICKLES)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        for name, member in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(member)
            made.addfile(info, io.BytesIO(member))
    return file.getvalue()


def _often(structured: Callable[..., bytes], times: int = 20) -> tuple[Mutation, ...]:
    return (*BYTES, *(structured,) * times)


ARCHIVES = _often(change_archive)
HEADERS = (*_often(change_header), change_data, change_data)
TARS = _often(change_tar)
TEXTS = _often(change_text)
