"""Presets and transforms of torchvision, read and written.

torchvision is given decoded images and leaves their mode as it is; its models take RGB. It does not turn images by their
EXIF orientation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from perdure.errors import InputError
from perdure.images.peers.wording import MODES, filtered, keep_to, keep_to_decoding, numbers, refuse, sized, whole
from perdure.records.preprocessing import Crop, Decode, PreprocessSpec, Resize

_PEER = "torchvision"
_MODULES = ("torchvision.", "timm.data.transforms", "torch.nn.modules.")
_PRESETS = ("ImageClassification", "SemanticSegmentation", "ObjectDetection")
_FLOATS = ("float32", "float16", "bfloat16", "float64")


def read(value: Any) -> PreprocessSpec:
    """Return the pipeline of a preset, a member of a `Weights` enum, or a Compose of transforms, v1 or v2.

    A pipeline that normalises one channel is for grey images, one that normalises four for RGBA.

    Raises:
        InputError: a step that cannot be carried over; the message names it.
    """
    if any(base.__name__ == "WeightsEnum" for base in type(value).__mro__):
        value = value.transforms()
    name = _name(value)
    if name in _PRESETS:
        return _read_preset(value, name)
    steps = _Steps()
    for transform in _flat(value):
        steps.take(transform)
    return steps.spec()


def is_ours(value: Any) -> bool:
    """Whether a value is something that `read` would look at."""
    is_weights = any(base.__name__ == "WeightsEnum" for base in type(value).__mro__)
    return is_weights or type(value).__module__.startswith("torchvision.transforms")


def write(spec: PreprocessSpec) -> Any:
    """Return what does the same to PIL images: the preset `ImageClassification` where it fits, else a v2 `Compose`.

    Raises:
        InputError: it cannot be expressed; the message names the field. Or torchvision cannot be imported.
    """
    try:
        from torchvision.transforms import v2
        from torchvision.transforms._presets import ImageClassification
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"writing preprocessing for torchvision: it cannot be imported ({error}). Install it."
        ) from None
    keep_to_decoding(_PEER, spec.decode, [Decode(mode=mode, orientation=False) for mode in ("RGB", "L")])
    keep_to(_PEER, _fixed(spec))
    if _is_preset(spec):
        assert spec.resize is not None and spec.crop is not None and spec.mean is not None and spec.std is not None
        return ImageClassification(
            crop_size=spec.crop.size[0],
            resize_size=spec.resize.size[0],
            mean=spec.mean,
            std=spec.std,
            interpolation=_interpolation(spec.resize),
            antialias=spec.resize.antialias,
        )
    return v2.Compose(list(_transforms(spec)))


def _name(value: Any) -> str:
    """Return the name of a class of torchvision, or of timm's variant of one; of others their whole name."""
    kind = type(value)
    return kind.__name__ if kind.__module__.startswith(_MODULES) else f"{kind.__module__}.{kind.__qualname__}"


def _flat(value: Any) -> Iterator[Any]:
    """Go over the transforms of a pipeline, those of pipelines inside too."""
    name = _name(value)
    if name not in ("Compose", "Sequential"):
        yield value
        return
    for transform in value.transforms if name == "Compose" else value:
        yield from _flat(transform)


def _read_preset(preset: Any, name: str) -> PreprocessSpec:
    decode = Decode(orientation=False)
    if name == "ObjectDetection":
        return whole(_PEER, PreprocessSpec(decode=decode))
    resize = None
    if preset.resize_size is not None:
        resize = _resize(preset.resize_size, preset.interpolation, None, preset.antialias)
    crop = Crop(size=sized(_PEER, "crop_size", _unnested(preset.crop_size))) if name == "ImageClassification" else None
    mean, std = (numbers(_PEER, word, getattr(preset, word), 3) for word in ("mean", "std"))
    return whole(_PEER, PreprocessSpec(decode=decode, resize=resize, crop=crop, mean=mean, std=std))


