"""Malformed and odd images, made here byte by byte or by Pillow, each with what must come of it."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

Pixels = Any
"""(H, W, 3), uint8."""


class Case(NamedTuple):
    """A file; `expected` are its pixels as RGB, or a part of the message of the error that it deserves.

    `tolerance` is how far a lossy format may be from them.
    """

    content: bytes
    expected: Pixels | str
    tolerance: int = 0


def photo(height: int = 13, width: int = 17) -> Pixels:
    """Make a picture with no symmetry: smooth, so that lossy formats keep it."""
    y, x = np.mgrid[:height, :width]
    return np.stack([20 + 10 * x, 30 + 12 * y, 250 - 6 * (x + y)], 2).clip(0, 255).astype(np.uint8)


PHOTO = photo()
IMAGE = Image.fromarray(PHOTO)
GREY = np.array(IMAGE.convert("L"))[..., None].repeat(3, 2)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def by_pillow(content: bytes) -> Pixels:
    """Decode as Pillow does; for what is whole, and lossy."""
    return np.array(Image.open(io.BytesIO(content)).convert("RGB"))


# --- PNG ---


def chunk(kind: bytes, body: bytes = b"", crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def png(
    *chunks: bytes, width: int = 17, height: int = 13, depth: int = 8, colour: int = 2, interlace: int = 0
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND")


def rows(values: Pixels) -> bytes:
    """Write pixels as PNG has them before compression: each row after the byte of its filter."""
    flat = np.ascontiguousarray(values).reshape(len(values), -1)
    return np.hstack([np.zeros((len(values), 1), np.uint8), flat.view(np.uint8)]).tobytes()


def idat(values: Pixels) -> bytes:
    return chunk(b"IDAT", zlib.compress(rows(values)))


def adam7(values: Pixels) -> bytes:
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    parts = [values[top::down, left::across] for top, left, down, across in passes]
    return chunk(b"IDAT", zlib.compress(b"".join(rows(part) for part in parts if part.size)))


def _without_last_pass() -> bytes:
    raw = zlib.decompress(adam7(PHOTO)[8:-4])
    return chunk(b"IDAT", zlib.compress(raw[: -6 * (1 + 17 * 3)]))


_BLACK_BELOW = np.vstack([PHOTO, 0 * PHOTO])


def _pngs() -> dict[str, Case]:
    whole, pixels = saved(IMAGE, "PNG"), idat(PHOTO)
    data = zlib.compress(rows(PHOTO))
    deep = PHOTO.astype(np.uint16) * 256 + 77
    grey16 = GREY[..., 0].astype(np.uint16) * 256 + 200
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))
    palette = IMAGE.quantize(16)
    alpha = np.dstack([PHOTO, np.arange(17 * 13).reshape(13, 17).astype(np.uint8)])
    frames = saved(IMAGE, "PNG", save_all=True, append_images=[IMAGE.transpose(Image.Transpose.ROTATE_180)])
    return {
        **{
            f"PNG cut at {n}": Case(whole[:n], "truncated|damaged")
            for n in (8, 12, 20, 33, 40, len(whole) // 2, len(whole) - 13)
        },
        "PNG without its last byte": Case(whole[:-1], "IEND"),
        "PNG without IEND": Case(whole[:-12], "before its chunk IEND"),
        "PNG with a tail": Case(whole + b"garbage" * 100, PHOTO),
        "PNG, wrong checksum of IDAT": Case(png(chunk(b"IDAT", data, 1)), "checksum of its chunk IDAT"),
        "PNG, wrong checksum of a text": Case(png(chunk(b"tEXt", b"a\0b", 1), pixels), PHOTO),
        "PNG, a bit of IHDR flipped": Case(whole[:19] + b"\x10" + whole[20:], "checksum of its chunk IHDR"),
        "PNG of no width": Case(png(pixels, width=0), "damaged"),
        "PNG of no height": Case(png(pixels, height=0), "damaged"),
        "PNG without pixels": Case(png(), "damaged|truncated"),
        "PNG with an empty IDAT": Case(png(chunk(b"IDAT")), "truncated"),
        "PNG, pixels end early": Case(png(chunk(b"IDAT", data[:-30])), "truncated"),
        "PNG, pixels of fewer rows": Case(png(idat(PHOTO[:5])), "truncated"),
        "PNG, a black last row": Case(saved(Image.fromarray(_BLACK_BELOW), "PNG"), _BLACK_BELOW),
        "PNG, the last pass is missing": Case(png(_without_last_pass(), interlace=1), "truncated"),
        "PNG, pixels of more rows": Case(png(idat(np.vstack([PHOTO, PHOTO]))), PHOTO),
        "PNG, pixels are no deflate": Case(png(chunk(b"IDAT", b"\x78\x9c" + bytes(range(255, 100, -1)))), "damaged"),
        "PNG, filter 9": Case(png(chunk(b"IDAT", zlib.compress(b"\t" + rows(PHOTO)[1:]))), "damaged"),
        "PNG in a thousand pieces": Case(png(*(chunk(b"IDAT", data[n : n + 1]) for n in range(len(data)))), PHOTO),
        "PNG of depth 3": Case(png(pixels, depth=3), "damaged"),
        "PNG of colour 7": Case(png(pixels, colour=7), "damaged"),
        "PNG, a chunk of 4 GiB": Case(whole[:33] + struct.pack(">I", 2**32 - 1) + whole[37:], "within its chunk"),
        "PNG, IHDR is second": Case(whole[:8] + chunk(b"tEXt", b"a\0b") + whole[8:], "not IHDR"),
        "PNG bomb by header": Case(png(pixels, width=2**31 - 1, height=2**31 - 1), "limit|cannot become"),
        "PNG bomb under the limit": Case(png(pixels, width=13_000, height=13_000), "cannot become 13000"),
        "PNG bomb by text": Case(png(bomb, pixels), PHOTO),
        "PNG bomb by a hundred texts": Case(png(*[bomb] * 100, pixels), PHOTO),
        "PNG bomb by profile": Case(png(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(50_000_000))), pixels), PHOTO),
        "PNG with a broken profile": Case(png(chunk(b"iCCP", b"\xff" * 9), pixels), PHOTO),
        "PNG interlaced": Case(png(adam7(PHOTO), interlace=1), PHOTO),
        "PNG of 16 bits, colour": Case(png(idat(deep.astype(">u2")), depth=16), PHOTO),
        "PNG of 16 bits, grey": Case(png(idat(grey16.astype(">u2")), depth=16, colour=0), GREY),
        "PNG of 16 bits, 1 × 1": Case(
            png(idat(np.array([[0x1234]], ">u2")), width=1, height=1, depth=16, colour=0),
            np.full((1, 1, 3), 0x12, np.uint8),
        ),
        "PNG of 1 bit": Case(
            saved(Image.fromarray(PHOTO[..., 0] > 100), "PNG"),
            np.where(PHOTO[..., :1] > 100, 255, 0).astype(np.uint8).repeat(3, 2),
        ),
        "PNG with a palette": Case(saved(palette, "PNG"), np.array(palette.convert("RGB"))),
        "PNG with a palette, one colour transparent": Case(
            saved(palette, "PNG", transparency=3), np.array(palette.convert("RGB"))
        ),
        "PNG with a palette, each colour half transparent": Case(
            saved(palette, "PNG", transparency=bytes(range(16))), np.array(palette.convert("RGB"))
        ),
        "PNG without its palette": Case(
            png(chunk(b"IDAT", zlib.compress(rows(PHOTO[..., 0]))), colour=3), "damaged|any"
        ),
        "PNG with alpha": Case(saved(Image.fromarray(alpha), "PNG"), PHOTO),
        "APNG": Case(frames, PHOTO),
        "APNG of broken frames": Case(frames.replace(b"fdAT", b"fdAX"), PHOTO),
        "APNG of no frames": Case(png(chunk(b"acTL", bytes(8)), pixels), PHOTO),
        "APNG of two headers": Case(
            png(chunk(b"acTL", struct.pack(">II", 2, 0)), chunk(b"acTL", struct.pack(">II", 3, 0)), pixels), PHOTO
        ),
    }


# --- JPEG ---


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def with_segment(content: bytes, marker: int, body: bytes) -> bytes:
    """Put a segment in front of all others of a JPEG."""
    return content[:2] + segment(marker, body) + content[2:]


def frame(content: bytes) -> int:
    """Return where the header of a JPEG's frame begins."""
    return next(content.index(bytes([0xFF, kind])) for kind in (0xC0, 0xC2) if bytes([0xFF, kind]) in content)


