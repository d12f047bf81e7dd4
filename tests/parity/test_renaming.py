"""Names: what is found by itself, the caller's rules, and tensors that are joined, cut and transposed by them."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel

import perdure
from perdure.errors import InputError, MismatchError
from perdure.weights.wrappers import WRAPPER_PARTS

State = dict[str, torch.Tensor]


def saved(state: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    perdure.save_weights(state, file, **options)
    return file.getvalue()


def plain(state: State) -> bytes:
    """A file of another writer."""
    return safetensors.torch.save({name: tensor.detach().contiguous().clone() for name, tensor in state.items()})


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2))


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


# What wraps a model


def test_an_averaged_model() -> None:
    """Its counter is the wrapper's: it is no error, and stands in the report."""
    source = AveragedModel(net())
    source.update_parameters(net())
    model = net()
    report = perdure.load_weights(model, saved(source))
    assert same(model, source.module) and report.unused == {"n_averaged": "of the wrapper alone"}
    assert report.renamed["module.0.weight"] == "0.weight" and report.fraction_loaded == 1.0
    wrapped = AveragedModel(net())
    report = perdure.load_weights(wrapped, saved(model))
    assert same(wrapped.module, model) and report.kept == {"n_averaged": "of the wrapper alone"}
    assert wrapped.n_averaged.item() == 0


@pytest.mark.parametrize("part", sorted(WRAPPER_PARTS))
def test_parts_of_wrappers_in_the_middle_of_names(part: str) -> None:
    source, model = net(), net()
    names = {name: name.replace("2.0.", f"2.{part}.0.") for name in source.state_dict()}
    state = {names[name]: tensor for name, tensor in source.state_dict().items()}
    report = perdure.load_weights(model, plain(state))
    assert same(model, source)
    assert report.renamed == {names[name]: name for name in names if names[name] != name}
    state = {f"{part}.{part}.{name}": tensor for name, tensor in state.items()}
    model = net()
    assert len(perdure.load_weights(model, plain(state)).renamed) == len(names)
    assert same(model, source)


def test_layers_that_are_compiled_one_by_one() -> None:
    source, model = net(), net()
    source[2] = torch.compile(source[2])
    model[0] = nn.DataParallel(model[0])
    report = perdure.load_weights(model, saved(source))
    assert same(model, source)
    assert report.renamed == {
        "0.weight": "0.module.weight", "0.bias": "0.module.bias",
        "2._orig_mod.0.weight": "2.0.weight", "2._orig_mod.0.bias": "2.0.bias",
    }  # fmt: skip


def test_a_number_that_was_learned_is_no_counter_of_a_wrapper() -> None:
    class Decaying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.decay = net(), nn.Parameter(torch.ones(1))

    with pytest.raises(MismatchError) as caught:
        perdure.load_weights(Decaying(), saved(net()))
    assert caught.value.missing == ("decay",) and caught.value.unexpected == ()
    state = {f"module.{name}": tensor for name, tensor in net().state_dict().items()}
    with pytest.raises(MismatchError):
        perdure.load_weights(net(), plain({**state, "decay": torch.ones(1)}))
    averaged = {**state, "decay": torch.ones(()), "num_updates": torch.tensor(3)}
    assert set(perdure.load_weights(net(), plain(averaged)).unused) == {"decay", "num_updates"}


def test_a_name_that_has_two_places_is_given_neither() -> None:
    """The file's `1` may be the model's `1`, or, as all the others, what lies under its `0`."""
    source = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model = nn.Sequential(copy.deepcopy(source), nn.Linear(4, 4))
    with pytest.raises(MismatchError, match=r"the model's names begin with '0\.'") as caught:
        perdure.load_weights(model, saved(source))
    assert set(caught.value.missing) == {f"0.{name}" for name in source.state_dict()}
    assert perdure.load_weights(model, saved(source), strict=False).renamed == {}


