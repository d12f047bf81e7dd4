"""Each way to adapt equals the peers' own function, in the same run; where there is none, a slow reference."""

from __future__ import annotations

import copy
import io
import time
from collections import OrderedDict
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torchvision.models import vision_transformer
from torchvision.models.swin_transformer import SwinTransformer

import perdure
from perdure.errors import InputError, MismatchError
from perdure.weights.adapting.adaptations import ADAPTATIONS, Wishes

State = dict[str, torch.Tensor]


def saved(state: Any) -> bytes:
    file = io.BytesIO()
    perdure.save_weights(state, file)
    return file.getvalue()


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and bool(((one - other).abs() <= 1e-6).all())


class Holder(nn.Module):
    """A module with one parameter."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(tensor.clone())


def adapted(tensor: torch.Tensor, own: torch.Tensor, how: Any) -> torch.Tensor:
    model = Holder(own)
    report = perdure.load_weights(model, saved({"table": tensor}), adapt={"table": how})
    assert set(report.adapted) == {"table"}
    return model.table.detach()


def test_every_adaptation_is_described() -> None:
    assert len({one.name for one in ADAPTATIONS}) == len(ADAPTATIONS)
    for one in ADAPTATIONS:
        assert one.reference and one.run.__doc__
        options, reason = one.options({})
        assert reason == "" and set(options) == {parameter.name for parameter in one.parameters}
        for parameter in one.parameters:
            assert parameter.accepts(parameter.default) and parameter.meaning
            assert f"{parameter.name}:" in one.run.__doc__, (one.name, parameter.name)


# "resize"


def torchvision_vit(image_size: int) -> vision_transformer.VisionTransformer:
    return vision_transformer.VisionTransformer(
        image_size=image_size, patch_size=8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=3
    )


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [24, 48, 80])
def test_position_embeddings_as_torchvision_does(size: int, mode: str) -> None:
    source, model = torchvision_vit(40), torchvision_vit(size)
    nn.init.normal_(source.encoder.pos_embedding)
    theirs = vision_transformer.interpolate_embeddings(size, 8, OrderedDict(source.state_dict()), mode)
    how = {"how": "resize", "align_corners": True, "mode": mode}
    report = perdure.load_weights(model, saved(source), adapt={"encoder.pos_embedding": how})
    assert close(model.encoder.pos_embedding.detach(), theirs["encoder.pos_embedding"])
    n_old, n_new = 26, (size // 8) ** 2 + 1
    assert report.adapted == {"encoder.pos_embedding": f"resize, (1, {n_old}, 16) to (1, {n_new}, 16)"}
    assert report.fraction_loaded == 1.0
    model.load_state_dict({**source.state_dict(), "encoder.pos_embedding": theirs["encoder.pos_embedding"]})


VISION = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "patch_size": 8,
}  # fmt: skip
VITS: dict[str, tuple[Any, Any, str, int]] = {
    "vit": (transformers.ViTConfig, transformers.ViTModel, "embeddings.position_embeddings", 1),
    "deit": (transformers.DeiTConfig, transformers.DeiTModel, "embeddings.position_embeddings", 2),
    "dinov2": (transformers.Dinov2Config, transformers.Dinov2Model, "embeddings.position_embeddings", 1),
}


@pytest.mark.parametrize("size", [24, 56])
@pytest.mark.parametrize("name", VITS)
def test_position_embeddings_as_transformers_does(name: str, size: int) -> None:
    config, build, place, n_prefix = VITS[name]
    source, model = (build(config(**VISION, image_size=pixels)).eval() for pixels in (40, size))
    nn.init.normal_(source.get_parameter(place))
    n_patches = (size // 8) ** 2
    theirs = source.embeddings.interpolate_pos_encoding(torch.zeros(1, n_patches + n_prefix, 16), size, size)
    perdure.load_weights(model, saved(source), adapt={place: "resize"})
    assert close(model.get_parameter(place).detach(), theirs.detach())
    with torch.no_grad():
        pixels = torch.randn(1, 3, size, size)
        answers = source(pixels, interpolate_pos_encoding=True)[0], model(pixels)[0]
    assert (answers[0] - answers[1]).abs().max() <= 1e-5


def test_positions_of_siglip_are_asked_about() -> None:
    """Its table of 16 rows, with no token before them, could as well be that of a text."""
    source, model = (
        transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**VISION, image_size=pixels)).eval()
        for pixels in (32, 48)
    )
    place = next(name for name, _ in model.named_parameters() if name.endswith("position_embedding.weight"))
    with pytest.raises(MismatchError, match="say axes=1 or axes=2"):
        perdure.load_weights(model, saved(source), adapt={place: "resize"})
    with pytest.raises(MismatchError) as caught:
        perdure.load_weights(model, saved(source))
    assert list(caught.value.remedy["adapt"].values()) == [{"how": "resize", "axes": 2}]
    perdure.load_weights(model, saved(source), **caught.value.remedy)
    embeddings = source.get_submodule(place.removesuffix(".position_embedding.weight"))
    theirs = embeddings.interpolate_pos_encoding(torch.zeros(1, 36, 16), 48, 48)
    assert close(model.get_parameter(place).detach(), theirs.detach()[0])


def test_tables_of_relative_positions_as_beit_of_transformers_does() -> None:
    """It gives a bias for a window; the table is told from that by its own index."""
    from transformers.models.beit.modeling_beit import BeitRelativePositionBias

    source, model = (
        BeitRelativePositionBias(transformers.BeitConfig(**VISION, image_size=pixels)) for pixels in (24, 40)
    )
    nn.init.normal_(source.relative_position_bias_table)
    how = {"how": "resize", "mode": "bilinear"}
    perdure.load_weights(model, saved(source.state_dict()), adapt={"relative_position_bias_table": how})
    assert (model((5, 5)) - source((5, 5))).abs().max() <= 1e-6


def test_tables_of_relative_positions_of_swin() -> None:
    """As Swin's authors do it: bicubic, corners not aligned; what is derived from the window is the model's."""

    def build(window: int) -> SwinTransformer:
        return SwinTransformer([2, 2], 16, [2], [2], [window, window], num_classes=3)

    source, model = build(3), build(4)
    own_index = model.get_buffer("features.1.0.attn.relative_position_index").clone()
    with pytest.raises(MismatchError) as caught:
        perdure.load_weights(model, saved(source))
    remedy = caught.value.remedy
    assert set(remedy["adapt"].values()) == {"resize", "skip"}
    report = perdure.load_weights(model, saved(source), **remedy)
    for number in (0, 1):
        table = source.get_parameter(f"features.1.{number}.attn.relative_position_bias_table")
        grid = table.permute(1, 0).view(1, 2, 5, 5)
        theirs = nn.functional.interpolate(grid, size=(7, 7), mode="bicubic").view(2, 49).permute(1, 0)
        assert close(
            model.get_parameter(f"features.1.{number}.attn.relative_position_bias_table").detach(), theirs.detach()
        )
        assert report.kept[f"features.1.{number}.attn.relative_position_index"] == "skipped by adapt"
    assert torch.equal(model.get_buffer("features.1.0.attn.relative_position_index"), own_index)


def test_rows_of_a_text_are_interpolated_in_line() -> None:
    table, own = torch.randn(12, 4), torch.zeros(20, 4)
    theirs = nn.functional.interpolate(table.T[None], size=20, mode="linear")[0].T
    assert close(adapted(table, own, "resize"), theirs)
    table, own = torch.randn(16, 4), torch.zeros(64, 4)
    theirs = nn.functional.interpolate(table.T[None], size=64, mode="linear")[0].T
    assert close(adapted(table, own, {"how": "resize", "axes": 1}), theirs)


@pytest.mark.parametrize(
    ("old", "new"), [((1, 4, 3, 5), (1, 4, 6, 7)), ((1, 4, 3, 5), (1, 4, 3, 7)), ((2, 3, 3), (2, 5, 7))]
)
def test_maps_are_interpolated_along_the_axes_that_differ(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    values = torch.randn(old)
    four = values if len(old) == 4 else values[None]
    theirs = nn.functional.interpolate(four, size=new[-2:], mode="bicubic").reshape(new)
    assert close(adapted(values, torch.zeros(new), "resize"), theirs)
    if len(old) == 4:  # as SAM keeps them, with the width last
        last = adapted(values.permute(0, 2, 3, 1), torch.zeros(new).permute(0, 2, 3, 1), "resize")
        assert close(last, theirs.permute(0, 2, 3, 1))


def test_grids_that_are_not_square() -> None:
    table, own = torch.randn(1, 2 + 12, 4), torch.zeros(1, 2 + 40, 4)
    how = {"how": "resize", "grid": (5, 8), "old_grid": (3, 4)}
    grid = table[:, 2:].reshape(1, 3, 4, 4).permute(0, 3, 1, 2)
    inner = nn.functional.interpolate(grid, size=(5, 8), mode="bicubic").permute(0, 2, 3, 1).reshape(1, 40, 4)
    assert close(adapted(table, own, how), torch.cat([table[:, :2], inner], 1))
    same = adapted(torch.randn(1, 24, 2), torch.zeros(1, 24, 2), {"how": "resize", "grid": (4, 6), "old_grid": (6, 4)})
    assert same.shape == (1, 24, 2)
    with pytest.raises(MismatchError, match="give grid and old_grid"):
        adapted(table, own, {"how": "resize", "grid": (5, 9)})


def test_what_seems_a_grid_is_no_row() -> None:
    """196 patches and a token, for 14 × 16 patches and a token, or for one more token: the sides must be said."""
    values = torch.randn(1, 197, 4)
    for n_new in (225, 198):
        with pytest.raises(MismatchError, match="give grid and old_grid"):
            adapted(values, torch.zeros(1, n_new, 4), "resize")
        with pytest.raises(MismatchError) as caught:
            perdure.load_weights(positions(n_new), saved(positions(197).state_dict()))
        assert caught.value.remedy == {"adapt": {"pos_embed": "skip"}}
    how: dict[str, Any] = {"how": "resize", "grid": (14, 16), "old_grid": (14, 14)}
    assert torch.equal(adapted(values, torch.zeros(1, 225, 4), how)[:, 0], values[:, 0])
    adapted(values, torch.zeros(1, 225, 4), {"how": "resize", "axes": 1})


def positions(number: int) -> nn.Module:
    model = nn.Module()
    model.pos_embed, model.proj = nn.Parameter(torch.zeros(1, number, 4)), nn.Linear(4, 4)
    return model


def test_half_precision_is_interpolated_in_float32() -> None:
    table = torch.randn(1, 17, 4).half()
    made = adapted(table, torch.zeros(1, 26, 4).half(), "resize")
    exact = adapted(table.float(), torch.zeros(1, 26, 4), "resize")
    assert made.dtype == torch.float16 and torch.equal(made, exact.half())


# "head" and "vocabulary"


def classifier(n_labels: int) -> transformers.BertForSequenceClassification:
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        num_labels=n_labels,
    )
    return transformers.BertForSequenceClassification(config)


@pytest.mark.parametrize("n_labels", [2, 7])
def test_heads_by_index(n_labels: int, tmp_path: Any) -> None:
    """What the file has is copied row by row; all else is as transformers loads it with ignore_mismatched_sizes."""
    source, model = classifier(4), classifier(n_labels)
    source.save_pretrained(tmp_path)
    before = copy.deepcopy(model.state_dict())
    report = perdure.load_weights(model, tmp_path / "model.safetensors", adapt={"classifier.*": "head"})
    theirs = transformers.BertForSequenceClassification.from_pretrained(
        tmp_path, num_labels=n_labels, ignore_mismatched_sizes=True
    )
    n = min(4, n_labels)
    for name, tensor in model.state_dict().items():
        if not name.startswith("classifier"):
            assert torch.equal(tensor, theirs.state_dict()[name])
            continue
        assert torch.equal(tensor[:n], source.state_dict()[name][:n])
        assert torch.equal(tensor[n:], before[name][n:])
    n_all = sum(parameter.numel() for parameter in model.parameters())
    assert report.fraction_loaded == pytest.approx(1 - 9 * (n_labels - n) / n_all)
    assert set(report.adapted) == {"classifier.weight", "classifier.bias"}


def test_heads_by_label() -> None:
    source, model, same = nn.Linear(2, 3), nn.Linear(2, 4), nn.Linear(2, 3)
    before = model.weight.detach().clone()
    how = {"how": "head", "old_labels": ["cat", "dog", "cow"], "labels": ["cow", "ant", "cat", "bee"]}
    report = perdure.load_weights(model, saved(source), adapt={"*": how})
    assert torch.equal(model.weight[[0, 2]], source.weight[[2, 0]]) and torch.equal(
        model.bias[[0, 2]], source.bias[[2, 0]]
    )
    assert torch.equal(model.weight[[1, 3]], before[[1, 3]])
    assert report.fraction_loaded == 0.5
    perdure.load_weights(same, saved(source), adapt={"*": {**how, "labels": ["cow", "cat", "dog"]}})
    assert torch.equal(same.weight, source.weight[[2, 0, 1]])
    for wrong in ({"labels": ["a"] * 4}, {"labels": ["a", "b"]}, {"labels": [1, 2, 3, 4], "old_labels": None}):
        with pytest.raises(InputError, match="label"):
            perdure.load_weights(nn.Linear(2, 4), saved(source), adapt={"*": {**how, **wrong}})


def test_labels_that_the_file_keeps(tmp_path: Any) -> None:
    source, model = nn.Linear(2, 3), nn.Linear(2, 2)
    perdure.save(source, tmp_path / "m.safetensors", labels=["cat", "dog", "cow"])
    perdure.load_weights(model, tmp_path / "m.safetensors", adapt={"*": {"how": "head", "labels": ["cow", "cat"]}})
    assert torch.equal(model.weight, source.weight[[2, 0]])


def language_model(n_tokens: int, tied: bool = True) -> transformers.BertForMaskedLM:
    config = transformers.BertConfig(
        vocab_size=n_tokens, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        tie_word_embeddings=tied,
    )  # fmt: skip
    return transformers.BertForMaskedLM(config).eval()


ROWS = [
    "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight", "cls.predictions.bias",
    "cls.predictions.decoder.bias",
]  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("n_tokens", [20, 45])
def test_vocabularies_as_transformers_does(n_tokens: int, tied: bool) -> None:
    """With `mean_resizing`, whose noise is below 1e-6 here, and without it, where the rows are the model's own."""
    source, model = language_model(30, tied), language_model(n_tokens, tied)
    nn.init.normal_(source.cls.predictions.bias)
    nn.init.normal_(source.get_input_embeddings().weight, 0.02, 0.005)
    nn.init.normal_(source.get_output_embeddings().weight, 0.02, 0.005)
    content = saved(source)
    with pytest.raises(MismatchError) as caught:
        perdure.load_weights(model, content)
    assert set(caught.value.remedy["adapt"].values()) == {"vocabulary"}
    perdure.load_weights(model, content, **caught.value.remedy)
    theirs = copy.deepcopy(source)
    theirs.resize_token_embeddings(n_tokens, mean_resizing=True)
    for name in ROWS[:2]:
        assert close(model.state_dict()[name], theirs.state_dict()[name]), name
    n = min(30, n_tokens)
    assert torch.equal(model.cls.predictions.bias[:n], source.cls.predictions.bias[:n])
    assert close(
        model.cls.predictions.bias[n:].detach(), source.cls.predictions.bias.mean().expand(n_tokens - n).detach()
    )
    own = language_model(n_tokens, tied)
    before = copy.deepcopy(own.state_dict())
    perdure.load_weights(own, content, adapt={name: {"how": "vocabulary", "new": "own"} for name in ROWS})
    for name in ROWS:
        assert torch.equal(own.state_dict()[name][:n], source.state_dict()[name][:n])
        assert torch.equal(own.state_dict()[name][n:], before[name][n:])


