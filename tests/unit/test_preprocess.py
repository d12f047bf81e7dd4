"""`Preprocess`: what it is made of, what it takes, and what comes out."""

import _thread
import copy
import io
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import perdure
from perdure.errors import ImageError, InputError, MissingFileError, PathError
from perdure.images.batching import BadImage
from perdure.images.preprocess import Preprocess
from perdure.images.resampling import resampled
from perdure.records.preprocessing import Crop, Decode, Pad, PreprocessSpec, Resize, from_plain, to_plain

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = Preprocess(resize=256, crop=224, mean=MEAN, std=STD)


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def chw(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


# --- what it is made of ---


def test_short_arguments_stand_for_records():
    assert IMAGENET.spec == PreprocessSpec(
        resize=Resize(size=(256, 256), rule="shorter"), crop=Crop(size=(224, 224)), mean=MEAN, std=STD
    )
    assert Preprocess(resize=(3, 4), filter="bicubic").spec.resize == Resize(size=(3, 4), filter="bicubic")
    assert Preprocess(pad=7).spec.pad == Pad(size=(7, 7))
    assert Preprocess(mean=0.5, std=(0.25,)).spec.std == (0.25, 0.25, 0.25)
    assert Preprocess(mean=0.5, decode=Decode(mode="L")).spec.mean == (0.5,)
    assert Preprocess(dtype=torch.bfloat16).spec.dtype == "bfloat16"
    assert Preprocess(mean=torch.tensor([0.5]), std=np.float32(0.25)).spec.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("crop", "ratio", "size", "rule"),
    [(224, 0.875, (256, 256), "shorter"), (224, 0.9, (248, 248), "shorter"), ((224, 200), 0.9, (248, 222), "cover")],
)
def test_a_crop_ratio_makes_the_resize(crop, ratio, size, rule):
    spec = Preprocess(crop=crop, crop_ratio=ratio).spec
    assert (spec.resize.size, spec.resize.rule) == (size, rule)


def test_equal_ones_are_equal_and_can_be_pasted_copied_and_pickled():
    other = Preprocess(
        resize={"size": (20, 30), "filter": "lanczos"},
        pad={"size": (40, 40), "fill": (1, 2, 3)},
        decode={"orientation": False},
    )
    for one in (IMAGENET, other, Preprocess()):
        assert eval(repr(one)) == one
        assert copy.deepcopy(one) == one == pickle.loads(pickle.dumps(one))
        assert hash(one) == hash(eval(repr(one)))
        assert Preprocess.from_spec(one.spec) == one
    assert other != IMAGENET and IMAGENET != 3
    with pytest.raises(AttributeError, match="frozen"):
        IMAGENET.spec = other.spec


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"crop": True}, "`crop` is True"),
        ({"resize": 0}, "resize.size"),
        ({"resize": 65_501}, "65500"),
        ({"resize": (65_500, 65_500)}, "178956970"),
        ({"resize": "256"}, "`resize` is of type str"),
        ({"resize": (1.5, 2)}, "resize"),
        ({"resize": {"size": (3, 4), "rule": "shorter"}}, "the same"),
        ({"resize": {"size": (4, 4), "max_size": 9}}, "max_size"),
        ({"resize": {"size": (4, 4), "rule": "shorter", "max_size": 3}}, "max_size"),
        ({"resize": 4, "filter": "sinc"}, "sinc"),
        ({"crop_ratio": 0.9}, "crop"),
        ({"crop_ratio": 0.9, "crop": 3, "resize": 4}, "crop_ratio"),
        ({"crop_ratio": 0, "crop": 3}, "crop_ratio"),
        ({"crop": {"size": (3, 3), "fill": 256}}, "crop.fill"),
        ({"pad": {"size": (3, 3), "fill": (1, 2)}}, "2 values"),
        ({"pad": {"size": (3, 3), "fill": (1, 2, -1)}}, "-1"),
        ({"pad": 3, "crop": 4}, "smaller"),
        ({"mean": (1, 2)}, "2 values; RGB has 3"),
        ({"mean": float("nan")}, "nan"),
        ({"mean": "x"}, "no number"),
        ({"std": 0}, "zero"),
        ({"std": 1e-50}, "zero in float32"),
        ({"std": 1e50}, "finite in float32"),
        ({"rescale": float("inf")}, "inf"),
        ({"rescale": 0}, "zero"),
        ({"channels": "BGR", "decode": {"mode": "L"}}, "BGR"),
        ({"channels": "GBR"}, "GBR"),
        ({"dtype": "int8"}, "int8"),
        ({"dtype": "uint8"}, "rescale"),
        ({"dtype": "uint8", "rescale": 1, "mean": 3}, "mean"),
        ({"dtype": "uint8", "rescale": 1, "decode": {"mode": "I;16"}}, "16 bits"),
        ({"decode": {"mode": "CMYK"}}, "CMYK"),
        ({"decode": {"background": (1, 2)}}, "background"),
        ({"decode": {"background": (1, 2, 256)}}, "256"),
        ({"decode": {"max_pixels": 0}}, "max_pixels"),
    ],
)
def test_what_cannot_be_is_refused_by_name(arguments, told):
    with pytest.raises(InputError, match=told):
        Preprocess(**arguments)