def test_nothing_is_chosen_where_two_would_do() -> None:
    source = net()
    both = {f"{part}.{name}": tensor for part in ("student", "teacher") for name, tensor in source.state_dict().items()}
    with pytest.raises(MismatchError, match=r"prefix='student' or prefix='teacher'") as caught:
        perdure.load_weights(net(), plain(both))
    assert caught.value.remedy == {"prefix": "student"}
    pair = nn.ModuleDict({"student": net(), "teacher": net()})
    before = {name: tensor.clone() for name, tensor in pair.state_dict().items()}
    with pytest.raises(MismatchError):
        perdure.load_weights(pair, saved(source))
    report = perdure.load_weights(pair, saved(source), strict=False)
    assert report.renamed == {} and report.fraction_loaded == 0.0
    assert all(torch.equal(tensor, before[name]) for name, tensor in pair.state_dict().items())


def test_a_part_is_not_taken_for_another() -> None:
    """An encoder's weights fit a decoder's names but for their beginning; that is no wrapper."""
    source = nn.ModuleDict({"encoder": net()})
    with pytest.raises(MismatchError) as caught:
        perdure.load_weights(nn.ModuleDict({"decoder": net()}), saved(source))
    assert caught.value.remedy == {"rename": {r"^encoder\.": "decoder."}}
    wrapped = nn.ModuleDict({"net": net()})
    report = perdure.load_weights(wrapped, saved(nn.ModuleDict({"model": source["encoder"]})))
    assert same(wrapped, source) and report.renamed["model.0.bias"] == "net.0.bias"


def test_what_stands_beside_a_wrapped_model_is_not_dropped() -> None:
    state = {f"model.{name}": tensor for name, tensor in net().state_dict().items()} | {"loss.weight": torch.ones(3)}
    with pytest.raises(MismatchError) as caught:
        perdure.load_weights(net(), plain(state))
    assert caught.value.unexpected == ("loss.weight",) and caught.value.missing == ()
    assert caught.value.remedy == {"prefix": "model"}
    perdure.load_weights(net(), plain(state), **caught.value.remedy)
    report = perdure.load_weights(net(), plain(state), rename={r"^loss\.": None})
    assert report.unused == {"loss.weight": "left out by rename"}
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.remedy, again.unexpected, str(again)) == (caught.value.remedy, ("loss.weight",), str(caught.value))


def test_modes_and_versions_follow_the_names() -> None:
    """A dropout has no tensors that would tell its other name; batch norm says by its version what it has."""
    source = nn.DataParallel(nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2)))
    source.module[1].eval()
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2))
    perdure.load_weights(model, saved(source), mode="saved")
    assert [module.training for module in model] == [True, False, True]
    state = source.state_dict()
    del state["module.2.num_batches_tracked"]
    with pytest.raises(MismatchError, match="num_batches_tracked"):
        perdure.load_weights(model, saved(state))
    report = perdure.load_weights(model, plain(dict(state)))
    assert report.kept == {"2.num_batches_tracked": "batch norm did not count when it was saved"}


# What PyTorch renamed


NORMS: dict[str, tuple[Callable[[nn.Module], nn.Module], Callable[[nn.Module], nn.Module]]] = {
    "weight": (nn.utils.weight_norm, parametrizations.weight_norm),
    "weight, whole": (lambda m: nn.utils.weight_norm(m, dim=None), lambda m: parametrizations.weight_norm(m, dim=None)),
    "spectral": (nn.utils.spectral_norm, parametrizations.spectral_norm),
}  # type: ignore[dict-item]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    "layer", [lambda: nn.Linear(4, 3), lambda: nn.Conv1d(4, 3, 2), lambda: nn.ConvTranspose1d(4, 3, 2)]
)
@pytest.mark.parametrize("name", NORMS)
def test_norms_of_weights_go_both_ways(name: str, layer: Callable[[], nn.Module], wrapped: bool) -> None:
    """The models answer the same, which the names alone would not show."""
    for old, new in (NORMS[name], NORMS[name][::-1]):
        source, model = (nn.Sequential(kind(layer())) for kind in (old, new))
        x = torch.randn(2, 4) if isinstance(source[0], nn.Linear) else torch.randn(2, 4, 5)
        source.train()(x)  # which the power iteration of the spectral norm needs
        file = {f"module.{key}" if wrapped else key: tensor for key, tensor in source.state_dict().items()}
        report = perdure.load_weights(model, plain(file))
        assert report.fraction_loaded == 1.0 and len(report.renamed) >= 2 + wrapped
        assert (source.eval()(x) - model(x)).abs().max() <= 1e-6


