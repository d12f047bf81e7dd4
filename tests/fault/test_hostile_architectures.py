"""Architectures that somebody wrote to do harm: typed errors, at once, and nothing that the file chose is imported or run."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard
from torch import nn

import perdure
from fault.forging import with_blob
from perdure.errors import CorruptError, FileError, InputError, LimitError, PerdureError, UntrustedError


def content_of(architecture: dict[str, Any] | bytes) -> bytes:
    """Return a sound, sealed file of a model whose architecture is exchanged for another."""
    file = io.BytesIO()
    perdure.save(nn.Linear(2, 2), file)
    text = architecture if isinstance(architecture, bytes) else json.dumps(architecture).encode()
    return with_blob(file.getvalue(), "architecture", zstandard.compress(text))


LINEAR = {"module": "torch.nn.modules.linear", "path": "Linear"}
SEQUENTIAL = {"module": "torch.nn.modules.container", "path": "Sequential"}
TENSORS = [{"name": "weight", "parameter": True}, {"name": "bias", "parameter": True}]


def linear(**changes: Any) -> dict[str, Any]:
    return {
        "of": 0,
        "attributes": {"in_features": 2, "out_features": 2},
        "parameters": {"weight": 0, "bias": 1},
        **changes,
    }


def model(*modules: dict[str, Any], names: Any = (LINEAR,), **changes: Any) -> dict[str, Any]:
    return {"names": list(names), "modules": list(modules) or [linear()], "tensors": TENSORS, **changes}


def function(module: str, path: str) -> dict[str, Any]:
    return {"module": module, "path": path, "function": True}


def class_of(module: str, path: str) -> dict[str, Any]:
    return {"module": module, "path": path}


def refused(content: bytes, **options: Any) -> PerdureError:
    """Load it in a second, with an audit hook that sees no import, no code and no process."""
    seen: list[str] = []

    def audit(event: str, arguments: Any) -> None:
        if watching and event in (
            "import",
            "exec",
            "compile",
            "os.system",
            "subprocess.Popen",
            "os.exec",
            "socket.connect",
        ):
            seen.append(f"{event} {arguments[:1]}")

    watching = True
    perdure.load(content_of(model()))  # what a sound file imports is imported
    sys.addaudithook(audit)
    modules = set(sys.modules)
    start = time.monotonic()
    try:
        with pytest.raises(PerdureError) as caught:
            perdure.load(content, **options)
    finally:
        watching = False
    assert time.monotonic() - start < 2
    assert set(sys.modules) == modules and seen == []
    return caught.value


def test_the_sound_one_loads() -> None:
    assert type(perdure.load(content_of(model()))) is nn.Linear


@pytest.mark.parametrize(
    "name",
    [
        function("os", "system"), function("builtins", "eval"), function("posix", "system"), function("torch", "load"),
        function("torch.hub", "load"), function("importlib", "import_module"), function("torch.nn.functional", "handle_torch_function"),
        class_of("subprocess", "Popen"), class_of("builtins", "type"), class_of("torch.jit", "ScriptModule"),
        class_of("torch.fx.graph_module", "GraphModule"), class_of("torch.nn.parallel.distributed", "DistributedDataParallel"),
        class_of("torch.nn.modules.linear", "Linear.__init__"), class_of("torch.nn.modules.linear", "F"),
        class_of("torch.nn.modules.linear", "init"), function("torch", "nn.functional.relu"), class_of("", ""),
        class_of("antigravity", "fly"), function("perdure_no_such_module", "x"), class_of("torch.nn.modules.module", "Module.__class__"),
    ],
    ids=lambda name: f"{name['module']}:{name['path']}",
)  # fmt: skip
@pytest.mark.parametrize("place", ["class", "attribute", "partial"])
def test_names_that_nobody_permitted(name: dict[str, Any], place: str) -> None:
    """Wherever they stand: the message names them, and nothing is imported."""
    tag = "function" if name.get("function") else "class"
    value: Any = {"$": tag, "of": 1}
    if place == "partial":
        value = {"$": "partial", "of": [value, ["echo"], {}]}
    modules = [linear(of=1)] if place == "class" else [linear(attributes={"act": value})]
    error = refused(content_of(model(*modules, names=[LINEAR, name])))
    assert isinstance(error, UntrustedError | CorruptError)
    if isinstance(error, UntrustedError):
        assert name["path"] in str(error)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that imports os, has a function that runs commands, a class that calls, and a module class."""
    (tmp_path / "acme_pkg").mkdir()
    (tmp_path / "acme_pkg" / "__init__.py").write_text(
        "import os\nfrom os import system\nfrom subprocess import Popen\nfrom torch import nn\n"
        "def run(command):\n    os.system(command)\n"
        "class Net(nn.Module):\n    def forward(self, x):\n        return x\n"
        "class Runner:\n    def __del__(self):\n        os.system(self.command)\n"
        "class Holder:\n    pass\n"
        "import torch\nclass Step(torch.autograd.Function):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "acme_pkg"  # type: ignore[misc]
    sys.modules.pop("acme_pkg", None)


@pytest.mark.parametrize(
    ("name", "permitted"),
    [
        (class_of("acme_pkg", "Net"), True), (class_of("acme_pkg", "Holder"), True), (class_of("acme_pkg", "Runner"), False), (class_of("acme_pkg", "Step"), False),
        (function("acme_pkg", "run"), False), (function("acme_pkg", "system"), False), (function("acme_pkg", "os.system"), False),
        (class_of("acme_pkg", "Popen"), False), (class_of("acme_pkg", "os"), False), (class_of("acme_pkg", "nn.Linear"), False),
        (class_of("acme_pkg", "Net.__class__"), False), (class_of("acme_pkg.os", "path"), False), (class_of("acme_pkg_other", "Net"), False),
    ],
    ids=lambda value: str(value.get("path")) if isinstance(value, dict) else str(value),
)  # fmt: skip
def test_what_a_trusted_package_permits(name: dict[str, Any], permitted: bool, package: str) -> None:
    """Its module classes and plain data, and nothing that it imports or that runs something."""
    tag = "function" if name.get("function") else "class"
    content = content_of(model(linear(attributes={"act": {"$": tag, "of": 1}}), names=[LINEAR, name]))
    if permitted:
        assert perdure.load(content, trusted=[package]).act.__name__ == name["path"]
    else:
        with pytest.raises((UntrustedError, InputError, FileError)):
            perdure.load(content, trusted=[package])


BROKEN: dict[str, Any] = {
    "no JSON": b"{",
    "not an object": b"[]",
    "no modules": model() | {"modules": []},
    "no such class": model(linear(of=7)),
    "a class before the first": model(linear(of=-1)),
    "no such tensor": model(linear(parameters={"weight": 9})),
    "no such tensor in an attribute": model(linear(attributes={"t": {"$": "tensor", "of": 9}})),
    "a tensor that is not in the file": model(tensors=[{"name": "nowhere", "parameter": True}, TENSORS[1]]),
    "a tensor that is not in the blob": model(tensors=[{"name": "weight", "in_blob": True}, TENSORS[1]]),
    "no such module": model(linear(modules={"child": 3})),
    "holds itself": model(linear(modules={"child": 0})),
    "holds its holder": model(linear(modules={"a": 1}), linear(modules={"b": 0})),
    "an object that is a module": model(linear(attributes={"x": {"$": "object", "of": 0}}), objects=[{"of": 0}]),
    "an unknown tag": model(linear(attributes={"x": {"$": "code", "of": "print(1)"}})),
    "a tag of no text": model(linear(attributes={"x": {"$": ["class"], "of": 0}})),
    "a method of PyTorch's": model(
        linear(attributes={"x": {"$": "method", "of": [{"$": "module", "of": 0}, "apply"]}})
    ),
    "a method of no module": model(linear(attributes={"x": {"$": "method", "of": ["text", "format"]}})),
    "a dunder method": model(linear(attributes={"x": {"$": "method", "of": [{"$": "module", "of": 0}, "__init__"]}})),
    "a value in a method's place": model(
        linear(attributes={"forward": {"$": "function", "of": 1}}), names=[LINEAR, function("torch", "zeros")]
    ),
    "a dunder attribute": model(linear(attributes={"__class__": 3})),
    "a partial of a class that is no module": model(
        linear(attributes={"x": {"$": "partial", "of": [{"$": "class", "of": 1}, [], {}]}}),
        names=[LINEAR, class_of("builtins", "int")],
    ),
    "a method bound to a path": model(
        linear(attributes={"x": {"$": "method", "of": [{"$": "path", "of": "/tmp/victim"}, 1]}}),
        names=[LINEAR, function("torch.nn.functional", "relu")],
    ),
    "a method of a path": model(
        linear(attributes={"x": {"$": "method", "of": [{"$": "path", "of": "/tmp/victim"}, 1]}}),
        names=[LINEAR, function("pathlib", "Path.unlink")],
    ),
    "a method of a logger": model(
        linear(attributes={"x": {"$": "method", "of": [{"$": "logger", "of": "root"}, 1]}}),
        names=[LINEAR, function("logging", "Logger.error")],
    ),
    "a function bound as a method": model(
        linear(attributes={"x": {"$": "method", "of": [{"$": "module", "of": 0}, 1]}}),
        names=[LINEAR, function("torch.nn.functional", "relu")],
    ),
    "modules as an attribute": model(linear(attributes={"_modules": {"x": {"$": "module", "of": 0}}})),
    "parameters as an attribute": model(linear(attributes={"_parameters": {"x": 5}})),
    "training as an attribute": model(linear(attributes={"training": 3})),
    "a value in the place of a hook's method": model(
        linear(attributes={"x": {"$": "object", "of": 0}}),
        names=[LINEAR, class_of("torch.nn.utils.weight_norm", "WeightNorm"), function("torch", "zeros")],
        objects=[{"of": 1, "state": {"compute_weight": {"$": "function", "of": 2}}}],
    ),
    "the class of an object": model(
        linear(attributes={"x": {"$": "object", "of": 0}}),
        names=[LINEAR, class_of("torch.nn.utils.weight_norm", "WeightNorm")],
        objects=[{"of": 1, "state": {"__class__": {"$": "class", "of": 0}}}],
    ),
    "a name with a line of its own": model(names=[LINEAR, class_of("acme\nall is well", "Net")]),
    "an integer parameter that is trained": model(
        tensors=[{"name": "n", "in_blob": True, "parameter": True, "requires_grad": True}, TENSORS[1]]
    ),
    "a partial of text": model(linear(attributes={"x": {"$": "partial", "of": ["text", [], {}]}})),
    "a dtype that is a function": model(linear(attributes={"x": {"$": "dtype", "of": "load"}})),
    "a dtype with dots": model(linear(attributes={"x": {"$": "dtype", "of": "nn.Linear"}})),
    "a size of text": model(linear(attributes={"x": {"$": "size", "of": "abc"}})),
    "a device that is none": model(linear(attributes={"x": {"$": "device", "of": "nowhere:7"}})),
    "an enum that is none": model(linear(attributes={"x": {"$": "enum", "of": [0, "A"]}})),
    "a named tuple that is none": model(linear(attributes={"x": {"$": "namedtuple", "of": [0, [1]]}})),
    "a handle of no module": model(linear(attributes={"x": {"$": "handle", "of": [9, "_forward_hooks", 1]}})),
    "a handle of no hooks": model(linear(attributes={"x": {"$": "handle", "of": [0, "weight", 1]}})),
    "a hook of nothing": model(linear(attributes={"x": {"$": "hook", "of": [3, None]}})),
    "a container that is none": model(containers=[{"kind": "Popen", "of": []}]),
    "a container of another kind": model(containers=[{"kind": "list", "of": {"a": 1}}]),
    "a queue without a length": model(containers=[{"kind": "deque", "of": 3}]),
    "a queue of a length that is none": model(
        containers=[{"kind": "deque", "of": {"$": "deque", "of": [1], "longest": "x"}}]
    ),
    "no such container": model(linear(attributes={"x": {"$": "container", "of": 4}})),
    "items of what has none": model(
        names=[LINEAR, class_of("torch.nn.utils.weight_norm", "WeightNorm")], objects=[{"of": 1, "items": [[1, 2]]}]
    ),
    "items that are no pairs": model(names=[LINEAR, class_of("builtins", "dict")], objects=[{"of": 1, "items": [1]}]),
    "an object that is a class": model(names=[LINEAR, class_of("builtins", "int")], objects=[{"of": 1}]),
    "flags of what has none": model(linear(attributes={"x": {"$": "flags", "of": [0, 3]}})),
    "a weak reference to a tensor": model(linear(attributes={"x": {"$": "weak", "of": {"$": "tensor", "of": 0}}})),
    "an array of objects": model(linear(attributes={"x": {"$": "ndarray", "of": 0, "dtype": "|O8", "shape": [1]}})),
    "an array of too many": model(linear(attributes={"x": {"$": "ndarray", "of": 0, "dtype": "<i8", "shape": [99]}})),
    "a scalar of an object": model(linear(attributes={"x": {"$": "scalar", "dtype": "|O8", "of": "00" * 8}})),
    "a generator of a wrong state": model(linear(attributes={"x": {"$": "generator", "of": ["cpu", 0]}})),
    "a generator of no device": model(linear(attributes={"x": {"$": "generator", "of": ["/dev/null", 0]}})),
    "a class of a tensor": model(
        tensors=[{**TENSORS[0], "attributes": {"__class__": {"$": "class", "of": 0}}}, TENSORS[1]]
    ),
    "a method of a tensor": model(
        names=[LINEAR, function("torch", "zeros")],
        tensors=[{**TENSORS[0], "attributes": {"add": {"$": "function", "of": 1}}}, TENSORS[1]],
    ),
    "a logger of a thousand parts": model(linear(attributes={"x": {"$": "logger", "of": "a." * 1000}})),
    "a dtype that would import": model(linear(attributes={"x": {"$": "dtype", "of": "_inductor"}})),
    "the compiled call": model(linear(attributes={"_compiled_call_impl": {"$": "module", "of": 0}})),
    "a registered function": model(names=[LINEAR, {**function("os", "system"), "registered": "acme.run"}]),
    "parametrized without parametrizations": model(linear(parametrized=True)),
    "lazy of no type": model(tensors=[{"name": "load", "lazy": "parameter"}, TENSORS[1]]),
    "a function as class": model(names=[LINEAR, function("torch", "relu")]) | {"modules": [linear(of=1)]},
    "a class as function": model(
        linear(attributes={"x": {"$": "function", "of": 1}}), names=[LINEAR, class_of("torch", "relu")]
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_architectures(name: str) -> None:
    refused(content_of(BROKEN[name]), form="class")


def test_containers_and_marks_that_hold_themselves() -> None:
    """They are sound: what they refer to is made before it is filled."""
    itself = [{"$": "container", "of": 0}]
    marks = [{**TENSORS[0], "attributes": {"x": {"$": "tensor", "of": 0}}}, TENSORS[1]]
    attributes = {"in_features": 2, "out_features": 2, "x": itself[0]}
    loaded: Any = perdure.load(
        content_of(model(linear(attributes=attributes), containers=[{"kind": "list", "of": itself}], tensors=marks))
    )
    assert loaded.x is loaded.x[0] and loaded.weight.x is loaded.weight


def test_shared_modules_with_more_ways_than_can_be_walked() -> None:
    """Sixty layers of two modules, each of which holds both of the next: 2⁶⁰ ways, in 121 modules."""
    names = [LINEAR, SEQUENTIAL]
    layers = [
        {"of": 1, "modules": {"a": min(2 * layer + 2, 120), "b": min(2 * layer + 3, 120)}}
        for layer in range(60)
        for _ in range(2)
    ]
    assert isinstance(refused(content_of(model(*layers, linear(), names=names))), LimitError)


@pytest.mark.parametrize("registered", ["acme_pkg", "acme.Net", "torch.nn"])
def test_a_registered_name_permits_no_place(registered: str, package: str) -> None:
    """What is permitted by its registered name is found among the registered classes, wherever the file says that it is."""
    for place in (class_of("subprocess", "Popen"), class_of("antigravity", "Fly"), class_of("acme_other", "Net")):
        content = content_of(model(linear(of=1), names=[LINEAR, {**place, "registered": registered}]))
        with pytest.raises(InputError, match="no class is registered as"):
            perdure.load(content, trusted=[registered])
        assert not {"antigravity", "acme_other"} & set(sys.modules)
        run = function("timeit", "timeit") | {"registered": registered}
        with pytest.raises(CorruptError):
            perdure.load(content_of(model(names=[LINEAR, run])), trusted=[registered])


@pytest.mark.parametrize("kind", ["defaultdict", "items", "set"])
def test_keys_whose_hashes_are_all_the_same(kind: str) -> None:
    keys = [{"$": "int", "of": hex(number * (2**61 - 1))} for number in range(20_000)]
    pairs = [[key, 1] for key in keys]
    by_kind = {
        "defaultdict": model(linear(attributes={"x": {"$": "defaultdict", "of": [None, pairs]}})),
        "items": model(names=[LINEAR, class_of("builtins", "dict")], objects=[{"of": 1, "items": pairs}]),
        "set": model(names=[LINEAR, class_of("builtins", "set")], objects=[{"of": 1, "items": keys}]),
    }
    assert isinstance(refused(content_of(by_kind[kind])), CorruptError)


def test_many_references_to_many_modules_take_no_square_of_time() -> None:
    modules = [linear(modules={"a": 1}), *(linear(parameters={}) for _ in range(20_000))]
    modules[0]["attributes"]["x"] = [{"$": "weak", "of": {"$": "module", "of": n}} for n in range(20_000)]
    start = time.monotonic()
    perdure.load(content_of(model(*modules)))
    assert time.monotonic() - start < 10


def test_more_values_than_any_model_has() -> None:
    text = json.dumps(model(linear(attributes={"x": "MANY"}))).replace('"MANY"', "[" + "[]," * 5_000_000 + "[]]")
    assert isinstance(refused(content_of(text.encode())), LimitError)


def test_code_of_classes_that_fails_while_a_model_is_moved() -> None:
    lstm = {"module": "torch.nn.modules.rnn", "path": "LSTM"}
    broken = {"of": 1, "attributes": {"_flat_weights_names": [5], "_flat_weights": [], "mode": "LSTM"}}
    with pytest.raises(PerdureError):
        perdure.load(content_of(model(broken, names=[LINEAR, lstm])), dtype=torch.float64)


def test_a_package_permits_no_methods(package: str) -> None:
    names = [LINEAR, class_of("acme_pkg", "Net"), function("acme_pkg", "Net.forward")]
    method = {"$": "method", "of": [{"$": "module", "of": 0}, 2]}
    content = content_of(model(linear(of=1, attributes={"x": method}), names=names))
    with pytest.raises(UntrustedError, match=r"Net\.forward"):
        perdure.load(content, trusted=[package])
    import acme_pkg  # type: ignore[import-not-found]

    assert perdure.load(content, trusted=[acme_pkg.Net]).x.__func__ is acme_pkg.Net.forward
    main = content_of(model(linear(of=1), names=[LINEAR, class_of("acme_pkg.__main__", "Net")]))
    with pytest.raises(UntrustedError):
        perdure.load(main, trusted=[package])


def test_a_proof_of_somebody_else_runs_only_when_asked() -> None:
    from perdure.records.proof import OutputLeaf, Proof, encode

    wrong = encode(Proof(outputs=(OutputLeaf("float32", (1,), "0" * 64),), tree={"tuple": [[], {"dict": []}]}))
    content = with_blob(content_of(model()), "proof", zstandard.compress(wrong))
    assert type(perdure.load(content)) is nn.Linear
    with pytest.raises(PerdureError):
        perdure.load(content, verify="full")


def test_deep_and_huge_architectures() -> None:
    chain = [linear(of=1, parameters={}, modules={"a": number + 1}) for number in range(5000)]
    assert isinstance(refused(content_of(model(*chain, linear(), names=[LINEAR, SEQUENTIAL]))), LimitError)
    text = json.dumps(model(linear(attributes={"x": "DEEP"}))).replace('"DEEP"', "[" * 100_000 + "]" * 100_000)
    refused(content_of(text.encode()))
    many = json.dumps(model()).replace('"modules": [', '"modules": [' + '{"of":0},' * 300_000)
    refused(content_of(many.encode()))


def test_a_blob_that_unpacks_to_ten_gigabytes() -> None:
    compressor = zstandard.ZstdCompressor(level=3).compressobj()
    parts = [compressor.compress(b"\0" * 2**26) for _ in range(160)]
    file = io.BytesIO()
    perdure.save(nn.Linear(2, 2), file)
    bomb = b"".join([*parts, compressor.flush()])
    for blob in ("architecture", "graph", "proof", "sources", "buffers"):
        content = with_blob(file.getvalue(), blob, bomb)
        start = time.monotonic()
        if blob in ("architecture",):
            with pytest.raises(FileError):
                perdure.load(content)
        else:
            with pytest.raises(FileError):
                perdure.load(content, form="class" if blob in ("proof", "sources", "buffers") else "graph")
        assert time.monotonic() - start < 3
