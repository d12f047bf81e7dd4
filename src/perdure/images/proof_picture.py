"""The picture whose way through the preprocessing a file's proof keeps: 61×47 pixels, as two files that come with perdure.

`tests/picture_making.py` makes them. Their bytes are in each proof, and so the same for ever; a decoder is given those of a
file that nobody vouched for only if they are the ones here.
"""

from __future__ import annotations

import functools
from pathlib import Path

from PIL import Image, features

from perdure.disk.surroundings import surroundings, version_of
from perdure.records.picture import Kind
from perdure.records.preprocessing import PreprocessSpec

_MAX_SIDE = 1024
"""Of larger images, the picture would take longer than the rest of a load of a small model: 80 ms at this size, 5 at 224."""
_FILES: dict[Kind, str] = {"PNG": "picture.png", "JPEG": "picture.jpg"}


@functools.cache
def picture_files() -> dict[Kind, bytes]:
    """Return the picture as files, by their kind."""
    return {kind: (Path(__file__).parent / name).read_bytes() for kind, name in _FILES.items()}


def libraries() -> dict[str, str]:
    """Return the versions of what decodes, resizes and normalises images here."""
    names = ("libjpeg_turbo", "jpg", "zlib")
    found = {name: str(features.version(name) or "") for name in names}
    found = {"pillow": Image.__version__, **found, "simplejpeg": version_of("simplejpeg")}
    return {name: version for name, version in {**found, "torch": surroundings().torch}.items() if version}


def is_moderate(spec: PreprocessSpec) -> bool:
    """Tell whether a pipeline makes images of moderate size alone, so that the picture takes moments."""
    steps = (spec.resize, spec.crop, spec.pad)
    return all(max(step.size) <= _MAX_SIDE for step in steps if step is not None)
