"""How an image becomes what a model takes: a pipeline as data, in a fixed order, every default written out.

decode → resize → crop → pad → rescale → normalise → order of channels → layout → type. A step that is None is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from perdure.errors import CorruptError, InputError

VERSION = 1
MAX_SIDE = 65_500
"""The longest side that a step may ask for: the limit of JPEG."""
MAX_PIXELS = 178_956_970
"""The most pixels that a step may ask for: what Pillow takes for a decompression bomb, from twice that many on."""

_SMALLEST, _LARGEST = 1.1754944e-38, 3.4028234e38
"""Of normal numbers in float32."""

Mode = Literal["RGB", "RGBA", "L", "I;16"]
Filter = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Size = tuple[int, int]
"""Height and width in pixels."""


class Decode(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    max_pixels: int = MAX_PIXELS


class Resize(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A resize.

    Attributes:
        size: height and width. Where a side is kept in proportion: of `shorter`, the shorter side becomes this (both are
            given, and equal); of `longer`, the image fits into both; of `cover`, it covers both; of `exact`, it becomes
            just that.
        rule: which of these.
        filter: the filter, by Pillow's name.
        antialias: low-pass filter when shrinking. Pillow always does; False is what tensors once got.
        rounding: how the other side is rounded: `down` as torchvision and transformers, `nearest` (half to even) as timm.
        max_size: of `shorter`, the longer side is at most that; None for no limit.
    """

    size: Size
    rule: Literal["shorter", "longer", "cover", "exact"] = "exact"
    filter: Filter = "bilinear"
    antialias: bool = True
    rounding: Literal["down", "nearest"] = "down"
    max_size: int | None = None


