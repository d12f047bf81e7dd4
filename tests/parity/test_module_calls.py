"""The calls of modules that a file tells are those of the live module, and a graph run by them answers as it does."""

from __future__ import annotations

import contextlib
import copy
import io
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import perdure
from perdure.disk.stored import Stored
from perdure.errors import InputError, UnsupportedModelError
from perdure.models.execution import FrozenGraph
from perdure.models.graph_scopes import run_in_scopes
from perdure.models.heard_calls import HeardCall
from perdure.models.nested_tensors import shapes_in
from perdure.models.structure import flatten, with_leaves
from perdure.models.traced_scopes import Scopes
from perdure.models.unread_graphs import unread_graph
from perdure.records.module_calls import Scope, unpack_scopes
from sweeps.cases import cases_of
from torchvision_operators import declare_operators

Shapes = list[tuple[int, ...]]


class Calls:
    """What a watcher hears, in the order in which calls end; the same as hooks of a live module hear."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str, Shapes]] = []
        self.inputs: list[tuple[str, Shapes]] = []
        self.open: list[str] = []

    def on_enter(self, scope: Scope) -> None:
        assert len(self.open) == scope.depth
        self.open.append(scope.path)
        self.inputs.append((scope.path, list(scope.inputs)))

    def on_exit(self, scope: Scope) -> None:
        assert self.open.pop() == scope.path
        self.found.append((scope.path, scope.kind, list(scope.outputs)))

    @contextlib.contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        def before(path: str) -> Any:
            return lambda _, args, kwargs: self.inputs.append((path, list(shapes_in(args, kwargs))))

        def after(path: str) -> Any:
            return lambda module, _, out: self.found.append((path, type(module).__name__, list(shapes_in(out))))

        named = list(model.named_modules())
        handles = [module.register_forward_pre_hook(before(path), with_kwargs=True) for path, module in named]
        handles += [module.register_forward_hook(after(path)) for path, module in named]
        yield
        for handle in handles:
            handle.remove()


def saved(model: nn.Module, *args: Any, **kwargs: Any) -> bytes:
    file = io.BytesIO()
    perdure.save(model, file, example=kwargs or args)
    return file.getvalue()


def resized(value: Any, n: int) -> Any:
    leaves, _ = flatten(value, "it")
    rows = (
        leaf[torch.arange(n) % len(leaf)] if isinstance(leaf, torch.Tensor) and leaf.dim() else leaf for leaf in leaves
    )
    return with_leaves(value, rows)


def without_content(value: Any, mode: FakeTensorMode) -> Any:
    leaves, _ = flatten(value, "it")
    return with_leaves(value, (mode.from_tensor(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves))


def check(model: nn.Module, *args: Any, may_leave_out_masks: bool = False, **kwargs: Any) -> Calls:
    """Compare the calls of a file's graph on fake tensors, with another batch than the example's, with the live ones.

    Some models leave masks out that mask nothing, but not in a trace, which cannot look.
    """
    model.eval()
    args, kwargs = resized(args, 3), resized(kwargs, 3)
    content = saved(model, *resized(args, 2), **resized(kwargs, 2))
    live, told = Calls(), Calls()
    with live.hooked(model), torch.no_grad():
        expected = model(*args, **kwargs)
    mode = FakeTensorMode()
    found = unread_graph(Stored(content), mode)
    assert found is not None
    with mode, torch.no_grad():
        answer = run_in_scopes(found.model, told, *without_content(args, mode), **without_content(kwargs, mode))
    leaves, wanted = flatten(answer, "it")[0], flatten(expected, "it")[0]
    assert all(isinstance(leaf, FakeTensor) for leaf in leaves)
    assert [(leaf.shape, leaf.dtype) for leaf in leaves] == [(leaf.shape, leaf.dtype) for leaf in wanted]
    assert not told.open
    assert told.found == live.found
    assert [(path, shapes[:1]) for path, shapes in told.inputs] == [(path, shapes[:1]) for path, shapes in live.inputs]
    assert may_leave_out_masks or told.inputs == live.inputs
    return told


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.nothing = nn.Identity()
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.nothing(self.linear(x)).relu())


class Repeated(nn.Module):
    """A block three times, once by another name; lists in lists; outputs that are nested."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.again = self.block
        self.layers = nn.ModuleList([nn.ModuleList([nn.Linear(4, 4), nn.Dropout(0.5)]), nn.ModuleList([Pair()])])

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.again(self.block(self.block(x + 1)))
        for layer in self.layers[0]:  # pyright: ignore[reportGeneralTypeIssues]
            x = layer(x)
        one, other = self.layers[1][0](x)  # pyright: ignore[reportIndexIssue]
        return {"sum": one.sum(-1) + other[0].sum(-1), "x": x}


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return x[:, :2], [x.mean(-1, keepdim=True).relu()]


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.lstm = nn.LSTM(4, 6, batch_first=True, num_layers=2)
        self.head = nn.Linear(6, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embedding(tokens))[0][:, -1])