def test_new_rows() -> None:
    source = nn.Linear(2, 3)
    for new, rows in (("zeros", torch.zeros(1, 2)), ("mean", source.weight.mean(0, keepdim=True).detach())):
        model = nn.Linear(2, 4)
        perdure.load_weights(model, saved(source), adapt={"*": {"how": "head", "new": new}})
        assert close(model.weight[3:].detach(), rows)
    transposed = adapted(torch.randn(2, 3), torch.zeros(2, 5), {"how": "head", "axis": 1, "new": "zeros"})
    assert transposed[:, 3:].abs().sum() == 0 and transposed[:, :3].abs().min() > 0


def test_new_rows_of_a_model_on_meta() -> None:
    with torch.device("meta"):
        model = nn.Linear(2, 4)
    with pytest.raises(MismatchError, match=r"on meta.*'mean' or 'zeros'"):
        perdure.load_weights(model, saved(nn.Linear(2, 3)), adapt={"*": "head"})
    perdure.load_weights(model, saved(nn.Linear(2, 3)), adapt={"*": {"how": "head", "new": "mean"}})
    assert model.weight.shape == (4, 2) and not model.weight.is_meta


# "channels"


def adapted_input(kernel: torch.Tensor, n_model: int) -> torch.Tensor:
    """The definition, channel by channel."""
    n_file = kernel.shape[1]
    made = torch.zeros(kernel.shape[0], n_model, *kernel.shape[2:])
    for place in range(max(n_file, n_model)):
        if n_model < n_file:
            made[:, place % n_model] += kernel[:, place]
        else:
            times = sum(other % n_file == place % n_file for other in range(n_model))
            made[:, place] = kernel[:, place % n_file] / times
    return made


