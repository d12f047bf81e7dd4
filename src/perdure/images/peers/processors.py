"""What transformers' image processors do where a configuration is silent, and where one differs from the others.

Facts of transformers 5.23, whose two backends (torchvision's and Pillow's) have the same defaults. A class that is missing
here does what no pipeline of the record can say: it cuts images into patches, pads each batch to its largest image, rescales
before it resizes, or makes sizes divisible by a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

_HALF = (0.5, 0.5, 0.5)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_STANDARD = (_HALF, _HALF)


class Processor(NamedTuple):
    """A class of image processors.

    Attributes:
        defaults: the words that a configuration may leave out.
        own: words of its own beside them; the value that the record can carry over, or None where any value is.
        without: the steps that it never takes.
    """

    defaults: dict[str, Any]
    own: Mapping[str, Any] = MappingProxyType({})
    without: tuple[str, ...] = ()


def _defaults(size: int | dict[str, int], resample: int, numbers: Any = _STANDARD, **others: Any) -> dict[str, Any]:
    """Return the defaults of a processor; a `size` that is a number is that of a square."""
    common = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    sides = {"height": size, "width": size} if isinstance(size, int) else size
    normalising = {} if numbers is None else {"image_mean": numbers[0], "image_std": numbers[1]}
    return {**common, "size": sides, "resample": resample, "default_to_square": True, **normalising, **others}


def _shorter(side: int) -> dict[str, int]:
    return {"shortest_edge": side}


_CROPPED = {"crop_size": 224, "do_center_crop": True, "default_to_square": False}
_OF_CLIP = _defaults(_shorter(224), 3, _CLIP, **_CROPPED, do_convert_rgb=True)
_OF_LEVIT = _defaults(_shorter(224), 3, _IMAGENET, **_CROPPED)
_OF_MOBILENET = _defaults(_shorter(256), 2, **_CROPPED)
_OF_TIPS = _defaults(448, 2, None, do_normalize=False, do_convert_rgb=True)
_OF_CHAMELEON = _OF_CLIP | {
    "size": _shorter(512),
    "crop_size": 512,
    "resample": 1,
    "rescale_factor": 0.0078,
    "image_mean": (1.0, 1.0, 1.0),
    "image_std": (1.0, 1.0, 1.0),
}
_OF_PATCHES = {"crop_to_patches": False, "min_patches": None, "max_patches": None}
_OF_TEXT = {"apply_ocr": False, "ocr_lang": None, "tesseract_config": None}

PROCESSORS: dict[str, Processor] = {
    "BeitImageProcessor": Processor(_defaults(224, 3, crop_size=224), without=("do_pad",)),
    "BitImageProcessor": Processor(_OF_CLIP),
    "BlipImageProcessor": Processor(_defaults(384, 3, _CLIP, do_convert_rgb=True)),
    "CLIPImageProcessor": Processor(_OF_CLIP, own={"use_square_size": False}),
    "ChameleonImageProcessor": Processor(_OF_CHAMELEON),
    "ChineseCLIPImageProcessor": Processor(_OF_CLIP),
    "Cohere2VisionImageProcessor": Processor(
        _defaults(512, 3, _CLIP, do_convert_rgb=True, crop_to_patches=True), _OF_PATCHES, ("do_pad", "do_center_crop")
    ),
    "ConvNextImageProcessor": Processor(
        _defaults(_shorter(384), 3, default_to_square=False, crop_pct=224 / 256), {"crop_pct": None}, ("do_pad",)
    ),
    "DPTImageProcessor": Processor(
        _defaults(384, 3, ensure_multiple_of=1, keep_aspect_ratio=False),
        {"ensure_multiple_of": 1, "keep_aspect_ratio": False, "size_divisor": None},
    ),
    "DeiTImageProcessor": Processor(_defaults(256, 3, crop_size=224, do_center_crop=True)),
    "EfficientNetImageProcessor": Processor(
        _defaults(346, 3, crop_size=289, rescale_offset=False, include_top=True),
        {"rescale_offset": None, "include_top": None},
        ("do_pad",),
    ),
    "Gemma3ImageProcessor": Processor(
        _defaults(224, 2, do_convert_rgb=True),
        {
            "do_pan_and_scan": False,
            "pan_and_scan_max_num_crops": None,
            "pan_and_scan_min_ratio_to_activate": None,
            "pan_and_scan_min_crop_size": None,
        },
        ("do_pad", "do_center_crop"),
    ),
    "GotOcr2ImageProcessor": Processor(
        _defaults(384, 3, _CLIP, do_convert_rgb=True, crop_to_patches=False), _OF_PATCHES, ("do_pad", "do_center_crop")
    ),
    "ImageGPTImageProcessor": Processor(
        _defaults(256, 2, do_color_quantize=True), {"do_color_quantize": False, "clusters": None}, ("do_pad",)
    ),
    "LayoutLMv2ImageProcessor": Processor(
        _defaults(224, 2, None, rescale_factor=None, apply_ocr=True),
        _OF_TEXT,
        ("do_pad", "do_center_crop", "do_rescale", "do_normalize"),
    ),
    "LayoutLMv3ImageProcessor": Processor(_defaults(224, 2, apply_ocr=True), _OF_TEXT, ("do_pad",)),
    "LevitImageProcessor": Processor(_OF_LEVIT),
    "MobileNetV1ImageProcessor": Processor(_OF_MOBILENET),
    "MobileNetV2ImageProcessor": Processor(_OF_MOBILENET, without=("do_pad",)),
    "MobileViTImageProcessor": Processor(
        _defaults(_shorter(224), 3, **_CROPPED | {"crop_size": 256}, do_flip_channel_order=True),
        {"do_flip_channel_order": None},
        ("do_pad", "do_normalize"),
    ),
    "Ovis2ImageProcessor": Processor(
        _defaults(384, 3, _CLIP, do_convert_rgb=True, crop_to_patches=False),
        _OF_PATCHES | {"use_covering_area_grid": None},
        ("do_pad", "do_center_crop"),
    ),
    "OwlViTImageProcessor": Processor(_defaults(768, 3, _CLIP, crop_size=768, do_convert_rgb=True)),
    "PPChart2TableImageProcessor": Processor(_defaults(1024, 3, _CLIP)),
    "PoolFormerImageProcessor": Processor(_OF_LEVIT | {"crop_pct": 0.9}, {"crop_pct": None}),
    "PvtImageProcessor": Processor(_defaults(224, 3, _IMAGENET)),
    "RTDetrImageProcessor": Processor(
        _defaults(640, 2, _IMAGENET, do_normalize=False, default_to_square=False),
        {"format": None, "do_convert_annotations": None},
        ("do_center_crop",),
    ),
    "Sam2ImageProcessor": Processor(
        _defaults(1024, 2, _IMAGENET, do_convert_rgb=True), own={"mask_size": None, "mask_pad_size": None}
    ),
    "SegformerImageProcessor": Processor(_defaults(512, 2, _IMAGENET), without=("do_pad",)),
    "SiglipImageProcessor": Processor(_defaults(224, 3, default_to_square=False, do_convert_rgb=True)),
    "Tipsv2DptImageProcessor": Processor(_OF_TIPS),
    "Tipsv2ImageProcessor": Processor(_OF_TIPS),
    "ViTImageProcessor": Processor(_defaults(224, 2)),
}
