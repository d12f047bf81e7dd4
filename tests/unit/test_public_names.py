"""The public names: present, of the right kind, shadowed by no module, and cheap to import."""

import json
import pkgutil
import subprocess
import sys
from importlib import metadata

import pytest

import perdure
from perdure.version import VERSION

# Every verb that the library has or is meant to have, so that no module takes the name of a later one.
VERBS = {
    "save", "load", "register",
    "save_weights", "load_weights", "open",
    "save_checkpoint", "load_checkpoint",
    "info", "check", "diff", "convert", "annotate",
    "summarize", "importance", "sensitivity", "attribute", "prune", "fuse",
    "Preprocess", "Predictor", "Checkpointer",
}  # fmt: skip

# The kind of each public name, found in a process that has imported every module first: importing a submodule sets
# its name on the package, which would hide a function of that name.
KINDS_AFTER_IMPORTING_ALL = """
import importlib, inspect, json, pkgutil
import perdure

def fail(name):
    raise ImportError(name)

modules = [m.name for m in pkgutil.walk_packages(perdure.__path__, "perdure.", onerror=fail)]
for module in modules:
    if not module.endswith(".__main__"):
        importlib.import_module(module)

def kind(value):
    if inspect.ismodule(value):
        return "module"
    if inspect.isclass(value):
        return "class"
    return "function" if callable(value) else type(value).__name__

def members(name, value):
    if not inspect.isclass(value):
        return []
    return [
        ("." + member, found)
        for member, found in vars(value).items()
        if member[0] != "_"
        and (inspect.isfunction(found) or isinstance(found, (property, classmethod, staticmethod)))
        and f" {member}: " not in value.__doc__  # described among the class's attributes
    ]

print(json.dumps({
    "modules": modules,
    "kinds": {name: kind(getattr(perdure, name)) for name in perdure.__all__},
    "undocumented": [
        name + suffix
        for name in perdure.__all__
        for suffix, value in [("", getattr(perdure, name)), *members(name, getattr(perdure, name))]
        if not inspect.getdoc(value)
    ],
}))
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, str]]:
    return json.loads(run(KINDS_AFTER_IMPORTING_ALL))


def test_public_names_are_functions_and_classes(found: dict) -> None:
    expected = {name: "class" if name[0].isupper() else "function" for name in perdure.__all__}
    modules = {"errors"} & expected.keys()  # the one module that is public by itself
    expected.update(dict.fromkeys(modules, "module"))
    values = {name for name in expected if name.startswith("__")}
    assert {name: kind for name, kind in found["kinds"].items() if name not in values} == {
        name: kind for name, kind in expected.items() if name not in values
    }


def test_public_names_are_documented(found: dict) -> None:
    assert found["undocumented"] == []


def test_today_s_verbs_are_public() -> None:
    today = {"save_weights", "load_weights", "open", "save_checkpoint", "load_checkpoint", "check", "info"}
    assert today <= set(perdure.__all__)


def test_no_module_is_called_like_a_public_name() -> None:
    names = VERBS | (set(perdure.__all__) - {"errors"})
    modules = [module.name for module in pkgutil.walk_packages(perdure.__path__, "perdure.")]
    assert [module for module in modules if module.rpartition(".")[2] in names] == []


def test_all_is_what_dir_lists() -> None:
    assert set(perdure.__all__) <= set(dir(perdure))
    assert len(set(perdure.__all__)) == len(perdure.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = perdure.no_such_name  # type: ignore[attr-defined]


def test_version_is_that_of_the_distribution() -> None:
    assert metadata.version("perdure") == VERSION


TORCH_FREE = ["perdure", "perdure.errors", "perdure.records", "perdure.disk", "perdure.cli"]


@pytest.mark.parametrize("name", TORCH_FREE)
def test_imports_without_torch(name: str) -> None:
    """The package and all its modules; of perdure itself only the package, whose other layers may use torch."""
    code = f"""
import importlib, pkgutil, sys
package = importlib.import_module({name!r})
if {name!r} != "perdure":
    for module in pkgutil.walk_packages(getattr(package, "__path__", []), {name!r} + "."):
        if module.name.removeprefix("perdure.cli.") in ("convert_command", "diff_command", "drift_command", "predict_command"):
            continue  # they work with tensors, or import the code of models
        importlib.import_module(module.name)
print([heavy for heavy in ("torch", "numpy", "safetensors") if heavy in sys.modules])
"""
    assert run(code).strip() == "[]"