def test_records_of_later_versions_and_of_other_things_are_refused():
    with pytest.raises(InputError, match="version 2"):
        from_plain(to_plain(IMAGENET.spec) | {"version": 2}, "a file")
    for other in (None, [], {"version": 0}, {"version": True}, {"resize": {}}, {"mean": [1, "a", 2]}):
        with pytest.raises(InputError, match="a file"):
            from_plain(other, "a file")


# --- what it takes ---


def kinds(pixels: np.ndarray, folder: Path) -> dict[str, object]:
    path = folder / "image.png"
    path.write_bytes(png(pixels))
    return {
        "path": path,
        "string": str(path),
        "bytes": png(pixels),
        "bytearray": bytearray(png(pixels)),
        "file": io.BytesIO(png(pixels)),
        "picture": Image.fromarray(pixels),
        "unread picture": Image.open(path),
        "array": pixels,
        "turned array": pixels[:, ::-1].copy()[:, ::-1],
        "tensor": chw(pixels),
    }


def test_every_kind_of_input_gives_the_same_bits(tmp_path):
    pixels = noise(300, 411)
    given = kinds(pixels, tmp_path)
    expected = IMAGENET(Image.fromarray(pixels))
    assert expected.shape == (1, 3, 224, 224) and expected.dtype == torch.float32 and expected.is_contiguous()
    for name, image in given.items():
        assert torch.equal(IMAGENET(image), expected), name
    together = IMAGENET(list(kinds(pixels, tmp_path).values()), threads=3)
    assert torch.equal(together, expected.expand(len(given), -1, -1, -1))


def test_arrays_and_tensors_may_have_other_orders_of_axes():
    pixels = noise(30, 20)
    pipeline = Preprocess(resize=(8, 9))
    expected = pipeline(pixels)
    assert torch.equal(pipeline(pixels.transpose(2, 0, 1), input_layout="CHW"), expected)
    assert torch.equal(pipeline(torch.from_numpy(pixels), input_layout="HWC"), expected)
    batch = np.stack([pixels, pixels[::-1]])
    expected = torch.cat([expected, pipeline(pixels[::-1])])
    assert torch.equal(pipeline(batch), expected)
    assert torch.equal(pipeline(torch.from_numpy(batch), input_layout="HWC"), expected)
    assert torch.equal(pipeline(torch.from_numpy(batch).permute(0, 3, 1, 2)), expected)
    floats = pipeline(batch.astype(np.float64) / 255)
    assert torch.equal(floats, pipeline(torch.from_numpy(batch / 255), input_layout="HWC"))
    assert (floats - expected).abs().max() < 1 / 255


def test_one_channel_serves_as_three():
    grey = noise(9, 7, 1)
    expected = Preprocess()(np.repeat(grey, 3, axis=2))
    for given in (grey, grey[..., 0], chw(grey), torch.from_numpy(grey[..., 0])):
        assert torch.equal(Preprocess()(given), expected)
    assert torch.allclose(Preprocess()(chw(grey) / 255), expected, atol=1e-7)


