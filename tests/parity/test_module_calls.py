"""The calls of modules that a file tells are those of the live module, and a graph run by them answers as it does."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torchvision_operators import declare_operators

import perdure
from perdure.disk.stored import Stored
from perdure.errors import InputError, UnsupportedModelError
from perdure.models.graph_scopes import run_in_scopes
from perdure.models.structure import flatten, with_leaves
from perdure.models.unread_graphs import unread_graph
from perdure.records.module_calls import Scope

Shapes = list[tuple[int, ...]]


class Calls:
    """What a watcher hears, in the order in which calls end; the same as hooks of a live module hear."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str, Shapes]] = []
        self.inputs: list[tuple[str, Shapes]] = []
        self.open: list[str] = []

    def on_enter(self, scope: Scope, inputs: list[torch.Tensor]) -> None:
        assert len(self.open) == scope.depth
        self.open.append(scope.path)
        self.inputs.append((scope.path, [tuple(tensor.shape) for tensor in inputs]))

    def on_exit(self, scope: Scope, outputs: list[torch.Tensor]) -> None:
        assert self.open.pop() == scope.path
        self.found.append((scope.path, scope.kind, [tuple(tensor.shape) for tensor in outputs]))

    @contextlib.contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        def hook(path: str) -> Any:
            def heard(module: nn.Module, _: Any, output: Any) -> None:
                tensors = [leaf for leaf in flatten(output, "it")[0] if isinstance(leaf, torch.Tensor)]
                self.found.append((path, type(module).__name__, [tuple(tensor.shape) for tensor in tensors]))

            return heard

        handles = [module.register_forward_hook(hook(path)) for path, module in model.named_modules()]
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


def check(model: nn.Module, *args: Any, unused: tuple[str, ...] = (), **kwargs: Any) -> Calls:
    """Compare the calls of a file's graph on fake tensors, with another batch than the example's, with the live ones.

    Calls that make no node and give what they got are none of the file's; of those named `unused`, only the first output is.
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
    identities = {path for path, module in model.named_modules() if isinstance(module, nn.Identity)}
    assert told.found == [
        (path, kind, shapes[:1] if path in unused else shapes)
        for path, kind, shapes in live.found
        if path not in identities
    ]
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
    check(Classifier(), torch.randint(9, (3, 5)), unused=("lstm",))


def test_a_model_that_gives_what_it_gets():
    told = check(nn.Sequential(nn.Identity(), nn.Dropout()), torch.randn(3, 4))
    assert told.found == [("1", "Dropout", [(3, 4)]), ("", "Sequential", [(3, 4)])]


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
    check(bert, input_ids=ids, attention_mask=torch.ones_like(ids))
    options = {"n_embd": 32, "n_layer": 2, "n_head": 4, "use_cache": False, "bos_token_id": 1, "eos_token_id": 2}
    check(transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=99, **options)), input_ids=ids)
