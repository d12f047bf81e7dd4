"""Image processors of transformers, and the `preprocessor_config.json` that they are kept in, read and written.

Read as transformers 5 runs them: with `do_convert_rgb` what is transparent is laid on white, and images smaller than a crop
are padded with zeros. Images are resized with Pillow's arithmetic, as its processors that use Pillow do; those that use
torchvision come within one of the 255 levels of it. Labels of segmentation are no part of a pipeline.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from perdure.disk.sources import usable_path
from perdure.images.peers import timm
from perdure.images.peers.processors import PROCESSORS
from perdure.images.peers.transformers_words import (
    NO_STEPS,
    PEER,
    STEPS,
    filter_of,
    is_of_a_processor,
    load,
    named,
    number_of,
    numbers_of,
    see_that_it_is_known,
    size_of,
    square_of,
)
from perdure.images.peers.wording import PILLOW_FILTERS, keep_to, keep_to_decoding, refuse, whole
from perdure.records.preprocessing import Crop, Decode, Filter, Pad, PreprocessSpec, Resize, Size

_WHITE = (255, 255, 255)


def read(value: Any) -> PreprocessSpec:
    """Return the pipeline of an image processor, of its `to_dict()`, or of the file or folder that it was saved to.

    Raises:
        InputError: a step that cannot be carried over, or a class of processors that the record has no words for; the
            message names it.
        FileError: the file is no configuration.
    """
    value = getattr(value, "image_processor", value)
    if isinstance(value, str | os.PathLike):
        value = load(usable_path(value))
    if timm.is_ours(value):
        return timm.read(value)
    name, words = named(value)
    processor = PROCESSORS.get(name.removesuffix("Pil"))
    if processor is None:
        why = "it does what the record has no words for" if name else "without it nothing says what is done to an image"
        refuse(PEER, "image_processor_type", name or None, f"{why}; known are {', '.join(PROCESSORS)}")
    for word, given in words.items():
        if word not in STEPS and word not in NO_STEPS:
            see_that_it_is_known(name, word, given, processor)
    return _read_words(name, {word: None if word in processor.without else given for word, given in words.items()})


def is_ours(value: Any) -> bool:
    """Whether a value is something that `read` would look at."""
    if isinstance(value, Mapping):
        return is_of_a_processor(value)
    of_transformers = any(base.__module__.startswith("transformers.") for base in type(value).__mro__)
    return isinstance(value, str | os.PathLike) or of_transformers


def write(spec: PreprocessSpec) -> dict[str, Any]:
    """Return a `preprocessor_config.json` as a dict; its class is one that does the same, whatever the model is.

    Raises:
        InputError: it cannot be expressed; the message names the field.
    """
    backgrounds = (None, _WHITE)
    keep_to_decoding(PEER, spec.decode, [Decode(orientation=False, background=colour) for colour in backgrounds])
    keep_to(PEER, _fixed(spec))
    words: dict[str, Any] = {
        "image_processor_type": _type(spec),
        "do_convert_rgb": spec.decode.background is not None,
        "do_resize": spec.resize is not None,
        "do_center_crop": spec.crop is not None,
        "do_rescale": spec.dtype == "float32",
        "do_normalize": spec.mean is not None,
    }
    if spec.resize is not None:
        words |= {"size": _size_words(spec.resize), "resample": PILLOW_FILTERS.index(spec.resize.filter)}
    if spec.crop is not None:
        words["crop_size"] = _sides(spec.crop.size)
    if spec.pad is not None:
        words |= {"do_pad": True, "pad_size": _sides(spec.pad.size)}
    if spec.dtype == "float32":
        words["rescale_factor"] = spec.rescale
    if spec.mean is not None and spec.std is not None:
        words |= {"image_mean": list(spec.mean), "image_std": list(spec.std)}
    if spec.offset:
        words |= {"rescale_offset": True, "include_top": False}
    if spec.channels == "BGR":
        words["do_flip_channel_order"] = True
    return words


def _read_words(name: str, words: dict[str, Any]) -> PreprocessSpec:
    resize, crop = _arranged(name.removesuffix("Pil"), words)
    if crop is not None and name.endswith("Pil") and not _covers(resize, crop):
        crop = msgspec.structs.replace(crop, odd="before")
    fields: dict[str, Any] = {"resize": resize, "crop": crop, "pad": _pad(words)}
    fields["rescale"] = number_of("rescale_factor", words) if words.get("do_rescale") else 1.0
    fields["offset"] = -1.0 if words.get("do_rescale") and words.get("rescale_offset") else 0.0
    if words.get("do_normalize"):
        fields |= {"mean": numbers_of("image_mean", words), "std": numbers_of("image_std", words)}
    if words.get("include_top"):  # EfficientNet divides by the standard deviation once more
        once = numbers_of("image_std", words)
        twice = tuple(value * value for value in once)
        fields |= {"mean": fields.get("mean", (0.0,) * len(once)), "std": twice if "std" in fields else once}
    if not words.get("do_rescale") and "std" not in fields:
        fields["dtype"] = "uint8"
    if words.get("do_flip_channel_order") or name.startswith("LayoutLMv2"):
        fields["channels"] = "BGR"
    decode = Decode(orientation=False, background=_WHITE if words.get("do_convert_rgb") else None)
    return whole(PEER, PreprocessSpec(decode=decode, **fields))


def _arranged(name: str, words: dict[str, Any]) -> tuple[Resize | None, Crop | None]:
    """Return the resize and the crop; some classes take the share of an image that is cropped into account."""
    crop = Crop(size=square_of("crop_size", words), rounding="down") if words.get("do_center_crop") else None
    if not words.get("do_resize"):
        return None, crop
    size = size_of("size", words)
    chosen = filter_of(words)
    shorter = size.get("shortest_edge")
    if name == "ConvNextImageProcessor":
        if shorter is None:
            refuse(PEER, "size", size, f"{name} needs its shortest_edge")
        return _of_convnext(shorter, words, chosen, crop)
    if name == "LevitImageProcessor" and shorter is not None:
        size = {"shortest_edge": int((256 / 224) * shorter)}
    if name == "PoolFormerImageProcessor" and words.get("crop_pct") is not None:
        size = _of_poolformer(size, number_of("crop_pct", words))
    return _resize(size, chosen), crop


def _of_convnext(shorter: int, words: dict[str, Any], chosen: Filter, crop: Crop | None) -> tuple[Resize, Crop | None]:
    """ConvNeXT crops below 384 pixels, and distorts from there on."""
    square = (shorter, shorter)
    if shorter >= 384:
        return Resize(size=square, filter=chosen), crop
    if crop is not None:
        refuse(PEER, "do_center_crop", True, "ConvNextImageProcessor crops by crop_pct already")
    scaled = int(shorter / number_of("crop_pct", words))
    return Resize(size=(scaled, scaled), rule="shorter", filter=chosen), Crop(size=square, rounding="down")


def _of_poolformer(size: dict[str, int], share: float) -> dict[str, int]:
    """PoolFormer scales the shorter side, or both, by the share that is cropped."""
    sides = [int(side / share) for side in size.values()]
    if set(size) not in ({"shortest_edge"}, {"height", "width"}):
        refuse(PEER, "size", size, "expected shortest_edge, or height and width")
    return {"shortest_edge": sides[0]} if len(set(sides)) == 1 else dict(zip(size, sides, strict=True))


def _resize(size: dict[str, int], chosen: Filter) -> Resize:
    if set(size) == {"shortest_edge"}:
        return Resize(size=(size["shortest_edge"], size["shortest_edge"]), rule="shorter", filter=chosen)
    if set(size) == {"height", "width"}:
        return Resize(size=(size["height"], size["width"]), filter=chosen)
    refuse(PEER, "size", size, "its rounding is that of no rule here; expected shortest_edge, or height and width")


def _pad(words: dict[str, Any]) -> Pad | None:
    if not words.get("do_pad"):
        return None
    if words.get("pad_size") is None:
        refuse(PEER, "do_pad", True, "it pads each batch to its largest image; here a pad has a size")
    if words.get("do_normalize"):
        refuse(PEER, "do_pad", True, "it pads with zeros after normalising; here a pad comes before")
    return Pad(size=square_of("pad_size", words), position="top left")


def _covers(resize: Resize | None, crop: Crop) -> bool:
    """Whether every image is at least as large as its crop, so that none is padded."""
    return resize is not None and all(full >= side for full, side in zip(resize.size, crop.size, strict=True))


def _fixed(spec: PreprocessSpec) -> Iterator[tuple[str, object, object]]:
    """Go over the fields in which transformers has no choice: name, value, the one that it has."""
    if spec.dtype != "uint8":
        yield "dtype", spec.dtype, "float32"
    yield "layout", spec.layout, "CHW"
    yield "mean and std", (spec.mean is None, spec.std is None), (spec.mean is None, spec.mean is None)
    if spec.resize is not None:
        size = spec.resize.size if spec.resize.rule == "exact" else (spec.resize.size[0], spec.resize.size[0])
        rule = "exact" if spec.resize.rule == "exact" else "shorter"
        yield "resize", spec.resize, Resize(size=size, rule=rule, filter=spec.resize.filter)
    if spec.crop is not None:
        odd = "after" if _covers(spec.resize, spec.crop) else spec.crop.odd
        yield "crop", spec.crop, Crop(size=spec.crop.size, rounding="down", odd=odd)
    if spec.pad is not None:
        yield "pad", spec.pad, Pad(size=spec.pad.size, position="top left")
        yield "mean, after a pad,", spec.mean, None
    if spec.offset:
        yield "offset", spec.offset, -1.0
        yield "pad, with an offset,", spec.pad, None
    if spec.channels == "BGR":
        yield "mean, where channels are BGR,", spec.mean, None
        yield "pad, where channels are BGR,", spec.pad, None
        yield "offset, where channels are BGR,", spec.offset, 0.0


def _type(spec: PreprocessSpec) -> str:
    """Return the class that does all this; it is Pillow's where that adds the odd pixel before an image."""
    name = "MobileViT" if spec.channels == "BGR" else "EfficientNet" if spec.offset else "ViT"
    is_before = spec.crop is not None and spec.crop.odd == "before"
    return f"{name}ImageProcessor{'Pil' if is_before else ''}"


def _size_words(resize: Resize) -> dict[str, int]:
    return _sides(resize.size) if resize.rule == "exact" else {"shortest_edge": resize.size[0]}


def _sides(size: Size) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}
