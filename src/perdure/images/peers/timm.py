"""The configuration of timm's pretrained models, read and written: what `timm.data.create_transform` makes of it.

timm is given decoded images in the mode that `input_size` speaks of, and does not turn them by their EXIF orientation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from perdure.errors import InputError
from perdure.images.peers.wording import MODES, filtered, keep_to, keep_to_decoding, numbers, refuse, sized, whole
from perdure.records.preprocessing import Crop, Decode, Filter, PreprocessSpec, Resize, Size

_PEER = "timm"
_DEFAULTS: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 0.875,
    "crop_mode": "center",
}
_TEST_WORDS = {"input_size": "test_input_size", "crop_pct": "test_crop_pct"}
_MODEL_WORDS = """
    url file state_dict hf_hub hf_hub_id hf_hub_repo hf_hub_filename hf_hub_model_args source architecture
    tag custom_load test_input_size test_crop_pct min_input_size fixed_input_size num_classes num_features
    global_pool label_offset label_names label_descriptions pool_size test_pool_size first_conv classifier
    license description origin_url paper_name paper_ids notes model_args features_only head_dist
    image_processor_type
"""
_OF_THE_MODEL = frozenset(_MODEL_WORDS.split())
"""Words that say where the weights are and how the model is built."""


def read(value: Any, *, use_test_size: bool = False) -> PreprocessSpec:
    """Return the pipeline of a `pretrained_cfg`, of a model that has one, or of a resolved configuration of data.

    Args:
        value: a dict, a `PretrainedCfg` or a model.
        use_test_size: take `test_input_size` and `test_crop_pct` where there are, as timm's argument of this name does.

    Raises:
        InputError: a word that cannot be carried over; the message names it.
    """
    config = _config(value)
    for name, given in config.items():
        if name not in _DEFAULTS and name not in _OF_THE_MODEL and given is not None and given is not False:
            refuse(_PEER, name, given, "there is no word for it")
    words = {name: config.get(name) or default for name, default in _DEFAULTS.items()}
    if use_test_size:
        words |= {name: config[test] for name, test in _TEST_WORDS.items() if config.get(test)}
    mean, std = (numbers(_PEER, word, words[word], 1) for word in ("mean", "std"))
    mode, size = _input(words["input_size"])
    resize, crop = _arranged(size, words, tuple(round(255 * value) for value in mean))
    decode = Decode(mode=mode, orientation=False)
    return whole(_PEER, PreprocessSpec(decode=decode, resize=resize, crop=crop, mean=mean, std=std))


def is_ours(value: Any) -> bool:
    """Whether a value is something that `read` would look at."""
    if isinstance(value, Mapping):
        return "pretrained_cfg" in value or ("input_size" in value and "version" not in value)
    return type(value).__name__ == "PretrainedCfg" or hasattr(value, "pretrained_cfg")


def write(spec: PreprocessSpec) -> dict[str, Any]:
    """Return the words of a `pretrained_cfg` with which `timm.data.create_transform` does the same.

    Raises:
        InputError: it cannot be expressed; the message names the field.
    """
    keep_to_decoding(_PEER, spec.decode, [Decode(mode=mode, orientation=False) for mode in ("RGB", "L")])
    if spec.resize is None or spec.crop is None or spec.mean is None or spec.std is None:
        missing = next(name for name in ("resize", "crop", "mean", "std") if getattr(spec, name) is None)
        raise InputError(f"writing preprocessing for timm: {missing} is None, and timm has no word for leaving it out.")
    resize, crop = spec.resize, spec.crop
    plain = PreprocessSpec(decode=spec.decode, resize=resize, crop=crop, mean=spec.mean, std=spec.std)
    keep_to(_PEER, ((name, getattr(spec, name), getattr(plain, name)) for name in spec.__struct_fields__))
    words = {
        "input_size": (spec.n_channels, *crop.size),
        "interpolation": resize.filter,
        "mean": spec.mean,
        "std": spec.std,
        "crop_pct": _crop_share(crop.size, resize.size),
        "crop_mode": {"exact": "squash", "longer": "border"}.get(resize.rule, "center"),
    }
    found = read(words)
    for step in ("resize", "crop"):
        theirs, ours = getattr(found, step), getattr(spec, step)
        keep_to(
            _PEER, ((f"{step}.{name}", getattr(ours, name), getattr(theirs, name)) for name in ours.__struct_fields__)
        )
    return words


def _config(value: Any) -> Mapping[str, Any]:
    """Return the configuration itself, as a mapping."""
    if hasattr(value, "pretrained_cfg"):
        value = value.pretrained_cfg
    if isinstance(value, Mapping) and isinstance(value.get("pretrained_cfg"), Mapping):
        value = value["pretrained_cfg"]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = vars(value)
    if not isinstance(value, Mapping):
        raise InputError(f"reading preprocessing of timm: expected a pretrained_cfg, found a {type(value).__name__}.")
    return value


def _input(size: Any) -> tuple[Any, Size]:
    """Return the mode and the size of `input_size`, which has the channels first."""
    if not isinstance(size, list | tuple) or len(size) != 3 or size[0] not in MODES:
        refuse(_PEER, "input_size", size, "expected channels (1, 3 or 4), height and width")
    return MODES[size[0]], sized(_PEER, "input_size", size[1:])


def _arranged(size: Size, words: Mapping[str, Any], colour: tuple[int, ...]) -> tuple[Resize, Crop]:
    """Return the resize and the crop that a mode of cropping stands for; `colour` is what is put around a small image."""
    chosen: Filter = filtered(_PEER, "interpolation", words["interpolation"])
    share = words["crop_pct"]
    if not isinstance(share, int | float) or not 0 < share < math.inf:
        refuse(_PEER, "crop_pct", share, "expected a share above 0")
    scaled = (math.floor(size[0] / share), math.floor(size[1] / share))
    match words["crop_mode"]:
        case "squash":
            return Resize(size=scaled, filter=chosen), Crop(size=size)
        case "border":
            return Resize(size=scaled, rule="longer", filter=chosen, rounding="nearest"), Crop(size=size, fill=colour)
        case "center" if scaled[0] == scaled[1]:
            return Resize(size=scaled, rule="shorter", filter=chosen), Crop(size=size)
        case "center":
            return Resize(size=scaled, rule="cover", filter=chosen, rounding="nearest"), Crop(size=size)
        case other:
            refuse(_PEER, "crop_mode", other, "expected center, squash or border")


def _crop_share(size: Size, scaled: Size) -> float:
    """Return the `crop_pct`, in the fewest digits, that scales the size of a crop to that of a resize."""
    highest = min(side / full for side, full in zip(size, scaled, strict=True))
    rounded = (math.floor(highest * 10**n_digits) / 10**n_digits for n_digits in range(1, 16))
    for share in (*rounded, highest, math.nextafter(highest, 0)):
        if share > 0 and all(math.floor(side / share) == full for side, full in zip(size, scaled, strict=True)):
            return share
    raise InputError(
        f"writing preprocessing for timm: resize.size is {scaled} and crop.size {size}, "
        "for which timm has no word: one crop_pct makes the first from the second on both sides."
    )
