"""Graphs that somebody wrote to do harm: a typed error at once, and nothing of them is run or written into source."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest
import torch
from torch import nn

from perdure.errors import CorruptError, LimitError, PerdureError, ProtocolError
from perdure.models.execution import build
from perdure.models.operators import ALLOWED
from perdure.records.graph import decode
from perdure.records.module_calls import pack_scopes

RELU = ["aten.relu.default", "aten::relu(Tensor self) -> Tensor"]


def graph(**changes: Any) -> dict[str, Any]:
    """A sound graph, `relu(x)`, with some parts changed."""
    return {
        "operators": [RELU],
        "arguments": [{"name": "x", "given": {"at": 0}}],
        "leaves": [{"dtype": "float32", "shape": [{"s": 0}, 3]}],
        "symbols": [[1, None]],
        "nodes": [[0, {"i": 0}]],
        "outputs": [{"v": 1}],
        "tree": {"at": 0},
        **changes,
    }


def load(content: dict[str, Any] | bytes, tensors: dict[str, torch.Tensor] | None = None) -> nn.Module:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return build(decode(text, "evil.safetensors"), tensors or {}, where="evil.safetensors")


def one_node(name: str, *values: Any, schema: str = "") -> dict[str, Any]:
    return graph(operators=[[name, schema]], nodes=[[0, *values]])


def test_the_sound_graph_runs():
    assert torch.equal(load(graph())(torch.tensor([[-1.0, 2.0, 0.0]])), torch.tensor([[0.0, 2.0, 0.0]]))


@pytest.mark.parametrize(
    "name",
    [
        "aten.from_file.default", "aten.save.default", "aten._print.default", "aten.set_.source_Storage", "aten.resize_.default",
        "aten.manual_seed.default", "aten.as_strided.default", "aten.record_stream.default", "aten.empty_strided.default",
        "aten._sparse_coo_tensor_unsafe.default", "aten._transformer_encoder_layer_fwd.default", "aten.pin_memory.default",
        "aten._unsafe_view.default", "aten.quantize_per_tensor.default", "aten.requires_grad_.default", "aten.set_grad_enabled.default",
        "higher_order.while_loop", "higher_order.triton_kernel_wrapper_mutation", "prim.Print.default", "os.system", "builtins.eval",
        "operator.attrgetter", "operator.methodcaller", "torch.load", "aten.relu", "aten.relu.default.__class__", "aten.__class__.mro",
        "aten.add.__init__", "math.__loader__", "inductor.resize_storage_bytes_.default", "torch.ops.load_library", "", ".", "aten..default",
    ],
)  # fmt: skip
def test_what_is_not_on_the_list_is_refused(name):
    assert name not in ALLOWED
    with pytest.raises(ProtocolError, match="not among the operators"):
        load(one_node(name, {"i": 0}))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (graph(nodes=[[0, {"v": 1}]]), CorruptError),
        (graph(nodes=[[0, {"v": 0}]]), CorruptError),
        (graph(nodes=[[0, {"v": -1}]]), CorruptError),
        (graph(nodes=[[0, {"v": True}]]), CorruptError),
        (graph(nodes=[[0, {"i": 1}]]), CorruptError),
        (graph(nodes=[[0, {"t": 0}]]), CorruptError),
        (graph(nodes=[[0, {"g": 0}]]), CorruptError),
        (graph(nodes=[[1, {"i": 0}]]), CorruptError),
        (graph(nodes=[[-1, {"i": 0}]]), CorruptError),
        (graph(nodes=[[]]), CorruptError),
        (graph(nodes=[["0", {"i": 0}]]), CorruptError),
        (graph(nodes=[[0, {"i": 0, "v": 1}]]), CorruptError),
        (graph(nodes=[[0, {"code": "1"}]]), CorruptError),
        (graph(nodes=[[0, {}]]), CorruptError),
        (graph(outputs=[{"v": 2}]), CorruptError),
        (graph(outputs=[{"i": 5}]), CorruptError),
        (graph(tree={"at": 1}), CorruptError),
        (graph(tree={"tuple": [{"at": 0}, {"at": 0}]}), CorruptError),
        (graph(tree={"dict": [["a", {"at": 0}, 1]]}), CorruptError),
        (graph(tree={"tuple": [{"at": 0}], "fields": ["a", "b"]}), CorruptError),
        (graph(tree=5), CorruptError),
        (graph(leaves=[{"dtype": "float32", "shape": [{"s": 1}]}]), CorruptError),
        (graph(leaves=[{"dtype": "float32", "shape": [-3]}]), CorruptError),
        (graph(leaves=[{"dtype": "float32", "shape": [{"floordiv": [{"s": 0}, 0]}]}]), CorruptError),
        (graph(leaves=[{"dtype": "float32", "shape": [3, 3]}]), CorruptError),
        (graph(leaves=[{"dtype": "__loader__", "shape": [{"s": 0}]}]), CorruptError),
        (graph(leaves=[{"dtype": "float32", "shape": [{"s": 0}] * 100}]), LimitError),
        (graph(symbols=[[5, 2]]), CorruptError),
        (graph(arguments=[{"name": "x", "given": {"at": 0}}, {"name": "x"}]), CorruptError),
        (graph(arguments=[]), CorruptError),
        (graph(arguments=[{"name": "x", "way": "other", "given": {"at": 0}}]), CorruptError),
        (graph(tensors=[["w"], ["w"]]), CorruptError),
        (graph(tensors=[["w"]]), CorruptError),
        (graph(constraints=[["eq", {"s": 9}, 1]]), CorruptError),
        (graph(constraints=[["__eq__", 1, 1]]), CorruptError),
        (graph(protocol=2), ProtocolError),
        (graph(features=["loops"]), ProtocolError),
        (graph(operators=[["x" * 2000, ""]]), LimitError),
        (b"", CorruptError),
        (b"[]", CorruptError),
        (b'{"nodes": ' + b"[" * 100_000, CorruptError),
        (b"\xff\xfe", CorruptError),
    ],
)
def test_graphs_that_are_none(content, error):
    with pytest.raises(error, match=r"evil\.safetensors|building the graph"):
        load(content)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (one_node("aten.relu.default"), CorruptError),
        (one_node("aten.relu.default", {"i": 0}, 1), CorruptError),
        (one_node("aten.relu.default", "x"), CorruptError),
        (one_node("aten.relu.default", None), CorruptError),
        (one_node("aten.view.default", {"i": 0}, "[1]"), CorruptError),
        (one_node("aten.view.default", {"i": 0}, [1.5]), CorruptError),
        (one_node("aten.view.default", {"i": 0}, [{"i": 0}]), CorruptError),
        (one_node("aten.softmax.int", {"i": 0}, True), CorruptError),
        (one_node("aten.cat.default", {"i": 0}), CorruptError),
        (one_node("aten.cat.default", [{"i": 0}, 3.5, None]), CorruptError),
        (one_node("aten.gelu.default", {"i": 0}, "__import__('os')"), CorruptError),
        (one_node("aten.einsum.default", "ij->i'); print('", [{"i": 0}]), CorruptError),
        (one_node("aten.to.dtype", {"i": 0}, {"dtype": "save"}), CorruptError),
        (one_node("aten.to.dtype", {"i": 0}, {"dtype": "os.system"}), CorruptError),
        (one_node("aten.to.device", {"i": 0}, {"device": "cuda:9;x"}, {"dtype": "float32"}), CorruptError),
        (one_node("aten.zeros.default", [2], None, {"layout": "sparse_coo"}), CorruptError),
        (one_node("aten.zeros.default", [2], None, None, None, True), CorruptError),
        (one_node("aten.bernoulli.default", {"i": 0}, 5), CorruptError),
        (one_node("aten.zeros.default", [10**9, 10**9]), LimitError),
        (one_node("aten.zeros.default", [2**70]), PerdureError),
        (one_node("aten.full.default", [10**6, 10**6], 1), LimitError),
        (one_node("aten.arange.default", 10**15), LimitError),
        (one_node("aten.expand.default", {"i": 0}, [10**15, 3]), LimitError),
        (one_node("operator.pow", 10, 10**9), CorruptError),
        (one_node("operator.mul", "a", 10**9), CorruptError),
        (one_node("operator.mul", [1], 10**9), CorruptError),
        (one_node("operator.getitem", {"i": 0}, 0), CorruptError),
        (one_node("operator.getitem", [1], 0), CorruptError),
        (one_node("math.ceil", {"i": 0}), CorruptError),
        (one_node("higher_order.cond", {"i": 0}, 1, 2, []), CorruptError),
        (one_node("higher_order.wrap_with_set_grad_enabled", True), CorruptError),
        (one_node("higher_order.wrap_with_autocast", "cpu", None, True, None), CorruptError),
    ],
)
def test_arguments_that_operators_do_not_take(content, error):
    with pytest.raises(error, match=r"evil\.safetensors"):
        load(content)


MODEL, RELU_CALL = [0, 0, 0, 1, [[2, 3]], [[2, 3]]], [0, 1, 0, 1, [], [[{"mul": [2, 3]}]]]
MODULES = [["", "Net"], ["relu", "ReLU"]]


def called(*calls: list[Any], modules: Any = MODULES, **changes: Any) -> dict[str, Any]:
    return graph(modules=modules, calls=calls, **changes)


def test_sound_calls_of_modules_are_read():
    relu = [0, {"i": 0}]
    again = called(
        [*MODEL[:3], 3, *MODEL[4:]], RELU_CALL, [-1, 1, 1, 1], [-1, 1, 1, 1], [-1, 2, 1, 0], nodes=[relu] * 3
    )
    made = decode(json.dumps(again).encode(), "sound.safetensors")
    assert [(scope.path, scope.kind, scope.depth, scope.start, scope.stop) for scope in made.scopes()] == [
        ("", "Net", 0, 0, 3),
        ("relu", "ReLU", 1, 0, 1),
        ("relu", "ReLU", 1, 1, 2),
        ("relu", "ReLU", 1, 2, 3),
        ("relu", "ReLU", 2, 3, 3),
    ]
    assert pack_scopes(made.scopes()) == (made.modules, made.calls)
    load(called(MODEL, RELU_CALL))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (called(MODEL), CorruptError),
        (called(), CorruptError),
        (called(MODEL, RELU_CALL, modules=[]), CorruptError),
        (called(MODEL, RELU_CALL, modules=[["", "Net"], ["", "ReLU"]]), CorruptError),
        (called(MODEL, RELU_CALL, modules=[["a", "Net"], ["b", "ReLU"]]), CorruptError),
        (called(MODEL, RELU_CALL, modules=[["", "Net"], ["x" * 2000, "ReLU"]]), LimitError),
        (called(MODEL, RELU_CALL, modules=[["", "Net"], ["x", "R" * 2000]]), LimitError),
        (called(MODEL, RELU_CALL, modules=[["", "Net"], ["x", 5]]), CorruptError),
        (called(MODEL, RELU_CALL, modules=[["", "Net"], ["x"]]), CorruptError),
        (called(MODEL, [1, 1, 0, 1]), CorruptError),
        (called(MODEL, [-2, 1, 0, 1], RELU_CALL), CorruptError),
        (called([-1, 0, 0, 1], RELU_CALL), CorruptError),
        (called(MODEL, [0, 0, 0, 1]), CorruptError),
        (called(MODEL, [0, 2, 0, 1]), CorruptError),
        (called(MODEL, [0, -1, 0, 1]), CorruptError),
        (called(MODEL, [0, True, 0, 1]), CorruptError),
        (called(MODEL, [0, 1, 0, 2]), CorruptError),
        (called(MODEL, [0, 1, 0, -1]), CorruptError),
        (called(MODEL, [0, 1, -1, 1]), CorruptError),
        (called(MODEL, [0, 1, 2, 0]), CorruptError),
        (called(MODEL, [0, 1, 0]), CorruptError),
        (called(MODEL, RELU_CALL, [-1, 1, 0, 1]), CorruptError),
        (called(MODEL, [0, 1, 10**30, 1]), CorruptError),
        (called([0, 0, 0, 2], RELU_CALL, [-1, 2, 0, 2], nodes=[[0, {"i": 0}]] * 2), CorruptError),
        (called(MODEL, RELU_CALL, *[[-1, 1, 1, 0]] * 100_000), LimitError),
        (called([0, 0, 0, 0], RELU_CALL), CorruptError),
        (called([0, 1, 0, 1], RELU_CALL), CorruptError),
        (called(MODEL, [0, 1, 0, 1, [[-1]]]), CorruptError),
        (called(MODEL, [0, 1, 0, 1, [[1.5]]]), CorruptError),
        (called(MODEL, [0, 1, 0, 1, [[None]]]), CorruptError),
        (called(MODEL, [0, 1, 0, 1, [], [[{"s": 9}]]]), CorruptError),
        (called(MODEL, [0, 1, 0, 1, [], [[{"v": 1}]]]), CorruptError),
        (called(MODEL, [0, 1, 0, 1, [], [[{"mod": [5, 0]}]]]), CorruptError),
        (called(MODEL, [0, 1, 0, 1, [], [[1] * 65]]), LimitError),
        (called(MODEL, [0, 1, 0, 1, [5]]), CorruptError),
        (called(MODEL, [0, 1, 0, 1, {"v": 1}]), CorruptError),
        (called(MODEL, RELU_CALL, *[[-1, depth, 0, 1] for depth in range(2, 102)]), LimitError),
    ],
)
def test_calls_of_modules_that_do_not_fit(content, error):
    with pytest.raises(error, match=r"evil\.safetensors"):
        load(content)


def nested(n_levels: int) -> Any:
    value: Any = 1
    for _ in range(n_levels):
        value = [value]
    return value


def chain(n: int) -> dict[str, Any]:
    """Sub-graphs of which each uses the one before it twice."""
    operators = [RELU, ["higher_order.wrap_with_set_grad_enabled", ""]]
    bodies = [{"n_inputs": 1, "nodes": [[0, {"i": 0}]], "outputs": [{"v": 1}], "single": True}]
    for number in range(n - 1):
        nodes = [[1, True, {"g": number}, {"i": 0}], [1, True, {"g": number}, {"v": 1}]]
        bodies.append({"n_inputs": 1, "nodes": nodes, "outputs": [{"v": 1}], "single": True})
    return graph(operators=operators, subgraphs=bodies, nodes=[[1, True, {"g": n - 1}, {"i": 0}]])


def test_what_is_beyond_measure_is_refused_within_a_second():
    million = json.dumps(graph(nodes=[[0, {"i": 0}]] * 1_000_000)).encode()
    for content in (
        million,
        graph(nodes=[[0, nested(60)]]),
        graph(tree=nested(60)),
        chain(11),
        graph(nodes=[[0, "x" * 5000]]),
        called(MODEL, RELU_CALL, *[[-1, 1, 1, 0]] * 250_000),
        called(MODEL, RELU_CALL, *[[-1, 1, 0, 0]] * 50_000),
        called(MODEL, [0, 1, 0, 1, [{"v": 1}] * 100_000 + [{"v": 2}]]),
        called(MODEL, *[[-1, 1, 10**4000, 0]] * 100),
    ):
        started = time.perf_counter()
        with pytest.raises((LimitError, CorruptError)):
            load(content)
        assert time.perf_counter() - started < 1
    assert isinstance(load(chain(10)), nn.Module)


def test_a_subgraph_uses_those_before_it_alone():
    content = chain(2)
    content["subgraphs"][0]["nodes"] = [[1, True, {"g": 0}, {"i": 0}]]
    with pytest.raises(CorruptError, match="refers to nothing"):
        load(content)
    content = chain(2)
    content["subgraphs"][1]["n_inputs"] = 2
    with pytest.raises(CorruptError, match="takes 2"):
        load(content)


@pytest.mark.parametrize(
    "name",
    ["x'); import os #", "a b", "class", "a.class.b", "__init__", "forward", "graph.weight", "a.train", "é", "a\nb", "tensor_0", "perdure_inputs.x"],
)  # fmt: skip
def test_no_name_of_the_file_gets_into_source(name):
    content = graph(
        operators=[["aten.add.Tensor", ""]],
        tensors=[[name]],
        nodes=[[0, {"i": 0}, {"t": 0}]],
        arguments=[{"name": "x'); import os #", "given": {"dict": [["k'); exit() #", {"at": 0}]]}}],
        tree={"dict": [["out'); exit() #", {"at": 0}]]},
    )
    made: Any = load(content, {name: nn.Parameter(torch.ones(3))})
    assert "import os" not in made.code
    assert "exit" not in made.code
    assert "self.tensor_0" in made.code, "its place is by number"
    found = made({"k'); exit() #": torch.zeros(2, 3)})
    assert torch.equal(found["out'); exit() #"], torch.ones(2, 3))
    assert sum(1 for _ in made.parameters()) == 1


def test_nothing_is_imported_or_run_while_a_graph_is_read():
    load(graph())
    before = set(sys.modules)
    events: list[str] = []
    active = True

    def hook(event: str, _: Any) -> None:
        if active and event.split(".")[0] in ("import", "os", "subprocess", "open", "socket"):
            events.append(event)

    sys.addaudithook(hook)
    for name in ("os.system", "aten.from_file.default", "evil_module.f"):
        with pytest.raises(PerdureError):
            load(one_node(name, "evil"))
    active = False
    assert set(sys.modules) == before
    assert not events


def test_numbers_where_tensors_may_stand_build_and_fail_when_run():
    for content in (one_node("aten.add_.Tensor", 2, {"i": 0}), one_node("aten.view.default", 2, [1])):
        with pytest.raises((RuntimeError, TypeError)):
            load(content)(torch.ones(2, 3))
    made = load(one_node("aten.full_like.default", {"i": 0}, {"float": "-inf"}))
    assert torch.equal(made(torch.ones(2, 3)), torch.full((2, 3), float("-inf")))


def test_an_operator_that_got_another_argument_still_loads():
    schema = "aten::softmax.int(Tensor self, int dim) -> Tensor"
    made = load(one_node("aten.softmax.int", {"i": 0}, -1, schema=schema))
    x = torch.randn(2, 3)
    assert torch.equal(made(x), torch.softmax(x, -1))
    swapped = "aten::softmax.int(int dim, Tensor self, *, ScalarType? dtype=None) -> Tensor"
    assert torch.equal(load(one_node("aten.softmax.int", -1, {"i": 0}, schema=swapped))(x), torch.softmax(x, -1))
    with pytest.raises(ProtocolError, match="other arguments"):
        load(
            one_node(
                "aten.softmax.int", {"i": 0}, -1, schema="aten::softmax.int(Tensor self, int dim, int dim) -> Tensor"
            )
        )
    gone = "aten::softmax.int(Tensor self, int dim, ScalarType? dtype=None, int speed=0) -> Tensor"
    with pytest.raises(ProtocolError, match="no longer"):
        load(one_node("aten.softmax.int", {"i": 0}, -1, None, 3, schema=gone))
    with pytest.raises(ProtocolError, match="other arguments"):
        load(one_node("aten.softmax.int", {"i": 0}, schema="aten::softmax.int(Tensor self) -> Tensor"))
