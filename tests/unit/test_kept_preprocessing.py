"""Preprocessing kept with a model: saved, read, carried over, added, converted, compared; and the picture in the proof."""

from __future__ import annotations

import base64
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import zstandard
from PIL import Image
from torch import nn

import perdure
import picture_making
from fault.forging import header_of, manifest_of, sealed, with_blob, with_manifest
from perdure.disk.blobs import unpack
from perdure.errors import CorruptError, InputError, MissingFileError, PerdureError
from perdure.images.proof_picture import libraries, picture_files
from perdure.models.picturing import find_picture_drift, pipeline_of, take_picture
from perdure.records import picture
from perdure.records.preprocessing import PreprocessSpec, from_plain, to_plain
from perdure.records.preprocessing_text import lines_of

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
PREPROCESS = perdure.Preprocess(resize=40, crop=32, **IMAGENET)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kept") / "net.safetensors"
    perdure.save(Net(), path, preprocess=PREPROCESS, labels=["a", "b", "c"])
    return path


def kept(path: Any) -> PreprocessSpec | None:
    return perdure.info(path).preprocess


def test_saved_loaded_and_saved_again(path: Path, tmp_path: Path) -> None:
    assert kept(path) == PREPROCESS.spec
    assert perdure.info(path).forms == ("class", "graph", "weights")  # the picture was the example
    for options in ({}, {"trusted": [Net]}):
        model = perdure.load(path, **options)
        assert kept(model) == PREPROCESS.spec and perdure.info(model).picture_drift == ()
        perdure.save(model, tmp_path / "again.safetensors")
        assert kept(tmp_path / "again.safetensors") == PREPROCESS.spec
        other = perdure.Preprocess(resize=(32, 32))
        perdure.save(model, tmp_path / "other.safetensors", preprocess=other)
        assert kept(tmp_path / "other.safetensors") == other.spec


def test_every_default_is_in_the_file(path: Path) -> None:
    manifest = json.loads(header_of(path.read_bytes())[0]["__metadata__"]["perdure"])
    assert manifest["preprocess"] == json.loads(json.dumps(to_plain(PREPROCESS.spec)))
    assert manifest["preprocess"]["decode"] == {
        "mode": "RGB", "orientation": True, "background": None, "max_pixels": 178956970,
    }  # fmt: skip
    assert "features" not in manifest  # so that older readers read it
    fields = {field for field, _ in _leaves(manifest["preprocess"])}
    assert fields == {field for field, _ in _leaves(to_plain(PREPROCESS.spec))}


def _leaves(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}")
    else:
        yield name, value


def test_what_is_not_preprocessing(tmp_path: Path) -> None:
    for wrong in (3, "resize", object(), nn.Linear(2, 2), {"resize": 3, "crops": 4}):
        with pytest.raises((InputError, MissingFileError)):
            perdure.save(Net(), tmp_path / "no.safetensors", preprocess=wrong)
    assert not (tmp_path / "no.safetensors").exists()


