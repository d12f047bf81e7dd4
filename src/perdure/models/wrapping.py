"""Modules that only run another one."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside of those that only run another one: compiled, DataParallel, DistributedDataParallel."""
    while True:
        held = vars(model).get("_modules")
        compiled = held.get("_orig_mod") if isinstance(held, dict) else None  # a TorchScript module has something else
        if type(model).__name__ == "OptimizedModule" and compiled is not None:
            model = compiled
        elif isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        else:
            return model