@pytest.mark.parametrize("n_model", [1, 2, 3, 4, 5, 6, 9])
@pytest.mark.parametrize("n_file", [1, 3, 4])
def test_input_channels(n_file: int, n_model: int) -> None:
    """The response to grey stays; where one number divides the other it is also the mean response that timm keeps."""
    source, model = nn.Conv2d(n_file, 5, 3), nn.Conv2d(n_model, 5, 3)
    perdure.load_weights(model, saved(source), adapt={"weight": "channels"})
    assert close(model.weight.detach(), adapted_input(source.weight.detach(), n_model))
    grey = torch.randn(2, 1, 8, 8)
    one, other = source(grey.expand(-1, n_file, -1, -1)), model(grey.expand(-1, n_model, -1, -1))
    assert (one - other).abs().max() <= 2e-6


@pytest.mark.parametrize("n_model", [2, 4, 5, 6])
def test_input_channels_by_ratio(n_model: int) -> None:
    kernel = torch.randn(5, 3, 2, 2)
    theirs = kernel.repeat(1, 2, 1, 1)[:, :n_model] * (3 / n_model)
    assert close(adapted(kernel, torch.zeros(5, n_model, 2, 2), {"how": "channels", "scale": "ratio"}), theirs)


# The rest


def test_truncate_pad_reshape_skip() -> None:
    values = torch.arange(12.0).view(3, 4)
    assert torch.equal(adapted(values, torch.zeros(2, 3), "truncate"), values[:2, :3])
    assert torch.equal(adapted(values, torch.ones(4, 6), "pad"), nn.functional.pad(values, (0, 2, 0, 1)))
    assert torch.equal(adapted(values, torch.ones(3, 4, 1, 1), "reshape"), values.view(3, 4, 1, 1))
    model = Holder(torch.ones(5))
    report = perdure.load_weights(model, saved({"table": values}), adapt={"table": "skip"})
    assert model.table.tolist() == [1] * 5 and report.fraction_loaded == 0.0
    assert report.kept == {"table": "skipped by adapt"} == report.unused
    for how, own in (
        ("truncate", torch.zeros(4, 4)),
        ("pad", torch.zeros(2, 6)),
        ("reshape", torch.zeros(5)),
        ("channels", torch.zeros(3, 5)),
    ):
        with pytest.raises(MismatchError, match=f"'{how}' does not fit"):
            adapted(values, own, how)


