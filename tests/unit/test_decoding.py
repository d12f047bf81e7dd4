"""Decoding: what files, paths and open files become, in each mode, turned as EXIF says, and with the bits of Pillow."""

from __future__ import annotations

import io
import os
import struct
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter, ImageOps
from PIL.PngImagePlugin import PngInfo

from fault.forging_images import GREY, IMAGE, PHOTO, photo, saved, with_segment
from perdure.errors import ImageError, InputError, MissingFileError, PathError
from perdure.images.decoding import decode
from perdure.images.formats import fast_jpeg, tags
from perdure.records.preprocessing import Decode

RED, SEEN = (255, 0, 0), (10, 20, 30)


def pixels(source: Any, **how: Any) -> np.ndarray:
    return np.array(decode(source, Decode(**how), "it"))


# --- sources ---


def test_a_path_bytes_and_an_open_file_are_one(tmp_path: Path) -> None:
    content = saved(IMAGE, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with open(path, "rb") as file:
        for source in (path, str(path), content, bytearray(content), memoryview(content), io.BytesIO(content), file):
            assert np.array_equal(pixels(source), PHOTO)


def test_an_open_file_is_read_from_where_it_stands_and_stays_there() -> None:
    file = io.BytesIO(b"before" + saved(IMAGE, "BMP"))
    file.seek(6)
    assert np.array_equal(pixels(file), PHOTO) and file.tell() == 6
    file.seek(0, io.SEEK_END)
    with pytest.raises(ImageError, match="reading it: it is empty from its position on"):
        pixels(file)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty.png").touch()
    for source, error, message in (
        (tmp_path / "missing.png", MissingFileError, "missing.png: there is no such file"),
        (tmp_path, PathError, "not a regular file|it is a folder"),
        (tmp_path / "pipe", PathError, "not a regular file"),
        (tmp_path / "empty.png", ImageError, "it is empty"),
        (5, InputError, "a path, bytes or a seekable binary file"),
        ("a\0b", PathError, "not the path"),
    ):
        with pytest.raises(error, match=message):
            pixels(source)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    for start, message in ((b"\xff\xd8\xff", "images have 2147483648 at most"), (b"", "begins with")):
        with open(tmp_path / "huge", "wb") as file:
            file.write(start)
            file.truncate(2**40)
        with pytest.raises(ImageError, match=message):
            pixels(tmp_path / "huge")


def test_an_image_of_pillow_is_only_brought_to_the_mode() -> None:
    exif = Image.Exif()
    exif[274] = 6
    image = Image.open(io.BytesIO(saved(IMAGE, "PNG", exif=exif)))
    assert np.array_equal(pixels(image), PHOTO)  # as it is, not turned
    assert decode(IMAGE, Decode(), "it") is IMAGE
    with pytest.raises(ImageError, match="17 × 13 pixels, more than the limit"):
        pixels(IMAGE, max_pixels=9)
    broken = Image.open(io.BytesIO(saved(IMAGE, "PPM")[:-1]))
    with pytest.raises(ImageError, match="damaged or unusual image file"):
        pixels(broken)


# --- modes ---


@pytest.mark.parametrize(
    "kind",
    ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16", "La", "RGBa"],
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_every_kind_of_pixels_becomes_what_pillow_makes_of_it(kind: str, mode: str) -> None:
    colour = IMAGE.convert("RGBA")
    colour.putalpha(Image.fromarray(GREY[..., 0]))
    image = (
        Image.fromarray(GREY[..., 0].astype(np.uint16) * 257)
        if kind == "I;16"
        else colour.convert("LA" if kind in ("La", "PA") else "RGB" if kind == "LAB" else "RGBA").convert(kind)
    )
    before = image.tobytes()
    expected = {
        "La": lambda: image.convert("LA"),
        "RGBa": lambda: image.convert("RGBA"),
        "LAB": lambda: image.convert("RGB"),
        "I;16": lambda: Image.fromarray(GREY[..., 0]),
    }.get(kind, lambda: image)()
    assert np.array_equal(pixels(image, mode=mode), np.array(expected.convert(mode)))
    assert image.tobytes() == before


def test_sixteen_bits() -> None:
    deep = np.array([[0, 1, 255, 256, 511, 32767, 65535]], np.uint16)
    for content in (saved(Image.fromarray(deep), "PNG"), saved(Image.fromarray(deep), "TIFF")):
        assert np.array_equal(pixels(content, mode="L"), [[0, 0, 0, 1, 1, 127, 255]])  # value >> 8, never clipped
        assert np.array_equal(pixels(content, mode="RGB")[..., 2], [[0, 0, 0, 1, 1, 127, 255]])
        assert np.array_equal(pixels(content, mode="I;16"), deep)
    grey = np.arange(256, dtype=np.uint8)[None]
    raised = pixels(Image.fromarray(grey), mode="I;16")
    assert raised.dtype == np.uint16 and np.array_equal(raised[0], np.arange(256) * 257)
    assert np.array_equal(pixels(Image.fromarray(raised), mode="L"), grey)
    for order in ("I;16B", "I;16"):
        image = Image.new(order, (1, 1), 0x1234)
        assert (pixels(image, mode="L"), pixels(image, mode="I;16")) == (0x12, 0x1234)


def test_integers_and_floats_have_no_scale() -> None:
    for kind in (np.int32, np.float32):
        image = Image.fromarray(np.array([[0, 7, 255]], kind))
        assert np.array_equal(pixels(image, mode="L"), [[0, 7, 255]])
        assert np.array_equal(pixels(Image.fromarray(np.array([[0, 7, 65535]], kind)), mode="I;16"), [[0, 7, 65535]])
        for value in (-1, 256):
            with pytest.raises(ImageError, match="where values of 0 to 255 were expected"):
                pixels(Image.fromarray(np.array([[value]], kind)))


def test_transparency_is_dropped_or_laid_on_the_background() -> None:
    half = Image.new("RGBA", (1, 1), (100, 200, 0, 128))
    assert pixels(half).tolist() == [[[100, 200, 0]]]
    exact = [round(value * 128 / 255 + back * 127 / 255) for value, back in zip((100, 200, 0), SEEN, strict=True)]
    assert pixels(half, background=SEEN).tolist() == [[exact]]
    assert pixels(half, mode="RGBA").tolist() == [[[100, 200, 0, 128]]]
    assert pixels(half, mode="RGBA", background=SEEN).tolist() == [[[*exact, 255]]]
    assert pixels(Image.new("LA", (1, 1), (50, 0)), mode="L", background=(7,)).tolist() == [[7]]
    assert pixels(Image.new("LA", (1, 1), (50, 0)), mode="L").tolist() == [[50]]
    assert pixels(Image.new("LA", (1, 1), (50, 0)), mode="I;16", background=(7,)).tolist() == [[7 * 257]]


def test_one_colour_may_be_transparent() -> None:
    two = np.array([[RED, (0, 0, 255)]], np.uint8)
    for image, key in (
        (Image.fromarray(two), RED),
        (Image.fromarray(two).quantize(2), None),
        (Image.fromarray(two[..., 0]), 255),
    ):
        if key is None:
            key = image.getpixel((0, 0))
        content = saved(image, "PNG", transparency=key)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(pixels(content), np.array(image.convert("RGB")))
            assert pixels(content, background=SEEN)[0, 0].tolist() == list(SEEN)
            assert pixels(content, mode="RGBA")[0, :, 3].tolist() == [0, 255]
    deep = saved(Image.fromarray(np.array([[300, 301]], np.uint16)), "PNG", transparency=300)
    assert pixels(deep, mode="L", background=(9,)).tolist() == [[9, 1]]
    assert pixels(deep, mode="I;16", background=(9,)).tolist() == [[9 * 257, 301]]
    assert pixels(deep, mode="RGBA").tolist() == [[[1, 1, 1, 0], [1, 1, 1, 255]]]


# --- orientation ---

TURNED = {
    1: PHOTO, 2: PHOTO[:, ::-1], 3: PHOTO[::-1, ::-1], 4: PHOTO[::-1], 5: PHOTO.transpose(1, 0, 2),
    6: PHOTO.transpose(1, 0, 2)[:, ::-1], 7: PHOTO.transpose(1, 0, 2)[::-1, ::-1], 8: PHOTO.transpose(1, 0, 2)[::-1],
}  # fmt: skip


def with_orientation(value: Any, kind: str) -> bytes:
    exif = Image.Exif()
    exif[274] = value
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    return saved(IMAGE, kind, exif=exif.tobytes() if kind == "WEBP" else exif, **options)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("value", range(1, 9))
def test_an_image_is_turned_as_it_says(kind: str, value: int) -> None:
    content = with_orientation(value, kind)
    found = pixels(content)
    assert found.shape == TURNED[value].shape
    assert abs(found.astype(int) - TURNED[value]).max() <= (3 if kind == "JPEG" else 0)
    assert np.array_equal(found, np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(content)))))
    assert abs(pixels(content, orientation=False).astype(int) - PHOTO).max() <= (3 if kind == "JPEG" else 0)


