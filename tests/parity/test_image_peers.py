"""Preprocessing against that of the libraries that it is made from: torchvision, timm, transformers.

Resizing is Pillow's, of tensors too, so where a peer's is Pillow's, results are the same bits. Where a peer resizes tensors
there is a tolerance, in levels of 1/255 before normalising: bilinear 1; bicubic 2 on photographs and 30 on noise (lanczos 60),
since Pillow cuts what overshoots after each of its two passes. So far is
torchvision from itself: its own tests allow 30.
"""

import functools
import importlib
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from parity.pictures import generated, photographs
from perdure.images.peers.processors import PROCESSORS
from perdure.images.preprocess import Preprocess
from torchvision_operators import declare_operators

declare_operators()
models = importlib.import_module("torchvision.models")
functional = importlib.import_module("torchvision.transforms.functional")
timm = importlib.import_module("timm")
transformers = importlib.import_module("transformers")


@functools.cache
def every_image() -> list[Image.Image]:
    return photographs() + generated()


@functools.cache
def some_images() -> list[Image.Image]:
    return photographs() + generated(30)


@functools.cache
def presets() -> dict[Preprocess, Any]:
    """Return torchvision's presets for classification by what they are here; many weights share one."""
    weights = [weight for name in models.list_models(module=models) for weight in models.get_model_weights(name)]
    assert len(weights) > 100
    return {Preprocess.from_torchvision(weight): weight.transforms() for weight in weights}


def configurations() -> dict[Preprocess, Any]:
    """Return timm's configurations of pretrained models by what they are here, with those of their larger size for tests."""
    from timm.models._registry import _model_pretrained_cfgs

    assert len(_model_pretrained_cfgs) > 1000
    found: dict[Preprocess, Any] = {}
    for use_test_size in (False, True):
        for config in _model_pretrained_cfgs.values():
            key = Preprocess.from_timm(config, use_test_size=use_test_size)
            if key not in found:
                resolved = timm.data.resolve_data_config(
                    {}, pretrained_cfg=config.to_dict(), use_test_size=use_test_size
                )
                found[key] = resolved
    return found


def levels(preprocess: Preprocess) -> Preprocess:
    """Return a pipeline that ends before anything is rescaled."""
    spec = msgspec.structs.replace(preprocess.spec, rescale=1.0, mean=None, std=None, dtype="uint8")
    return Preprocess.from_spec(spec)


@pytest.mark.slow
@pytest.mark.parametrize("preprocess", presets(), ids=repr)
def test_every_classification_preset_of_torchvision_gives_the_same_bits(preprocess: Preprocess) -> None:
    preset = presets()[preprocess]
    before = levels(preprocess)
    for image in every_image():
        given = image.convert("RGB")
        resized = functional.resize(given, preset.resize_size, preset.interpolation, antialias=preset.antialias)
        cropped = functional.pil_to_tensor(functional.center_crop(resized, preset.crop_size))
        assert torch.equal(before(image)[0], cropped), image
        normalised = functional.normalize(functional.convert_image_dtype(cropped), preset.mean, preset.std)
        assert torch.equal(preprocess(image)[0], normalised), image
    photograph = photographs()[0]
    assert torch.equal(preprocess(photograph)[0], preset(photograph))


def test_presets_of_torchvision_are_written_back_as_presets() -> None:
    for preprocess, preset in presets().items():
        written = preprocess.to_torchvision()
        assert type(written) is type(preset)
        assert repr(written) == repr(preset)
        assert Preprocess.of(written) == preprocess


@pytest.mark.slow
def test_tensors_get_the_bits_of_images_and_bilinear_ones_are_within_one_level_of_torchvision() -> None:
    for preprocess, preset in presets().items():
        assert preprocess.spec.std is not None
        assert preprocess.spec.resize is not None
        std = torch.tensor(preprocess.spec.std)[:, None, None]
        for image in some_images():
            tensor = functional.pil_to_tensor(image.convert("RGB"))
            ours = preprocess(tensor, input_layout="CHW")[0]
            assert torch.equal(ours, preset(image.convert("RGB"))), (preprocess, image)
            if preprocess.spec.resize.filter == "bilinear":
                difference = (ours - preset(tensor)) * std
                assert difference.abs().max() <= 1 / 255 + 1e-6, (preprocess, image)


@pytest.mark.slow
def test_every_configuration_of_timm_gives_the_same_bits() -> None:
    images = some_images()[:2] + generated(8)
    for preprocess, config in configurations().items():
        transform = timm.data.create_transform(**config)
        mode = preprocess.spec.decode.mode
        for image in images[:3] if config["input_size"][1] > 512 else images:
            assert torch.equal(preprocess(image)[0], transform(image.convert(mode))), (config, image)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(3, 96, 96), (3, 64, 97), (1, 33, 48)])
@pytest.mark.parametrize("crop_pct", [0.7, 0.95, 1.0, 1.2])
def test_crop_modes_of_timm_give_the_same_bits(crop_mode: str, size: tuple[int, int, int], crop_pct: float) -> None:
    numbers = {"mean": (0.485, 0.456, 0.4)[: size[0]], "std": (0.2, 0.3, 0.25)[: size[0]]}
    config = {"input_size": size, "crop_mode": crop_mode, "crop_pct": crop_pct, "interpolation": "bicubic", **numbers}
    preprocess = Preprocess.from_timm(config)
    transform = timm.data.create_transform(**config)
    for image in every_image():
        height, width = image.height, image.width
        if min(height, width) * 9 < max(height, width):
            continue  # timm rounds a side to nothing, and fails
        assert torch.equal(preprocess(image)[0], transform(image.convert(preprocess.spec.decode.mode))), image
    assert Preprocess.from_timm(preprocess.to_timm()) == preprocess


