"""`Predictor`: what of an answer are logits, what they mean, batches of every size, labels, and what it refuses."""

from __future__ import annotations

import collections
import contextlib
import csv
import importlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import perdure
from perdure.errors import InputError
from perdure.prediction.logits import logits_in, probabilities
from perdure.records.prediction import Prediction, Predictions, Skipped

Named = collections.namedtuple("Named", "aux logits")
LOGITS = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 4.0]])


class Means(nn.Module):
    """Three logits: the means of the channels, times ten."""

    def __init__(self, n_classes: int = 3) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((n_classes,), 10.0))
        self.sizes: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))[:, : len(self.scale)] * self.scale


class Watched(Means):
    """Notes how many images it gets, and has memory for some only."""

    most = 1000

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(images))
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(images)


def coloured(channel: int, size: tuple[int, int] = (9, 7)) -> Image.Image:
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[..., channel] = 255
    return Image.fromarray(pixels)


def predictor_of(model: nn.Module, **options: Any) -> perdure.Predictor:
    return perdure.Predictor(model, **{"preprocess": perdure.Preprocess(resize=(4, 4)), **options})


IMAGES = [coloured(number % 3) for number in range(10)]
NUMBERS = [number % 3 for number in range(10)]


def test_labels_probabilities_and_order() -> None:
    found = predictor_of(Means(), labels=["red", "green", "blue"]).predict(IMAGES[:3], top=2)
    assert [prediction.label for prediction in found] == ["red", "green", "blue"]
    best = float(torch.tensor([10.0, 0.0, 0.0]).double().softmax(0)[0])
    assert found[0].probabilities == pytest.approx((best, (1 - best) / 2))
    assert found[1].labels == ("green", "red") and found[1].numbers == (1, 0)  # of equal ones the first
    assert predictor_of(Means()).predict(IMAGES[2])[0].label == "2"
    assert predictor_of(Means(), labels={2: "blue"}).predict(IMAGES[2], top=9)[0].labels == ("blue", "0", "1")
    assert len(found[:2]) == 2 and len(found) == 3 and list(found) == list(found.predictions)


@pytest.mark.parametrize(
    "answer",
    [
        LOGITS,
        LOGITS[:, :, None, None],
        LOGITS.half(),
        (LOGITS, torch.zeros(2, 3)),
        [LOGITS],
        {"logits": LOGITS, "hidden": torch.zeros(2, 3)},
        {"scores": LOGITS, "hidden": torch.zeros(2, 3, 5)},
        Named(torch.zeros(2, 3), LOGITS),
    ],
    ids=["tensor", "axes of one", "half", "tuple", "list", "logits", "only one that fits", "named tuple"],
)
def test_where_logits_are(answer: Any) -> None:
    found = logits_in(answer, 2)
    assert found.dtype == torch.float64 and torch.equal(found, LOGITS.double())


def test_logits_of_transformers() -> None:
    output = importlib.import_module("transformers.modeling_outputs").ImageClassifierOutput
    assert torch.equal(logits_in(output(logits=LOGITS, hidden_states=(LOGITS,)), 2), LOGITS.double())


@pytest.mark.parametrize(
    "answer",
    [None, torch.zeros(3, 3), torch.zeros(2, 3, 4), torch.zeros(()), {"a": LOGITS, "b": LOGITS}, ("x",), {}, []],
)
def test_answers_that_are_no_classifiers(answer: Any) -> None:
    with pytest.raises(InputError, match="for classifiers"):
        logits_in(answer, 2)


def test_what_logits_mean() -> None:
    wide = LOGITS.double()
    assert torch.equal(probabilities(wide, "softmax", 0), wide.softmax(1))
    assert torch.equal(probabilities(wide, "sigmoid", 3), wide.sigmoid())
    assert torch.equal(probabilities(wide, "none", 3), wide)
    single = torch.tensor([[0.25]]).double()
    second = single.sigmoid()
    for activation in ("softmax", "sigmoid"):
        assert torch.equal(probabilities(single, activation, 2), torch.cat([1 - second, second], 1))
        assert torch.equal(probabilities(single, activation, 1), second)
    assert probabilities(single, "none", 0).tolist() == [[0.75, 0.25]]
    assert logits_in(torch.zeros(4), 4).shape == (4, 1)


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64, "auto"])
def test_batches_of_every_size_answer_the_same(batch_size: Any) -> None:
    model = Watched()
    found = predictor_of(model, batch_size=batch_size).predict(IMAGES)
    assert [prediction.number for prediction in found] == NUMBERS
    assert max(model.sizes) == (10 if batch_size == "auto" else min(batch_size, 10)) and sum(model.sizes) == 10


def test_out_of_memory_halves_the_batch() -> None:
    model = Watched()
    model.most = 2
    predictor = predictor_of(model, batch_size=8)
    assert [prediction.number for prediction in predictor.predict(IMAGES)] == NUMBERS
    assert model.sizes == [8, 4, 2, 2, 2, 2, 2]
    model.most = 0
    with pytest.raises(InputError, match="did not fit into the memory of cpu"):
        predictor.predict(IMAGES)


def test_a_graph_of_one_batch_size_is_given_just_that(tmp_path: Path) -> None:
    class Fixed(Means):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images.reshape(4, 3, 16, 1))

    path = tmp_path / "fixed.safetensors"
    preprocess = perdure.Preprocess(resize=(4, 4))
    perdure.save(Fixed(), path, example=torch.zeros(4, 3, 4, 4), preprocess=preprocess)
    predictor = perdure.Predictor(path)
    assert [prediction.number for prediction in predictor.predict(IMAGES)] == NUMBERS
    assert len(predictor.predict(IMAGES[0])) == 1


