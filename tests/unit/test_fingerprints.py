"""Fingerprints of code: what changes them and what does not."""

from __future__ import annotations

import importlib
import linecache
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.models.fingerprints import attributes_read, sources_of, text_of
from perdure.models.naming import name_of_class
from perdure.records.sources import changed, decode, encode, unseen

CODE = '''
from torch import nn
import acme_helper

class Base(nn.Module):
    def scale(self):
        return 2

class Net(Base):
    """Its docstring."""
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)  # a comment

    def forward(self, x):
        y = self.fc(x) * self.scale()
        if hasattr(self, "extra"):
            y = y + self.extra
        self.last = y
        return self.last
'''


@pytest.fixture
def define(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "acme_helper.py").write_text("WIDTH = 3\n")

    def run(code: str, helper: str = "WIDTH = 3\n") -> Any:
        (tmp_path / "acme_net.py").write_text(code)
        (tmp_path / "acme_helper.py").write_text(helper)
        for module in ("acme_net", "acme_helper"):
            sys.modules.pop(module, None)
        importlib.invalidate_caches()
        sys.dont_write_bytecode = True
        net = importlib.import_module("acme_net").Net
        return net, sources_of([(name_of_class(net), net)], text=True)

    yield run
    for module in ("acme_net", "acme_helper"):
        sys.modules.pop(module, None)


def test_layout_and_comments_do_not_count(define: Callable[..., Any]) -> None:
    _, first = define(CODE)
    other = (
        CODE.replace("  # a comment", "")
        .replace('"""Its docstring."""', "'''Another.'''")
        .replace("* self", "*   self")
    )
    _, second = define(other.replace("nn.Linear(2, 2)", "nn.Linear(\n            2,\n            2,\n        )"))
    assert set(first.code) == {"acme_net.Net", "acme_net.Base"} and set(first.modules) == {"acme_net", "acme_helper"}
    assert changed(first, second) == ()
    assert decode(encode(first), "f") == first


@pytest.mark.parametrize(
    ("code", "helper", "expected"),
    [
        (CODE.replace("nn.Linear(2, 2)", "nn.Linear(2, 3)"), "WIDTH = 3\n", {"acme_net.Net", "acme_net"}),
        (CODE.replace("return 2", "return 3"), "WIDTH = 3\n", {"acme_net.Base", "acme_net"}),
        (CODE, "WIDTH = 4\n", {"acme_helper"}),
    ],
)
def test_what_counts(code: str, helper: str, expected: set[str], define: Callable[..., Any]) -> None:
    """The class, its bases, and the modules of the user's that its module reaches."""
    _, first = define(CODE)
    _, second = define(code, helper)
    assert set(changed(first, second)) == expected


def test_text_and_attributes(define: Callable[..., Any]) -> None:
    net, found = define(CODE)
    assert found.code["acme_net.Net"].text == text_of(net) and text_of(net).startswith("class Net(Base):")
    assert attributes_read(net) == {"fc", "scale"}


def test_code_without_a_file() -> None:
    namespace: dict[str, Any] = {"__name__": "nowhere_at_all"}
    exec("class Net:\n    pass", namespace)
    net = namespace["Net"]
    found = sources_of([(name_of_class(net), net)])
    assert found.code["nowhere_at_all.Net"].fingerprint == "" and changed(found, found) == ()


def test_classes_that_were_typed_into_a_notebook() -> None:
    """They are in no file; what the notebook remembers of its cells is their source."""

    def typed(cell: str, text: str) -> Any:
        linecache.cache[cell] = (len(text), None, text.splitlines(keepends=True), cell)
        space: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(text, cell, "exec"), space)
        return space["Net"]

    first = "x = 1\nclass Net:\n    def forward(self, x):\n        return x\n"
    kinds = [typed("<cell 1>", first), typed("<cell 2>", first.replace("return x", "return  x  # the same"))]
    kinds.append(typed("<cell 3>", first.replace("return x", "return x + 1")))
    one, same, other = (sources_of([(name_of_class(kind), kind)], text=True) for kind in kinds)
    assert one.code["__main__.Net"].text.startswith("class Net:")
    assert changed(one, same) == unseen(one, same) == () and changed(one, other) == ("__main__.Net",)
    hidden = sources_of([(name_of_class(bare := type("Net", (), {"__module__": "__main__"})), bare)])
    assert changed(one, hidden) == () and unseen(one, hidden) == ("__main__.Net",)
