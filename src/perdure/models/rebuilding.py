"""An architecture becomes a module again: no constructor is called, and only what the caller permits is used."""

from __future__ import annotations

import copyreg
import functools
import inspect
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from perdure.errors import CorruptError, PerdureError, UntrustedError
from perdure.models.containers import CONTAINERS, refill
from perdure.models.plain_objects import makes_plain_objects, put_items
from perdure.models.rebuilt_values import ValueReader
from perdure.models.registries import register_outside
from perdure.records.architecture import LISTED, NOT_KEPT, Architecture, ContainerRecord, ModuleRecord, TensorRef
from perdure.weights.dtypes import by_name

Fetch = Callable[[TensorRef], torch.Tensor]


def rebuild(
    architecture: Architecture, found: list[Any], tensors: Fetch, where: str, device: torch.device | None = None
) -> nn.Module:
    """Build the model of an architecture.

    Args:
        architecture: checked, without obstacles.
        found: the class or function for each of its names.
        tensors: gives the content of a tensor; each is asked for once.
        where: names the file in messages.
        device: where its tensors shall be, those that are plain attributes too; None leaves them where they are.

    Raises:
        CorruptError: its values do not fit together.
        UntrustedError: it binds a method that it may not, or hides a method of a class behind a value.
    """
    try:
        model = _Rebuilder(architecture, found, tensors, where, device).run()
        register_outside(model)
        return model
    except PerdureError:
        raise
    except Exception as error:  # what the file says cannot be built, or the classes' own code fails on it
        raise CorruptError(
            f"loading {where}: it cannot be rebuilt ({type(error).__name__}: {str(error)[:200]})."
        ) from error


