"""Where the state dict of a file is found, and what is left beside it."""

import time

import pytest

import perdure
from perdure.disk.sources import BytesSource
from perdure.errors import CorruptError, LimitError
from perdure.foreign.inert import Made, Named, Ordered, Storage, Tensor
from perdure.foreign.states import find_state, missing_under, state_under


def tensor() -> Tensor:
    return Tensor(Storage(BytesSource(b"1234"), 0, 4), "float32", (1,), (1,))


def module(name, parameters=None, buffers=None, modules=None, **attributes):
    state = {"_parameters": parameters or {}, "_buffers": buffers or {}, "_modules": modules or {}, **attributes}
    return Made(Named("lost.code", name), state=state, called=False)


W, B, M = tensor(), tensor(), tensor()
STATE = {"fc.weight": W, "fc.bias": B}
OPTIMIZER = {"state": {0: {"exp_avg": M}}, "param_groups": [{"lr": 0.1}]}

FOUND = {
    "a state dict": (STATE, (), ["fc.weight", "fc.bias"], None),
    "one with plain values beside": ({**STATE, "epoch": 3}, (), ["fc.weight", "fc.bias"], {"epoch": 3}),
    "Lightning": (
        {"epoch": 1, "state_dict": STATE, "optimizer_states": [OPTIMIZER], "hyper_parameters": {"lr": 1}},
        ("state_dict",),
        ["fc.weight", "fc.bias"],
        {"epoch": 1, "optimizer_states": [OPTIMIZER], "hyper_parameters": {"lr": 1}},
    ),
    "a loop written by hand": (
        {"model": STATE, "optimizer": OPTIMIZER, "best": tensor()},
        ("model",),
        ["fc.weight", "fc.bias"],
        ["optimizer", "best"],
    ),
    "any name, where only one is it": ({"mine": STATE, "step": 1}, ("mine",), ["fc.weight", "fc.bias"], {"step": 1}),
    "an average beside": ({"model": STATE, "ema": dict(STATE)}, ("model",), ["fc.weight", "fc.bias"], ["ema"]),
    "an average beside another name": ({"mine": STATE, "mine_ema": dict(STATE), "n": 1}, ("mine",), list(STATE), ["mine_ema", "n"]),
    "nested twice": ({"checkpoint": {"model": STATE, "args": {}}, "n": 1}, ("checkpoint", "model"), list(STATE), None),
    "two side by side": (
        {"generator": STATE, "critic": {"w": M}, "opt": OPTIMIZER},
        (),
        ["generator.fc.weight", "generator.fc.bias", "critic.w"],
        {"opt": OPTIMIZER},
    ),
    "an optimizer alone": (OPTIMIZER, (), ["state.0.exp_avg"], {"param_groups": [{"lr": 0.1}]}),
    "a tensor": (W, (), ["tensor"], None),
    "a list": ([W, 3, B], (), ["0", "2"], {1: 3}),
    "nothing": ({"epoch": 3}, (), [], {"epoch": 3}),
}  # fmt: skip


@pytest.mark.parametrize("value, path, names, rest", FOUND.values(), ids=FOUND)
def test_finds_the_state_dict(value, path, names, rest):
    found = find_state(value, "file")
    assert found.path == path
    assert list(found.tensors) == names
    if isinstance(rest, list):
        assert list(found.rest) == rest
    elif rest is not None or path != ("checkpoint", "model"):
        assert found.rest == rest


def test_versions_come_from_the_attributes_of_an_ordered_dict():
    state = Ordered(STATE)
    state.attributes["_metadata"] = {"": {"version": 2}}
    assert find_state({"state_dict": state, "n": 1}, "file").versions == {"": {"version": 2}}


