"""A crop of a resize, computed alone, has the bits of the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from perdure.images import windows
from perdure.images.preprocess import Preprocess
from perdure.images.windows import resized_window

Window = tuple[int, int, int, int]
FILTERS = [Image.Resampling[name] for name in ("NEAREST", "BOX", "BILINEAR", "HAMMING", "BICUBIC", "LANCZOS")]


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, int, int, int, Window]:
    sides = st.one_of(st.sampled_from([1, 2, 4, 16, 32, 64, 128, 256]), st.integers(1, 300))
    width, height = draw(sides), draw(sides)
    left, top = draw(st.integers(-20, width - 1)), draw(st.integers(-20, height - 1))
    right, bottom = draw(st.integers(max(left, 0) + 1, width + 20)), draw(st.integers(max(top, 0) + 1, height + 20))
    before = st.one_of(st.integers(1, 200), st.integers(1, 8).map(lambda n: n * 64))
    return draw(before), draw(before), width, height, (left, top, right, bottom)


@settings(max_examples=250)
@given(
    case=cases(),
    filter=st.sampled_from(FILTERS),
    mode=st.sampled_from(["RGB", "RGBA", "L", "LA"]),
    seed=st.integers(0, 9),
)
@example(case=(1000, 750, 341, 256, (58, 16, 282, 240)), filter=Image.Resampling.BILINEAR, mode="RGB", seed=0)
@example(case=(750, 1000, 256, 341, (16, 58, 240, 282)), filter=Image.Resampling.BICUBIC, mode="RGB", seed=0)
@example(case=(3000, 3001, 256, 256, (16, 16, 240, 240)), filter=Image.Resampling.LANCZOS, mode="RGB", seed=0)
@example(case=(36, 10, 32, 1, (0, 0, 9, 1)), filter=Image.Resampling.BOX, mode="RGB", seed=4)
@example(case=(22, 43, 2, 2, (0, 0, 1, 1)), filter=Image.Resampling.BOX, mode="RGB", seed=0)
def test_a_window_has_the_bits_of_the_whole(
    case: tuple[int, int, int, int, Window], filter: Image.Resampling, mode: str, seed: int
) -> None:
    before_width, before_height, width, height, window = case
    noise = np.random.default_rng(seed).integers(0, 256, (before_height, before_width, 4), np.uint8)
    image = Image.fromarray(noise).convert(mode)
    part, left, top = resized_window(image, (width, height), window, filter)
    whole = np.array(image.resize((width, height), filter))
    assert np.array_equal(np.array(part), whole[top : top + part.height, left : left + part.width])
    assert left <= max(window[0], 0) and left + part.width >= min(window[2], width)
    assert top <= max(window[1], 0) and top + part.height >= min(window[3], height)


def test_only_what_is_needed_is_computed() -> None:
    assert windows._agrees()
    image = Image.new("RGB", (1000, 750))
    part, left, top = resized_window(image, (341, 256), (58, 16, 282, 240), Image.Resampling.BICUBIC)
    assert (part.size, left, top) == ((341, 224), 0, 16)
    part, left, top = resized_window(image, (256, 256), (-5, 16, 240, 300), Image.Resampling.BICUBIC)
    assert (part.size, left, top) == ((240, 240), 0, 16)


@pytest.mark.parametrize("size", [(750, 1000), (1000, 750), (300, 300), (100, 900), (64, 64)])
@pytest.mark.parametrize("crop", [224, 256, 300])
def test_the_pipeline_is_the_same_without_windows(
    size: tuple[int, int], crop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
    preprocess = Preprocess(resize=256, crop=crop, dtype="uint8", rescale=1.0)
    found = preprocess(image)
    monkeypatch.setattr(windows, "_agrees", lambda: False)
    assert found.equal(preprocess(image))
