"""The operators of torchvision's compiled part, for where that does not load.

The builds of torchvision on PyPI are for CUDA; beside a PyTorch without it their compiled part does not load, and then
`import torchvision` fails, and that of transformers' models with it, because two operators are unknown. The models for
classification, segmentation and video need none of them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def declare_operators() -> None:
    """Declare the operators that torchvision's Python part asks for, unless its compiled part has them."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or hasattr(torch.ops.torchvision, "nms"):
        return
    try:
        torch.ops.load_library(Path(spec.origin).with_name("_C.so"))
    except OSError:
        for name in ("nms", "qnms"):
            _LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