def test_floats_are_of_0_to_1_and_not_divided_again():
    values = torch.rand(3, 40, 50)
    assert torch.equal(Preprocess()(values)[0], values)
    assert torch.equal(Preprocess(rescale=1.0)(values)[0], values * 255)
    assert torch.equal(Preprocess(rescale=1, dtype="uint8")(values)[0], (values * 255).round().to(torch.uint8))
    halved = Preprocess()(values.half())
    assert halved.dtype == torch.float32 and (halved - values).abs().max() < 1e-3
    with pytest.raises(InputError, match=r"image 1.*up to 255.*Divide"):
        Preprocess()(torch.full((3, 2, 2), 255.0))


def test_sixteen_bits_stay_where_the_mode_has_them():
    pixels = np.random.default_rng(0).integers(0, 65536, (20, 30), dtype=np.uint16)
    deep = Preprocess(decode={"mode": "I;16"}, rescale=1 / 65535)
    expected = torch.from_numpy(pixels.astype(np.float64) / 65535).float()[None, None]
    assert torch.equal(deep(pixels), expected)
    assert torch.equal(deep(torch.from_numpy(pixels)), expected)
    assert torch.equal(deep(Image.fromarray(pixels)), expected)
    assert torch.equal(Preprocess()(pixels), Preprocess()((pixels >> 8).astype(np.uint8)))
    assert torch.equal(Preprocess()(torch.from_numpy(pixels)), Preprocess()(pixels))
    assert torch.equal(Preprocess()(pixels.astype(">u2")), Preprocess()(pixels))
    smaller = Preprocess(decode={"mode": "I;16"}, rescale=1, resize=(7, 40))(pixels)[0, 0]
    pillow = np.asarray(Image.fromarray(pixels).resize((40, 7), Image.Resampling.BILINEAR)).astype(np.float32)
    assert np.abs(smaller.numpy() - pillow).max() <= 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (3, "type int"),
        (None, "type NoneType"),
        ({"a": 1}, "type dict"),
        ([], "none"),
        ([3], "image 1.*int"),
        ([noise(2, 2), [noise(2, 2)]], "image 2.*list"),
        (np.zeros((2, 2, 7), np.uint8), "input_layout"),
        (np.zeros((3, 20, 20), np.uint8), "input_layout"),
        (np.zeros((2, 0, 3), np.uint8), "no pixels"),
        (np.zeros((2, 2, 3), np.int64), "int64"),
        (np.zeros((2, 2, 3), bool), "bool"),
        (np.zeros((1, 1, 2, 2, 3), np.uint8), "5 axes"),
        (np.zeros(3, np.uint8), "1 axes"),
        (torch.zeros(2, 3, 4, 5, dtype=torch.int64), "int64"),
        (torch.zeros(5, 4, 4), "input_layout"),
        (torch.zeros(2, 4, 4), "2 channels"),
        (np.array("x"), "<U1"),
        (torch.zeros(0, 3, 4, 4), "none"),
        (torch.zeros(2, 3, 0, 4), "no pixels"),
        (torch.zeros(3, 4, 4, device="meta"), "meta"),
        (torch.zeros(2, 3, 4, 4, device="meta"), "meta"),
        (torch.zeros(3, 4, 4).to_sparse(), "sparse"),
        (torch.zeros(3, 4, 4, dtype=torch.complex64), "complex64"),
    ],
)
def test_what_is_no_image_is_refused(given, told):
    with pytest.raises(InputError, match=told):
        Preprocess()(given)


def test_a_missing_or_bad_file_is_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"bad\.png"):
        IMAGENET([noise(9, 9), tmp_path / "bad.png"])
    with pytest.raises(ImageError, match="image 2"):
        IMAGENET([noise(9, 9), b"no image"])
    with pytest.raises(MissingFileError, match=r"gone\.png"):
        IMAGENET(tmp_path / "gone.png")