def test_arguments_by_keyword_and_plain_ones(tmp_path: Path) -> None:
    class Keyword(Means):
        def forward(self, *, pixel_values: torch.Tensor, power: int = 1) -> Any:  # type: ignore[override]
            return {"logits": super().forward(pixel_values) ** power, "pixels": pixel_values}

    path = tmp_path / "keyword.safetensors"
    example = {"pixel_values": torch.zeros(2, 3, 4, 4), "power": 3}
    perdure.save(Keyword(), path, example=example, preprocess=perdure.Preprocess(resize=(4, 4)))
    found = perdure.Predictor(path).predict(IMAGES)
    assert [prediction.number for prediction in found] == NUMBERS
    assert found[0].probability == pytest.approx(1.0)


def test_tensors_without_preprocessing(tmp_path: Path) -> None:
    path = tmp_path / "bare.safetensors"
    perdure.save(Means(), path, example=torch.rand(2, 3, 4, 4))
    predictor = perdure.Predictor(path, batch_size=2)
    pixels = torch.rand(5, 3, 4, 4)
    found = predictor.predict(pixels)
    assert [prediction.number for prediction in found] == pixels.mean((2, 3)).argmax(1).tolist()
    assert [prediction.name for prediction in found] == [f"image {number}" for number in range(1, 6)]
    assert predictor.predict(list(pixels)) == found
    with pytest.raises(InputError, match=r"perdure\.annotate\(path, preprocess="):
        predictor.predict("cat.jpg")
    assert perdure.Predictor(Means(), preprocess=False).predict(pixels)[4].number == found[4].number
    perdure.annotate(path, preprocess=perdure.Preprocess(resize=(4, 4)), labels=["r", "g", "b"])
    assert [prediction.label for prediction in perdure.Predictor(path).predict(IMAGES[:3])] == ["r", "g", "b"]


def test_the_stream_is_bounded_and_lazy() -> None:
    model = Watched()
    taken = []

    def images() -> Any:
        for number in range(1000):
            taken.append(number)
            yield coloured(number % 3)

    stream = predictor_of(model, batch_size=4).stream(images(), top=1)
    assert [prediction.number for prediction in next(stream)] == [0, 1, 2, 0]
    assert len(taken) < 500
    stream.close()  # type: ignore[attr-defined]


def test_autocast_and_compile() -> None:
    found = predictor_of(Means(), autocast=torch.bfloat16).predict(IMAGES)
    assert [prediction.number for prediction in found] == NUMBERS
    compiled = predictor_of(Means(), compile=True)
    with contextlib.suppress(ImportError):
        assert [prediction.number for prediction in compiled.predict(IMAGES)] == NUMBERS


def test_a_model_of_another_type_gets_its_own() -> None:
    same = nn.Conv2d(3, 3, 1, bias=False)
    same.weight.data = 10 * torch.eye(3)[:, :, None, None]
    model = nn.Sequential(same, nn.AdaptiveAvgPool2d(1)).to(torch.bfloat16)
    assert [prediction.number for prediction in predictor_of(model).predict(IMAGES)] == NUMBERS


def test_images_of_their_own_sizes_go_one_by_one() -> None:
    model = Watched()
    images = [coloured(number % 3, (5 + number, 9)) for number in range(4)]
    found = predictor_of(model, preprocess=perdure.Preprocess()).predict(images)
    assert [prediction.number for prediction in found] == [0, 1, 2, 0] and model.sizes == [1, 1, 1, 1]


def test_what_is_refused(tmp_path: Path) -> None:
    for options in (
        {"batch_size": 0},
        {"batch_size": "all"},
        {"activation": "relu"},
        {"autocast": "half"},
        {"labels": "ab"},
    ):
        with pytest.raises(InputError):
            predictor_of(Means(), **options)
    with pytest.raises(InputError, match="top must be"):
        predictor_of(Means()).predict(IMAGES, top=0)
    with pytest.raises(InputError, match="label for class 3, and the model tells 3 classes"):
        predictor_of(Means(), labels=list("abcd")).predict(IMAGES)
    with pytest.raises(InputError, match="the model fails on images of"):
        predictor_of(nn.Linear(5, 2)).predict(IMAGES)
    path = tmp_path / "two.safetensors"
    perdure.save(nn.Bilinear(2, 3, 4), path, example=(torch.rand(1, 2), torch.rand(1, 3)))
    with pytest.raises(InputError, match="more than one tensor"):
        perdure.Predictor(path, form="graph")


def test_records_render() -> None:
    one = Prediction("a,b.png", ("cat", "dog"), (0.75, float("nan")), (3, 0))
    both = Predictions((one,), (Skipped("x.png", "it is torn"),))
    assert str(both) == "a,b.png: cat 75.0 %, dog nan\nskipped x.png: it is torn"
    assert json.loads(json.dumps(both.to_data(), allow_nan=False)) == {
        "images": [
            {
                "name": "a,b.png",
                "predictions": [
                    {"number": 3, "label": "cat", "probability": 0.75},
                    {"number": 0, "label": "dog", "probability": None},
                ],
            }
        ],
        "skipped": [{"name": "x.png", "reason": "it is torn"}],
    }
    assert list(csv.reader(io.StringIO(both.to_csv())))[1] == ["a,b.png", "1", "3", "cat", "0.75"]