def _unnested(size: Any) -> Any:
    """Return a preset's size without the list that it puts around it."""
    is_nested = isinstance(size, list | tuple) and len(size) == 1 and isinstance(size[0], list | tuple)
    return size[0] if is_nested else size


def _resize(size: Any, interpolation: Any, max_size: int | None, antialias: bool | None) -> Resize:
    """Return a resize from torchvision's words: one side is the shorter one, none is the longer one, two are both."""
    mode = getattr(interpolation, "value", interpolation)
    chosen = filtered(_PEER, "interpolation", "nearest" if mode == "nearest-exact" else mode)
    size = _unnested(size)
    if size is None:
        sides = sized(_PEER, "max_size", max_size)
        return Resize(size=sides, rule="longer", filter=chosen, antialias=bool(antialias))
    is_both = not isinstance(size, int) and len(size) == 2
    return Resize(
        size=sized(_PEER, "size", size),
        rule="exact" if is_both else "shorter",
        filter=chosen,
        antialias=bool(antialias),
        max_size=max_size,
    )


class _Steps:
    """Transforms that are taken one after another, in the order of the record."""

    _ORDER = ("mode", "resize", "crop", "float", "normalise", "type")

    def __init__(self) -> None:
        self._fields: dict[str, Any] = {"rescale": 1.0, "dtype": "uint8"}
        self._taken: dict[str, str] = {}
        self._is_tensor = False

    def take(self, transform: Any) -> None:
        """Take the next transform."""
        name = _name(transform)
        method = getattr(self, f"_take_{name}", None)
        if method is None:
            refuse(_PEER, "a step", transform, f"there is no word for {name}")
        method(transform)

    def spec(self) -> PreprocessSpec:
        """Return all steps as a pipeline."""
        if not self._is_tensor:
            raise InputError(
                "reading preprocessing of torchvision: it ends in an image, not in a tensor. Add ToTensor() to its steps."
            )
        mean = self._fields.get("mean", ())
        mode = self._fields.pop("mode", None) or MODES.get(len(mean), "RGB")
        return whole(_PEER, PreprocessSpec(decode=Decode(mode=mode, orientation=False), **self._fields))

    def _next(self, step: str, transform: Any) -> None:
        """Go on to a step of the record; the ones before it are over."""
        before = next((kept for kept in self._ORDER[self._ORDER.index(step) :] if kept in self._taken), None)
        if before is not None:
            refuse(_PEER, "a step", transform, f"it comes after {self._taken[before]}, and the order is fixed here")
        self._taken[step] = _name(transform)

    def _take_Identity(self, transform: Any) -> None:
        pass

    def _take_ToPureTensor(self, transform: Any) -> None:
        pass

    def _take_RGB(self, transform: Any) -> None:
        self._next("mode", transform)
        self._fields["mode"] = "RGB"

    def _take_Grayscale(self, transform: Any) -> None:
        self._next("mode", transform)
        if transform.num_output_channels != 1:
            refuse(_PEER, "num_output_channels", transform.num_output_channels, "a grey image has one channel here")
        self._fields["mode"] = "L"

    def _take_Resize(self, transform: Any) -> None:
        self._next("resize", transform)
        self._fields["resize"] = _resize(
            transform.size, transform.interpolation, transform.max_size, getattr(transform, "antialias", None)
        )

    def _take_CenterCrop(self, transform: Any) -> None:
        self._next("crop", transform)
        self._fields["crop"] = Crop(size=sized(_PEER, "size", transform.size))

    def _take_PILToTensor(self, transform: Any) -> None:
        self._is_tensor = True

    _take_ToImage = _take_MaybePILToTensor = _take_PILToTensor

    def _take_ToTensor(self, transform: Any) -> None:
        self._is_tensor = True
        self._become_floats(transform, scale=True)

    _take_MaybeToTensor = _take_ToTensor

    def _take_ConvertImageDtype(self, transform: Any) -> None:
        self._convert(transform, scale=True)

    def _take_ToDtype(self, transform: Any) -> None:
        self._convert(transform, scale=transform.scale)

    def _convert(self, transform: Any, *, scale: bool) -> None:
        dtype = str(transform.dtype).removeprefix("torch.")
        if not self._is_tensor:
            refuse(_PEER, "a step", transform, "it comes before there is a tensor, and does nothing to images")
        if "float" in self._taken:
            self._next("type", transform)
            if dtype not in _FLOATS:
                refuse(_PEER, "dtype", transform.dtype, f"expected one of {', '.join(_FLOATS)}")
            self._fields["dtype"] = dtype
        elif dtype == "float32":
            self._become_floats(transform, scale=scale)
        elif dtype != "uint8":
            refuse(_PEER, "dtype", transform.dtype, "numbers are float32 until the last step")

    def _become_floats(self, transform: Any, *, scale: bool) -> None:
        self._next("float", transform)
        self._fields |= {"dtype": "float32", "rescale": 1 / 255 if scale else 1.0}

    def _take_Normalize(self, transform: Any) -> None:
        self._next("normalise", transform)
        if "float" not in self._taken:
            refuse(_PEER, "a step", transform, "it comes before there are floating-point numbers")
        self._fields |= {word: numbers(_PEER, word, getattr(transform, word)) for word in ("mean", "std")}