def test_gamma_and_beta() -> None:
    source = {"0.gamma": torch.full((4,), 2.0), "0.beta": torch.full((4,), 3.0)}
    model = nn.Sequential(nn.LayerNorm(4))
    report = perdure.load_weights(model, plain(source))
    assert report.renamed == {"0.gamma": "0.weight", "0.beta": "0.bias"} and model[0].bias.tolist() == [3] * 4

    class Scaled(nn.LayerNorm):
        """It has a gamma of its own, as layer scales do."""

        def __init__(self) -> None:
            super().__init__(4)
            self.gamma = nn.Parameter(torch.ones(4))

    other = nn.Sequential(Scaled())
    with pytest.raises(MismatchError) as caught:
        perdure.load_weights(other, plain(source))
    assert set(caught.value.missing) == {"0.weight"} and "0.gamma" not in caught.value.unexpected


# Buffers that became persistent, or ceased to be


class Rotary(nn.Module):
    def __init__(self, persistent: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("inv_freq", torch.arange(3.0), persistent=persistent)


@pytest.mark.parametrize("start", ["", "module."])
def test_a_buffer_that_ceased_to_be_persistent(start: str) -> None:
    source, model = Rotary(True), Rotary(False)
    file = {start + name: tensor for name, tensor in source.state_dict().items()}
    report = perdure.load_weights(model, plain(file))
    assert report.unused == {f"{start}inv_freq": "not persistent in the model"}
    model.inv_freq.fill_(7)
    report = perdure.load_weights(model, plain(file))
    assert "differs" in report.unused[f"{start}inv_freq"] and model.inv_freq.tolist() == [7] * 3
    with torch.device("meta"):
        light = Rotary(False)
    perdure.load_weights(light, plain(file))
    assert light.inv_freq.tolist() == [0, 1, 2]


def test_a_buffer_that_became_persistent() -> None:
    model = Rotary(True)
    with pytest.raises(MismatchError) as caught:
        perdure.load_weights(model, plain(Rotary(False).state_dict()))
    assert caught.value.missing == ("inv_freq",) and caught.value.remedy == {"adapt": {"inv_freq": "skip"}}
    report = perdure.load_weights(model, plain(Rotary(False).state_dict()), **caught.value.remedy)
    assert report.kept == {"inv_freq": "skipped by adapt"} and model.inv_freq.tolist() == [0, 1, 2]


# The caller's rules


def test_rules_are_applied_one_after_another() -> None:
    source = nn.ModuleDict({"stem": nn.Linear(2, 2), "layers": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])})
    model = nn.ModuleDict(
        {"conv": nn.Linear(2, 2), "blocks": nn.ModuleDict({"b0": nn.Linear(2, 2), "b1": nn.Linear(2, 2)})}
    )
    rules = {r"^stem\.": "conv1.", r"layers\.(\d+)": r"blocks.b\1", "1[.]": ".", r"^blocks\.b\.": "blocks.b1."}
    report = perdure.load_weights(model, saved(source), rename=rules)
    assert same(model, source)
    assert report.renamed["stem.weight"] == "conv.weight" and report.renamed["layers.1.bias"] == "blocks.b1.bias"
    assert "  renamed: stem.weight is conv.weight" in str(report)