def test_annotated(tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    perdure.save(Net(), path, example=torch.rand(1, 3, 32, 32))
    assert kept(path) is None and "perdure.picture" not in header_of(path.read_bytes())[0]["__metadata__"]
    before = [(spec.name, spec.digest) for spec in perdure.info(path).tensors]
    report = perdure.annotate(path, preprocess=PREPROCESS)
    assert report.warnings == () and kept(path) == PREPROCESS.spec
    assert [(spec.name, spec.digest) for spec in perdure.info(path).tensors] == before
    assert _picture(path.read_bytes()).answer is not None and perdure.check(path).ok
    perdure.annotate(path, labels=["x", "y", "z"])
    assert kept(path) == PREPROCESS.spec and _picture(path.read_bytes()).answer is not None
    bare = tmp_path / "bare.safetensors"
    perdure.save_weights(Net(), bare)
    perdure.annotate(bare, preprocess=PREPROCESS)
    assert kept(bare) == PREPROCESS.spec and _picture(bare.read_bytes()).answer is None


def test_converted_and_compared(path: Path, tmp_path: Path) -> None:
    perdure.convert(path, tmp_path / "folder")
    assert kept(tmp_path / "folder") == PREPROCESS.spec
    assert perdure.info(perdure.load(tmp_path / "folder", verify="full")).picture_drift == ()
    perdure.convert(path, tmp_path / "half.safetensors", dtype="bfloat16")
    assert kept(tmp_path / "half.safetensors") == PREPROCESS.spec
    perdure.convert(path, tmp_path / "part.safetensors", prefix="body")
    assert kept(tmp_path / "part.safetensors") is None
    other = tmp_path / "other.safetensors"
    other.write_bytes(path.read_bytes())
    changed = {**to_plain(PREPROCESS.spec), "resize": {**to_plain(PREPROCESS.spec)["resize"], "filter": "bicubic"}}
    perdure.annotate(other, preprocess=perdure.Preprocess.from_spec(from_plain(changed, "it")))
    said = perdure.diff(path, other).described
    assert {name: pair for name, pair in said.items() if name.startswith("preprocess")} == {
        "preprocess.resize.filter": ("bilinear", "bicubic")
    }
    assert "preprocess.resize.filter: bilinear → bicubic" in str(perdure.diff(path, other))


def test_shown_by_the_command_line(path: Path) -> None:
    done = [sys.executable, "-m", "perdure", "info"]
    text = subprocess.run([*done, str(path)], capture_output=True, text=True, check=True).stdout
    assert "images     decode to RGB; resize the shorter side to 40, bilinear; crop 32×32 from the centre" in text
    data = subprocess.run([*done, "--json", str(path)], capture_output=True, text=True, check=True).stdout
    assert from_plain(json.loads(data)["preprocess"], "it") == PREPROCESS.spec


def test_text_of_every_step() -> None:
    spec = perdure.Preprocess(
        decode={"mode": "L", "orientation": False, "background": (255,)}, resize={"size": (8, 9), "rule": "longer"},
        pad=16, rescale=1 / 127.5, offset=-1.0, dtype="float16", layout="HWC",
    ).spec  # fmt: skip
    assert lines_of(spec) == [
        "decode to L, not turned as EXIF says, transparency on 255",
        "resize to fit into 8×9, bilinear",
        "pad to 16×16 with 0, the image in the centre",
        "multiply by 0.00784313725",
        "add -1",
        "HWC float16",
    ]
    assert lines_of(PREPROCESS.spec)[3:6] == [
        "divide by 255", "subtract 0.485, 0.456, 0.406", "divide by 0.229, 0.224, 0.225",
    ]  # fmt: skip


NONSENSE: dict[str, Any] = {
    "number": 3,
    "text": "resize",
    "list": [],
    "empty size": {"version": 1, "resize": {"size": []}},
    "negative": {"version": 1, "crop": {"size": [-1, 3]}},
    "mean of two": {"version": 1, "mean": [1, 2]},
    "rule": {"version": 1, "resize": {"size": [2, 2], "rule": "best"}},
    "deep": {"version": 1, "decode": {"mode": [[[[[[]]]]]]}},
    "version of text": {"version": "1"},
    "zero std": {"version": 1, "std": [0, 0, 0]},
}


@pytest.mark.parametrize("content", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_is_a_damaged_file(path: Path, content: Any, tmp_path: Path) -> None:
    raw = with_manifest(path.read_bytes(), preprocess=content)
    (tmp_path / "x.safetensors").write_bytes(raw)
    for look in (perdure.info, perdure.load, perdure.Predictor):
        with pytest.raises(CorruptError, match="preprocessing"):
            look(tmp_path / "x.safetensors")
    assert perdure.check(tmp_path / "x.safetensors").verdict == "damaged"
    net = Net()
    assert perdure.load_weights(net, tmp_path / "x.safetensors").fraction_loaded == 1


def test_a_later_version_keeps_nobody_from_the_model(path: Path, tmp_path: Path) -> None:
    raw = with_manifest(path.read_bytes(), preprocess={"version": 2, "augment": "all"})
    (tmp_path / "x.safetensors").write_bytes(raw)
    assert kept(tmp_path / "x.safetensors") is None
    model = perdure.load(tmp_path / "x.safetensors")
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 3)
    perdure.save(model, tmp_path / "y.safetensors")
    assert manifest_of((tmp_path / "y.safetensors").read_bytes())["preprocess"] == {"version": 2, "augment": "all"}
    with pytest.raises(PerdureError, match="later perdure"):
        perdure.Predictor(tmp_path / "x.safetensors")
    found = perdure.Predictor(tmp_path / "x.safetensors", preprocess=PREPROCESS).predict(picture_files()["PNG"])
    assert len(found[0].labels) == 3
    text = subprocess.run(
        [sys.executable, "-m", "perdure", "info", str(tmp_path / "x.safetensors")], capture_output=True, text=True
    )
    assert "a later perdure wrote how they are prepared" in text.stdout


# The picture


def _picture(raw: bytes) -> picture.Picture:
    content = unpack(header_of(raw)[0]["__metadata__"], "picture", "it")
    assert content is not None
    return picture.decode(content, "it")


def _with_picture(raw: bytes, found: picture.Picture) -> bytes:
    return with_blob(raw, "picture", zstandard.compress(picture.encode(found)))


def _changed(path: Path, kind: Any, **fields: Any) -> bytes:
    """Return the file with other pixels noted for one kind of picture."""
    raw = path.read_bytes()
    found = _picture(raw)
    pixels = msgspec.structs.replace(found.files[kind].pixels, **fields)
    files = {**found.files, kind: msgspec.structs.replace(found.files[kind], pixels=pixels)}
    return _with_picture(
        raw, msgspec.structs.replace(found, files=files, libraries={**found.libraries, "pillow": "9.0"})
    )


def _shifted(samples: str, by: float) -> str:
    values = torch.frombuffer(bytearray(base64.b64decode(samples)), dtype=torch.float32)
    return base64.b64encode((values + by).numpy().tobytes()).decode()


def test_the_picture_is_what_its_script_makes() -> None:
    import io

    png = Image.open(io.BytesIO(picture_files()["PNG"]))
    jpeg = Image.open(io.BytesIO(picture_files()["JPEG"]))
    assert (png.mode, png.size, jpeg.mode, jpeg.size) == ("RGB", (61, 47), "RGB", (61, 47))
    assert png.tobytes() == picture_making.pixels()
    pairs = zip(png.tobytes(), jpeg.tobytes(), strict=True)
    assert 0 < sum(abs(a - b) for a, b in pairs) / (61 * 47 * 3) < 16


def test_the_picture_is_in_the_proof(path: Path) -> None:
    found = _picture(path.read_bytes())
    assert found.missing == "" and found.libraries == libraries() and "pillow" in found.libraries
    for kind, content in picture_files().items():
        assert base64.b64decode(found.files[kind].content) == content
        pixels = PREPROCESS(content)
        assert found.files[kind].pixels.shape == (1, 3, 32, 32)
        assert 0 < found.files[kind].pixels.tolerance < 1e-5 < 1 / 255
        step = -(-pixels.numel() // 4096)
        assert base64.b64decode(found.files[kind].pixels.samples) == pixels.flatten()[::step].numpy().tobytes()
    assert found.answer is not None
    answer = Net().eval()(PREPROCESS(picture_files()["PNG"]))
    assert base64.b64decode(found.answer.outputs[0].samples) == answer.detach().numpy().tobytes()


@pytest.mark.parametrize(("kind", "part"), [("PNG", "resize or normalise"), ("JPEG", "decoder")])
@pytest.mark.parametrize("verify", ["checksum", "full"])
def test_other_pixels_are_drift(
    path: Path, kind: Any, part: str, verify: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    samples = _picture(path.read_bytes()).files[kind].pixels.samples
    raw = _changed(path, kind, digest="0" * 64, samples=_shifted(samples, 0.02))
    with caplog.at_level(logging.WARNING, "perdure"):
        model = perdure.load(raw, verify=verify)
    (drift,) = perdure.info(model).picture_drift
    assert drift.part == part and drift.difference == pytest.approx(0.02, abs=1e-5)
    assert drift.saved_with == {"pillow": "9.0"} and drift.here == libraries()
    assert (drift.answer_difference is not None) == (verify == "full")
    (warning,) = caplog.messages
    assert str(drift) in warning and f"Saved with pillow 9.0, here {libraries()['pillow']}" in warning
    assert ("JPEG files are decoded otherwise" in warning) == (kind == "JPEG")
    assert perdure.info(perdure.load(raw, verify=False)).picture_drift == ()


def test_rounding_is_no_drift(path: Path) -> None:
    samples = _picture(path.read_bytes()).files["PNG"].pixels.samples
    raw = _changed(path, "PNG", digest="0" * 64, samples=_shifted(samples, 2e-7))
    assert perdure.info(perdure.load(raw)).picture_drift == ()


@pytest.mark.parametrize("change", [{"filter": "bicubic"}, {"size": (41, 41)}])
def test_another_filter_is_drift_of_the_resize(path: Path, change: dict[str, Any]) -> None:
    plain = to_plain(PREPROCESS.spec)
    raw = with_manifest(path.read_bytes(), preprocess={**plain, "resize": {**plain["resize"], **change}})
    (drift,) = perdure.info(perdure.load(raw, trusted=[Net])).picture_drift
    assert drift.part == "resize or normalise" and drift.difference > 1 / 255
    assert drift.answer_difference is not None and drift.answer_difference > 1e-4  # which tells what it means


def test_another_decoder_is_told_by_the_jpeg_alone(path: Path) -> None:
    """A decoder that smooths colour in another way, by a JPEG file of other bytes under the pixels of the first."""
    import io

    raw = path.read_bytes()
    found = _picture(raw)
    other = io.BytesIO()
    Image.open(io.BytesIO(picture_files()["JPEG"])).save(other, "JPEG", quality=92)
    file = msgspec.structs.replace(found.files["JPEG"], content=picture.pack_file(other.getvalue()))
    raw = _with_picture(raw, msgspec.structs.replace(found, files={**found.files, "JPEG": file}))
    (drift,) = perdure.info(perdure.load(raw, verify="full")).picture_drift
    assert drift.part == "decoder" and 1 / 255 / 0.23 < drift.difference < 1
    assert perdure.info(perdure.load(raw)).picture_drift == ()  # nobody vouched for a picture that is not perdure's


def test_pictures_of_others(path: Path) -> None:
    raw, found = path.read_bytes(), _picture(path.read_bytes())
    png = found.files["PNG"]
    hostile = {
        "no json": zstandard.compress(b"{"),
        "a list": zstandard.compress(b"[]"),
        "another kind": zstandard.compress(b'{"files":{"GIF":{"content":"","pixels":{}}}}'),
        "no base64": _packed(found, msgspec.structs.replace(png, content="§")),
        "too large": _packed(found, msgspec.structs.replace(png, content="A" * 70_000)),
    }
    for blob in hostile.values():
        with pytest.raises(CorruptError, match="picture"):
            perdure.load(with_blob(raw, "picture", blob), verify="full")
    torn = _packed(found, msgspec.structs.replace(png, content=picture.pack_file(picture_files()["PNG"][:300])))
    (drift,) = perdure.info(perdure.load(with_blob(raw, "picture", torn), verify="full")).picture_drift
    assert drift.difference == float("inf") and "nothing to compare" in str(drift)
    huge = found.answer and msgspec.structs.replace(
        found.answer,
        inputs=tuple(msgspec.structs.replace(leaf, kept="", shape=(2**20, 2**20)) for leaf in found.answer.inputs),
    )
    moved = msgspec.structs.replace(
        png, pixels=msgspec.structs.replace(png.pixels, digest="", samples=png.pixels.samples[:-8])
    )
    bad = msgspec.structs.replace(found, answer=huge, files={"PNG": moved})
    with pytest.raises(CorruptError, match="another input"):
        perdure.load(_with_picture(raw, bad), verify="full")


def _packed(found: picture.Picture, png: picture.PictureFile) -> bytes:
    return zstandard.compress(picture.encode(msgspec.structs.replace(found, files={**found.files, "PNG": png})))


def test_pipelines_without_a_picture(tmp_path: Path) -> None:
    large = take_picture(perdure.Preprocess(resize=(4096, 8)), None)
    assert "too large" in large.missing and large.files == {}
    narrow = perdure.Preprocess(pad=(32, 32))
    report = perdure.save(Net(), tmp_path / "narrow.safetensors", preprocess=narrow, example=torch.rand(1, 3, 32, 32))
    assert len(report.warnings) == 1 and report.warnings[0].startswith("its preprocessing is not proved: ")
    assert perdure.info(perdure.load(tmp_path / "narrow.safetensors")).picture_drift == ()


def test_a_model_that_does_not_take_the_picture(tmp_path: Path) -> None:
    report = perdure.save(nn.Linear(5, 2), tmp_path / "m.safetensors", preprocess=PREPROCESS)
    assert report.forms == ("class", "weights") and "the example of its preprocessing" in " ".join(report.warnings)
    found = _picture((tmp_path / "m.safetensors").read_bytes())
    assert found.answer is None and set(found.files) == {"PNG", "JPEG"}


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "uint8"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_pictures_of_every_type_hold(dtype: str, mode: str) -> None:
    rescale = 1.0 if dtype == "uint8" else 1 / 255
    pipeline = pipeline_of(perdure.Preprocess(decode={"mode": mode}, resize=24, crop=20, dtype=dtype, rescale=rescale))
    assert pipeline is not None
    found = picture.decode(picture.encode(take_picture(pipeline, nn.Identity())), "it")
    assert not found.missing and (found.files["PNG"].pixels.tolerance == 0) == (dtype == "uint8")
    assert find_picture_drift(found, pipeline, nn.Identity(), "it", asked=True) is None


def test_older_files_have_neither(path: Path) -> None:
    header, data = header_of(path.read_bytes())
    manifest = json.loads(header["__metadata__"]["perdure"])
    del manifest["preprocess"], header["__metadata__"]["perdure.picture"]
    header["__metadata__"]["perdure"] = json.dumps(manifest)
    model = perdure.load(sealed(header, data))
    assert kept(model) is None and perdure.info(model).picture_drift == ()
