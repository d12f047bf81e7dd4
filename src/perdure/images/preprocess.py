"""`Preprocess`: images of any kind become one tensor, the same everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from perdure.errors import InputError
from perdure.images.arguments import spec_of, stated, validated
from perdure.images.batching import Batch, in_batches, one_batch
from perdure.images.peers import timm, torchvision, transformers
from perdure.images.tensor_pipeline import TensorPipeline
from perdure.records.preprocessing import Crop, Decode, Filter, Pad, PreprocessSpec, Resize, to_plain


class Preprocess:
    """A frozen pipeline; equal ones compare equal, and `repr` writes one that can be pasted. See `PreprocessSpec`."""

    __slots__ = ("spec",)
    spec: PreprocessSpec

    def __init__(
        self,
        *,
        resize: int | tuple[int, int] | Resize | dict[str, Any] | None = None,
        crop: int | tuple[int, int] | Crop | dict[str, Any] | None = None,
        pad: int | tuple[int, int] | Pad | dict[str, Any] | None = None,
        crop_ratio: float | None = None,
        filter: Filter = "bilinear",
        rescale: float = 1 / 255,
        offset: float = 0.0,
        mean: float | tuple[float, ...] | None = None,
        std: float | tuple[float, ...] | None = None,
        decode: Decode | dict[str, Any] | None = None,
        channels: str = "RGB",
        layout: str = "CHW",
        dtype: str | torch.dtype = "float32",
    ) -> None:
        """Make a pipeline; each step is a record or its plain data, or as said below.

        Args:
            resize: a number is what the shorter side becomes; a pair is height and width.
            crop: from the centre; a number is a square.
            pad: a number is a square.
            crop_ratio: in place of `resize`: the shorter side becomes that of `crop` divided by this, rounded down.
            filter: of a resize that is a number, a pair or a ratio.
            rescale: what each value of 0 to 255 (65535 of 16 bits) is multiplied by.
            offset: what is added then.
            mean: what is then subtracted; a number serves all channels.
            std: what is then divided by; a number serves all channels.
            decode: what a file becomes first; RGB unless it says otherwise.
            channels: `RGB` or `BGR`.
            layout: `CHW` or `HWC`.
            dtype: of the result: `float32`, `float16`, `bfloat16`, `float64` or `uint8`.

        Raises:
            InputError: there can be no such pipeline.
        """
        spec = spec_of(
            resize=resize,
            crop=crop,
            pad=pad,
            crop_ratio=crop_ratio,
            filter=filter,
            rescale=rescale,
            offset=offset,
            mean=mean,
            std=std,
            decode=decode,
            channels=channels,
            layout=layout,
            dtype=dtype,
        )
        object.__setattr__(self, "spec", spec)

    @classmethod
    def from_spec(cls, spec: PreprocessSpec) -> Preprocess:
        """Return what runs a record.

        Raises:
            InputError: the record asks for what cannot be.
        """
        made = cls.__new__(cls)
        object.__setattr__(made, "spec", validated(to_plain(spec)))
        return made

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a Preprocess is frozen; make another one to change {name!r}")

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def __eq__(self, other: object) -> bool:
        return self.spec == other.spec if isinstance(other, Preprocess) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.spec)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_spec, (self.spec,)

    def __repr__(self) -> str:
        return f"Preprocess({', '.join(f'{name}={value!r}' for name, value in stated(self.spec).items())})"

    def __call__(self, images: Any, *, input_layout: str | None = None, threads: int | None = None) -> torch.Tensor:
        """Return one batch.

        Args:
            images: a path, a folder, bytes, a binary file, a Pillow image, an array, a tensor, or a list of these in any
                mixture; a single one gives a batch of 1. Arrays are (H, W, C), tensors (C, H, W), or (H, W); with four axes,
                a batch. They are uint8, uint16 (of which the upper 8 bits are taken, but for a mode of 16), or floats of 0
                to 1. Tensors stay on their device.
            input_layout: `CHW` or `HWC`, of arrays and tensors that have another order of axes.
            threads: how many work at once; None for as many as there are processors.

        Returns:
            (n, C, H, W), or (n, H, W, C) if the pipeline says so, in the order of the images.

        Raises:
            ImageError: a bad image; the message names it.
            InputError: what is no image, none at all, or images of different sizes.
            StorageError: the system refused to read a file.
        """
        return one_batch(images, self.spec, input_layout, threads)

    def batches(
        self,
        images: Any,
        *,
        batch_size: int = 32,
        input_layout: str | None = None,
        threads: int | None = None,
        skip_bad: bool = False,
    ) -> Iterator[Batch]:
        """Stream a folder or any iterable: batches in order, with a few images for each thread in memory beyond them.

        Args:
            images: as of a call; also an iterator, from which images are taken as they are needed.
            batch_size: of every batch but the last.
            input_layout: as of a call.
            threads: as of a call.
            skip_bad: leave out images that cannot be read, and tell of them in the batch that follows; the last batch may
                hold none, where only bad ones were left.

        Yields:
            Batch: the images, and their names.

        Raises:
            ImageError: a bad image; the message names it.
            InputError: what is no image, or images of different sizes.
            StorageError: the system refused to read a file.
        """
        return in_batches(images, self.spec, input_layout, threads, batch_size, skip_bad)

    def as_module(self) -> nn.Module:
        """Return a module that does the same to a batch of tensors, on any device, and that can be exported.

        It takes (n, C, H, W), uint8 or floats of 0 to 1 (uint16 for a mode of 16 bits). uint8 gives the bits that a call
        gives. Decoding, and with it the background of what is transparent, is left out. When it is exported, or saved as a
        graph, the sizes are those of the example; the number of images may vary.
        """
        return TensorPipeline(self.spec)

    @classmethod
    def of(cls, value: Any) -> Preprocess:
        """Take a Preprocess, its plain data, or what a peer has: presets, processors, configurations.

        Raises:
            InputError: it is none of these, or has a step that cannot be carried over.
        """
        if isinstance(value, Preprocess):
            return value
        if isinstance(value, PreprocessSpec):
            return cls.from_spec(value)
        for peer in (torchvision, timm, transformers):
            if peer.is_ours(value):
                return cls.from_spec(peer.read(value))
        if isinstance(value, dict) and "version" in value:
            return cls.from_spec(validated(value))
        raise InputError(
            f"making a Preprocess: a {type(value).__name__} was given; expected a Preprocess, its plain data, a preset or "
            "transforms of torchvision, a pretrained_cfg of timm, or an image processor of transformers, or its folder."
        )

    @classmethod
    def from_torchvision(cls, transforms: Any) -> Preprocess:
        """Make one from a preset, a member of a `Weights` enum, or a `Compose` of torchvision's transforms, v1 or v2.

        Images are RGB, or grey where one channel is normalised; torchvision turns none by its EXIF orientation.

        Raises:
            InputError: a step that cannot be carried over; the message names it.
        """
        return cls.from_spec(torchvision.read(transforms))

    @classmethod
    def from_timm(cls, config: Any, *, use_test_size: bool = False) -> Preprocess:
        """Make one from a `pretrained_cfg` of timm, a model that has one, or a resolved configuration of data.

        Args:
            config: as a dict, a `PretrainedCfg` or the model.
            use_test_size: take the larger size for tests, where the configuration has one.

        Raises:
            InputError: a word that cannot be carried over; the message names it.
        """
        return cls.from_spec(timm.read(config, use_test_size=use_test_size))

    @classmethod
    def from_transformers(cls, processor: Any) -> Preprocess:
        """Make one from an image processor of transformers, its `to_dict()`, or the file or folder it was saved to.

        Raises:
            InputError: a step, or a class of processors, that cannot be carried over; the message names it.
            FileError: the file is no configuration.
        """
        return cls.from_spec(transformers.read(processor))

    def to_torchvision(self) -> Any:
        """Return what does the same to PIL images: torchvision's preset `ImageClassification`, or a v2 `Compose`.

        Raises:
            InputError: it cannot be expressed; the message names the field. Or torchvision is not installed.
        """
        return torchvision.write(self.spec)

    def to_timm(self) -> dict[str, Any]:
        """Return the words of a `pretrained_cfg` with which `timm.data.create_transform` does the same.

        Raises:
            InputError: it cannot be expressed; the message names the field.
        """
        return timm.write(self.spec)

    def to_transformers(self) -> dict[str, Any]:
        """Return the content of a `preprocessor_config.json` whose image processor does the same.

        Raises:
            InputError: it cannot be expressed; the message names the field.
        """
        return transformers.write(self.spec)