@pytest.mark.parametrize(
    "entry",
    [(3, 1, 9), (3, 1, 0), (3, 1, 65535), (2, 2, 0x36), (11, 1, 6), (9, 1, 6), (3, 0, 6), (77, 1, 6), (3, 2**31, 6)],
)
def test_an_orientation_that_is_none_turns_nothing(entry: tuple[int, int, int]) -> None:
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, 274, *entry, 0)
    plain = saved(IMAGE, "JPEG")
    assert np.array_equal(pixels(with_segment(plain, 0xE1, exif)), np.array(Image.open(io.BytesIO(plain))))


def test_orientation_from_either_end_and_from_text() -> None:
    small, large = struct.pack("<IHHHII", 8, 1, 274, 3, 1, 6), struct.pack(">IHHHIHH", 8, 1, 274, 3, 1, 6, 0)
    assert tags.orientation(b"II*\0" + small) == tags.orientation(b"Exif\0\0MM\0*" + large) == 6
    exif = (b"Exif\0\0II*\0" + small).hex()
    info = PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(exif) // 2:8}\n{exif}\n", zip=True)
    assert np.array_equal(pixels(saved(IMAGE, "PNG", pnginfo=info)), TURNED[6])


# --- the fast decoder ---


def jpeg(seed: int, width: int, height: int, noisy: bool, grey: bool, **options: Any) -> bytes:
    values = (
        np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
        if noisy
        else photo(height, width)
    )
    image = Image.fromarray(values)
    return saved(image.convert("L") if grey else image, "JPEG", **options)


