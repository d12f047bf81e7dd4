"""What a user says of a pipeline, in short, and the record that it stands for."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import torch

from perdure.errors import InputError
from perdure.records.preprocessing import Crop, Decode, Filter, Pad, PreprocessSpec, Resize, from_plain, to_plain

_WHERE = "a Preprocess"


def spec_of(
    *,
    resize: Any,
    crop: Any,
    pad: Any,
    crop_ratio: Any,
    filter: Filter,
    decode: Any,
    mean: Any,
    std: Any,
    dtype: str | torch.dtype,
    **plain: Any,
) -> PreprocessSpec:
    """Return the record that the arguments of `Preprocess` stand for.

    Raises:
        InputError: there can be none.
    """
    decoding = _plain_step("decode", decode, Decode) or {}
    cropping = _plain_step("crop", _square("crop", crop), Crop)
    if crop_ratio is not None:
        if resize is not None or cropping is None:
            raise _refused("`crop_ratio` makes the resize out of `crop`: give that, and no `resize`")
        resizing = _by_ratio(cropping, crop_ratio, filter)
    elif isinstance(resize, int):
        resizing = {"size": [resize, resize], "rule": "shorter", "filter": filter}
    else:
        resizing = _plain_step("resize", resize, Resize, filter=filter)
    n_channels = validated({"version": 1, "decode": decoding}).n_channels
    return validated(
        {
            "version": 1,
            "decode": decoding,
            "resize": resizing,
            "crop": cropping,
            "pad": _plain_step("pad", _square("pad", pad), Pad),
            "mean": _for_channels("mean", mean, n_channels),
            "std": _for_channels("std", std, n_channels),
            "dtype": str(dtype).removeprefix("torch."),
            **plain,
        }
    )


def validated(plain: dict[str, Any]) -> PreprocessSpec:
    """Return the record of plain data, checked.

    Raises:
        InputError: there can be no such pipeline.
    """
    return from_plain(plain, _WHERE)


def stated(spec: PreprocessSpec) -> dict[str, Any]:
    """Return the arguments that make a record, without those that are as they would be anyway."""
    usual = to_plain(PreprocessSpec())
    shown = {name: value for name, value in to_plain(spec).items() if value != usual[name] and name != "version"}
    for name, bare in (
        ("decode", Decode()),
        ("resize", Resize(size=(1, 1))),
        ("crop", Crop(size=(1, 1))),
        ("pad", Pad(size=(1, 1))),
    ):
        if isinstance(shown.get(name), dict):
            default = msgspec.to_builtins(bare)
            step = {key: value for key, value in shown[name].items() if key == "size" or value != default[key]}
            shown[name] = step["size"] if list(step) == ["size"] else step
    return shown


def _refused(fault: str) -> InputError:
    return InputError(f"making {_WHERE}: {fault}.")


def _square(name: str, value: Any) -> Any:
    if isinstance(value, bool):
        raise _refused(f"`{name}` is {value}")
    return [value, value] if isinstance(value, int) else value


def _plain_step(name: str, value: Any, kind: type[msgspec.Struct], **of_a_pair: Any) -> dict[str, Any] | None:
    """Return a step as plain data: from its record, from such data, or from a pair that is its size."""
    if value is None:
        return None
    if isinstance(value, (tuple, list)):
        return {"size": value, **of_a_pair}
    if isinstance(value, kind):
        return msgspec.to_builtins(value)
    if isinstance(value, dict):
        return value
    raise _refused(
        f"`{name}` is of type {type(value).__name__}; give numbers of pixels, a {kind.__name__} or its plain data"
    )


def _by_ratio(cropping: dict[str, Any], ratio: float, filter: Filter) -> dict[str, Any]:
    """Return the resize before a crop: its sides divided by a ratio, rounded down, as timm has it."""
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio <= 1:
        raise _refused(f"`crop_ratio` is {ratio!r}; it is above 0, and at most 1")
    crop = validated({"version": 1, "crop": cropping}).crop
    assert crop is not None
    height, width = crop.size
    size = [math.floor(height / ratio), math.floor(width / ratio)]
    if size[0] == size[1]:
        return {"size": size, "rule": "shorter", "filter": filter}
    return {"size": size, "rule": "cover", "filter": filter, "rounding": "nearest"}


def _for_channels(name: str, value: Any, n_channels: int) -> list[float] | None:
    if value is None:
        return None
    try:
        values = [float(one) for one in value] if hasattr(value, "__iter__") else [float(value)]
    except (TypeError, ValueError, RuntimeError):
        raise _refused(f"`{name}` is no number and no sequence of numbers") from None
    return values * n_channels if len(values) == 1 else values