def test_a_block_that_is_called_three_times():
    told = check(Repeated(), torch.randn(3, 4))
    assert [path for path, _, _ in told.found].count("block") == 3
    assert told.inputs[0] == ("", [(3, 4)])
    assert dict(told.inputs)["block.dropout"] == [(3, 4)], "what it passes through"
    assert dict(told.inputs)["layers.1.0"] == [(3, 4)]


def test_an_lstm():
    check(Classifier(), torch.randint(9, (3, 5)))


def test_a_model_that_gives_what_it_gets():
    told = check(nn.Sequential(nn.Identity(), nn.Dropout()), torch.randn(3, 4))
    assert told.found == [
        (path, kind, [(3, 4)]) for path, kind in (("0", "Identity"), ("1", "Dropout"), ("", "Sequential"))
    ]


def test_models_of_torchvision():
    declare_operators()
    models = pytest.importorskip("torchvision.models")
    check(models.resnet18(), torch.randn(3, 3, 64, 64))
    small = {"image_size": 32, "patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
    told = check(models.VisionTransformer(**small), torch.randn(3, 3, 32, 32))
    assert ("encoder.layers.encoder_layer_1.mlp.0", "Linear", [(3, 5, 16)]) in told.found


def test_models_of_transformers():
    declare_operators()
    transformers = pytest.importorskip("transformers")
    ids = torch.randint(3, 90, (3, 9))
    small = {
        "vocab_size": 99,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 37,
    }
    bert = transformers.BertModel(transformers.BertConfig(**small))
    check(bert, input_ids=ids, attention_mask=torch.ones_like(ids), may_leave_out_masks=True)
    options = {"n_embd": 32, "n_layer": 2, "n_head": 4, "use_cache": False, "bos_token_id": 1, "eos_token_id": 2}
    llama = {**small, "use_cache": False}
    check(transformers.LlamaForCausalLM(transformers.LlamaConfig(**llama)), input_ids=ids, may_leave_out_masks=True)
    check(
        transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=99, **options)),
        input_ids=ids,
        may_leave_out_masks=True,
    )


@pytest.mark.parametrize("name", cases_of("zoo"))
def test_running_by_calls_gives_the_same_bits(name: str):
    case = cases_of("zoo")[name]
    if not case.graph:
        return
    model, given = case.build().eval(), case.resized(2)
    try:
        content = saved(model, **given) if isinstance(given, dict) else saved(model, *given)
        built = perdure.load(content, form="graph")
    except UnsupportedModelError:  # there is no graph of it
        return
    assert isinstance(built, FrozenGraph)
    args, kwargs = ((), given) if isinstance(given, dict) else (given, {})
    told, another = Calls(), copy.deepcopy(built)  # some change their buffers
    torch.manual_seed(0)
    expected, tree = flatten(built(*args, **kwargs), "it")
    torch.manual_seed(0)
    found, other = flatten(run_in_scopes(another, told, *args, **kwargs), "it")
    assert tree == other
    for one, two in zip(expected, found, strict=True):
        assert one.equal(two) if isinstance(one, torch.Tensor) else one == two
    assert [path for path, _, _ in told.found][-1:] == [""], "each of them tells its calls"
    assert not told.open


def test_tensors_are_freed_after_their_last_use():
    class Alive(TorchDispatchMode):
        """Notes how much memory is alive after each operator."""

        def __init__(self) -> None:
            super().__init__()
            self.made: dict[int, int] = {}
            self.after: list[int] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            for leaf in flatten(found, "it")[0]:
                if isinstance(leaf, torch.Tensor):
                    storage = leaf.untyped_storage()
                    if id(storage) not in self.made:
                        self.made[id(storage)] = storage.nbytes()
                        weakref.finalize(storage, self.made.pop, id(storage))
            self.after.append(sum(self.made.values()))
            return found

    built = perdure.load(saved(Repeated().eval(), torch.randn(2, 4)), form="graph")
    assert isinstance(built, FrozenGraph)
    x = torch.randn(2, 4)
    with torch.no_grad():
        with Alive() as one:
            built(x)
        with Alive() as other:
            run_in_scopes(built, Calls(), x)
    assert one.after == other.after
    assert max(one.after) < sum(one.after)