def test_a_function() -> None:
    seen: list[Any] = []

    def rotate(tensor: torch.Tensor, own: torch.Tensor, name: str) -> torch.Tensor:
        seen.append((tuple(tensor.shape), tuple(own.shape), name))
        return tensor.T

    values = torch.randn(2, 3)
    assert torch.equal(adapted(values, torch.zeros(3, 2), rotate), values.T)
    assert seen == [((2, 3), (3, 2), "table")]
    model = Holder(torch.zeros(3, 2))
    with pytest.raises(InputError, match=r"adapt's function for table gave a tensor of shape \(2, 3\)"):
        perdure.load_weights(model, saved({"table": values}), adapt={"table": lambda tensor, own, name: tensor})
    with pytest.raises(InputError, match="gave NoneType"):
        perdure.load_weights(model, saved({"table": values}), adapt={"table": lambda tensor, own, name: None})
    with pytest.raises(ZeroDivisionError):
        perdure.load_weights(model, saved({"table": values}), adapt={"table": lambda tensor, own, name: 1 / 0})
    assert model.table.abs().sum() == 0


def test_wrong_adaptations() -> None:
    model, content = nn.Linear(2, 4), saved(nn.Linear(2, 3))
    cases: list[tuple[Any, str]] = [
        ({"nothing.*": "head"}, r"no name of the model matches 'nothing.\*'"), ({"weight": "heads"}, "'heads'.*none of"),
        ({"weight": {"how": "head", "lables": []}}, "no parameter 'lables'"), ({"weight": {"new": "own"}}, "None for 'weight'"),
        ({"weight": {"how": "head", "new": "noise"}}, "new='noise' is not"), ({3: "head"}, "patterns of names are text"),
        ("head", "must be a mapping"), ({"weight": 7}, "7 for 'weight'"),
    ]  # fmt: skip
    for adapt, message in cases:
        with pytest.raises(InputError, match=message):
            perdure.load_weights(model, content, adapt=adapt)


