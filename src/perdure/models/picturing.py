"""The picture of a proof: sent through the preprocessing when a model is saved, and again when it is loaded.

Of a file that nobody vouched for, only the picture that comes with perdure is decoded, and the model is not run.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from perdure.errors import CorruptError, PerdureError
from perdure.models.answers import Verdict, compare, scale_of, tensor_leaf
from perdure.models.proving import examine, prove
from perdure.records.picture import Kind, Picture, PictureDrift, PictureFile, pack_file, unpack_file
from perdure.records.preprocessing import PreprocessSpec
from perdure.records.proof import Proof

if TYPE_CHECKING:
    from perdure.images.preprocess import Preprocess

_ROUNDINGS = {torch.float64: 8, torch.float32: 8, torch.float16: 1, torch.bfloat16: 1}
"""How far pixels may be off, in units of the type's precision at the largest of them. Images are resized in whole numbers,
the same everywhere; what is left is the rounding of the normalisation. A step of a decoder is at least 1/255."""


_PARTS: dict[Kind, str] = {"PNG": "resize or normalise", "JPEG": "decoder"}
"""What differs where the picture of a kind comes out otherwise, and those before it do not."""


def pipeline_of(value: Any) -> Preprocess | None:
    """Return the pipeline that a user gave, in whatever form, or that a file has; None where there is none.

    Raises:
        InputError: it is none.
    """
    if value is None:
        return None
    from perdure.images.preprocess import Preprocess

    if isinstance(value, PreprocessSpec):
        return Preprocess.from_spec(value)
    return value if isinstance(value, Preprocess) else Preprocess.of(value)


def take_picture(preprocess: Preprocess, model: nn.Module | None) -> Picture:
    """Send the picture through a pipeline, and let the model answer to what comes out, where it takes that.

    Args:
        preprocess: the pipeline.
        model: the model, in eval mode meanwhile; None where there is none at hand.

    Returns:
        The picture, or one that says why there is none.
    """
    from perdure.images.proof_picture import is_moderate, libraries, picture_files

    if not is_moderate(preprocess.spec):
        return Picture(missing="its preprocessing makes images that are too large for a proof")
    try:
        pixels: dict[Kind, torch.Tensor] = {kind: preprocess(content) for kind, content in picture_files().items()}
    except PerdureError as error:
        return Picture(missing=str(error))
    files: dict[Kind, PictureFile] = {
        kind: PictureFile(pack_file(picture_files()[kind]), tensor_leaf(found, _tolerance(found)))
        for kind, found in pixels.items()
    }
    return Picture(files=files, libraries=libraries(), answer=_answer(model, pixels["PNG"]) if model else None)


def pixels_of_picture(preprocess: Preprocess) -> torch.Tensor | None:
    """Return what a pipeline makes of the picture, a batch of one; None where not all images come to be of that size."""
    from perdure.images.geometry import fixed_size
    from perdure.images.proof_picture import is_moderate, picture_files

    if fixed_size(preprocess.spec) is None or not is_moderate(preprocess.spec):
        return None
    try:
        return preprocess(picture_files()["PNG"])
    except PerdureError:
        return None


def _tolerance(pixels: torch.Tensor) -> float:
    if not pixels.is_floating_point():
        return 0.0
    return _ROUNDINGS.get(pixels.dtype, 1) * torch.finfo(pixels.dtype).eps * scale_of(pixels)


def _answer(model: nn.Module, pixels: torch.Tensor) -> Proof | None:
    found = prove(model, ((pixels,), {}), kept={})
    return None if found.missing else found


def find_picture_drift(
    picture: Picture, preprocess: Preprocess, model: nn.Module, where: str, *, asked: bool
) -> PictureDrift | None:
    """Send the picture of a file through its pipeline, and compare what comes out with what came out when it was saved.

    Args:
        picture: as the file has it.
        preprocess: the file's pipeline.
        model: the loaded model.
        where: names the file in messages.
        asked: the caller vouches for the file: pictures of any content are decoded, and on drift the model is asked too.

    Returns:
        What differs; None where nothing does, or where there is nothing to compare.

    Raises:
        CorruptError: the parts of the picture do not fit together.
    """
    from perdure.images.proof_picture import is_moderate, libraries, picture_files

    contents = {kind: unpack_file(file, where) for kind, file in picture.files.items()}
    is_known = contents.items() <= picture_files().items()
    if not contents or not is_moderate(preprocess.spec) or not (asked or is_known):
        return None
    here = libraries()
    versions = {name: then for name, then in picture.libraries.items() if then != here.get(name, "")}
    for kind, part in _PARTS.items():
        if kind not in contents:
            continue
        wanted = picture.files[kind].pixels
        verdict, pixels = _seen(preprocess, contents[kind], picture.files[kind], where)
        if not verdict.holds:
            difference = verdict.difference or math.inf
            moved = _moved(model, picture.answer, pixels, where) if asked and pixels is not None else None
            return PictureDrift(part, difference, wanted.tolerance, moved, versions, here)
    return None


def _seen(preprocess: Preprocess, content: bytes, file: PictureFile, where: str) -> tuple[Verdict, torch.Tensor | None]:
    """Return how what a file becomes compares with what it became, and what it becomes."""
    try:
        pixels = preprocess(content)
    except PerdureError as error:
        return Verdict(False, said=str(error)), None
    return compare(pixels, file.pixels, where), pixels


def _moved(model: nn.Module, answer: Proof | None, pixels: torch.Tensor, where: str) -> float | None:
    """Return how far the model's answer to pixels is from the one that it gave to the picture when it was saved."""
    if answer is None or answer.missing:
        return None
    if len(answer.inputs) != 1 or not answer.inputs[0].kept:
        raise CorruptError(f"reading {where}: the answer to its picture has another input than that.")
    verdict = examine(model, answer, lambda _: pixels, where)
    return verdict.difference if verdict.holds or verdict.difference else None
