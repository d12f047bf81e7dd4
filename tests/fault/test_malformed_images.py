"""Malformed and odd images: a typed error or the right pixels, in less than a second, and never a warning."""

from __future__ import annotations

import re
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from fault.forging_images import CASES, Case
from perdure.errors import ImageError
from perdure.images.decoding import decode
from perdure.images.formats import fast_jpeg
from perdure.records.preprocessing import Decode

SECONDS = 1.0


def outcome(case: Case, spec: Decode | None = None) -> np.ndarray | str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start = time.thread_time()
        try:
            return np.array(decode(case.content, spec or Decode(), "it"))
        except ImageError as error:
            return str(error)
        finally:
            assert time.thread_time() - start < SECONDS


def see(found: np.ndarray | str, case: Case) -> None:
    """Compare what came of a file with what was to come."""
    if isinstance(found, str):
        assert isinstance(case.expected, str), found
        assert found.startswith("reading it: ") and found.isprintable() and len(found) < 500
        assert re.search(case.expected, found) or case.expected.endswith("any"), found
        return
    if isinstance(case.expected, str):
        assert case.expected.endswith("any"), f"{case.expected} was expected, and pixels came"
        return
    assert found.shape == case.expected.shape
    assert abs(found.astype(int) - case.expected).max() <= case.tolerance


@pytest.mark.parametrize("name", CASES)
def test_an_error_or_the_right_pixels(name: str) -> None:
    see(outcome(CASES[name]), CASES[name])


@pytest.mark.parametrize("name", [name for name in CASES if "JPEG" in name])
def test_the_same_without_the_fast_decoder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = outcome(CASES[name])
    monkeypatch.setattr(fast_jpeg, "_proven_decoder", lambda: None)
    assert np.array_equal(outcome(CASES[name]), fast)


@pytest.mark.parametrize("name", [name for name in CASES if "cut" in name or "early" in name])
def test_what_is_truncated_is_refused_whatever_pillow_is_set_to(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    see(outcome(CASES[name]), CASES[name])


@pytest.mark.parametrize("mode", ["RGBA", "L", "I;16"])
def test_every_mode(mode: str) -> None:
    for case in CASES.values():
        found = outcome(case, Decode(mode=mode, background=(9,)))
        if isinstance(found, np.ndarray) and not isinstance(case.expected, str):
            assert found.shape == (*case.expected.shape[:2], *((4,) if mode == "RGBA" else ()))


def test_there_are_many() -> None:
    errors = [case for case in CASES.values() if isinstance(case.expected, str)]
    assert len(CASES) > 200 and len(errors) > 120 and len(CASES) - len(errors) > 60


def test_the_ending_of_a_name_decides_nothing(tmp_path: Path) -> None:
    for ending, name in (
        (".png", "JPEG"),
        (".jpg", "WebP"),
        (".txt", "BMP"),
        ("", "GIF"),
        (".eps", "TIFF"),
        (".npy", "APNG"),
    ):
        path = tmp_path / f"image{ending}"
        path.write_bytes(CASES[name].content)
        see(np.array(decode(path, Decode(), "it")), CASES[name])


def test_other_formats_of_pillow_are_never_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    for name in list(Image.OPEN):
        if name not in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"):
            monkeypatch.setitem(Image.OPEN, name, (lambda *_, name=name: opened.append(name), None))
    for case in CASES.values():
        outcome(case)
    assert not opened


@pytest.mark.parametrize("name", ["PNG", "JPEG", "TIFF", "GIF", "WebP", "BMP"])
def test_the_limit_of_pixels_is_that_of_the_record(name: str) -> None:
    case = CASES.get(name) or CASES["PNG with a tail"]
    assert isinstance(outcome(case, Decode(max_pixels=17 * 13)), np.ndarray)
    assert "17 × 13 pixels, more than the limit, 220" in outcome(case, Decode(max_pixels=220))