def test_the_first_pattern_counts() -> None:
    model, content = nn.Linear(2, 4), saved(nn.Linear(2, 3))
    with torch.no_grad():
        model.weight.fill_(7), model.bias.fill_(7)
    report = perdure.load_weights(model, content, adapt={"bias": "skip", "*": {"how": "head", "new": "zeros"}})
    assert model.bias.tolist() == [7] * 4 and model.weight[3].tolist() == [0, 0]
    assert report.fraction_loaded == 6 / 12


def test_a_failure_leaves_the_model() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 4))
    before = copy.deepcopy(model.state_dict())

    def fail(tensor: torch.Tensor, own: torch.Tensor, name: str) -> torch.Tensor:
        own.zero_()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        perdure.load_weights(model, saved(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))), adapt={"1.*": fail})
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_nothing_is_adapted_unasked() -> None:
    source, model = torchvision_vit(40), torchvision_vit(48)
    with pytest.raises(
        MismatchError, match=r"with this it loads: adapt=\{'encoder.pos_embedding': 'resize'\}"
    ) as caught:
        perdure.load_weights(model, saved(source))
    assert caught.value.remedy == {"adapt": {"encoder.pos_embedding": "resize"}}
    report = perdure.load_weights(model, saved(source), strict=False)
    assert set(report.mismatched) == {"encoder.pos_embedding"} and report.adapted == {}


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint16, torch.complex64, torch.int64, torch.bool])
def test_rows_of_every_type(dtype: torch.dtype) -> None:
    values = torch.arange(8).reshape(4, 2).float().to(dtype)
    for new, filling in (("own", torch.ones(2)), ("zeros", torch.zeros(2)), ("mean", torch.tensor([3.0, 4.0]))):
        model = nn.Module()
        model.table = nn.Parameter(torch.ones(6, 2).to(dtype), requires_grad=False)
        perdure.load_weights(model, saved({"table": values}), adapt={"table": {"how": "head", "new": new}})
        assert model.table[:4].tolist() == values.tolist()
        assert model.table[4:].tolist() == [filling.to(dtype).tolist()] * 2