def test_calls_in_a_mode():
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
            self.head = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                x = self.body(x)
            return self.head(x)

    told = check(Frozen(), torch.randn(2, 4))
    assert [path for path, _, _ in told.found] == ["body.0", "body.1", "body", "head", ""]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.frozen = nn.Parameter(torch.randn(6), requires_grad=False)
        self.conv = nn.Conv2d(1, 2, 3).to(memory_format=torch.channels_last)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.ones(6))
        self.register_buffer("table", torch.arange(6.0), persistent=False)

    def forward(self, tokens: torch.Tensor, *, factor: float = 2.0) -> torch.Tensor:
        return self.head(self.embedding(tokens) * self.scale + self.table * self.frozen * factor)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("fake", [False, True])
def test_a_graph_without_content(sharded: bool, fake: bool, tmp_path: Path):
    path = tmp_path / ("tied" if sharded else "tied.safetensors")
    example = {"tokens": torch.randint(11, (2, 3)), "factor": 2.0}
    perdure.save(Tied(), path, example=example, shard_bytes=300 if sharded else None)
    loaded = perdure.load(path, form="graph")
    stored = Stored(path)
    assert len(stored.files) == (3 if sharded else 0)
    mode = FakeTensorMode() if fake else None
    with reads_of(stored) as read:
        found = unread_graph(stored, mode)
    assert found is not None and found.example is not None
    assert not read, "no tensor of the file is read"
    model, (args, kwargs) = found
    wanted = loaded.state_dict(keep_vars=True)
    made = model.state_dict(keep_vars=True)
    assert list(made) == list(wanted)
    for name, tensor in made.items():
        assert isinstance(tensor, FakeTensor) if fake else tensor.device.type == "meta"
        assert (tensor.shape, tensor.dtype, tensor.stride()) == (
            wanted[name].shape,
            wanted[name].dtype,
            wanted[name].stride(),
        )
        assert (isinstance(tensor, nn.Parameter), tensor.requires_grad) == (
            isinstance(wanted[name], nn.Parameter),
            wanted[name].requires_grad,
        )
    assert made["head.weight"] is made["embedding.weight"]
    assert (args[0] if args else kwargs["tokens"]).shape == (2, 3)
    told = Calls()
    with mode or contextlib.nullcontext():
        assert run_in_scopes(model, told, *args, **kwargs).shape == (2, 3, 11)
        with pytest.raises(InputError, match="missing"):
            run_in_scopes(model, told)
    assert [path for path, _, _ in told.found] == ["embedding", "head", ""]


@contextlib.contextmanager
def reads_of(stored: Stored) -> Iterator[list[tuple[int, int]]]:
    """Note what is read of the tensors of opened files."""
    found: list[tuple[int, int]] = []
    with contextlib.ExitStack() as stack:
        for file in stored.opened_files():
            source, start = file.source, file.header.data_start
            before = source.read

            def read(offset: int, n_bytes: int, before: Any = before, start: int = start) -> bytes:
                if offset + n_bytes > start:
                    found.append((offset, n_bytes))
                return before(offset, n_bytes)

            stack.enter_context(mock.patch.object(source, "read", read))
            stack.enter_context(mock.patch.object(source, "read_into", None))
        yield found


def test_files_without_a_graph_or_without_an_example():
    file = io.BytesIO()
    perdure.save(nn.Linear(2, 2), file)
    assert unread_graph(Stored(file.getvalue())) is None


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.eye(3).to_sparse())
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


def test_sparse_tensors_that_the_graph_does_not_use_are_left_out():
    found = unread_graph(Stored(saved(Sparse(), torch.randn(2, 3))))
    assert found is not None
    assert sorted(found.model.state_dict()) == ["linear.bias", "linear.weight"]


def test_a_trace_that_runs_the_model_twice_tells_no_calls():
    model = nn.Sequential(nn.ReLU())
    once = [HeardCall("", "model", 0), HeardCall("0", "model.0", 1)]
    modules, calls = Scopes(model, once).recorded(1, int)
    assert [scope.path for scope in unpack_scopes(modules, calls, 1)] == ["", "0"]
    assert Scopes(model, [*once, *once]).recorded(1, int) == ((), ())
    assert Scopes(model, once[1:]).recorded(1, int) == ((), ())