def test_walks_a_whole_model_whose_class_is_lost():
    inner = module(
        "Norm", {"weight": W, "bias": None}, {"mean": B, "scratch": M}, _non_persistent_buffers_set={"scratch"}
    )
    model = module("Net", {"scale": M}, {}, {"norm": inner, "again": inner, "gone": None})
    found = find_state({"model": model, "epoch": 4}, "file")
    assert found.tensors == {
        "scale": M,
        "norm.weight": W,
        "norm.mean": B,
        "again.weight": W,
        "again.mean": B,
    }
    assert found.roles["norm.mean"] == "buffer" and found.roles["scale"] == "parameter"
    assert found.classes == {"": "lost.code.Net", "norm": "lost.code.Norm", "again": "lost.code.Norm"}
    assert found.rest == {"epoch": 4} and found.path == ("model",)


def test_a_prefix_chooses_another_nesting_and_the_rest_of_it_stays():
    value = {"model": STATE, "ema": {"model": {"fc.weight": M}, "decay": 0.9}}
    found, left = state_under(value, "ema.model.fc", "file")
    assert found.tensors == {"fc.weight": M} and left == "fc"
    assert found.rest == {"model": STATE, "ema": {"decay": 0.9}} and found.path == ("ema", "model")
    assert state_under(value, "nothing", "file") is None


def test_a_key_with_dots_leads_to_its_nesting():
    found, left = state_under({"a.b": {"c": {"w": W}}}, "a.b.c", "file")
    assert list(found.tensors) == ["w"] and left == ""


def test_refuses_a_module_within_itself_and_values_shared_without_end():
    inner = module("Net")
    inner.state["_modules"]["inner"] = inner
    with pytest.raises(CorruptError, match="contains itself"):
        find_state(inner, "file")
    value: dict = {"w": W}
    for _ in range(60):
        value = {"a": value, "b": value, "w": W}
    with pytest.raises(LimitError, match="stand at more"):
        find_state(value, "file")


@pytest.mark.parametrize("last", [{}, {"w": W}], ids=["nothing", "a tensor"])
def test_what_stands_at_many_places_is_looked_at_once(last):
    part = {**{f"x{number}": 1 for number in range(20_000)}, **last}
    start = time.perf_counter()
    with pytest.raises(LimitError, match="places"):
        find_state({f"k{number}": {"inner": part} for number in range(20_000)}, "file")
    assert time.perf_counter() - start < 2


def test_the_error_for_a_prefix_names_what_leads_to_weights():
    error = missing_under("nothing", {"epoch": 1, "ema": STATE, "model": {"net": STATE}, "opt": OPTIMIZER}, "file")
    assert str(error).endswith("begins with 'nothing.'. Weights are under ema, model.")


def test_refuses_two_tensors_of_one_name():
    with pytest.raises(CorruptError, match="two of its tensors"):
        find_state({"a": {"b": W}, "a.b": B, "c": {"d": W}}, "file")


@pytest.mark.parametrize("pickled", [b"]" * 900 + b"a" * 899 + b".", b"(" * 300 + b"t" * 300 + b"."])
def test_values_nested_without_end_are_refused(pickled):
    with pytest.raises(LimitError, match="nested deeper"):
        perdure.load_checkpoint(b"\x80\x02" + pickled)


def test_the_only_mapping_of_tensors_is_the_state_dict_whatever_stands_beside():
    for value in ({"params_ema": STATE}, {"params_ema": STATE, "epoch": 1}):
        assert list(find_state(value, "file").tensors) == list(STATE)


def test_content_that_contains_itself_stays_beside_the_weights():
    value: dict = {"w": W, "cfg": {"n": 1}}
    value["cfg"]["all"] = value
    found = find_state(value, "file")
    assert list(found.tensors) == ["w"] and found.rest["cfg"]["n"] == 1


def test_a_modules_tensor_has_no_name_that_another_has():
    with pytest.raises(CorruptError, match="two of its tensors"):
        find_state({"a.w": W, "a": module("Net", {"w": B}), "c": {"d": W}}, "file")