def test_only_real_numbers_are_computed_with() -> None:
    for dtype in (torch.int64, torch.bool, torch.complex64):
        for how, old, new in (("resize", (1, 16, 2), (1, 25, 2)), ("channels", (4, 3, 2, 2), (4, 1, 2, 2))):
            model = nn.Module()
            model.register_buffer("table", torch.ones(new).to(dtype))
            with pytest.raises(MismatchError, match=f"a {str(dtype)[6:]} cannot be adapted by '{how}'"):
                perdure.load_weights(model, saved({"table": torch.ones(old).to(dtype)}), adapt={"table": how})


def test_what_a_function_may_give() -> None:
    """Its tensor may be written to though others share its memory; what the place cannot hold is an error."""
    shared = torch.ones(2, 3)
    model = nn.ParameterDict({"a": torch.zeros(2, 3), "b": torch.zeros(2, 3)})
    content = saved({"a": shared, "b": shared})
    perdure.load_weights(model, content, adapt={"b": lambda tensor, own, name: tensor.mul_(2)})
    assert model["a"].tolist() == [[1.0] * 3] * 2 and model["b"].tolist() == [[2.0] * 3] * 2
    wrong: dict[str, Any] = {
        "sparse_coo": lambda tensor, own, name: tensor.to_sparse(),
        "on meta": lambda tensor, own, name: tensor.to("meta"),
        "complex64": lambda tensor, own, name: tensor * 1j,
        "qint8": lambda tensor, own, name: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        "nested": lambda tensor, own, name: torch.nested.nested_tensor([tensor[0], tensor[1]]),
    }
    for message, function in wrong.items():
        with pytest.raises(InputError, match=message):
            perdure.load_weights(model, content, adapt={"b": function})
    assert model["a"].tolist() == [[1.0] * 3] * 2 and model["b"].tolist() == [[2.0] * 3] * 2


