"""The likeliest cause of a mismatch, from names and shapes alone."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.errors import MismatchError
from perdure.weights.causes import cause
from perdure.weights.matching import Match, match
from perdure.weights.plans import Asked, Plan, Target, plan
from perdure.weights.recipes import Taken
from perdure.weights.refusing import mismatch_error
from perdure.weights.renaming import Offer

Kinds = dict[str, tuple[str, tuple[int, ...]]]


def kinds(**shapes: tuple[int, ...]) -> Kinds:
    return {name.replace("__", "."): ("float32", shape) for name, shape in shapes.items()}


def layers(n: int, start: str = "", width: int = 4) -> Kinds:
    return {
        f"{start}layers.{number}.{key}": ("float32", shape)
        for number in range(n)
        for key, shape in (("weight", (width, width)), ("bias", (width,)))
    }


def with_head(body: Kinds, n_classes: int, name: str = "head") -> Kinds:
    return {**body, f"{name}.weight": ("float32", (n_classes, 4)), f"{name}.bias": ("float32", (n_classes,))}


def test_match_sorts_names_into_four_groups() -> None:
    file = {**kinds(a=(1,), b=(2,), c=(3,), e=(5,)), "t": ("int64", (1,))}
    model = {**kinds(b=(2,), c=(4,), d=(1,)), "t": ("float32", (1,))}
    found = match(file, model, can_cast=lambda a, b: False)
    assert found == Match(("b",), ("d",), ("a", "e"), {"c": ("(3,)", "(4,)"), "t": ("int64 (1,)", "float32 (1,)")})
    assert not found.complete
    assert match(file, model, implied=["d"], can_cast=lambda a, b: True).mismatched == {"c": ("(3,)", "(4,)")}
    assert match(file, model, implied=["d"]).missing == ()
    assert match(model, model).complete
    assert match({}, {}).complete


CAUSES: dict[str, tuple[Kinds, Kinds, str]] = {
    "module": (layers(5, "module."), layers(5), "DataParallel or DistributedDataParallel): load with prefix='module'"),
    "_orig_mod": (layers(5, "_orig_mod."), layers(5), "a compiled model): load with prefix='_orig_mod'"),
    "model": (layers(5, "model."), layers(5), "prefix='model'"),
    "two wrappers": (layers(5, "module._orig_mod."), layers(5), "prefix='module._orig_mod'"),
    "three deep": (layers(5, "a.b.c."), layers(5), "prefix='a.b.c'"),
    "a part among others": ({**layers(5, "enc."), **kinds(dec__w=(1,))}, layers(5), "prefix='enc'"),
    "nearly all": (layers(20, "module."), with_head(layers(20), 3), "prefix='module'"),
    "wrapper in the model": (layers(5), layers(5, "module."), "load into that part of it, model.module"),
    "other classes": (with_head(layers(3), 10), with_head(layers(3), 7), "another number of outputs"),
    "other width": (layers(3, width=4), layers(3, width=6), "other sizes"),
    "other classes, other head too": (
        with_head(layers(3), 10, "head"), with_head(layers(3), 10, "classifier"), "renamed or changed",
    ),
    "weight norm in the file": (
        kinds(a__weight_g=(1,), a__weight_v=(2,), a__bias=(2,)),
        kinds(a__parametrizations__weight__original0=(1,), a__parametrizations__weight__original1=(2,), a__bias=(2,)),
        "the file has the old weight_norm",
    ),
    "weight norm in the model": (
        kinds(a__parametrizations__weight__original0=(1,), a__parametrizations__weight__original1=(2,), a__bias=(2,)),
        kinds(a__weight_g=(1,), a__weight_v=(2,), a__bias=(2,)), "the model has the old weight_norm",
    ),
    "gamma": (kinds(n__gamma=(1,), n__beta=(1,)), kinds(n__weight=(1,), n__bias=(1,)), "gamma and beta"),
    "statistics": (kinds(n__weight=(1,)), kinds(n__weight=(1,), n__running_mean=(1,), n__running_var=(1,)), "statistics"),
    "larger file": (with_head(layers(3), 2), layers(3), "the file holds more than the model"),
    "larger model": (layers(3), with_head(layers(3), 2), "the model holds more than the file"),
    "nothing in common": (kinds(a=(1,), b=(2,)), layers(5), "another architecture (0 of 10"),
    "empty file": ({}, layers(2), "holds more than the file"),
}  # fmt: skip


def refusal(found: Match, file: Kinds, model: Kinds) -> MismatchError:
    """The error for a match in which nothing was found by itself."""
    offers = {name: Offer(Taken(name), kind) for name, kind in file.items()}
    planned = Plan(found, offers, {}, (), {}, {name: name for name in file})
    return mismatch_error(
        found, file, Target(model), planned=planned, asked=Asked(), prefix=None, where="x.safetensors"
    )


@pytest.mark.parametrize("name", CAUSES)
def test_causes(name: str) -> None:
    file, model, expected = CAUSES[name]
    found = match(file, model)
    assert not found.complete
    assert expected in cause(found, file, model)
    message = str(refusal(found, file, model))
    assert message.startswith("loading x.safetensors: ") and f"likeliest cause: {cause(found, file, model)}" in message
    assert f"({len(found.missing)})" in message or not found.missing


def test_a_cause_is_one_sentence() -> None:
    for file, model, _ in CAUSES.values():
        text = cause(match(file, model), file, model)
        assert text.endswith(".") and "\n" not in text and text[0].islower()


def test_many_names_take_no_time() -> None:
    import time

    file, model = layers(2_000, "a."), layers(2_000, "b.")
    start = time.perf_counter()
    found = match(file, model)
    assert "renamed" in cause(found, file, model) or "architecture" in cause(found, file, model)
    assert time.perf_counter() - start < 2


def test_the_plan_of_many_names_takes_no_time() -> None:
    """Also where all must be looked at: a rename, a wrapper, names that have nothing in common, and a remedy for each."""
    import time

    pairs: list[tuple[Kinds, Kinds]] = [
        (layers(2_000, "a.b."), layers(2_000, "c.d.")),
        (layers(2_000, "module."), layers(2_000)),
        (
            {f"x{n}.{n}.w": ("float32", (n,)) for n in range(6_000)},
            {f"y{n}.{n}.w": ("float32", (n,)) for n in range(6_000)},
        ),
        (
            {f"x{n}.{n}.w": ("float32", (1,)) for n in range(6_000)},
            {f"y{n}.{n}.w": ("float32", (1,)) for n in range(6_000)},
        ),
        (layers(2_000, width=4), layers(2_000, width=6)),
        ({".".join(["a"] * 2_000) + str(n): ("float32", (1,)) for n in range(300)}, layers(300)),
    ]
    for file, model in pairs:
        start = time.perf_counter()
        planned = plan(file, Target(model), Asked(), "x")
        if not planned.match.complete:
            mismatch_error(planned.match, file, Target(model), planned=planned, asked=Asked(), prefix=None, where="x")
        assert time.perf_counter() - start < 5


def remedy_of(file: Kinds, model: Kinds) -> dict[str, Any]:
    planned = plan(file, Target(model), Asked(), "x")
    found = planned.match
    error = mismatch_error(found, file, Target(model), planned=planned, asked=Asked(), prefix=None, where="x")
    assert "with this it loads" in str(error) or not error.remedy
    return error.remedy


def test_layers_that_were_numbered_anew_get_no_remedy() -> None:
    """That they fit with other numbers does not say which of them moved."""
    shifted = {name.replace("layers.0", "layers.4"): kind for name, kind in layers(4).items()}
    assert remedy_of(layers(4), shifted) == {}
    assert remedy_of({**layers(4), **kinds(old__0__w=(9,))}, {**layers(4), **kinds(new__1__w=(9,))})


def test_a_part_of_a_weight_norm_is_not_taken_for_the_weight() -> None:
    plain, norms = layers(3), [("weight_g", "weight_v")]
    norms += [("parametrizations.weight.original0", "parametrizations.weight.original1")]
    for size, direction in norms:
        normed = {name: kind for name, kind in plain.items() if name != "layers.1.weight"}
        normed |= {f"layers.1.{size}": ("float32", (4, 1)), f"layers.1.{direction}": ("float32", (4, 4))}
        assert remedy_of(normed, plain) == remedy_of(plain, normed) == {}
        assert "take it off again" in cause(match(normed, plain), normed, plain)
        assert "load first" in cause(match(plain, normed), plain, normed)


def test_what_cannot_be_cast_is_skipped() -> None:
    file, model = {**layers(2), "index": ("float16", (6,))}, {**layers(2), "index": ("int64", (4,))}
    assert remedy_of(file, model) == {"adapt": {"index": "skip"}}


def test_what_is_left_out_goes_before_what_takes_its_name() -> None:
    file = {**layers(3), **kinds(old__extra__weight=(7, 4), old__extra__bias=(7,), extra__w=(4, 4))}
    rename = remedy_of(file, {**layers(3), **kinds(extra__weight=(7, 4), extra__bias=(7,))})["rename"]
    assert list(rename.items()) == [(r"^extra\.", None), (r"^old\.extra\.", "extra.")]


def test_many_names_that_share_no_pattern_take_no_time() -> None:
    import time

    shared = layers(2_000)
    own = {f"layers.{number}.own{number}": ("float32", (number + 5, 3)) for number in range(2_000)}
    positions = [{f"layers.{n}.rel_pos{n}": ("float32", (n + more, 4)) for n in range(2_000)} for more in (9, 11)]
    start = time.perf_counter()
    assert remedy_of({**shared, **own}, shared) == remedy_of(shared, {**shared, **own}) == {}
    assert remedy_of(*positions)
    assert time.perf_counter() - start < 5


def test_a_remedy_that_would_not_do_is_not_proposed() -> None:
    """The names correspond, but no cast makes the numbers of one those of the other."""
    file, model = layers(4), layers(4)
    file["stem.index"], model["first.index"] = ("complex64", (7,)), ("int64", (7,))
    planned = plan(file, Target(model), Asked(), "x")
    error = mismatch_error(planned.match, file, Target(model), planned=planned, asked=Asked(), prefix=None, where="x")
    assert (error.missing, error.unexpected) == (("first.index",), ("stem.index",))
    assert error.remedy == {} and "with this it loads" not in str(error)
