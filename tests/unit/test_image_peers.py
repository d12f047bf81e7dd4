"""What other libraries call preprocessing becomes a pipeline and is written back, or an error says what has no word."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from perdure.errors import FileError, FormatError, InputError, MissingFileError
from perdure.images.preprocess import Preprocess
from perdure.records.preprocessing import Crop, Decode, Pad, PreprocessSpec, Resize, to_plain
from torchvision_operators import declare_operators

declare_operators()
torch = importlib.import_module("torch")
transforms = importlib.import_module("torchvision.transforms")
v2 = importlib.import_module("torchvision.transforms.v2")

AS_GIVEN = Decode(orientation=False)
NUMBERS: dict[str, Any] = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}
BICUBIC = transforms.InterpolationMode.BICUBIC


def made(**fields: Any) -> Preprocess:
    return Preprocess.from_spec(PreprocessSpec(**{"decode": AS_GIVEN, **fields}))


COMPOSES = [
    (
        [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize(**NUMBERS)],
        made(resize=Resize(size=(256, 256), rule="shorter"), crop=Crop(size=(224, 224)), **NUMBERS),
    ),
    (
        [
            v2.Resize((32, 48), interpolation=BICUBIC),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(**NUMBERS),
            v2.ToPureTensor(),
        ],
        made(resize=Resize(size=(32, 48), filter="bicubic"), **NUMBERS),
    ),
    (
        [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))],
        made(decode=Decode(mode="L", orientation=False), mean=(0.1307,), std=(0.3081,)),
    ),
    (
        [v2.Grayscale(1), v2.Resize(None, max_size=64), v2.PILToTensor(), v2.ToDtype(torch.float32)],
        made(decode=Decode(mode="L", orientation=False), resize=Resize(size=(64, 64), rule="longer"), rescale=1.0),
    ),
    (
        [v2.RGB(), transforms.Resize([64], max_size=100), v2.CenterCrop((30, 40)), v2.PILToTensor()],
        made(
            resize=Resize(size=(64, 64), rule="shorter", max_size=100),
            crop=Crop(size=(30, 40)),
            rescale=1.0,
            dtype="uint8",
        ),
    ),
    (
        [
            transforms.Compose([transforms.Resize(64), torch.nn.Identity()]),
            transforms.PILToTensor(),
            transforms.ConvertImageDtype(torch.float32),
            v2.Normalize(torch.tensor(NUMBERS["mean"]), torch.tensor(NUMBERS["std"])),
            v2.ToDtype(torch.bfloat16),
        ],
        made(resize=Resize(size=(64, 64), rule="shorter"), dtype="bfloat16", **NUMBERS),
    ),
]


@pytest.mark.parametrize(("steps", "expected"), COMPOSES)
@pytest.mark.parametrize("compose", [transforms.Compose, v2.Compose])
def test_transforms_of_torchvision(compose: Any, steps: list[Any], expected: Preprocess) -> None:
    found = Preprocess.of(compose(steps))
    assert found == expected
    assert Preprocess.from_torchvision(found.to_torchvision()) == found


@pytest.mark.parametrize(
    ("steps", "named"),
    [
        ([transforms.RandomHorizontalFlip(), transforms.ToTensor()], "RandomHorizontalFlip"),
        ([transforms.Pad(3), transforms.ToTensor()], "Pad"),
        ([transforms.CenterCrop(64), transforms.Resize(32), transforms.ToTensor()], "Resize.*after CenterCrop"),
        ([transforms.ToTensor(), transforms.Resize(32)], "Resize.*after ToTensor"),
        ([transforms.Resize(32), transforms.Resize(16), transforms.ToTensor()], "Resize.*after Resize"),
        ([transforms.Resize(32), transforms.CenterCrop(32)], "ends in an image"),
        ([transforms.Grayscale(3), transforms.ToTensor()], "num_output_channels is 3"),
        ([transforms.PILToTensor(), transforms.Normalize(**NUMBERS)], "Normalize.*before there are floating"),
        ([v2.ToDtype(torch.float32, scale=True), v2.ToImage()], "ToDtype.*before there is a tensor"),
        ([transforms.PILToTensor(), transforms.ConvertImageDtype(torch.float64)], "dtype is torch.float64"),
        ([transforms.ToTensor(), transforms.Lambda(lambda image: image)], "Lambda"),
        ([transforms.ToTensor(), transforms.Normalize((0.5,) * 2, (0.5,) * 2)], "`mean` has 2 values"),
    ],
)
def test_steps_of_torchvision_that_have_no_word(steps: list[Any], named: str) -> None:
    with pytest.raises(InputError, match=f"(?s){named}"):
        Preprocess.from_torchvision(transforms.Compose(steps))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"decode": Decode()}, "decode is"),
        ({"decode": Decode(orientation=False, background=(255, 255, 255))}, "decode is"),
        ({"resize": Resize(size=(32, 64), rule="cover")}, "resize"),
        ({"resize": Resize(size=(32, 32), rule="shorter", rounding="nearest")}, "resize.rounding is 'nearest'"),
        ({"crop": Crop(size=(32, 32), rounding="down")}, "crop is"),
        ({"crop": Crop(size=(32, 32), fill=3)}, "crop is"),
        ({"pad": Pad(size=(32, 32))}, "pad is"),
        ({"rescale": 1 / 127.5}, "rescale is"),
        ({"offset": -1.0}, "offset is -1.0"),
        ({"std": (1.0, 1.0, 1.0)}, "mean and std"),
        ({"channels": "BGR"}, "channels is 'BGR'"),
        ({"layout": "HWC"}, "layout is 'HWC'"),
    ],
)
def test_fields_that_torchvision_has_no_word_for(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        made(**fields).to_torchvision()


TIMM: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
    "crop_pct": 0.9,
    "crop_mode": "center",
    **NUMBERS,
}


@pytest.mark.parametrize(
    ("words", "resize", "crop"),
    [
        ({}, Resize(size=(248, 248), rule="shorter", filter="bicubic"), Crop(size=(224, 224))),
        ({"crop_mode": "squash"}, Resize(size=(248, 248), filter="bicubic"), Crop(size=(224, 224))),
        (
            {"crop_mode": "border", "crop_pct": 1.0},
            Resize(size=(224, 224), rule="longer", filter="bicubic", rounding="nearest"),
            Crop(size=(224, 224), fill=(128, 102, 76)),
        ),
        (
            {"input_size": (3, 90, 45)},
            Resize(size=(100, 50), rule="cover", filter="bicubic", rounding="nearest"),
            Crop(size=(90, 45)),
        ),
        (
            {"interpolation": "", "crop_pct": None},
            Resize(size=(256, 256), rule="shorter", filter="bicubic"),
            Crop(size=(224, 224)),
        ),
    ],
)
def test_configurations_of_timm(words: dict[str, Any], resize: Resize, crop: Crop) -> None:
    found = Preprocess.from_timm(TIMM | words)
    assert found == made(resize=resize, crop=crop, **NUMBERS)
    assert Preprocess.of(found.to_timm()) == found


def test_configurations_of_timm_may_be_anywhere() -> None:
    expected = Preprocess.from_timm(TIMM)
    config = {**TIMM, "url": "https://example.org/x.pth", "num_classes": 1000, "tag": "in1k", "first_conv": "conv1"}
    for place in (config, {"architecture": "x", "pretrained_cfg": config}, SimpleNamespace(pretrained_cfg=config)):
        assert Preprocess.of(place) == expected
    larger = Preprocess.from_timm(
        {**config, "test_input_size": (3, 288, 288), "test_crop_pct": 1.0}, use_test_size=True
    )
    assert larger.spec.crop == Crop(size=(288, 288))
    assert larger.spec.resize == Resize(size=(288, 288), rule="shorter", filter="bicubic")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ({"interpolation": "random"}, "interpolation is 'random'"),
        ({"crop_mode": "corner"}, "crop_mode is 'corner'"),
        ({"crop_border_pixels": 4}, "crop_border_pixels is 4"),
        ({"input_size": (2, 224, 224)}, "input_size is"),
        ({"input_size": 224}, "input_size is 224"),
        ({"input_size": (3, "a", 2)}, "input_size is"),
        ({"crop_pct": -1}, "crop_pct is -1"),
        ({"crop_pct": 1e-300}, "crop_pct|`resize.size`"),
        ({"mean": "grey"}, "mean is 'grey'"),
        ({"mean": (0.5, 0.5)}, "`mean` has 2 values"),
        ({"mean": (float("nan"),) * 3}, "mean"),
        ({"mean": (float("inf"),) * 3, "crop_mode": "border"}, "mean"),
    ],
)
def test_words_of_timm_that_have_no_word(words: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        Preprocess.from_timm(TIMM | words)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"resize": None}, "resize is None"),
        ({"crop": None}, "crop is None"),
        ({"mean": None}, "mean is None"),
        ({"pad": Pad(size=(300, 300))}, "pad is"),
        ({"rescale": 1.0}, "rescale is 1.0"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"resize": Resize(size=(256, 300))}, "crop_pct makes"),
        ({"resize": Resize(size=(256, 256), rule="longer")}, "resize.rounding is 'down'"),
        ({"resize": Resize(size=(256, 256), rule="shorter", max_size=300)}, "resize.max_size is 300"),
    ],
)
def test_fields_that_timm_has_no_word_for(fields: dict[str, Any], named: str) -> None:
    usual: dict[str, Any] = {
        "resize": Resize(size=(256, 256), rule="shorter"),
        "crop": Crop(size=(224, 224)),
        **NUMBERS,
    }
    with pytest.raises(InputError, match=named):
        made(**usual | fields).to_timm()


HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"image_processor_type": "ViTImageProcessor"}, made(resize=Resize(size=(224, 224)), **HALF)),
        (
            {"feature_extractor_type": "ViTFeatureExtractor", "size": 64, "resample": 3, "do_normalize": False},
            made(resize=Resize(size=(64, 64), filter="bicubic")),
        ),
        (
            {"image_processor_type": "CLIPImageProcessorFast", "size": 64, "crop_size": 32, "do_normalize": False},
            made(
                decode=Decode(orientation=False, background=(255, 255, 255)),
                resize=Resize(size=(64, 64), rule="shorter", filter="bicubic"),
                crop=Crop(size=(32, 32), rounding="down"),
            ),
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.95},
            made(
                resize=Resize(size=(235, 235), rule="shorter", filter="bicubic"),
                crop=Crop(size=(224, 224), rounding="down"),
                **HALF,
            ),
        ),
        (
            {"image_processor_type": "SegformerImageProcessor", "do_reduce_labels": True, "size": [16, 24], **HALF},
            None,
        ),
        (
            {
                "image_processor_type": "ViTImageProcessorPil",
                "do_resize": False,
                "do_center_crop": True,
                "crop_size": 5,
            },
            made(crop=Crop(size=(5, 5), rounding="down", odd="before"), **HALF),
        ),
        (
            {
                "image_processor_type": "ViTImageProcessor",
                "do_normalize": False,
                "do_pad": True,
                "pad_size": {"height": 300, "width": 400},
            },
            made(resize=Resize(size=(224, 224)), pad=Pad(size=(300, 400), position="top left")),
        ),
    ],
)
def test_configurations_of_transformers(config: dict[str, Any], expected: Preprocess | None) -> None:
    if expected is None:  # words of another library
        with pytest.raises(InputError, match="mean is"):
            Preprocess.of(config)
        return
    found = Preprocess.of(config)
    assert found == expected
    assert Preprocess.of(found.to_transformers()) == found


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ({"image_processor_type": "DonutImageProcessor"}, "image_processor_type is 'DonutImageProcessor'"),
        ({"image_processor_type": None}, "image_processor_type is None"),
        ({"do_sharpen": True}, "do_sharpen is True"),
        ({"size": {"shortest_edge": 3, "longest_edge": 9}}, "size is"),
        ({"size": {"shortest_edge": 3.5}}, "size is"),
        ({"size": "large"}, "size is 'large'"),
        ({"resample": 17}, "resample is 17"),
        ({"image_mean": ["a"]}, "image_mean is"),
        ({"image_std": [0, 0, 0]}, "`std` has the value 0"),
        ({"rescale_factor": 0}, "rescale_factor is 0"),
        ({"do_pad": True}, "do_pad is True"),
        ({"do_pad": True, "pad_size": 300}, "do_pad is True.*after normalising"),
        ({"do_center_crop": True}, "crop_size is None"),
        ({"data_format": "channels_last"}, "data_format is 'channels_last'"),
        ({"auto_map": {"AutoImageProcessor": "x.Y"}}, "auto_map is"),
        ({"image_processor_type": "LayoutLMv3ImageProcessor"}, "apply_ocr is True"),
        ({"image_processor_type": "DPTImageProcessor", "keep_aspect_ratio": True}, "keep_aspect_ratio is True"),
    ],
)
def test_words_of_transformers_that_have_no_word(words: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        Preprocess.from_transformers({"image_processor_type": "ViTImageProcessor", **words})


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"decode": Decode()}, "decode is"),
        ({"decode": Decode(mode="L", orientation=False)}, "decode is"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"layout": "HWC"}, "layout is 'HWC'"),
        ({"mean": (0.5, 0.5, 0.5)}, "mean and std"),
        ({"resize": Resize(size=(9, 9), rule="longer")}, "resize is"),
        ({"resize": Resize(size=(9, 9), antialias=False)}, "resize is"),
        ({"crop": Crop(size=(9, 9))}, "crop is"),
        ({"pad": Pad(size=(9, 9))}, "pad is"),
        ({"pad": Pad(size=(9, 9), position="top left"), **HALF}, "mean, after a pad"),
        ({"offset": 2.0}, "offset is 2.0"),
        ({"channels": "BGR", **HALF}, "mean, where channels are BGR"),
    ],
)
def test_fields_that_transformers_has_no_word_for(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        made(**fields).to_transformers()


def test_processors_are_read_from_where_they_were_saved(tmp_path: Path) -> None:
    config = {"image_processor_type": "ViTImageProcessor", "size": 48}
    expected = Preprocess.of(config)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(config))
    (tmp_path / "config.json").write_text('{"model_type": "vit", "image_size": 224}')
    assert Preprocess.of(file) == Preprocess.of(str(tmp_path)) == Preprocess.from_transformers(tmp_path) == expected
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {**config, "size": 50}}))
    assert Preprocess.of(tmp_path).spec.resize == Resize(size=(50, 50))
    models_of_timm = tmp_path / "timm"
    models_of_timm.mkdir()
    (models_of_timm / "config.json").write_text(json.dumps({"architecture": "x", "pretrained_cfg": TIMM}))
    assert Preprocess.of(models_of_timm) == Preprocess.from_timm(TIMM)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"image_processor_type": 3}', b"3"]
)
def test_files_that_are_no_configuration(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "preprocessor_config.json"
    file.write_bytes(content)
    with pytest.raises((FormatError, InputError)):
        Preprocess.of(file)
    with pytest.raises((FileError, InputError, MissingFileError)):
        Preprocess.of(tmp_path)


def test_places_without_a_configuration(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(MissingFileError):
            Preprocess.of(place)


def test_of_takes_what_is_ours() -> None:
    preprocess = made(resize=Resize(size=(9, 9)), **NUMBERS)
    plain = json.loads(json.dumps(to_plain(preprocess.spec)))
    assert Preprocess.of(preprocess) is preprocess
    assert Preprocess.of(preprocess.spec) == Preprocess.of(plain) == preprocess
    for stranger in (3, None, [preprocess], object(), {"colour": "red"}):
        with pytest.raises(InputError):
            Preprocess.of(stranger)