def test_labels_of_any_kind() -> None:
    source, model = nn.Linear(2, 2), nn.Linear(2, 2)
    how: dict[str, Any] = {"how": "head", "old_labels": [["a", ["b"]], 1], "labels": [1, ["a", ["b"]]]}
    perdure.load_weights(model, saved(source), adapt={"*": how})
    assert torch.equal(model.weight, source.weight[[1, 0]])
    with pytest.raises(InputError, match="is not a list of the model's classes"):
        perdure.load_weights(model, saved(source), adapt={"*": {"how": "head", "labels": [{}, {"a": 1}]}})


def test_the_fraction_where_the_file_has_the_second_name_of_what_is_tied() -> None:
    model = nn.ModuleDict({"tokens": nn.Embedding(20, 4), "head": nn.Linear(4, 20, bias=False)})
    model["head"].weight = model["tokens"].weight
    how = {"how": "vocabulary", "new": "zeros"}
    report = perdure.load_weights(model, saved({"head.weight": torch.ones(10, 4)}), adapt={"*": how})
    assert report.fraction_loaded == 0.5 and set(report.adapted) == {"head.weight"}


def test_a_tie_of_which_one_name_is_adapted_and_cast() -> None:
    model = nn.ModuleDict({"tokens": nn.Embedding(9, 4), "head": nn.Linear(4, 9, bias=False)})
    model["head"].weight = model["tokens"].weight
    values = torch.randn(10, 4).half()
    content = saved({"tokens.weight": values, "head.weight": values[:9].clone()})
    perdure.load_weights(model, content, adapt={"tokens.*": "vocabulary"})
    assert torch.equal(model["head"].weight, values[:9].float())


def test_of_many_patterns_the_first_counts_too() -> None:
    wishes = Wishes({"a": "skip", "a*": "head", "b.[c]": "pad", "b.c": "skip", "*": "truncate"})
    found = {name: wishes.of([name]) for name in ("a", "ab", "b.c", "z")}
    assert {name: wish and wish.pattern for name, wish in found.items()} == {
        "a": "a",
        "ab": "a*",
        "b.c": "b.[c]",
        "z": "*",
    }
    with pytest.raises(InputError, match="matches 'z' of adapt"):
        Wishes({"z": "skip", "a*": "skip"}).check(["a"])
    names = [f"layers.{number}.weight" for number in range(10_000)]
    start = time.perf_counter()
    many = Wishes(dict.fromkeys(names, "skip"))
    many.check(names)
    assert all(many.of([name]) for name in names) and time.perf_counter() - start < 2
