"""How an image becomes what a model takes: a pipeline as data, in a fixed order, every default written out.

decode → resize → crop → pad → rescale → normalise → order of channels → layout → type. A step that is None is left out.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from perdure.errors import InputError

VERSION = 1
MAX_SIDE = 65_500
"""The longest side that a step may ask for: the limit of JPEG."""

Mode = Literal["RGB", "RGBA", "L", "I;16"]
Filter = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Size = tuple[int, int]
"""Height and width in pixels."""


class Decode(msgspec.Struct, frozen=True, kw_only=True):
    """What a file becomes before anything else.

    Attributes:
        mode: Pillow's name of the pixels: `RGB`, `RGBA`, `L` (grey, ITU-R 601-2 luma), `I;16` (grey, 16 bits).
        orientation: turn the image as its EXIF orientation says.
        background: a colour of 0 to 255 for each channel that transparent pixels are laid on; None drops the alpha channel,
            as Pillow's `convert` does.
        max_pixels: an image of more is refused before it is decoded.
    """

    mode: Mode = "RGB"
    orientation: bool = True
    background: tuple[int, ...] | None = None
    max_pixels: int = 178_956_970


class Resize(msgspec.Struct, frozen=True, kw_only=True):
    """A resize.

    Attributes:
        size: height and width. Where a side is kept in proportion: of `shorter`, the shorter side becomes the first; of
            `longer`, the image fits into both; of `exact`, it becomes just that.
        rule: which of these.
        filter: the filter, by Pillow's name.
        antialias: low-pass filter when shrinking. Pillow always does; False is what tensors once got.
        rounding: how the other side is rounded: `down` as torchvision and transformers, `nearest` (half to even) as timm.
        max_size: of `shorter`, the longer side is at most that; None for no limit.
    """

    size: Size
    rule: Literal["shorter", "longer", "exact"] = "exact"
    filter: Filter = "bilinear"
    antialias: bool = True
    rounding: Literal["down", "nearest"] = "down"
    max_size: int | None = None


class Crop(msgspec.Struct, frozen=True, kw_only=True):
    """A crop from the centre; what is smaller is padded first.

    Attributes:
        size: height and width.
        rounding: where half a pixel is left over: `nearest` (half to even) as torchvision and timm, `down` as transformers.
        fill: what is added around a smaller image, 0 to 255 (65535 for `I;16`).
    """

    size: Size
    rounding: Literal["nearest", "down"] = "nearest"
    fill: int = 0


class Pad(msgspec.Struct, frozen=True, kw_only=True):
    """A border around a smaller image; after `Resize(rule="longer")` that makes a letterbox.

    Attributes:
        size: height and width. A larger image is an error.
        position: `centre` (the odd pixel below and to the right), or `top left`: where the image lies.
        fill: the colour, a value for all channels or one for each, 0 to 255 (65535 for `I;16`).
    """

    size: Size
    position: Literal["centre", "top left"] = "centre"
    fill: int | tuple[int, ...] = 0


class PreprocessSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The whole pipeline.

    Attributes:
        version: of this record.
        decode: what a file becomes first.
        resize: None leaves sizes as they are.
        crop: None for none.
        pad: None for none.
        rescale: what each value is multiplied by.
        offset: what is added then.
        mean: what is then subtracted from each channel; None for nothing.
        std: what each channel is then divided by; None for one.
        channels: the order of the channels of an RGB image.
        layout: of the axes: channels first or last.
        dtype: the type of the tensor, by PyTorch's name. Integers are the values before `rescale`, which is 1 then.
    """

    version: int = VERSION
    decode: Decode = Decode()
    resize: Resize | None = None
    crop: Crop | None = None
    pad: Pad | None = None
    rescale: float = 1 / 255
    offset: float = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: Literal["RGB", "BGR"] = "RGB"
    layout: Literal["CHW", "HWC"] = "CHW"
    dtype: Literal["float32", "float16", "bfloat16", "float64", "uint8"] = "float32"

    @property
    def n_channels(self) -> int:
        """How many channels an image has."""
        return {"RGB": 3, "RGBA": 4, "L": 1, "I;16": 1}[self.decode.mode]


def to_plain(spec: PreprocessSpec) -> dict[str, Any]:
    """Return a pipeline as plain data, every default written out."""
    return msgspec.to_builtins(spec)


def from_plain(content: Any, where: str) -> PreprocessSpec:
    """Read a pipeline; `where` names it in messages.

    Raises:
        InputError: it is none, of a later version, or asks for what cannot be.
    """
    version = content.get("version") if isinstance(content, dict) else None
    if type(version) is int and version > VERSION:
        raise InputError(
            f"reading {where}: its preprocessing has version {version}; this perdure knows {VERSION}. Upgrade it."
        )
    try:
        spec = msgspec.convert(content, PreprocessSpec, strict=True)
    except (msgspec.ValidationError, TypeError, RecursionError) as error:
        raise InputError(f"reading {where}: it is no preprocessing ({str(error)[:200]}).") from None
    check(spec, where)
    return spec


def check(spec: PreprocessSpec, where: str) -> None:
    """See that a pipeline can be.

    Raises:
        InputError: it cannot; the message names the field.
    """
    raise NotImplementedError(spec, where)
