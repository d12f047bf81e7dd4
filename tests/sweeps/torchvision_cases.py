"""Every architecture of torchvision for classification, segmentation and video, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torchvision import models

from sweeps.cases import Case

_SIZES = {"vit": 224, "maxvit": 224, "swin": 224, "mvit": 224, "s3d": 224, "swin3d": 128, "inception": 299}
"""The pixels of those whose windows or positions ask for a size, by the beginning of their names."""

_VIDEO_OF_RESNETS = ("r3d_18", "mc3_18", "r2plus1d_18")
"""They take clips of any size: 8 frames of 64 pixels."""


def cases() -> dict[str, Case]:
    """Return all of them by name."""
    segmentation = models.list_models(module=models.segmentation)
    video = models.list_models(module=models.video)
    found: dict[str, Case] = {}
    for name in (*models.list_models(module=models), *segmentation, *video):
        options: dict[str, Any] = {"weights": None}
        if name in segmentation:
            options["weights_backbone"] = None
        if name in ("googlenet", "inception_v3"):
            options["init_weights"] = False
        found[name] = Case(_builder(name, options), (torch.randn(2, 3, *_sizes(name, name in video)),))
    return found


def _sizes(name: str, video: bool) -> tuple[int, ...]:
    if name in _VIDEO_OF_RESNETS:
        return 8, 64, 64
    pixels = _pixels(name)
    return (16, pixels, pixels) if video else (pixels, pixels)


def _builder(name: str, options: dict[str, Any]) -> Callable[[], nn.Module]:
    return lambda: models.get_model(name, **options)


def _pixels(name: str) -> int:
    fitting = [start for start in _SIZES if name.startswith(start)]
    return _SIZES[max(fitting, key=len)] if fitting else 112