def _fixed(spec: PreprocessSpec) -> Iterator[tuple[str, object, object]]:
    """Go over the fields in which torchvision has no choice: name, value, the one that it has."""
    yield from (("channels", spec.channels, "RGB"), ("layout", spec.layout, "CHW"), ("pad", spec.pad, None))
    yield "offset", spec.offset, 0.0
    if spec.rescale != 1:
        yield "rescale", spec.rescale, 1 / 255
    if spec.resize is not None:
        height = spec.resize.size[0]
        yield "resize.rounding", spec.resize.rounding, "down"
        if spec.resize.rule != "exact":
            yield "resize.size", spec.resize.size, (height, height)
    if spec.crop is not None:
        yield "crop", spec.crop, Crop(size=spec.crop.size)
    yield "mean and std", (spec.mean is None, spec.std is None), (spec.mean is None, spec.mean is None)


def _is_preset(spec: PreprocessSpec) -> bool:
    """Whether a pipeline is one that `ImageClassification` can say."""
    resize, crop = spec.resize, spec.crop
    if resize is None or crop is None or spec.mean is None:
        return False
    return (
        (spec.decode.mode, spec.dtype, spec.rescale) == ("RGB", "float32", 1 / 255)
        and (resize.rule, resize.max_size) == ("shorter", None)
        and crop.size[0] == crop.size[1]
    )


def _interpolation(resize: Resize) -> Any:
    """Return torchvision's name of a filter: its own `nearest` is Pillow's only for images, not for tensors."""
    from torchvision.transforms import InterpolationMode

    return InterpolationMode("nearest-exact" if resize.filter == "nearest" else resize.filter)


def _transforms(spec: PreprocessSpec) -> Iterator[Any]:
    import torch
    from torchvision.transforms import v2

    if spec.decode.mode == "L":
        yield v2.Grayscale(1)
    if spec.resize is not None:
        size = None if spec.resize.rule == "longer" else list(spec.resize.size)
        yield v2.Resize(
            size if spec.resize.rule != "shorter" else spec.resize.size[0],
            interpolation=_interpolation(spec.resize),
            max_size=spec.resize.size[0] if spec.resize.rule == "longer" else spec.resize.max_size,
            antialias=spec.resize.antialias,
        )
    if spec.crop is not None:
        yield v2.CenterCrop(spec.crop.size)
    yield v2.PILToTensor()
    if spec.dtype != "uint8":
        yield v2.ToDtype(torch.float32, scale=spec.rescale != 1)
    if spec.mean is not None and spec.std is not None:
        yield v2.Normalize(list(spec.mean), list(spec.std))
    if spec.dtype not in ("uint8", "float32"):
        yield v2.ToDtype(getattr(torch, spec.dtype))