def test_wrong_arguments_are_told_at_once():
    for wrong in ({"threads": 0}, {"threads": True}, {"input_layout": "NCHW"}, {"batch_size": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            IMAGENET.batches([noise(9, 9)], **wrong)


# --- folders and streams ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b").mkdir()
    for name, level in (("c.PNG", 3), ("a.png", 1), ("b/z.png", 2), (".hidden.png", 9)):
        (tmp_path / name).write_bytes(png(np.full((4, 4, 3), level, np.uint8)))
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_is_its_images_by_name(folder):
    pipeline = Preprocess(rescale=1)
    assert pipeline(folder)[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert pipeline([folder, folder / "a.png", str(folder)])[:, 0, 0, 0].tolist() == [1, 2, 3, 1, 1, 2, 3]
    (batch,) = pipeline.batches(folder)
    assert batch.names == tuple(str(folder / name) for name in ("a.png", "b/z.png", "c.PNG"))
    (folder / "b" / "z.png").unlink()
    with pytest.raises(PathError, match="no image"):
        pipeline(folder / "b")


def test_batches_are_in_order_and_full():
    images = [np.full((4, 4, 3), level, np.uint8) for level in range(11)]
    for threads in (1, 3):
        batches = list(Preprocess(rescale=1).batches(iter(images), batch_size=4, threads=threads))
        assert [batch.pixels[:, 0, 0, 0].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
        assert batches[2].names == ("image 9", "image 10", "image 11")
    assert list(IMAGENET.batches([])) == []


@pytest.mark.parametrize("given", [torch.rand(5, 3, 8, 9), torch.randint(0, 256, (5, 3, 8, 9), dtype=torch.uint8)])
def test_a_tensor_of_many_is_streamed(given):
    pipeline = Preprocess(resize=(4, 4))
    batches = list(pipeline.batches(given, batch_size=2))
    assert [len(batch.pixels) for batch in batches] == [2, 2, 1]
    assert batches[1].names == ("image 3", "image 4")
    whole = torch.cat([batch.pixels for batch in batches])
    assert torch.equal(whole, pipeline(given))
    assert torch.equal(whole[3:4], pipeline(given[3]))


def test_bad_images_are_left_out_on_request():
    good = noise(9, 9)
    images = [b"bad", good, b"", good, good, b"worse"]
    batches = list(IMAGENET.batches(images, batch_size=2, skip_bad=True))
    assert [len(batch.pixels) for batch in batches] == [2, 1]
    assert [[bad.name for bad in batch.skipped] for batch in batches] == [["image 1", "image 3"], ["image 6"]]
    assert isinstance(batches[0].skipped[0], BadImage) and "image 1" in batches[0].skipped[0].reason
    assert [batch.names for batch in batches] == [("image 2", "image 4"), ("image 5",)]
    (only,) = IMAGENET.batches([b"bad"], skip_bad=True)
    assert only.pixels.shape == (0, 3, 224, 224) and only.skipped[0].name == "image 1"
    with pytest.raises(ImageError, match="image 1"):
        list(IMAGENET.batches(images))
    with pytest.raises(InputError, match="image 1"):  # a mistake of the caller's is not skipped
        list(IMAGENET.batches([np.zeros((2, 2, 3), np.int64)], skip_bad=True))


def test_sizes_that_differ_are_no_batch():
    images = [noise(4, 4), noise(4, 4), noise(5, 4)]
    with pytest.raises(InputError, match=r"image 3: .*\(3, 5, 4\), and image 1 with \(3, 4, 4\).*crop"):
        Preprocess()(images)
    with pytest.raises(InputError, match="image 3"):
        list(Preprocess().batches(images))
    assert [batch.pixels.shape[-2] for batch in Preprocess().batches(images, batch_size=1)] == [4, 4, 5]


def test_images_are_taken_from_an_iterator_as_they_are_needed():
    taken = []

    def images():
        for number in range(1000):
            taken.append(number)
            yield noise(4, 4)

    stream = Preprocess().batches(images(), batch_size=2, threads=2)
    next(stream)
    assert len(taken) <= 2 + 2 * 2
    stream.close()
    assert len(taken) <= 2 + 2 * 2


@pytest.mark.parametrize("ending", ["error", "leaving", "interrupt"])
def test_no_thread_is_left_running(ending):
    before = _thread._count()

    def images():
        for number in range(20):
            if number == 15 and ending == "interrupt":
                raise KeyboardInterrupt
            yield b"bad" if number == 15 and ending == "error" else png(noise(40, 40))

    stream = IMAGENET.batches(images(), batch_size=2, threads=4)
    if ending == "leaving":
        next(stream)
        stream.close()
    else:
        with pytest.raises(ImageError if ending == "error" else KeyboardInterrupt):
            list(stream)
    for _ in range(100):
        if _thread._count() == before:
            break
        time.sleep(0.01)
    assert _thread._count() == before


def test_one_picture_given_many_times_is_read_once_at_a_time(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(png(noise(200, 200)))
    with Image.open(path) as picture:
        assert torch.equal(IMAGENET([picture] * 16, threads=8), IMAGENET(path).expand(16, -1, -1, -1))


# --- what comes out ---


def test_layout_order_and_type():
    pixels = noise(6, 5)
    plain = Preprocess(mean=MEAN, std=STD)(pixels)
    assert torch.equal(Preprocess(mean=MEAN, std=STD, layout="HWC")(pixels), plain.permute(0, 2, 3, 1))
    assert torch.equal(Preprocess(mean=MEAN, std=STD, channels="BGR")(pixels), plain.flip(1))
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(Preprocess(mean=MEAN, std=STD, dtype=dtype)(pixels), plain.to(dtype))
    precise = Preprocess(mean=MEAN, std=STD, dtype="float64")(pixels)
    exact = (chw(pixels).double() / 255 - torch.tensor(MEAN).double().new_tensor(MEAN).view(3, 1, 1)) / (
        torch.tensor(STD, dtype=torch.float64).view(3, 1, 1)
    )
    assert precise.dtype == torch.float64 and (precise[0] - exact).abs().max() < 1e-14
    assert torch.equal(Preprocess(rescale=1, dtype="uint8")(pixels)[0], chw(pixels))
    shifted = Preprocess(rescale=1 / 127.5, offset=-1)(pixels)[0]
    assert torch.equal(shifted, (chw(pixels).double() / 127.5 - 1).float())


def test_values_have_torchvisions_bits():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).repeat(3, 1, 1)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    expected = levels.to(torch.float32).div(255).sub_(mean).div_(std)
    assert torch.equal(Preprocess(mean=MEAN, std=STD)(levels)[0], expected)
    assert torch.equal(Preprocess(mean=MEAN, std=STD).as_module()(levels[None])[0], expected)


@pytest.mark.parametrize(
    ("size", "step", "expected"),
    [
        ((300, 400), Resize(size=(256, 256), rule="shorter"), (256, 341)),
        ((400, 300), Resize(size=(256, 256), rule="shorter"), (341, 256)),
        ((400, 300), Resize(size=(256, 256), rule="shorter", max_size=300), (300, 225)),
        ((1, 1000), Resize(size=(10, 10), rule="shorter", max_size=20), (1, 20)),  # where torchvision gets 0 and raises
        ((300, 400), Resize(size=(224, 224), rule="longer"), (168, 224)),
        ((3, 4000), Resize(size=(224, 224), rule="longer", rounding="nearest"), (1, 224)),
        ((300, 401), Resize(size=(100, 200), rule="cover", rounding="nearest"), (150, 200)),
        ((300, 401), Resize(size=(100, 200), rule="cover"), (149, 200)),
        ((301, 200), Resize(size=(100, 100), rule="cover"), (150, 100)),
        ((301, 200), Resize(size=(7, 9)), (7, 9)),
    ],
)
def test_sizes_after_a_resize(size, step, expected):
    pixels = noise(*size)
    assert Preprocess(resize=step)(pixels).shape[-2:] == expected
    assert Preprocess(resize=step)(chw(pixels) / 255).shape[-2:] == expected


def test_a_thread_of_an_image_does_not_become_a_bomb():
    with pytest.raises(ImageError, match=r"image 1: its 1×30000 .* resized to 10000×300000000"):
        Preprocess(resize=10_000)(noise(1, 30_000))


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize(
    ("side", "wanted", "options", "start"),
    [
        (7, 4, {}, 2),  # 1.5 to the even number
        (9, 4, {}, 2),  # 2.5 too
        (7, 4, {"rounding": "down"}, 1),
        (4, 7, {}, -1),
        (4, 7, {"odd": "before"}, -2),
        (4, 4, {}, 0),
    ],
)
def test_a_crop_begins_where_it_is_said(side, wanted, options, start, as_tensor):
    row = np.arange(10, 10 + side, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    step = Crop(size=(1, wanted), fill=5, **options)
    pipeline = Preprocess(crop=step, rescale=1)
    cropped = pipeline.as_module()(chw(row)[None]) if as_tensor else pipeline(row)
    expected = [10 + place if 0 <= place < side else 5 for place in range(start, start + wanted)]
    assert cropped[0, 1, 0].tolist() == expected


@pytest.mark.parametrize(("position", "corner"), [("centre", (0, 1)), ("top left", (0, 0))])
def test_a_border_has_its_colour(position, corner):
    pixels = noise(4, 3)
    pipeline = Preprocess(pad={"size": (5, 6), "position": position, "fill": (1, 2, 3)}, rescale=1)
    for given in (pixels, chw(pixels), chw(pixels) / 255):
        bordered = pipeline(given)[0].round()
        expected = torch.tensor([1, 2, 3]).view(3, 1, 1).repeat(1, 5, 6)
        expected[:, corner[0] : corner[0] + 4, corner[1] : corner[1] + 3] = chw(pixels)
        assert torch.equal(bordered, expected.float())
    with pytest.raises(ImageError, match=r"4×3.*2×2.*longer"):
        Preprocess(pad=2)(pixels)


def test_torchvision_ignores_antialias_of_pictures_and_so_does_this():
    pixels = noise(50, 60)
    without = Preprocess(resize={"size": (20, 20), "antialias": False})
    assert torch.equal(without(pixels), Preprocess(resize=(20, 20))(pixels))
    for mode in ("bilinear", "bicubic"):
        without = Preprocess(resize={"size": (20, 70), "antialias": False, "filter": mode}, rescale=1)
        expected = torch.nn.functional.interpolate(chw(pixels)[None].float(), (20, 70), mode=mode).clamp(0, 255)
        assert (without(chw(pixels)) - expected).abs().max() <= 0.5 + 1e-3  # rounded once


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(20, 30), (90, 20), (300, 200), (50, 60)])
def test_floats_are_resized_as_pytorch_does(mode, size):
    images = torch.rand(2, 3, 50, 60)
    ours = resampled(images, size, Resize(size=size, filter=mode))
    theirs = torch.nn.functional.interpolate(images, size, mode=mode, antialias=True)
    assert (ours - theirs).abs().max() < 2e-5


# --- as a module ---


def test_the_module_is_exported_with_a_dynamic_batch():
    module = IMAGENET.as_module()
    example, other = (torch.randint(0, 256, (n, 3, 100, 130), dtype=torch.uint8) for n in (2, 5))
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("n")},))
    assert torch.equal(program.module()(other), IMAGENET(other))


def test_the_module_is_kept_in_the_graph_of_a_model(tmp_path):
    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.prepare = IMAGENET.as_module()
            self.net = torch.nn.Conv2d(3, 4, 3)

        def forward(self, images):
            return self.net(self.prepare(images))

    model = Whole().eval()
    images = torch.randint(0, 256, (2, 3, 100, 130), dtype=torch.uint8)
    perdure.save(model, tmp_path / "model.safetensors", example=images)
    loaded = perdure.load(tmp_path / "model.safetensors")
    assert torch.equal(loaded(images), model(images))
    perdure.save(IMAGENET.as_module(), tmp_path / "prepare.safetensors", example=images)
    again = perdure.load(tmp_path / "prepare.safetensors", trusted=["perdure.images"])
    assert perdure.info(again).form == "class" and torch.equal(again(images), IMAGENET(images))


def test_autocast_changes_no_bits():
    images = torch.randint(0, 256, (1, 3, 50, 60), dtype=torch.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(IMAGENET.as_module()(images), IMAGENET(images))


def test_gradients_flow_through_floats():
    images = torch.rand(1, 3, 20, 20, requires_grad=True)
    Preprocess(resize=(9, 9), crop=5, mean=MEAN, std=STD).as_module()(images).sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