class _Rebuilder:
    """All modules, objects and containers are made first, empty, so that they can refer to each other."""

    def __init__(
        self, architecture: Architecture, found: list[Any], tensors: Fetch, where: str, device: torch.device | None
    ) -> None:
        self._architecture = architecture
        self._where = where
        self._fetch = tensors
        self._moved_to = device
        self._tensors: dict[int, torch.Tensor] = {}
        self.device = device or torch.device("cpu")
        self.found = found
        self.modules = [self._empty(record) for record in architecture.modules]
        self.objects = [self._empty_object(record.of) for record in architecture.objects]
        self.containers = [self._empty_container(record) for record in architecture.containers]
        self._values = ValueReader(self, where)

    def run(self) -> nn.Module:
        # Objects first, those that were met last before the others that hold them: they may be keys, and need their state.
        objects = list(zip(self._architecture.objects, self.objects, strict=True))
        for record, thing in reversed(objects):
            self._set_state(thing, self._values.decode(record.state))
        for record, container in reversed(list(zip(self._architecture.containers, self.containers, strict=True))):
            _fill_container(container, self._values.decode(record.of))
        for record, thing in objects:
            put_items(thing, self._values.decode(record.items) or [])
        for number in self._children_first():
            self._fill(self._architecture.modules[number], self.modules[number])
        self._values.connect_handles()
        for record, module in zip(self._architecture.modules, self.modules, strict=True):
            if record.parametrized:
                _parametrize(module, self._where)
        return self.modules[0]

    def _empty(self, record: ModuleRecord) -> nn.Module:
        kind = self.found[record.of]
        if not isinstance(kind, type) or not issubclass(kind, nn.Module):
            raise CorruptError(f"loading {self._where}: {kind!r} stands for a module and is no class of modules.")
        return cast("nn.Module", object.__new__(kind))

    def _empty_object(self, number: int) -> Any:
        kind: Any = self.found[number]
        if not isinstance(kind, type) or issubclass(kind, nn.Module | type) or not makes_plain_objects(kind):
            raise CorruptError(f"loading {self._where}: {kind!r} stands for a plain object and is no class of such.")
        return cast("Any", kind).__new__(kind)

    def _empty_container(self, record: ContainerRecord) -> Any:
        if record.kind not in CONTAINERS:
            raise CorruptError(f"loading {self._where}: {record.kind[:40]!r} is no container of Python's.")
        return deque(maxlen=record.of["longest"]) if record.kind == "deque" else CONTAINERS[record.kind]()

    def _children_first(self) -> list[int]:
        order: list[int] = []
        waiting = list(reversed(range(len(self.modules))))
        entered: set[int] = set()
        done: set[int] = set()
        while waiting:
            number = waiting[-1]
            children = [child for child in self._architecture.modules[number].modules.values() if child is not None]
            todo = [child for child in children if child not in entered]
            if number not in entered and todo:
                entered.add(number)
                waiting += todo
                continue
            entered.add(number)
            waiting.pop()
            if number not in done:
                done.add(number)
                order.append(number)
        return order

    def _fill(self, record: ModuleRecord, module: nn.Module) -> None:
        state = dict(vars(nn.Module()))
        state["training"] = record.training
        state["_parameters"] = self._held(record.parameters)
        state["_buffers"] = self._held(record.buffers)
        state["_non_persistent_buffers_set"] = set(record.volatile)
        state["_modules"] = {
            key: None if number is None else self.modules[number] for key, number in record.modules.items()
        }
        for key, value in record.attributes.items():
            if key in LISTED or key in NOT_KEPT:
                raise CorruptError(f"loading {self._where}: the file sets {key}, which is listed elsewhere in it.")
            state[key] = self._values.decode(value)
            self._check_shadow(type(module), module, key, state[key])
            _reserve_ids(state[key])
        if type(module).__setstate__ is nn.Module.__setstate__:
            nn.Module.__setstate__(module, state)
        else:
            module.__setstate__(state)

    def _held(self, held: Mapping[str, int | None]) -> dict[str, Any]:
        return {key: None if number is None else self.tensor(number) for key, number in held.items()}

    def _set_state(self, thing: Any, state: Any) -> None:
        """Give a plain object its state as unpickling would: by its own `__setstate__`, else attribute by attribute."""
        if state is None:
            return
        own = getattr(type(thing), "__setstate__", None)
        if own is not None:
            own(thing, state)
            return
        parts: Any = state if type(state) is tuple and len(state) == 2 else (state,)  # attributes, and those in slots
        slots = copyreg._slotnames(type(thing))  # type: ignore[attr-defined]
        for key, value in (pair for part in parts for pair in (part or {}).items()):
            self._check_shadow(type(thing), thing, key, value)
            if key in slots:
                object.__setattr__(thing, key, value)
            else:
                thing.__dict__[str(key)] = value

    def _check_shadow(self, kind: type, holder: Any, key: str, value: Any) -> None:
        """See that a value does not stand where the class has a method, unless it is a method of the same holder."""
        own = isinstance(value, types.MethodType) and value.__self__ is holder
        dunder = key.startswith("__") and key.endswith("__") and not (key == "__doc__" and type(value) is str)
        if (dunder or (callable(value) and _is_method(kind, key))) and not own:
            raise UntrustedError(
                f"loading {self._where}: a value stands in the place of {kind.__qualname__}.{key}, which is a method or "
                f"belongs to Python. That is allowed to methods of the same module alone."
            )

    def tensor(self, number: int) -> torch.Tensor:
        if number not in self._tensors:
            try:
                ref = self._architecture.tensors[number]
            except IndexError:
                raise ValueError(f"there is no tensor {number}") from None
            tensor = self._tensors[number] = self._make(ref)
            for key, value in ref.attributes.items():
                self._check_shadow(type(tensor), tensor, key, decoded := self._values.decode(value))
                vars(tensor)[key] = decoded
        return self._tensors[number]

    def _make(self, ref: TensorRef) -> torch.Tensor:
        if ref.lazy:
            kind: Any = UninitializedParameter if ref.lazy == "parameter" else UninitializedBuffer
            return kind(requires_grad=ref.requires_grad, dtype=by_name(ref.name, self._where), device="cpu")
        tensor = self._fetch(ref)
        if self._moved_to is not None and not ref.on_cpu:
            tensor = tensor.to(self._moved_to)
        if ref.parameter:
            return nn.Parameter(tensor, ref.requires_grad)
        return tensor.requires_grad_() if ref.requires_grad else tensor


def _fill_container(container: Any, content: Any) -> None:
    """Put the content of a container of the same type into an empty one, which others may refer to already."""
    if type(content) is not type(container):
        raise ValueError(f"a {type(container).__name__} was expected, not a {type(content).__name__}")
    refill(container, content)


def _is_method(kind: type, key: str) -> bool:
    """Tell whether a class has a method of a name; a field's default, though a function, is none."""
    found = inspect.getattr_static(kind, key, None)
    fields = getattr(kind, "__dataclass_fields__", {})
    of_values = isinstance(found, types.MemberDescriptorType | functools.cached_property) or key in fields
    return hasattr(type(found), "__get__") and not of_values


def _reserve_ids(hooks: Any) -> None:
    """See that hooks registered from now on get other numbers than those of the file."""
    if isinstance(hooks, OrderedDict):
        numbers = [key for key in hooks if type(key) is int and key < 2**53]
        RemovableHandle.next_id = max([RemovableHandle.next_id, *(number + 1 for number in numbers)])


def _parametrize(module: nn.Module, where: str) -> None:
    """Give a module the class with properties that PyTorch makes for parametrized ones."""
    lists = module._modules.get("parametrizations")
    if not isinstance(lists, nn.ModuleDict):
        raise CorruptError(f"loading {where}: a module is parametrized, and has no parametrizations.")
    parametrize._inject_new_class(module)
    for name in lists:
        parametrize._inject_property(module, name)
