"""Models and the graphs of them: the same bits at every batch size, and what else a module is expected to do."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from perdure.errors import InputError, UnsupportedModelError
from perdure.models.execution import build
from perdure.models.structure import flatten, with_leaves
from perdure.models.tracing import Traced, trace
from perdure.records.graph import decode, encode

BATCHES = (1, 2, 3, 5)
SAME = torch.equal if torch.__version__ >= (2, 7) else torch.allclose  # before, some attention differs by rounding
Pair = namedtuple("Pair", "left right")


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    aux: Any = None


def through_bytes(model: nn.Module, traced: Traced, **options: Any) -> Any:
    """Build a graph as a loader does: from bytes and tensors by name."""
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
        **traced.constants,
    }
    return build(decode(encode(traced.graph), "model.safetensors"), tensors, where="model.safetensors", **options)


def resized(value: Any, n: int) -> Any:
    leaves, _ = flatten(value, "x")
    rows = [
        leaf[torch.arange(n) % len(leaf)] if isinstance(leaf, torch.Tensor) and leaf.dim() else leaf for leaf in leaves
    ]
    return with_leaves(value, iter(rows))


def assert_same(expected: Any, found: Any) -> None:
    one, tree = flatten(expected, "eager")
    two, other = flatten(found, "graph")
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert SAME(a, b) if isinstance(a, torch.Tensor) else a == b
    assert len(str(other)) <= len(str(tree)), "the same nesting, less the names of fields"


def check(model: nn.Module, *args: Any, dynamic: Any = None, **kwargs: Any) -> Any:
    """Trace with batch 1, and compare at every batch size."""
    example = resized(args, 1), resized(kwargs, 1)
    built = through_bytes(model, trace(model, [example], dynamic=dynamic))
    model.eval()
    for n in BATCHES:
        a, k = resized(args, n), resized(kwargs, n)
        assert_same(model(*copy.deepcopy(a), **k), built(*copy.deepcopy(a), **k))
    return built


def test_models_of_transformers():
    transformers = pytest.importorskip("transformers")
    ids = torch.randint(3, 90, (5, 9))
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    small = {
        "vocab_size": 99,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 37,
    }
    t5 = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4, "use_cache": False}
    whisper = {
        "vocab_size": 99,
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "num_mel_bins": 8,
        "max_source_positions": 20,
        "use_cache": False,
        "pad_token_id": 0,
    }
    gpt2 = {
        "vocab_size": 99,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "use_cache": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    for kind, model, options, example in (
        ("Bert", "BertModel", small, text),
        ("GPT2", "GPT2LMHeadModel", gpt2, {"input_ids": ids}),
        ("Llama", "LlamaForCausalLM", {**small, "use_cache": False}, text),
        ("T5", "T5ForConditionalGeneration", t5, {**text, "decoder_input_ids": ids[:, :4]}),
        (
            "ViT",
            "ViTForImageClassification",
            {**small, "image_size": 16, "patch_size": 8},
            {"pixel_values": torch.randn(5, 3, 16, 16)},
        ),
        (
            "Whisper",
            "WhisperModel",
            whisper,
            {"input_features": torch.randn(5, 8, 40), "decoder_input_ids": ids[:, :4]},
        ),
    ):
        torch.manual_seed(0)
        made = getattr(transformers, model)(getattr(transformers, f"{kind}Config")(**options))
        built = check(made, **example)
        if "attention_mask" in example:
            longer = {
                **example,
                "input_ids": ids[:, :5].repeat(1, 4),
                "attention_mask": torch.ones(5, 20, dtype=torch.int64),
            }
            assert_same(made(**longer), built(**longer))


class Calls(nn.Module):
    """A module that a function calls."""

    def __init__(self, function: Any, **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 2)
        self.register_buffer("offset", torch.arange(2.0), persistent=False)
        self.plain = torch.tensor([1.0, 2.0])

    def forward(self, batch: dict[str, Any], *, scale: Pair, flip: bool = False) -> Any:
        y = self.line(batch["a"]) + self.offset * scale.left + self.plain + torch.tensor([3.0, 4.0])
        y.add_(1)
        y[:, 0] = 3
        return {"y": y, "more": (batch["b"][0].sum(1), None, "name", y.shape[0])}


def tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20, bias=False))
    model[1].weight = model[0].weight
    return model


def pruned() -> nn.Module:
    line = nn.Linear(8, 3)
    prune.l1_unstructured(line, "weight", 0.5)
    return line


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)


SEQUENCE = torch.randn(5, 6, 8)
IMAGES = torch.randn(5, 3, 8, 10)
ROWS = torch.randn(5, 3)
CASES: dict[str, tuple[Any, ...]] = {
    "conv": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(True), nn.Dropout2d(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), IMAGES),
    "lstm": (lambda: nn.LSTM(8, 5, num_layers=2, dropout=0.2, bidirectional=True, batch_first=True), SEQUENCE),
    "gru": (lambda: nn.GRU(8, 5, batch_first=True), SEQUENCE),
    "attention": (lambda: nn.MultiheadAttention(8, 2, batch_first=True), SEQUENCE, SEQUENCE, SEQUENCE),
    "encoder": (encoder, SEQUENCE),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(8, 3)), SEQUENCE),
    "old weight norm": (lambda: nn.utils.weight_norm(nn.Linear(8, 3)), SEQUENCE),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Linear(8, 3)), SEQUENCE),
    "pruned": (pruned, SEQUENCE),
    "tied": (tied, torch.randint(0, 20, (5, 7))),
    "dataclass": (lambda: Calls(lambda m, x: Output(m.a(x), Pair(x * 2, [x + 1])), a=nn.Linear(3, 3)), ROWS),
    "made in forward": (lambda: Calls(lambda m, x: x + torch.arange(3) + torch.zeros(x.shape[0], 3, device=x.device)), ROWS),
    "writes its input": (lambda: Calls(lambda m, x: x.add_(1) * 2), ROWS),
    "cond": (lambda: Calls(lambda m, x: torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y * 2, (x,))), ROWS),
    "size out": (lambda: Calls(lambda m, x: (x, x.shape[0] * 2 + 1)), ROWS),
    "under no_grad": (lambda: Calls(lambda m, x: under_no_grad(m.a(x)), a=nn.Linear(3, 3)), ROWS),
    "under autocast": (lambda: Calls(lambda m, x: under_autocast(m, x), a=nn.Linear(3, 3)), ROWS),
}  # fmt: skip


def under_no_grad(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        y = x.sin()
    return y + x


def under_autocast(model: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model.a(x)
    return y.float()


@pytest.mark.parametrize("name", CASES)
def test_the_same_bits_at_every_batch_size(name):
    torch.manual_seed(0)
    make, *args = CASES[name]
    check(make(), *args)


def test_dicts_named_tuples_and_keywords():
    built = check(Several(), {"a": ROWS, "b": [ROWS]}, scale=Pair(torch.tensor(2.0), 5))
    assert set(built.state_dict()) == {"line.weight", "line.bias"}
    with pytest.raises(InputError, match=r"scale\[1\] was 5 in the trace"):
        built({"a": ROWS, "b": [ROWS]}, scale=Pair(torch.tensor(2.0), 6))
    with pytest.raises(InputError, match="'flip' was left out"):
        built({"a": ROWS, "b": [ROWS]}, scale=Pair(torch.tensor(2.0), 5), flip=True)
    with pytest.raises(InputError, match="keys 'a', 'b'"):
        built({"a": ROWS}, scale=Pair(torch.tensor(2.0), 5))
    built({"a": ROWS, "b": (ROWS,)}, scale=Pair(torch.tensor(2.0), 5), flip=False)


def test_the_fast_path_of_encoders_differs_by_rounding_alone():
    model = encoder().eval()
    built = check(model, SEQUENCE)
    with torch.no_grad():
        torch.testing.assert_close(built(SEQUENCE), model(SEQUENCE), rtol=1e-5, atol=1e-5)


def test_other_axes_are_free_where_asked():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Upsample(scale_factor=2))
    built = check(model, IMAGES, dynamic={"input": {2: "height", 3: "width"}})
    other = torch.randn(2, 3, 13, 7)
    assert torch.equal(built(other), model(other))
    by_place = check(model, IMAGES, dynamic=({2: "height", 3: "width"},))
    assert torch.equal(by_place(other), model(other))


def test_a_batch_that_the_model_fixes_stays_that_of_the_example():
    model = Calls(
        lambda m, x: x.reshape(int(x.shape[0]), 3) * torch.ones(int(x.shape[0]), 3)[: len(range(int(x.shape[0])))]
    )
    traced = trace(model, [((torch.randn(1, 3),), {})])
    built = through_bytes(model, traced)
    assert built(torch.ones(1, 3)).shape == (1, 3)
    if isinstance(traced.graph.leaves[0].shape[0], int):
        assert "fixes the size of the batch" in traced.notes[0]


@pytest.mark.xfail(torch.__version__ < (2, 7), reason="PyTorch 2.6 gives conditions on sizes as asserts of the graph")
def test_relations_between_axes_are_checked():
    model = Calls(lambda m, x: x["a"][:, ::2] + x["b"])
    example = {"a": torch.randn(2, 10), "b": torch.randn(2, 5)}
    built = through_bytes(model, trace(model, [((example,), {})], dynamic={"x": {"a": {1: "a"}, "b": {1: "b"}}}))
    assert built({"a": torch.ones(3, 7), "b": torch.ones(3, 4)}).shape == (3, 4)
    with pytest.raises(InputError, match="must be equal to"):
        built({"a": torch.ones(3, 7), "b": torch.ones(3, 5)})


def test_examples_of_other_sizes_free_their_axes():
    model = Calls(lambda m, x: m.a(x), a=nn.Conv1d(3, 4, 3))
    traced = trace(model, [((torch.randn(2, 3, n),), {}) for n in (8, 9)])
    assert through_bytes(model, traced)(torch.randn(1, 3, 20)).shape == (1, 4, 18)


@pytest.mark.parametrize(
    ("function", "sizes", "said"),
    [
        (lambda m, x: x * 2 if x.shape[0] > 3 else x * 3, (5, 9), "from 1 to 3"),
        (lambda m, x: x * 2 if x.shape[0] == 1 else x * 3, (1,), "at least 2"),
        (lambda m, x: x * 3 if x.shape[0] != 4 else x * 2, (4,), "other than"),
    ],
)
def test_a_batch_that_takes_another_way_is_refused(function, sizes, said):
    built = through_bytes(Calls(function), trace(Calls(function), [((torch.randn(1, 3),), {})]))
    for n in sizes:
        with pytest.raises(InputError, match=said):
            built(torch.randn(n, 3))
    assert torch.equal(built(torch.ones(2, 3)), torch.full((2, 3), 3.0))


def test_a_batch_that_is_counted_by_len_stays_free():
    """Running the model fixes what `len` gives; reading its byte code does not, and leaves no marks on the parameters."""
    model = Calls(lambda m, x: m.a(x) * torch.ones(len(x), 1), a=nn.Linear(3, 3))
    built = check(model, ROWS)
    assert built.perdure_graph.symbols[0].min == 1
    assert not any(vars(parameter) for parameter in model.parameters())


def test_a_lower_bound_that_makes_no_difference_is_dropped():
    def function(model: Any, x: torch.Tensor) -> torch.Tensor:
        return model.a(x) if x.shape[0] > 3 else x @ model.a.weight.T + model.a.bias

    model = Calls(function, a=nn.Linear(3, 3))
    model.a.bias.data.zero_()
    example = torch.ones(5, 3)
    built = through_bytes(model, trace(model, [((example,), {})]))
    assert [built(example[:n]).shape for n in BATCHES] == [(n, 3) for n in BATCHES]
    other = Calls(lambda m, x: x * 2 if x.shape[0] > 3 else x * 3)
    with pytest.raises(InputError, match="at least 4"):
        through_bytes(other, trace(other, [((example,), {})]))(example[:3])


def test_the_fast_path_that_answers_otherwise_is_told():
    padding = torch.arange(6) >= torch.tensor([[6], [4]])
    example = {"src": SEQUENCE[:2], "src_key_padding_mask": padding}
    assert any("fast path" in note for note in trace(encoder(), [((), example)]).notes)
    assert not trace(encoder(), [((SEQUENCE,), {})]).notes
    assert torch.backends.mha.get_fastpath_enabled()


def test_tracing_leaves_the_model_and_the_process_as_they_were():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), Calls(lambda m, x: count(m, x)))
    model[2].register_buffer("n", torch.zeros(()))
    model[0].eval()
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    trace(model, [((ROWS,), {})])
    with pytest.raises(UnsupportedModelError):
        trace(nn.Sequential(model, Calls(lambda m, x: x * 2 if x.sum() > 0 else x)), [((ROWS,), {})])
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(torch_state, torch.get_rng_state())
    assert python_state == random.getstate()
    assert torch.is_grad_enabled()


def count(module: Any, x: torch.Tensor) -> torch.Tensor:
    module.n += 1
    return x + module.n


def test_what_does_not_fit_is_named():
    with pytest.raises(InputError, match="no example"):
        trace(nn.Linear(3, 2), [])
    with pytest.raises(InputError, match=r"Linear\.forward"):
        trace(nn.Linear(3, 2), [((ROWS, ROWS), {})])
    with pytest.raises(InputError, match="does not take the example"):
        trace(nn.Linear(4, 2), [((ROWS,), {})])
    with pytest.raises(UnsupportedModelError, match=r"output\[1\] is of type object.*use_cache"):
        trace(Calls(lambda m, x: (x, object())), [((ROWS,), {})])
    with pytest.raises(UnsupportedModelError, match="input is of type object"):
        trace(nn.Linear(3, 2), [((object(),), {})])
    with pytest.raises(InputError, match=r"dynamic= names axes.*'input'"):
        trace(nn.Linear(3, 2), [((ROWS,), {})], dynamic={"x": {1: "n"}})


def small() -> tuple[nn.Module, Any]:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(192, 2)).eval()
    return model, through_bytes(model, trace(model, [((IMAGES,), {})]))


def test_a_graph_is_a_module():
    model, built = small()
    assert list(built.state_dict()) == list(model.state_dict())
    assert built.eval() is built
    with pytest.raises(InputError, match=r"eval mode.*trusted="):
        built.train()
    assert not built.training
    twin = copy.deepcopy(built)
    assert torch.equal(twin(IMAGES), model(IMAGES))
    assert list(twin.state_dict()) == list(model.state_dict())
    twin.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in built.state_dict().items()})
    assert not twin(IMAGES).any()
    assert built(IMAGES).any(), "a copy has tensors of its own"


def test_names_that_are_no_attributes_stay_in_the_state_dict():
    model = nn.ModuleDict(
        {"graph": nn.Linear(3, 3), "code": nn.Linear(3, 2), "tensor_0": nn.Linear(2, 2), "a-b": nn.Linear(2, 2)}
    )
    model.forward = lambda x: model["a-b"](model["tensor_0"](model["code"](model["graph"](x))))
    built = check(model, ROWS)
    assert set(built.state_dict()) == set(model.state_dict())
    other = {name: tensor * 2 for name, tensor in model.state_dict().items()}
    built.load_state_dict(other)
    assert all(torch.equal(tensor, other[name]) for name, tensor in copy.deepcopy(built).state_dict().items())


def test_a_failing_operator_prints_nothing(capfd):
    model = nn.Embedding(5, 2)
    built = check(model, torch.randint(0, 5, (5, 3)))
    with pytest.raises(IndexError):
        built(torch.full((1, 3), 7))
    assert capfd.readouterr().err == ""


def test_a_graph_keeps_its_record():
    model, built = small()
    assert encode(copy.deepcopy(built).perdure_graph) == encode(trace(model, [((IMAGES,), {})]).graph)


def test_gradients_are_those_of_the_model():
    model, built = small()
    model(IMAGES).sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    built(IMAGES).sum().backward()
    assert all(torch.equal(parameter.grad, expected[name]) for name, parameter in built.named_parameters())


def test_compiled_and_exported_again():
    model, built = small()
    assert torch.equal(torch.compile(built, backend="eager", fullgraph=True)(IMAGES), model(IMAGES))
    again = torch.export.export(built, (IMAGES,), dynamic_shapes=None)
    assert torch.equal(again.module()(IMAGES), model(IMAGES))
    assert torch.equal(through_bytes(built, trace(built, [((IMAGES,), {})]))(IMAGES[:2]), model(IMAGES[:2]))


def test_devices_and_types_follow_the_model():
    model = Calls(lambda m, x: m.a(x) + torch.arange(2, device=x.device), a=nn.Linear(3, 2))
    built = through_bytes(model, trace(model, [((ROWS,), {})]), device="meta")
    assert built(ROWS.to("meta")).device.type == "meta"
    assert "meta" in built.code
    double = through_bytes(model, trace(model, [((ROWS,), {})])).double()
    assert torch.equal(double(ROWS.double()), copy.deepcopy(model).double()(ROWS.double()))
    with pytest.raises(InputError, match=r"x must be torch\.float64"):
        double(ROWS)
    fixed = Calls(lambda m, x: m.a(x).to(torch.float32), a=nn.Linear(3, 2))
    with pytest.raises(InputError, match=r"names torch\.float32 itself"):
        through_bytes(fixed, trace(fixed, [((ROWS,), {})])).half()


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ((IMAGES[0],), {}, "must have 4 axes"),
        ((IMAGES.double(),), {}, r"must be torch\.float32, not torch\.float64"),
        ((IMAGES[..., :5],), {}, "axis 3 of input must be 10; it is 5"),
        (("text",), {}, "must be a tensor, not str"),
        ((IMAGES, 1), {}, "takes 1 arguments in place"),
        ((IMAGES,), {"input": IMAGES}, "given twice"),
        ((), {"image": IMAGES}, "'image' is no argument"),
        ((), {}, "'input' is missing"),
        ((IMAGES[:0],), {}, "must be at least 1; it is 0"),
    ],
)
def test_calls_that_do_not_fit_are_refused(args, kwargs, said):
    with pytest.raises(InputError, match=said):
        small()[1](*args, **kwargs)


class PassesOn(nn.Module):
    """It takes anything, and hands it to another, as wrappers of adapters do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Bilinear(3, 3, 2)

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.inner(*args, **kwargs)


def test_wrappers_that_pass_everything_on() -> None:
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    check(PassesOn(), input1=x, input2=y)
    check(PassesOn(), x, y)
    check(PassesOn(), x, input2=y)
