"""The picture of a proof: an image whose way through the preprocessing is known, so that drift in it is seen.

It is kept as files of two kinds that hold nearly the same pixels. A PNG file decodes to the same pixels everywhere, so what
comes out otherwise was resized or normalised otherwise; where only the JPEG file comes out otherwise, it is its decoder.
"""

from __future__ import annotations

import base64
import dataclasses
import math
from typing import Literal

import msgspec

from perdure.errors import CorruptError
from perdure.records.proof import OutputLeaf, Proof

MAX_FILE_BYTES = 2**16
Kind = Literal["PNG", "JPEG"]


class PictureFile(msgspec.Struct, frozen=True):
    """The picture as a file, and what the preprocessing makes of it.

    Attributes:
        content: base64 of the file.
        pixels: the tensor that comes out, a batch of one.
    """

    content: str
    pixels: OutputLeaf


class Picture(msgspec.Struct, frozen=True, omit_defaults=True):
    """The picture of a proof, or why there is none.

    Attributes:
        missing: why there is no picture; empty where there is one.
        files: by the kind of file.
        libraries: the versions of what decoded, resized and normalised it.
        answer: what the model answers to the pixels of the PNG file, its only input, which has the name `pixels`; None
            where it was not asked.
    """

    missing: str = ""
    files: dict[Kind, PictureFile] = {}
    libraries: dict[str, str] = {}
    answer: Proof | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Picture)


def encode(picture: Picture) -> bytes:
    """Return the picture as JSON."""
    return _encoder.encode(picture)


def decode(content: bytes, where: str) -> Picture:
    """Read a picture; `where` names the file in messages.

    Raises:
        CorruptError: it is none.
    """
    try:
        found = _decoder.decode(content)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise CorruptError(f"reading {where}: its picture cannot be read ({str(error)[:200]}).") from None
    if any(len(file.content) > MAX_FILE_BYTES for file in found.files.values()):
        raise CorruptError(f"reading {where}: its picture is larger than any that a save writes.")
    return found


def pack_file(content: bytes) -> str:
    """Return the bytes of a file as text."""
    return base64.b64encode(content).decode()


def unpack_file(file: PictureFile, where: str) -> bytes:
    """Return the bytes of a file.

    Raises:
        CorruptError: the text is not base64.
    """
    try:
        return base64.b64decode(file.content, validate=True)
    except ValueError:
        raise CorruptError(f"reading {where}: the files of its picture cannot be read.") from None


@dataclasses.dataclass(frozen=True)
class PictureDrift:
    """A part of the preprocessing that gives other pixels than when the model was saved.

    Attributes:
        part: `"decoder"`: of JPEG files; or `"resize or normalise"`: what comes after decoding.
        difference: how far a value of the tensor is off, at most.
        tolerance: how far it may be.
        answer_difference: how far the model's answer is off then; None where that was not measured.
        saved_with: the versions of the libraries when it was saved, where they are not those here.
        here: those here.
    """

    part: str
    difference: float
    tolerance: float
    answer_difference: float | None = None
    saved_with: dict[str, str] = dataclasses.field(default_factory=dict)
    here: dict[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        what = {
            "decoder": "JPEG files are decoded otherwise than when the model was saved",
            "resize or normalise": "images are resized or normalised otherwise than when the model was saved",
        }[self.part]
        answers = "" if self.answer_difference is None else f", and the model's answers by {self.answer_difference:.3g}"
        versions = [f"{name} {then}, here {self.here.get(name) or 'none'}" for name, then in self.saved_with.items()]
        saved = f" Saved with {'; '.join(versions)}." if versions else ""
        if not math.isfinite(self.difference):
            return f"{what}: there is nothing to compare.{saved}"
        return f"{what}: values differ by up to {self.difference:.3g} ({self.tolerance:.3g} allowed){answers}.{saved}"
