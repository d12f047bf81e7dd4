"""The words of an image processor of transformers: where they come from, what silence means, and what they say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from perdure.disk.sources import open_source
from perdure.errors import FormatError, LimitError, MissingFileError
from perdure.images.peers import timm
from perdure.images.peers.processors import PROCESSORS, Processor
from perdure.images.peers.wording import filtered, numbers, refuse, sized
from perdure.records.preprocessing import Filter, Size

PEER = "transformers"
_FILES = ("processor_config.json", "preprocessor_config.json")
_MAX_BYTES = 16 * 2**20
_SIDES = frozenset(
    ["height", "width", "shortest_edge", "longest_edge", "max_height", "max_width", "min_pixels", "max_pixels"]
)
_TYPES = ("image_processor_type", "feature_extractor_type")
_STEP_WORDS = """
    do_resize size resample do_center_crop crop_size do_rescale rescale_factor do_normalize image_mean
    image_std do_convert_rgb do_pad pad_size default_to_square
"""
STEPS = frozenset(_STEP_WORDS.split())
_OTHER_WORDS = """
    image_processor_type feature_extractor_type processor_class return_tensors device disable_grouping
    input_data_format image_seq_length do_reduce_labels reduce_labels model_input_names backend
    transformers_version _processor_class _valid_processor_keys _valid_kwargs_names
"""
NO_STEPS = frozenset(_OTHER_WORDS.split())
"""Words that say nothing of what becomes of an image."""


def is_of_a_processor(config: Mapping[Any, Any]) -> bool:
    """Whether a configuration is one of an image processor, also of one that is kept with a tokenizer."""
    return any(word in config for word in (*_TYPES, "image_processor", "do_resize", "do_normalize", "do_rescale"))


def load(path: Path) -> Any:
    """Return what a configuration holds, or that of the first file of a folder that has one."""
    if path.is_dir():
        for name in (*_FILES, "config.json"):
            content = load(path / name) if (path / name).is_file() else {}
            if is_of_a_processor(content) or timm.is_ours(content):
                return content.get("image_processor", content)
        raise MissingFileError(
            f"reading {path}: it has no {_FILES[1]} that names an image processor, and no config.json of timm's. Give the "
            "folder that the processor was saved to."
        )
    source = open_source(path)
    try:
        if source.n_bytes > _MAX_BYTES:
            raise LimitError(
                f"reading {path}: it has {source.n_bytes} bytes; a configuration has at most {_MAX_BYTES}."
            )
        content = msgspec.json.decode(source.read(0, source.n_bytes))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise FormatError(f"reading {path}: it is no JSON ({error}). Give a {_FILES[1]}.") from None
    finally:
        source.close()
    if not isinstance(content, dict):
        raise FormatError(f"reading {path}: it holds a {type(content).__name__}, no configuration. Give a {_FILES[1]}.")
    return content.get("image_processor", content)


def named(value: Any) -> tuple[str, dict[str, Any]]:
    """Return the name of a processor's class and its words, with the defaults of its class where it is silent."""
    if not isinstance(value, Mapping):
        return _named_object(value)
    name = value.get("image_processor_type") or value.get("feature_extractor_type") or ""
    name = str(name).replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")
    defaults = PROCESSORS[name.removesuffix("Pil")].defaults if name.removesuffix("Pil") in PROCESSORS else {}
    return name, defaults | {word: given for word, given in value.items() if given is not None}


def _named_object(processor: Any) -> tuple[str, dict[str, Any]]:
    """Return the name and the words of a processor; before transformers 5, only the name said whether it used Pillow."""
    name = type(processor).__name__
    if not type(processor).__module__.startswith("transformers."):
        refuse(
            PEER, "the processor", type(processor), "expected one of transformers' own classes, or its configuration"
        )
    uses_pillow = getattr(processor, "backend", "torchvision" if name.endswith("Fast") else "pil") == "pil"
    name = name.removesuffix("Fast").removesuffix("Pil") + ("Pil" if uses_pillow else "")
    own = PROCESSORS[name.removesuffix("Pil")].own if name.removesuffix("Pil") in PROCESSORS else {}
    words = {word: getattr(processor, word) for word in (*STEPS, *own) if hasattr(processor, word)}
    return name, vars(processor) | words


def see_that_it_is_known(name: str, word: str, given: Any, processor: Processor) -> None:
    """See that a word is of the class, and has a value that the record can carry over."""
    if word in processor.own:
        needed = processor.own[word]
        if needed is not None and (given or False) != needed:
            refuse(
                PEER, word, given, f"the record has no word for it; it can be carried over where {word} is {needed!r}"
            )
    elif word == "data_format":
        if getattr(given, "value", given) not in (None, "channels_first"):
            refuse(PEER, word, given, "the channels come first")
    elif given is not None and given is not False:
        refuse(PEER, word, given, f"{name} has no such word")


def size_of(name: str, words: dict[str, Any]) -> dict[str, int]:
    """Return a size as a dict, as transformers makes one of a number or a pair."""
    value = words.get(name)
    if hasattr(value, "shortest_edge"):
        value = {word: getattr(value, word, None) for word in _SIDES}
    if isinstance(value, Mapping):
        size = {word: side for word, side in value.items() if side is not None}
        if not set(size) <= set(_SIDES) or not all(isinstance(side, int) for side in size.values()):
            refuse(PEER, name, value, f"expected whole numbers for {', '.join(_SIDES)}")
        return size
    if isinstance(value, int) and name == "size" and not words.get("default_to_square", True):
        return {"shortest_edge": value}
    height, width = sized(PEER, name, value)
    return {"height": height, "width": width}


def square_of(name: str, words: dict[str, Any]) -> Size:
    """Return a size that has both sides."""
    size = size_of(name, words)
    if set(size) != {"height", "width"}:
        refuse(PEER, name, words.get(name), "expected height and width")
    return size["height"], size["width"]


def filter_of(words: dict[str, Any]) -> Filter:
    """Return the filter of Pillow's number, or of torchvision's name; transformers takes none for bilinear."""
    value = words.get("resample")
    value = "bilinear" if value is None else getattr(value, "value", value)
    return filtered(PEER, "resample", "nearest" if value == "nearest-exact" else value)


def number_of(name: str, words: dict[str, Any]) -> float:
    """Return a word that is a number other than 0."""
    value = words.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or value == 0:
        refuse(PEER, name, value, "expected a number")
    return float(value)


def numbers_of(name: str, words: dict[str, Any]) -> tuple[float, ...]:
    """Return a word that is a number for each channel."""
    return numbers(PEER, name, words.get(name), 3)