def test_the_fast_decoder_agrees_here() -> None:
    assert fast_jpeg._proven_decoder() is simplejpeg.decode_jpeg


@settings(max_examples=150)
@given(
    seed=st.integers(0, 99),
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    noisy=st.booleans(),
    grey=st.booleans(),
    options=st.fixed_dictionaries(
        {
            "quality": st.integers(1, 100),
            "subsampling": st.integers(0, 2),
            "progressive": st.booleans(),
            "optimize": st.booleans(),
        },
        optional={"restart_marker_blocks": st.integers(1, 9), "restart_marker_rows": st.integers(1, 3)},
    ),
)
def test_the_bits_are_those_of_pillow(
    seed: int, width: int, height: int, noisy: bool, grey: bool, options: dict[str, Any]
) -> None:
    content = jpeg(seed, width, height, noisy, grey, **options)
    expected = Image.open(io.BytesIO(content))
    assert np.array_equal(np.array(fast_jpeg.decode(content, width, height, 1 if grey else 3)), np.array(expected))
    assert np.array_equal(pixels(content), np.array(expected.convert("RGB")))


@pytest.mark.parametrize("sampling", ["444", "422", "420", "440", "411"])
@pytest.mark.parametrize("quality", [20, 75, 100])
def test_files_of_another_writer(sampling: str, quality: int) -> None:
    for size in ((1, 1), (7, 9), (64, 64), (50, 131)):
        content = simplejpeg.encode_jpeg(photo(*size), quality, colorsubsampling=sampling)
        assert np.array_equal(pixels(content), np.array(Image.open(io.BytesIO(content))))


def test_every_cut_is_what_it_is_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    content = jpeg(0, 20, 20, True, False, subsampling=2)
    monkeypatch.setattr(fast_jpeg, "decode", lambda *_: None)
    slow = [_outcome(content[:n]) for n in range(len(content))]
    monkeypatch.undo()
    assert [_outcome(content[:n]) for n in range(len(content))] == slow
    assert {type(one) for one in slow} == {str}


def _outcome(content: bytes) -> Any:
    try:
        return pixels(content).tolist()
    except ImageError as error:
        return str(error)


def test_a_decoder_of_other_bits_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    def fancy(content: bytes, **options: Any) -> np.ndarray:
        used.append(content)
        return simplejpeg.decode_jpeg(content, **{**options, "fastupsample": True})

    monkeypatch.setattr(simplejpeg, "decode_jpeg", fancy)
    fast_jpeg._proven_decoder.cache_clear()
    content = jpeg(0, 40, 40, False, False, subsampling=2)
    assert np.array_equal(pixels(content), np.array(Image.open(io.BytesIO(content))))
    assert fast_jpeg._proven_decoder() is None and used and content not in used
    fast_jpeg._proven_decoder.cache_clear()


def test_without_the_fast_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    fast_jpeg._proven_decoder.cache_clear()
    content = jpeg(0, 40, 40, False, False)
    assert fast_jpeg._proven_decoder() is None
    assert np.array_equal(pixels(content), np.array(Image.open(io.BytesIO(content))))
    fast_jpeg._proven_decoder.cache_clear()


def test_an_image_out_of_the_fast_decoder_is_like_any_other() -> None:
    content = jpeg(3, 50, 40, True, False)
    image, expected = decode(content, Decode(), "it"), Image.open(io.BytesIO(content))
    expected.load()
    for change in (
        lambda one: one.copy(),
        lambda one: one.resize((20, 20), Image.Resampling.BICUBIC),
        lambda one: one.crop((-3, 5, 70, 20)),
        lambda one: one.transpose(Image.Transpose.ROTATE_90),
        lambda one: one.convert("L"),
        lambda one: one.convert("RGBA"),
        lambda one: one.filter(ImageFilter.BLUR),
        lambda one: Image.merge("RGB", one.split()[::-1]),
    ):
        assert np.array_equal(np.array(change(image)), np.array(change(expected)))
    image.putpixel((0, 0), (1, 2, 3))  # its memory is copied first
    assert image.getpixel((0, 0)) == (1, 2, 3)
    assert image.getpixel((1, 0)) == expected.getpixel((1, 0))


def test_threads_agree() -> None:
    contents = [with_orientation(n % 8 + 1, kind) for n in range(8) for kind in ("JPEG", "PNG", "WEBP", "TIFF")] * 8
    one = [pixels(content) for content in contents]
    fast_jpeg._proven_decoder.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        for found, expected in zip(pool.map(pixels, contents), one, strict=True):
            assert np.array_equal(found, expected)