class Crop(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A crop from the centre; what is smaller is padded first.

    Attributes:
        size: height and width.
        rounding: where half a pixel is left over: `nearest` (half to even) as torchvision and timm, `down` as transformers.
        fill: what is added around a smaller image, a value for all channels or one for each, 0 to 255 (65535 for `I;16`).
        odd: on which side of a smaller image the odd pixel is added: `after` it (below, to the right), as torchvision, timm
            and transformers do, or `before` it, as transformers' image processors that use Pillow do.
    """

    size: Size
    rounding: Literal["nearest", "down"] = "nearest"
    fill: int | tuple[int, ...] = 0
    odd: Literal["after", "before"] = "after"


class Pad(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A border around a smaller image; after `Resize(rule="longer")` that makes a letterbox.

    Attributes:
        size: height and width. A larger image is an error.
        position: `centre` (the odd pixel below and to the right), or `top left`: where the image lies.
        fill: the colour, a value for all channels or one for each, 0 to 255 (65535 for `I;16`).
    """

    size: Size
    position: Literal["centre", "top left"] = "centre"
    fill: int | tuple[int, ...] = 0


class PreprocessSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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


def in_file(content: Any, where: str) -> PreprocessSpec | None:
    """Read the pipeline that a file has beside its model; `where` names the file in messages.

    Returns:
        The pipeline. None where there is none, and for one of a later version, which keeps nobody from the model itself.

    Raises:
        CorruptError: it is no pipeline.
    """
    if content is None or _is_later(content):
        return None
    try:
        return from_plain(content, f"{where}, its preprocessing")
    except InputError as error:
        raise CorruptError(str(error)) from None


def _is_later(content: Any) -> bool:
    version = content.get("version") if isinstance(content, dict) else None
    return type(version) is int and version > VERSION


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
    for fault in _faults(spec):
        raise InputError(f"reading {where}: {fault}.")


def _faults(spec: PreprocessSpec) -> Iterator[str]:
    if spec.version < 1:
        yield f"`version` is {spec.version}; the first is 1"
    yield from _decoding_faults(spec)
    for name in ("resize", "crop", "pad"):
        step: Resize | Crop | Pad | None = getattr(spec, name)
        if step is not None:
            yield from _size_faults(f"{name}.size", step.size)
    yield from _step_faults(spec)
    yield from _number_faults(spec)
    if spec.channels == "BGR" and spec.decode.mode != "RGB":
        yield f"`channels` is BGR, and the pixels are {spec.decode.mode}; only RGB can be turned round"
    if spec.dtype == "uint8":
        if spec.decode.mode == "I;16":
            yield "`dtype` is uint8, and the pixels have 16 bits"
        if (spec.rescale, spec.offset, spec.mean, spec.std) != (1, 0, None, None):
            yield "`dtype` is uint8, which holds values as they are: `rescale` must be 1, `offset` 0, `mean` and `std` None"


def _decoding_faults(spec: PreprocessSpec) -> Iterator[str]:
    if spec.decode.max_pixels < 1:
        yield f"`decode.max_pixels` is {spec.decode.max_pixels}, not positive"
    background = spec.decode.background
    if background is not None:
        n_colours = 1 if spec.n_channels == 1 else 3
        if len(background) != n_colours:
            yield f"`decode.background` has {len(background)} values; of {spec.decode.mode} it has {n_colours}"
        yield from _level_faults("decode.background", background, 255)


def _size_faults(field: str, size: Size) -> Iterator[str]:
    for side in size:
        if not 1 <= side <= MAX_SIDE:
            yield f"`{field}` is {size}; a side is of 1 to {MAX_SIDE} pixels"
    if size[0] * size[1] > MAX_PIXELS:
        yield f"`{field}` is {size}, more than {MAX_PIXELS} pixels"


def _step_faults(spec: PreprocessSpec) -> Iterator[str]:
    most = 65535 if spec.decode.mode == "I;16" else 255
    if spec.resize is not None and spec.resize.rule == "shorter" and spec.resize.size[0] != spec.resize.size[1]:
        yield f"`resize.size` is {spec.resize.size}; by the rule `shorter` both are the same. There is the rule `cover`"
    if spec.resize is not None and spec.resize.max_size is not None:
        longest = spec.resize.max_size
        if spec.resize.rule != "shorter":
            yield f"`resize.max_size` goes with the rule `shorter`, not with `{spec.resize.rule}`"
        if not max(spec.resize.size) <= longest <= MAX_SIDE:
            yield f"`resize.max_size` is {longest}; it is from {max(spec.resize.size)} (the size) to {MAX_SIDE}"
    for name, step in (("crop", spec.crop), ("pad", spec.pad)):
        if step is not None:
            fill = step.fill if isinstance(step.fill, tuple) else (step.fill,)
            if len(fill) not in (1, spec.n_channels):
                yield f"`{name}.fill` has {len(fill)} values; {spec.decode.mode} has {spec.n_channels} channels"
            yield from _level_faults(f"{name}.fill", fill, most)
    if spec.pad and spec.crop and (spec.crop.size[0] > spec.pad.size[0] or spec.crop.size[1] > spec.pad.size[1]):
        yield f"`pad.size` is {spec.pad.size}, smaller than the crop of {spec.crop.size} before it"


def _level_faults(field: str, values: tuple[int, ...], most: int) -> Iterator[str]:
    for value in values:
        if not 0 <= value <= most:
            yield f"`{field}` has the value {value}; it is of 0 to {most}"


def _number_faults(spec: PreprocessSpec) -> Iterator[str]:
    for name, values in (
        ("rescale", (spec.rescale,)),
        ("offset", (spec.offset,)),
        ("mean", spec.mean or ()),
        ("std", spec.std or ()),
    ):
        for value in values:
            if not math.isfinite(value) or abs(value) > _LARGEST:
                yield f"`{name}` has the value {value}; it is finite in float32"
            if name in ("rescale", "std") and abs(value) < _SMALLEST:
                yield f"`{name}` has the value {value}, which is zero in float32"
    for name, values in (("mean", spec.mean), ("std", spec.std)):
        if values is not None and len(values) != spec.n_channels:
            yield f"`{name}` has {len(values)} values; {spec.decode.mode} has {spec.n_channels} channels"
