"""What of a model's answer are its logits, and what probabilities they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from perdure.errors import InputError

Activation = Literal["softmax", "sigmoid", "none"]
ACTIVATIONS = ("softmax", "sigmoid", "none")


def logits_in(answer: Any, n_images: int) -> torch.Tensor:
    """Return what a model says about each class.

    A tensor is that itself; of what has `logits`, by key or by name, these; of another mapping the only tensor that fits;
    of a tuple or a list the first part. What fits has an image in each row: (n, classes), (n,) for one class, and further
    axes of size 1.

    Args:
        answer: what the model gave.
        n_images: how many images it was given.

    Returns:
        (n, classes), float64, on the CPU.

    Raises:
        InputError: no part of the answer is that; the message says what there is.
    """
    found = _part(answer, n_images)
    if found is None or not _fits(found, n_images):
        raise InputError(
            f"predicting: the model answers with {_outline(answer)}, of which nothing is a row of classes for each of "
            f"{n_images} images. A Predictor is for classifiers; load other models with perdure.load."
        )
    return found.detach().to("cpu", torch.float64).reshape(n_images, -1)


def _part(answer: Any, n_images: int) -> torch.Tensor | None:
    if isinstance(answer, torch.Tensor):
        return answer
    if isinstance(answer, Mapping):
        named = answer.get("logits")
        fitting = [part for part in answer.values() if isinstance(part, torch.Tensor) and _fits(part, n_images)]
        return named if isinstance(named, torch.Tensor) else fitting[0] if len(fitting) == 1 else None
    named = getattr(answer, "logits", None)
    if isinstance(named, torch.Tensor):
        return named
    first = answer[0] if isinstance(answer, tuple | list) and answer else None
    return first if isinstance(first, torch.Tensor) else None


def _fits(part: torch.Tensor, n_images: int) -> bool:
    is_number = not part.is_complex() and part.layout is torch.strided and not part.is_quantized
    shape = part.shape
    return (
        is_number
        and len(shape) >= 1
        and shape[0] == n_images
        and all(size == 1 for size in shape[2:])
        and 0 not in shape
    )


def _outline(answer: Any) -> str:
    """Say what an answer is."""
    if isinstance(answer, torch.Tensor):
        return f"a tensor {list(answer.shape)}"
    if isinstance(answer, Mapping):
        return f"a mapping of {', '.join(f'{key!s:.40}' for key in list(answer)[:10])}"
    if isinstance(answer, tuple | list):
        return f"a {type(answer).__name__} of {', '.join(type(part).__name__ for part in answer[:10])}"
    return f"a {type(answer).__name__}"


def probabilities(logits: torch.Tensor, activation: Activation, n_labels: int) -> torch.Tensor:
    """Return what logits mean.

    A single logit says how likely the second of two classes is, by the logistic function; where there is one label alone,
    how likely that is.

    Args:
        logits: (n, classes).
        activation: `"softmax"`: one class is right; `"sigmoid"`: each is for itself; `"none"`: they are taken as they are.
        n_labels: how many labels there are, 0 where none are known.

    Returns:
        (n, classes), of a single logit (n, 2) or, for one label, (n, 1).
    """
    if logits.shape[1] > 1:
        return logits.softmax(1) if activation == "softmax" else logits.sigmoid() if activation == "sigmoid" else logits
    second = logits if activation == "none" else logits.sigmoid()
    return second if n_labels == 1 else torch.cat([1 - second, second], 1)
