"""A pipeline of preprocessing for people: a line for each of its steps."""

from __future__ import annotations

from collections.abc import Iterator

from perdure.records.preprocessing import Crop, Decode, Pad, PreprocessSpec, Resize


def lines_of(spec: PreprocessSpec) -> list[str]:
    """Return what a pipeline does, one step a line."""
    steps = [_decode(spec.decode)]
    if spec.resize:
        steps.append(_resize(spec.resize))
    if spec.crop:
        steps.append(_crop(spec.crop))
    if spec.pad:
        steps.append(_pad(spec.pad))
    return [
        *steps,
        *_numbers(spec),
        f"{spec.channels if spec.n_channels > 1 else ''} {spec.layout} {spec.dtype}".strip(),
    ]


def _decode(step: Decode) -> str:
    turned = "" if step.orientation else ", not turned as EXIF says"
    laid = f", transparency on {_listed(step.background)}" if step.background is not None else ""
    return f"decode to {step.mode}{turned}{laid}"


def _resize(step: Resize) -> str:
    height, width = step.size
    at_most = f", the longer at most {step.max_size}" if step.max_size else ""
    target = {
        "shorter": f"the shorter side to {height}{at_most}",
        "longer": f"to fit into {height}×{width}",
        "cover": f"to cover {height}×{width}",
        "exact": f"to {height}×{width}",
    }[step.rule]
    return f"resize {target}, {step.filter}{'' if step.antialias else ', without antialias'}"


def _crop(step: Crop) -> str:
    return f"crop {step.size[0]}×{step.size[1]} from the centre"


def _pad(step: Pad) -> str:
    fill = step.fill if isinstance(step.fill, tuple) else (step.fill,)
    return f"pad to {step.size[0]}×{step.size[1]} with {_listed(fill)}, the image {_AT[step.position]}"


_AT = {"centre": "in the centre", "top left": "at the top left"}


def _numbers(spec: PreprocessSpec) -> Iterator[str]:
    """Say what becomes of the values."""
    if spec.rescale != 1:
        inverse = 1 / spec.rescale if spec.rescale else 0.0
        is_whole = inverse > 1 and abs(inverse - round(inverse)) < 1e-9 * inverse
        yield f"divide by {round(inverse)}" if is_whole else f"multiply by {spec.rescale:.9g}"
    if spec.offset:
        yield f"add {spec.offset:.9g}"
    if spec.mean is not None:
        yield f"subtract {_listed(spec.mean)}"
    if spec.std is not None:
        yield f"divide by {_listed(spec.std)}"


def _listed(numbers: tuple[float, ...]) -> str:
    return (
        ", ".join(f"{number:.9g}" for number in dict.fromkeys(numbers))
        if len(set(numbers)) == 1
        else ", ".join(f"{number:.9g}" for number in numbers)
    )
