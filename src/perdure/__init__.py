"""perdure saves PyTorch models once and loads them for good.

    import perdure

    perdure.save_weights(model, "weights.safetensors")
    print(perdure.load_weights(model, "weights.safetensors"))

Names are imported when they are first used: `import perdure` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from perdure.version import VERSION as __version__

if TYPE_CHECKING:
    from perdure import errors
    from perdure.comparison.comparing import diff
    from perdure.conversion.converting import convert
    from perdure.foreign.checking import check
    from perdure.foreign.description import info
    from perdure.images.preprocess import Preprocess
    from perdure.models.annotating import annotate
    from perdure.models.loading import load
    from perdure.models.naming import register
    from perdure.models.saving import save
    from perdure.prediction.predictor import Predictor
    from perdure.summaries.summarizing import summarize
    from perdure.weights.checkpoints import load_checkpoint, save_checkpoint
    from perdure.weights.loading import load_weights
    from perdure.weights.opening import Weights, open
    from perdure.weights.saving import save_weights

_HOMES = {
    "Predictor": "perdure.prediction.predictor",
    "Preprocess": "perdure.images.preprocess",
    "Weights": "perdure.weights.opening",
    "annotate": "perdure.models.annotating",
    "check": "perdure.foreign.checking",
    "convert": "perdure.conversion.converting",
    "diff": "perdure.comparison.comparing",
    "info": "perdure.foreign.description",
    "load": "perdure.models.loading",
    "load_checkpoint": "perdure.weights.checkpoints",
    "load_weights": "perdure.weights.loading",
    "open": "perdure.weights.opening",
    "register": "perdure.models.naming",
    "save": "perdure.models.saving",
    "save_checkpoint": "perdure.weights.checkpoints",
    "save_weights": "perdure.weights.saving",
    "summarize": "perdure.summaries.summarizing",
}

__all__ = [
    "Predictor",
    "Preprocess",
    "Weights",
    "__version__",
    "annotate",
    "check",
    "convert",
    "diff",
    "errors",
    "info",
    "load",
    "load_checkpoint",
    "load_weights",
    "open",
    "register",
    "save",
    "save_checkpoint",
    "save_weights",
    "summarize",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("perdure.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'perdure' has no attribute {name!r}")
    found = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