def test_a_function_and_none() -> None:
    source = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model = nn.Linear(2, 2)
    report = perdure.load_weights(model, saved(source), rename=lambda name: name[2:] if name.startswith("b.") else None)
    assert same(model, source["b"])
    assert report.unused == {"a.weight": "left out by rename", "a.bias": "left out by rename"}
    assert report.renamed == {"b.weight": "weight", "b.bias": "bias"}
    report = perdure.load_weights(model, saved(source), rename={r"^a\.": "", r"^b\.": None})
    assert same(model, source["a"]) and set(report.unused) == {"b.weight", "b.bias"}


WRONG_RULES: list[tuple[Any, str]] = [
    ({"nothing": "x", "weight": "w"}, "no name of the file matches 'nothing': 'x'"),
    ({"^[ab]": "c"}, r"a.weight and b.weight become c.weight"),
    (lambda name: "same", "become same"), (lambda name: 7, "gave no text"), (["a"], "must be a mapping or a function"),
    ({"(": "x"}, "no regular expression"), ({"a": r"\1"}, "group"), ({7: "x"}, "not made of text"),
    ({"a": []}, "no known form"), ({("a", "b"): ["x", "y"]}, "no known form"), ({("a", "b"): None}, "no known form"),
    ({("a.weight", "c.weight"): "x"}, "no name of the file matches|has only a.weight"), ({("a", "[ab]"): "x"}, "several patterns"),
    ({r"^a\.weight": ["x", "y", "z"]}, "no 3 equal parts"), ({r"^a\.weight": ["x | T", "y"]}, "cannot be cut"),
    ({(r"^a\.weight$", r"^a\.bias$"): "x"}, "cannot be joined"),
]  # fmt: skip


@pytest.mark.parametrize(("rules", "message"), WRONG_RULES, ids=[str(number) for number in range(len(WRONG_RULES))])
def test_wrong_rules(rules: Any, message: str) -> None:
    source = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
    with pytest.raises(InputError, match=message):
        perdure.load_weights(nn.Linear(2, 2), saved(source), rename=rules, strict=False)


# Fused and split projections


class Split(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))


FUSING = {
    (r"^q_proj\.weight$", r"^k_proj\.weight$", r"^v_proj\.weight$"): "in_proj_weight",
    (r"^q_proj\.bias$", r"^k_proj\.bias$", r"^v_proj\.bias$"): "in_proj_bias",
}
SPLITTING = {r"^in_proj_(weight|bias)$": [r"q_proj.\1", r"k_proj.\1", r"v_proj.\1"]}


def test_projections_of_attention_are_fused_and_split() -> None:
    split, fused = Split(), nn.MultiheadAttention(4, 2)
    report = perdure.load_weights(fused, saved(split), rename=FUSING)
    assert report.adapted["in_proj_weight"] == "joined from q_proj.weight, k_proj.weight, v_proj.weight"
    assert report.renamed["k_proj.bias"] == "in_proj_bias" and report.fraction_loaded == 1.0
    assert torch.equal(fused.in_proj_weight[4:8], split.k_proj.weight)
    x = torch.randn(3, 4)
    q, k, v = (layer(x).view(3, 2, 2).transpose(0, 1) for layer in (split.q_proj, split.k_proj, split.v_proj))
    theirs = split.out_proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(0, 1).reshape(3, 4))
    assert (fused(x, x, x)[0] - theirs).abs().max() <= 1e-6
    again = Split()
    report = perdure.load_weights(again, saved(fused), rename=SPLITTING)
    assert same(again, split)
    assert report.renamed["in_proj_bias"] == "q_proj.bias, k_proj.bias, v_proj.bias"
    assert report.adapted["v_proj.bias"] == "8 to 12 along axis 0 of in_proj_bias"
    assert all(parameter.untyped_storage().nbytes() == parameter.nbytes for parameter in again.parameters())