def resized(content: bytes, width: int, height: int) -> bytes:
    at = frame(content) + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


def scans(content: bytes, n: int) -> bytes:
    """Repeat the last scan of a progressive JPEG."""
    at = content.rindex(b"\xff\xda")
    return content[:at] + content[at:-2] * n + content[-2:]


def _jpegs() -> dict[str, Case]:
    whole = saved(IMAGE, "JPEG", quality=95, subsampling=0)
    progressive = saved(IMAGE, "JPEG", quality=95, progressive=True)
    cmyk = saved(IMAGE.convert("CMYK"), "JPEG", quality=95)
    at, start = frame(whole), whole.index(b"\xff\xda")
    large = saved(Image.fromarray(photo(1500, 2000)), "JPEG", progressive=True)
    rotated = saved(Image.fromarray(PHOTO[::-1]), "JPEG")
    exif = Image.Exif()
    exif[274] = 1
    mpo = saved(IMAGE, "MPO", save_all=True, append_images=[Image.fromarray(PHOTO[::-1])], quality=95)
    return {
        **{
            f"JPEG cut at {n}": Case(whole[:n], "truncated|damaged")
            for n in (3, 4, 11, 30, at + 6, start + 8, start + 40, len(whole) - 2)
        },
        **{
            f"progressive JPEG cut at {n}/4": Case(progressive[: len(progressive) * n // 4], "truncated|damaged")
            for n in (1, 2, 3)
        },
        "JPEG": Case(whole, by_pillow(whole)),
        "JPEG, about the picture": Case(whole, PHOTO, 12),
        "progressive JPEG": Case(progressive, by_pillow(progressive)),
        "JPEG with a tail": Case(whole + b"garbage" * 100, by_pillow(whole)),
        "JPEG with another behind it": Case(whole + rotated, by_pillow(whole)),
        "JPEG in 4:2:0, 1 × 1": Case(saved(IMAGE.crop((0, 0, 1, 1)), "JPEG", subsampling=2), PHOTO[:1, :1], 12),
        "JPEG, restart markers": Case(
            saved(IMAGE, "JPEG", quality=95, subsampling=0, restart_marker_blocks=1), by_pillow(whole)
        ),
        "JPEG, optimized": Case(saved(IMAGE, "JPEG", quality=95, subsampling=0, optimize=True), by_pillow(whole)),
        "grey JPEG": Case(saved(IMAGE.convert("L"), "JPEG", quality=95), GREY, 6),
        "JPEG of CMYK": Case(cmyk, by_pillow(cmyk)),
        "JPEG of CMYK, about the picture": Case(cmyk, PHOTO, 16),
        "JPEG of YCCK": Case(
            cmyk.replace(b"Adobe\0d\0\0\0\0\0", b"Adobe\0d\0\0\0\0\2"),
            by_pillow(cmyk.replace(b"Adobe\0d\0\0\0\0\0", b"Adobe\0d\0\0\0\0\2")),
        ),
        "JPEG that stores RGB": Case(
            with_segment(whole, 0xEE, b"Adobe\0d\0\0\0\0\0"),
            by_pillow(with_segment(whole, 0xEE, b"Adobe\0d\0\0\0\0\0")),
        ),
        "MPO": Case(mpo, by_pillow(mpo)),
        "MPO, broken directory": Case(mpo.replace(b"MPF\0", b"MPF\0\xff\xff\xff"), "damaged|any"),
        "JPEG of no width": Case(resized(whole, 0, 13), "0 × 13"),
        "JPEG of no height": Case(resized(whole, 17, 0), "17 × 0"),
        "JPEG wider than its pixels, grey as in Pillow": Case(
            resized(whole, 40, 13), by_pillow(resized(whole, 40, 13))
        ),
        "JPEG bomb by header": Case(resized(whole, 65_500, 65_500), "cannot become|limit"),
        "JPEG bomb under the limit": Case(resized(whole, 13_000, 13_000), "cannot become 13000"),
        "JPEG bomb by scans": Case(scans(large, 5000), "scans"),
        "JPEG with no frame": Case(whole[:at] + whole[at + 19 :], "before the frame"),
        "JPEG with no scan": Case(whole[:start] + b"\xff\xd9" + bytes(9), "damaged"),
        "JPEG without Huffman tables": Case(whole.replace(b"\xff\xc4", b"\xff\xec"), "any"),
        "JPEG without quantization": Case(whole.replace(b"\xff\xdb", b"\xff\xec"), "damaged"),
        "JPEG of 12 bits": Case(whole[: at + 4] + b"\x0c" + whole[at + 5 :], "12-bit"),
        "JPEG, lossless": Case(whole[: at + 1] + b"\xc3" + whole[at + 2 :], "damaged"),
        "JPEG, arithmetic": Case(whole[: at + 1] + b"\xc9" + whole[at + 2 :], "damaged|any"),
        "JPEG of 2 components": Case(whole[: at + 9] + b"\2" + whole[at + 10 :], "damaged"),
        "JPEG of 255 components": Case(whole[: at + 9] + b"\xff" + whole[at + 10 :], "damaged"),
        "JPEG, sampling 0": Case(whole[: at + 11] + b"\0" + whole[at + 12 :], "damaged"),
        "JPEG, sampling 4 × 4": Case(whole[: at + 11] + b"\x44" + whole[at + 12 :], "damaged|truncated"),
        "JPEG, a segment of no length": Case(whole[:2] + b"\xff\xe0\0\0" + whole[2:], "segment E0"),
        "JPEG, a segment beyond the end": Case(whole[:2] + b"\xff\xe5\xff\xff" + whole[2:], "segment E5"),
        "JPEG, filling between segments": Case(whole[:2] + b"\xff" * 50 + whole[2:], by_pillow(whole)),
        "JPEG, a profile that is none": Case(
            with_segment(whole, 0xE2, b"ICC_PROFILE\0\1\1" + b"\xff" * 99), by_pillow(whole)
        ),
        "JPEG, a profile in 255 parts": Case(
            with_segment(whole, 0xE2, b"ICC_PROFILE\0\1\xff" + bytes(9)), by_pillow(whole)
        ),
        "JPEG, a short profile": Case(with_segment(whole, 0xE2, b"ICC_PROFILE\0"), by_pillow(whole)),
        "JPEG, Photoshop's segment broken": Case(
            with_segment(whole, 0xED, b"Photoshop 3.0\x008BIM\x03\xed\xff"), by_pillow(whole)
        ),
        "JPEG, random EXIF": Case(with_segment(whole, 0xE1, b"Exif\0\0" + bytes(range(200))), by_pillow(whole)),
        "JPEG, no EXIF in EXIF": Case(with_segment(whole, 0xE1, b"Exif\0\0"), by_pillow(whole)),
        "JPEG, EXIF of 65535 entries": Case(
            with_segment(whole, 0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff"), by_pillow(whole)
        ),
        "JPEG, EXIF that points outside": Case(
            with_segment(whole, 0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"), by_pillow(whole)
        ),
        "JPEG, EXIF that points at itself": Case(
            with_segment(whole, 0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\x08\0\0\0"), by_pillow(whole)
        ),
        "JPEG, a thousand comments": Case(whole[:2] + segment(0xFE, bytes(60_000)) * 100 + whole[2:], by_pillow(whole)),
        "JPEG, noise after its header": Case(
            whole[: start + 14] + np.random.default_rng(0).bytes(900), "damaged|truncated"
        ),
    }


# --- GIF, WebP, BMP ---


def gif(body: bytes, width: int = 2, height: int = 2) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes([0, 0, 0, 255, 0, 0]) + body + b";"


def gif_frame(data: bytes, left: int = 0, top: int = 0, width: int = 2, height: int = 2) -> bytes:
    return b"," + struct.pack("<HHHHB", left, top, width, height, 0) + b"\2" + bytes([len(data)]) + data + b"\0"


_CHECKED = b"\x44\x34\x05"  # clear, 0, 1, 1, 0, end: three bits each, as LZW has them


def _gifs() -> dict[str, Case]:
    whole = saved(IMAGE.quantize(64), "GIF")
    right = by_pillow(whole)
    moving = saved(
        IMAGE.quantize(64), "GIF", save_all=True, append_images=[IMAGE.transpose(Image.Transpose.ROTATE_180)]
    )
    comment = b"!\xfe" + (b"\xff" + bytes(255)) * 16_000 + b"\0"
    dribble = b"!\xfe" + b"\1a" * 500_000 + b"\0"
    return {
        **{
            f"GIF cut at {n}": Case(whole[:n], "truncated|damaged")
            for n in (6, 10, 13, 100, len(whole) - 20, len(whole) - 2)
        },
        "GIF": Case(whole, right),
        "animated GIF": Case(moving, by_pillow(moving)),
        "animated GIF, cut in its second frame": Case(moving[:-60], by_pillow(moving)),
        "GIF with a tail": Case(whole + b"garbage" * 100, right),
        "GIF without frames": Case(gif(b""), "block of kind 59"),
        "GIF of no size": Case(gif(gif_frame(_CHECKED, width=0, height=0), 0, 0), "damaged"),
        "GIF, codes outside of the table": Case(gif(gif_frame(b"\xff\xff\xff")), "damaged|truncated"),
        "GIF, no data": Case(gif(gif_frame(b"")), "damaged|truncated"),
        "GIF bomb by header": Case(gif(gif_frame(_CHECKED), 65_535, 65_535), "limit"),
        "GIF bomb by frame": Case(gif(gif_frame(_CHECKED, 0, 0, 65_535, 65_535)), "limit"),
        "GIF, a frame outside of its screen": Case(gif(gif_frame(_CHECKED, 65_535, 65_535)), "limit|damaged"),
        "GIF with a long comment": Case(whole[: 13 + 3 * 64] + comment + whole[13 + 3 * 64 :], right),
        "GIF with a comment by the byte": Case(whole[: 13 + 3 * 64] + dribble + whole[13 + 3 * 64 :], right),
        "GIF, junk before its frame": Case(gif(b"junk" + gif_frame(_CHECKED)), "block of kind 106"),
    }


def _webps() -> dict[str, Case]:
    lossless, lossy = saved(IMAGE, "WEBP", lossless=True), saved(IMAGE, "WEBP", quality=95)
    moving = saved(
        IMAGE, "WEBP", save_all=True, lossless=True, append_images=[IMAGE.transpose(Image.Transpose.ROTATE_180)]
    )
    huge = bytearray(moving)
    huge[24:30] = b"\xff" * 6
    return {
        **{f"WebP cut at {n}": Case(lossless[:n], "truncated|damaged") for n in (4, 11, 16, 24, 50, len(lossless) - 1)},
        **{f"lossy WebP cut at {n}": Case(lossy[:n], "truncated|damaged") for n in (26, 30, len(lossy) - 5)},
        "WebP": Case(lossless, PHOTO),
        "lossy WebP": Case(lossy, by_pillow(lossy)),
        "animated WebP": Case(moving, PHOTO),
        "WebP with a tail": Case(lossless + b"garbage" * 100, PHOTO),
        "WebP bomb by header": Case(bytes(huge), "canvas"),
        "WebP bomb in lossless": Case(lossless[:21] + b"\xff\xff\xff\x0f" + lossless[25:], "limit"),
        "WebP of an unknown chunk": Case(lossless[:12] + b"VP9 " + lossless[16:], "first chunk"),
        "RIFF that is sound": Case(b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), "WAVE"),
        "WebP, broken data": Case(lossless[:26] + bytes(len(lossless) - 26), "damaged"),
    }


def bmp(
    data: bytes, width: int = 17, height: int = 13, bits: int = 24, compression: int = 0, header_bytes: int = 40
) -> bytes:
    header = struct.pack("<IiiHHIIiiII", header_bytes, width, height, 1, bits, compression, len(data), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + header + data


def _bmps() -> dict[str, Case]:
    whole, padded = saved(IMAGE, "BMP"), np.pad(PHOTO[..., ::-1].reshape(13, -1), ((0, 0), (0, 1)))
    palette = b"".join(bytes([n, 0, 255 - n, 0]) for n in range(256))
    runs = b"".join(bytes([17, n, 0, 0]) for n in range(13)) + b"\0\1"
    run_length = bmp(palette + runs, bits=8, compression=1)
    run_length = run_length[:10] + struct.pack("<I", 54 + 1024) + run_length[14:]
    n = np.arange(12, -1, -1)
    striped = np.stack([255 - n, 0 * n, n], 1).astype(np.uint8)[:, None].repeat(17, 1)
    return {
        **{f"BMP cut at {n}": Case(whole[:n], "truncated|damaged") for n in (2, 14, 30, 54, 300, len(whole) - 4)},
        "BMP": Case(whole, PHOTO),
        "BMP from the top": Case(bmp(padded.tobytes(), height=-13), PHOTO),
        "BMP with a tail": Case(whole + b"garbage" * 100, PHOTO),
        "BMP of no size": Case(bmp(b"", 0, 0), "damaged"),
        "BMP of negative width": Case(bmp(padded.tobytes(), width=-17), "limit|damaged"),
        "BMP bomb by header": Case(bmp(padded.tobytes(), 60_000, 60_000), "limit"),
        "BMP bomb under the limit": Case(bmp(padded.tobytes(), 13_000, 13_000), "truncated|damaged"),
        "BMP of 7 bits": Case(bmp(padded.tobytes(), bits=7), "pixel depth"),
        "BMP of an unknown header": Case(bmp(padded.tobytes(), header_bytes=41), "header type"),
        "BMP that holds a PNG": Case(bmp(saved(IMAGE, "PNG"), compression=5), "compression"),
        "BMP in runs": Case(run_length, striped),
        "BMP bomb in runs": Case(run_length[:18] + struct.pack("<ii", 10_000, 10_000) + run_length[26:], "run-length"),
    }


# --- TIFF ---


def tiff(tags: dict[int, tuple[int, int, int]], tail: bytes = b"", start: int = 8, following: int = 0) -> bytes:
    """Write a directory of tag → type, count and value, and what follows it from byte 200 on."""
    entries = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(tags.items()))
    head = b"II*\0" + struct.pack("<I", start) + struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)
    return head.ljust(200, b"\0") + tail


def _plain_tags() -> dict[int, tuple[int, int, int]]:
    """Return the tags of the grey picture, uncompressed at byte 200."""
    one = {256: 17, 257: 13, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: 13, 279: 221}
    return {tag: (4 if tag in (273, 279) else 3, 1, value) for tag, value in one.items()}


def _tiffs() -> dict[str, Case]:
    plain, grey = _plain_tags(), GREY[..., 0].tobytes()
    whole = tiff(plain, grey)
    pages = saved(IMAGE, "TIFF", save_all=True, append_images=[Image.fromarray(photo(5, 5))])
    packed = {name: saved(IMAGE, "TIFF", compression=name) for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits")}
    jpeg = saved(IMAGE, "TIFF", compression="jpeg", quality=95)
    cmyk = IMAGE.convert("CMYK")
    return {
        **{f"TIFF cut at {n}": Case(whole[:n], "truncated|damaged") for n in (4, 8, 9, 40, 200, 300, len(whole) - 1)},
        **{f"TIFF of {name}": Case(content, PHOTO) for name, content in packed.items()},
        **{
            f"TIFF of {name}, cut": Case(content[: len(content) // 2], "truncated|damaged")
            for name, content in packed.items()
        },
        "TIFF": Case(whole, GREY),
        "TIFF of colour": Case(saved(IMAGE, "TIFF"), PHOTO),
        "TIFF of colour, from the large end": Case(_from_the_large_end(), PHOTO),
        "BigTIFF": Case(saved(IMAGE, "TIFF", big_tiff=True), PHOTO),
        "TIFF of JPEG": Case(jpeg, by_pillow(jpeg)),
        "TIFF of CMYK": Case(saved(cmyk, "TIFF"), np.array(cmyk.convert("RGB"))),
        "TIFF of several pages": Case(pages, PHOTO),
        "TIFF of 16 bits": Case(saved(Image.fromarray(GREY[..., 0].astype(np.uint16) * 256 + 200), "TIFF"), GREY),
        "TIFF of 32 bits, small values": Case(saved(Image.fromarray(GREY[..., 0].astype(np.int32)), "TIFF"), GREY),
        "TIFF of 32 bits, large values": Case(
            saved(Image.fromarray(GREY[..., 0].astype(np.int32) * 1000), "TIFF"), "32-bit integers of"
        ),
        "TIFF of floats, 0 to 255": Case(saved(Image.fromarray(GREY[..., 0] + np.float32(0.5)), "TIFF"), GREY),
        "TIFF of floats, 0 to 1": Case(saved(Image.fromarray(GREY[..., 0] / np.float32(255)), "TIFF"), "floats of"),
        "TIFF of NaN": Case(saved(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"), "floats of nan"),
        "TIFF with a tail": Case(whole + b"garbage" * 100, GREY),
        "TIFF whose pages go in a circle": Case(tiff(plain, grey, following=8), GREY),
        "TIFF whose next page is outside": Case(tiff(plain, grey, following=2**32 - 1), GREY),
        "TIFF whose directory is outside": Case(tiff(plain, grey, start=10**6), "first directory lies"),
        "TIFF whose directory is its header": Case(tiff(plain, grey, start=0), "damaged"),
        "TIFF of no entries": Case(tiff({}), "no width"),
        "TIFF of 65535 entries": Case(whole[:8] + b"\xff\xff" + whole[10:], "65535 entries"),
        "TIFF of no width": Case(tiff({**plain, 256: (3, 1, 0)}, grey), "no width"),
        "TIFF of a width in floats": Case(tiff({**plain, 256: (11, 1, 0)}, grey), "no width"),
        "TIFF of two widths": Case(tiff({**plain, 256: (3, 2, 17 | 99 << 16)}, grey), GREY),
        "TIFF bomb by header": Case(
            tiff({**plain, 256: (4, 1, 2**31 - 1), 257: (4, 1, 2**31 - 1), 278: (4, 1, 2**31 - 1)}, grey),
            "truncated|limit",
        ),
        "TIFF bomb under the limit": Case(
            tiff({**plain, 256: (3, 1, 13_000), 257: (3, 1, 13_000), 278: (3, 1, 13_000)}, grey), "169000000 bytes"
        ),
        "TIFF bomb by tiles": Case(tiff({**_tiled(), 322: (4, 1, 2**30), 323: (4, 1, 2**30)}, grey), "tiles"),
        "TIFF of tiles of no size": Case(tiff({**_tiled(), 322: (4, 1, 0)}, grey), "tiles"),
        "TIFF in one tile": Case(tiff(_tiled(), np.pad(GREY[..., 0], ((0, 3), (0, 15))).tobytes()), GREY),
        "TIFF bomb by samples": Case(tiff({**plain, 277: (4, 1, 2**31 - 1)}, grey), "damaged|truncated"),
        "TIFF, its strip outside": Case(tiff({**plain, 273: (4, 1, 10**6)}, grey), "truncated"),
        "TIFF, its strip at the end of all numbers": Case(tiff({**plain, 273: (4, 1, 2**32 - 1)}, grey), "truncated"),
        "TIFF, a strip missing": Case(tiff({**plain, 278: (3, 1, 1)}, grey), "1 strips or tiles; 13"),
        "TIFF, strips without end": Case(tiff({**plain, 273: (4, 2**28, 200)}, grey), "lie outside"),
        "TIFF without strips": Case(tiff({tag: entry for tag, entry in plain.items() if tag != 273}, grey), "0 strips"),
        "TIFF of unknown compression": Case(tiff({**plain, 259: (3, 1, 7777)}, grey), "damaged"),
        "TIFF of unknown colour": Case(tiff({**plain, 262: (3, 1, 7777)}, grey), "damaged"),
        "TIFF of 7 bits": Case(tiff({**plain, 258: (3, 1, 7)}, grey), "damaged"),
        "TIFF that says it is deflate": Case(tiff({**plain, 259: (3, 1, 8)}, grey), "damaged"),
        "TIFF of a type without name": Case(tiff({**plain, 256: (77, 1, 17)}, grey), "damaged|no width"),
        "TIFF with EXIF outside": Case(tiff({**plain, 34665: (4, 1, 10**8), 700: (1, 2**31, 10**8)}, grey), GREY),
        "TIFF with EXIF in a circle": Case(tiff({**plain, 34665: (4, 1, 8), 330: (4, 1, 8)}, grey), GREY),
    }


def _tiled() -> dict[int, tuple[int, int, int]]:
    tags = {tag: entry for tag, entry in _plain_tags().items() if tag not in (273, 278, 279)}
    return {**tags, 322: (3, 1, 32), 323: (3, 1, 16), 324: (4, 1, 200), 325: (4, 1, 512)}


def _from_the_large_end() -> bytes:
    one = {256: 17, 257: 13, 259: 1, 262: 2, 277: 3, 278: 13}
    entries = {tag: struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in one.items()}
    entries[258] = struct.pack(">HHII", 258, 3, 3, 190)
    entries[273], entries[279] = struct.pack(">HHII", 273, 4, 1, 200), struct.pack(">HHII", 279, 4, 1, 663)
    head = b"MM\0*" + struct.pack(">IH", 8, len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    return head.ljust(190, b"\0") + struct.pack(">3H", 8, 8, 8) + bytes(4) + PHOTO.tobytes()


# --- what is no image ---


def _others() -> dict[str, Case]:
    random = np.random.default_rng(0).bytes(5000)
    return {
        "empty": Case(b"", "it is empty"),
        "one byte": Case(b"\xff", "begins with"),
        "random bytes": Case(random, "begins with"),
        "zeros": Case(bytes(5000), "begins with"),
        "a page of the web": Case(b"<!DOCTYPE html>\n<html><body>Not found</body></html>", "a page of the web"),
        "SVG": Case(b'<svg xmlns="http://www.w3.org/2000/svg"/>', "begins with"),
        "PDF": Case(b"%PDF-1.7\n" + bytes(99), "begins with"),
        "PostScript": Case(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n" + bytes(99), "begins with"),
        "PPM": Case(saved(IMAGE, "PPM"), "begins with"),
        "TGA": Case(saved(IMAGE, "TGA"), "begins with"),
        "ICO": Case(saved(IMAGE, "ICO"), "begins with"),
        "JPEG 2000": Case(b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99), "begins with"),
        "JPEG after a space": Case(b" " + saved(IMAGE, "JPEG"), "begins with"),
        "only JPEG's first bytes and noise": Case(b"\xff\xd8\xff" + random, "damaged|truncated"),
        "only PNG's first bytes and noise": Case(b"\x89PNG\r\n\x1a\n" + random, "damaged|truncated"),
        "only TIFF's first bytes and noise": Case(b"II*\0" + random, "damaged|truncated"),
        "only GIF's first bytes and noise": Case(b"GIF89a" + random, "damaged|truncated|limit"),
        "only WebP's first bytes and noise": Case(b"RIFF\xff\0\0\0WEBPVP8 " + random, "damaged|truncated|limit"),
        "only BMP's first bytes and noise": Case(b"BM" + random, "damaged|truncated|limit"),
        "WebP's length, then nothing": Case(b"RIFF\x04\0\0\0WEBP", "damaged|truncated"),
    }


CASES: dict[str, Case] = {**_pngs(), **_jpegs(), **_gifs(), **_webps(), **_bmps(), **_tiffs(), **_others()}
