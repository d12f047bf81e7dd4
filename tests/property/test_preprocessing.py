"""Whatever the size, kind and filter: Pillow's bits by every way, and records that come back from JSON."""

import json

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from perdure.errors import InputError
from perdure.images.pictures import FILTERS
from perdure.images.preprocess import Preprocess
from perdure.records.preprocessing import Crop, Decode, Pad, PreprocessSpec, Resize, check, from_plain, to_plain

MODES = {"RGB": 3, "RGBA": 4, "L": 1}
sides = st.one_of(st.integers(1, 40), st.integers(1, 600))
sizes = st.tuples(sides, sides)
filters = st.sampled_from(sorted(FILTERS))


@st.composite
def pixels(draw, channels: int) -> np.ndarray:
    """Noise, black and white, or nearly flat: where rounding and overshooting show."""
    height, width = draw(sizes)
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    spread = draw(st.sampled_from([(0, 256, 1), (0, 2, 255), (120, 124, 1)]))
    return (random.integers(spread[0], spread[1], (height, width, channels)) * spread[2]).astype(np.uint8)


def picture_of(array: np.ndarray) -> Image.Image:
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


@settings(max_examples=150)
@given(st.data(), st.sampled_from(sorted(MODES)), sizes, filters)
def test_a_resize_has_pillows_bits_by_every_way(data, mode, size, filter):
    array = data.draw(pixels(MODES[mode]))
    picture = picture_of(array)
    expected = np.asarray(picture.resize((size[1], size[0]), FILTERS[filter])).reshape(*size, -1)
    pipeline = Preprocess(resize=size, filter=filter, decode={"mode": mode}, rescale=1, dtype="uint8", layout="HWC")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    assert np.array_equal(pipeline(picture)[0], expected)
    assert np.array_equal(pipeline(array)[0], expected)
    assert np.array_equal(pipeline(tensor)[0], expected)
    assert np.array_equal(pipeline.as_module()(tensor[None])[0], expected)


@settings(max_examples=60)
@given(st.data(), st.sampled_from(sorted(MODES)), sizes, st.sampled_from(["box", "bilinear", "hamming"]))
def test_floats_are_within_a_level_of_pillow(data, mode, size, filter):
    """By filters that do not overshoot: a float is not cut off at 0 and 1. Premultiplied alpha has fewer levels."""
    array = data.draw(pixels(MODES[mode]))
    pipeline = Preprocess(resize=size, filter=filter, decode={"mode": mode})
    ours = pipeline(torch.from_numpy(array).permute(2, 0, 1).double() / 255)
    checked = ours[:, 3:] if mode == "RGBA" else ours
    expected = pipeline(array)[:, 3:] if mode == "RGBA" else pipeline(array)
    assert (checked - expected).abs().max() <= 1 / 255 + 1e-6


steps = st.builds(
    Resize,
    size=sizes.map(lambda size: (size[0], size[0])),
    rule=st.sampled_from(["shorter", "longer", "cover", "exact"]),
    filter=filters,
    antialias=st.booleans(),
    rounding=st.sampled_from(["down", "nearest"]),
)
crops = st.builds(
    Crop,
    size=sizes,
    rounding=st.sampled_from(["down", "nearest"]),
    fill=st.integers(0, 255),
    odd=st.sampled_from(["after", "before"]),
)
pads = st.builds(Pad, size=sizes, position=st.sampled_from(["centre", "top left"]), fill=st.integers(0, 255))
numbers = st.floats(-1e6, 1e6, allow_subnormal=False)
specs = st.builds(
    PreprocessSpec,
    decode=st.builds(Decode, mode=st.sampled_from(["RGB", "RGBA", "L"]), orientation=st.booleans()),
    resize=st.none() | steps,
    crop=st.none() | crops,
    pad=st.none() | pads,
    rescale=numbers,
    offset=numbers,
    mean=st.none() | st.lists(numbers, min_size=1, max_size=4).map(tuple),
    std=st.none() | st.lists(numbers, min_size=1, max_size=4).map(tuple),
    channels=st.sampled_from(["RGB", "BGR"]),
    layout=st.sampled_from(["CHW", "HWC"]),
    dtype=st.sampled_from(["float32", "float16", "bfloat16", "float64"]),
)


def accepted(spec: PreprocessSpec) -> bool:
    try:
        check(spec, "a test")
    except InputError:
        return False
    return True


@settings(max_examples=200)
@given(specs)
def test_a_record_comes_back_from_json(spec):
    if not accepted(spec):
        return
    plain = json.loads(json.dumps(to_plain(spec)))
    assert from_plain(plain, "a test") == spec
    made = Preprocess.from_spec(spec)
    assert made.spec == spec and eval(repr(made)) == made


@settings(max_examples=150)
@given(st.data(), specs.filter(lambda spec: spec.resize is None or spec.resize.antialias))
def test_module_and_call_agree_bit_for_bit(data, spec):
    if not accepted(spec) or (spec.resize is not None and spec.resize.size[0] > 60):
        return
    array = data.draw(pixels(spec.n_channels))
    pipeline = Preprocess.from_spec(spec)
    tensor = torch.from_numpy(array).permute(2, 0, 1)[None]
    results = []
    for run in (lambda: pipeline(picture_of(array)), lambda: pipeline.as_module()(tensor)):
        try:
            results.append(run())
        except Exception as error:  # one too large for its border, or for a resize: by both
            results.append(type(error))
    first, second = results
    assert torch.equal(first, second) if isinstance(first, torch.Tensor) else first is second
    if isinstance(first, torch.Tensor) and spec.crop is not None and spec.pad is None:
        sides = first.shape[2:] if spec.layout == "CHW" else first.shape[1:3]
        assert tuple(sides) == spec.crop.size


@settings(max_examples=100)
@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), st.lists, max_leaves=5),
    st.data(),
)
def test_whatever_a_field_holds_is_a_record_or_an_input_error(value, data):
    plain = to_plain(PreprocessSpec(resize=Resize(size=(4, 4)), crop=Crop(size=(3, 3)), pad=Pad(size=(5, 5))))
    part = data.draw(st.sampled_from([plain, plain["decode"], plain["resize"], plain["crop"], plain["pad"]]))
    part[data.draw(st.sampled_from(sorted(part)))] = value
    try:
        spec = from_plain(plain, "a test")
    except InputError as error:
        assert "a test" in str(error)
    else:
        assert from_plain(to_plain(spec), "a test") == spec