def test_heads_of_other_numbers_are_cut_by_the_models_sizes() -> None:
    model = nn.ModuleDict({"q": nn.Linear(4, 8), "k": nn.Linear(4, 2), "v": nn.Linear(4, 2)})
    fused = {"qkv.weight": torch.randn(12, 4), "qkv.bias": torch.randn(12)}
    perdure.load_weights(model, plain(fused), rename={r"^qkv\.": ["q.", "k.", "v."]})
    assert torch.equal(torch.cat([model[name].weight for name in "qkv"]), fused["qkv.weight"])
    assert torch.equal(model["v"].bias, fused["qkv.bias"][10:])


def test_transposed_projections_of_gpt2() -> None:
    """Its layers keep weights as (inputs, outputs)."""
    config = transformers.GPT2Config(n_embd=4, n_layer=1, n_head=2, vocab_size=9, n_positions=8)
    attention = transformers.GPT2Model(config).h[0].attn
    model = nn.ModuleDict({name: nn.Linear(4, 4) for name in "qkv"})
    rules = {
        r"^c_attn\.weight$": ["q.weight | T", "k.weight | T", "v.weight | T"],
        r"^c_attn\.bias$": ["q.bias", "k.bias", "v.bias"],
        "^c_proj": None,
    }
    state = {name: tensor for name, tensor in attention.state_dict().items() if name.startswith("c_")}
    report = perdure.load_weights(model, plain(state), rename=rules)
    x = torch.randn(3, 4)
    with torch.no_grad():
        assert (torch.cat([model[name](x) for name in "qkv"], -1) - attention.c_attn(x)).abs().max() <= 1e-6
    assert "transposed" in report.adapted["k.weight"]
    back = transformers.GPT2Model(config).h[0].attn
    del rules["^c_proj"]
    perdure.load_weights(back, saved(model), rename={
        (r"^q\.weight$", r"^k\.weight$", r"^v\.weight$"): "c_attn.weight | T",
        (r"^q\.bias$", r"^k\.bias$", r"^v\.bias$"): "c_attn.bias",
    }, adapt={"c_proj.*": "skip"})  # fmt: skip
    assert torch.equal(back.c_attn.weight, attention.c_attn.weight) and torch.equal(
        back.c_attn.bias, attention.c_attn.bias
    )


def test_a_linear_layer_and_a_convolution_of_one_pixel() -> None:
    linear, convolution = nn.Linear(3, 5), nn.Conv2d(3, 5, 1)
    with pytest.raises(MismatchError) as caught:
        perdure.load_weights(convolution, saved(linear))
    assert caught.value.remedy == {"adapt": {"weight": "reshape"}}
    perdure.load_weights(convolution, saved(linear), **caught.value.remedy)
    assert torch.equal(convolution.weight[:, :, 0, 0], linear.weight)
    named = nn.ModuleDict({"proj": nn.Linear(3, 5)})
    report = perdure.load_weights(named, saved(convolution), rename={"^": "proj."})
    assert torch.equal(named["proj"].weight, linear.weight)
    assert report.adapted == {"proj.weight": "reshaped to (5, 3)"}