def test_configurations_of_timm_are_written_back() -> None:
    for preprocess in configurations():
        assert Preprocess.of(preprocess.to_timm()) == preprocess


PROCESSOR_OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *(
        (name, {})
        for name in ("ViT", "CLIP", "ConvNext", "DeiT", "Bit", "Siglip", "Beit", "Blip", "MobileViT", "Levit")
    ),
    *((name, {}) for name in ("PoolFormer", "EfficientNet", "MobileNetV1", "MobileNetV2", "Segformer", "Pvt", "DPT")),
    ("ConvNext", {"size": {"shortest_edge": 224}, "crop_pct": 0.9}),
    ("ConvNext", {"size": {"shortest_edge": 97}}),
    ("CLIP", {"size": {"shortest_edge": 97}, "crop_size": {"height": 133, "width": 90}, "resample": 2}),
    ("CLIP", {"do_resize": False, "crop_size": {"height": 133, "width": 90}}),
    ("ViT", {"size": {"height": 64, "width": 97}, "resample": 0, "do_normalize": False}),
    ("ViT", {"do_rescale": False, "do_normalize": False}),
    ("ViT", {"do_rescale": False, "image_mean": (127.5,) * 3, "image_std": (127.5,) * 3, "resample": 1}),
    (
        "EfficientNet",
        {"rescale_offset": True, "rescale_factor": 1 / 127.5, "include_top": False, "do_normalize": False},
    ),
    ("EfficientNet", {"rescale_offset": True, "rescale_factor": 1 / 127.5, "do_center_crop": True}),
    ("LayoutLMv2", {"apply_ocr": False}),
    ("LayoutLMv3", {"apply_ocr": False}),
    ("ImageGPT", {"do_color_quantize": False}),
    ("Gemma3", {}),
    ("Chameleon", {}),
]


@pytest.mark.parametrize(("name", "options"), PROCESSOR_OPTIONS)
@pytest.mark.parametrize("backend", ["Pil", ""])
def test_image_processors_of_transformers(name: str, options: dict[str, Any], backend: str) -> None:
    processor = getattr(transformers, f"{name}ImageProcessor{backend}")(**options)
    preprocess = Preprocess.from_transformers(processor)
    spec = preprocess.spec
    images = generated(60) if spec.resize is not None and max(spec.resize.size) < 300 else generated(20)
    for place, image in enumerate(photographs() + images):
        if not processor.do_convert_rgb:
            image = image.convert("RGB")
        ours, theirs = preprocess(image), processor(image, return_tensors="pt")["pixel_values"]
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        difference = (ours.double() - theirs.double()).abs()
        n_levels = difference * min(spec.std or (1.0,)) / spec.rescale
        chosen = "bilinear" if spec.resize is None else spec.resize.filter
        if backend == "Pil":
            assert difference.max() <= (1e-6 if spec.offset else 0), image
        elif chosen != "nearest":
            allowed = 1 if chosen == "bilinear" else 2 if place < 2 else {"bicubic": 30, "lanczos": 60}[chosen]
            assert n_levels.max() <= allowed + 1e-3, image
        elif place < 2:
            assert (n_levels > 0.5).double().mean() < 0.02, image
    written = preprocess.to_transformers()
    assert Preprocess.of(written) == preprocess
    again = getattr(transformers, written["image_processor_type"].removesuffix("Pil") + backend)(**written)
    image = photographs()[0]
    theirs = processor(image, return_tensors="pt")["pixel_values"]
    assert torch.allclose(again(image, return_tensors="pt")["pixel_values"], theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", sorted(PROCESSORS))
def test_what_processors_do_where_a_configuration_is_silent(name: str) -> None:
    processor = getattr(transformers, name)()
    for word, default in PROCESSORS[name].defaults.items():
        if word in PROCESSORS[name].without:
            continue
        found: Any = getattr(processor, word)
        wanted: Any = default
        if word in ("size", "crop_size"):
            wanted = {"height": default, "width": default} if isinstance(default, int) else default
            found = dict(found)
        assert np.array_equal(found, wanted), word


def test_every_image_processor_is_carried_over_or_refused() -> None:
    from transformers.models.auto import image_processing_auto as auto

    mapping: dict[str, dict[str, str | None]] = vars(auto)["IMAGE_PROCESSOR_MAPPING_NAMES"]
    names = {name for kinds in mapping.values() for name in kinds.values() if name}
    carried = set()
    for name in sorted(names - {"TimmWrapperImageProcessor"}):
        processor: Any = getattr(transformers, name)()
        try:
            preprocess = Preprocess.of(processor)
        except Exception as error:
            assert type(error).__name__ == "InputError", name
            continue
        carried.add(name.removesuffix("Pil"))
        assert Preprocess.of(preprocess.to_transformers()) == preprocess
    assert len(carried) == 28


def test_what_timm_keeps_and_transformers_keeps_of_it_is_one() -> None:
    model = timm.create_model("resnet18")
    config = timm.data.resolve_model_data_config(model)
    wrapped = transformers.TimmWrapperImageProcessor(pretrained_cfg=model.pretrained_cfg)
    expected = Preprocess.from_timm(config)
    for value in (model, wrapped, wrapped.to_dict(), timm.data.create_transform(**config)):
        assert Preprocess.of(value) == expected, type(value)