def test_damage_is_found_in_what_is_joined() -> None:
    content = bytearray(saved(Split()))
    content[-5] ^= 1
    model = nn.MultiheadAttention(4, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(perdure.errors.DigestError):
        perdure.load_weights(model, bytes(content), rename=FUSING)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# And back again


@pytest.mark.parametrize(("build", "rules"), [
    (lambda: nn.MultiheadAttention(4, 2), FUSING), (Split, SPLITTING), (net, {r"^model\.": ""}),
    (net, {r"^block_(\d)\.": r"\1.", r"\.linear\.(weight|bias)$": r".0.\1"}),
    (Split, {r"^in_proj_weight$": ["q_proj.weight | T", "k_proj.weight | T", "v_proj.weight | T"]}),
    (Split, {r"^in_proj_weight$": ["q_proj.weight | axis=1", "k_proj.weight | axis=1", "v_proj.weight | axis=1"]}),
])  # fmt: skip
def test_rules_are_turned_round_by_a_save(build: Callable[[], nn.Module], rules: Any) -> None:
    source, model = build(), build()
    content = saved(source, rename=rules)
    names = set(perdure.open(content))
    assert names != set(source.state_dict())
    report = perdure.load_weights(model, content, rename=rules)
    assert same(model, source) and report.fraction_loaded == 1.0
    assert (report.missing, report.unexpected) == ((), ())


def test_extra_states_and_what_they_hold_come_back() -> None:
    """Tensors inside of an extra state keep the names by which it means them."""

    class Counted(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.register_buffer("table", torch.ones(3), persistent=False)
            self.seen: Any = None

        def get_extra_state(self) -> Any:
            return self.seen

        def set_extra_state(self, state: Any) -> None:
            self.seen = state

    source = nn.ModuleDict({"a": Counted()})
    source["a"].seen, rules = {"steps": torch.arange(3)}, {r"^model\.b\.": "a."}
    content = saved(source, rename=rules)
    assert "model.b.weight" in perdure.open(content)
    for device in ("cpu", "meta"):
        with torch.device(device):
            model = nn.ModuleDict({"a": Counted()})
        perdure.load_weights(model, content, rename=rules)
        assert model["a"].seen["steps"].tolist() == [0, 1, 2]
        assert torch.equal(model["a"].weight, source["a"].weight)
        assert model["a"].table.tolist() == [1] * 3
        assert perdure.load_weights(nn.DataParallel(model), saved(source)).unexpected == ()


def test_what_a_save_writes_others_read() -> None:
    split = Split()
    content = saved(split, rename=SPLITTING)
    fused = nn.MultiheadAttention(4, 2)
    fused.load_state_dict(safetensors.torch.load(content))
    assert torch.equal(fused.in_proj_weight[8:], split.v_proj.weight)


@pytest.mark.parametrize(("rules", "message"), [
    (lambda name: name, "cannot be turned round"), ({"^head": None}, "leaves tensors out"), ({"a+": "b"}, "more than text and groups"),
    ({r"(.)\.(.)": r"\1"}, "take up each group once"), ({"weight": ""}, "match anywhere"), ({"gone": "nothing"}, "no name"),
    ({r"x\.": r"0."}, "would not read|become"),
])  # fmt: skip
def test_rules_that_cannot_be_turned_round(rules: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        saved(nn.Sequential(nn.Linear(2, 2), nn.ModuleDict({"x": nn.Linear(2, 2)})), rename=rules)


NAMES = st.lists(
    st.lists(st.sampled_from(["a", "b", "layers", "0", "1", "weight", "bias", "q"]), min_size=1, max_size=4).map(".".join),
    min_size=1, max_size=6, unique=True,
)  # fmt: skip
RULES = [
    {r"^model\.": ""}, {r"layer(\d)\.": r"layers.\1."}, {r"(\d)\.w$": r"\1.weight"}, {r"^x\.(.*)$": r"a.\1"}, {"old": "a"},
    {r"^(.*)\.both$": [r"\1.weight", r"\1.bias"]}, {(r"(.*)\.one$", r"(.*)\.two$"): r"\1.q"}, {r"\.t$": ".weight | T"},
]  # fmt: skip


@settings(max_examples=300)
@given(NAMES, st.lists(st.sampled_from(RULES), min_size=1, max_size=3, unique_by=str))
def test_load_after_save_is_the_identity(names: list[str], chosen: list[Any]) -> None:
    """Where rules can be turned round, what comes back under them is what was saved; else they are refused by name."""
    rules = {key: value for rule in chosen for key, value in rule.items()}
    state = {name: torch.full((4, 2), float(number)) for number, name in enumerate(names)}
    try:
        content = saved(state, rename=rules)
    except InputError:
        return
    root = nn.Module()
    for name in names:
        parent = root
        *path, last = name.split(".")
        for part in path:
            if part in parent._parameters:
                return
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        if last in parent._modules:
            return
        parent.register_parameter(last, nn.Parameter(torch.zeros(4, 2)))
    perdure.load_weights(root, content, rename=rules)
    for name, tensor in root.state_dict().items():
        assert torch.equal(tensor, state[name]), name
