"""What libraries keep outside of their models, where only their constructors would put it."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn


def register_outside(model: nn.Module) -> None:
    """Enter a rebuilt model where its library looks models up.

    transformers keeps by the text of the class what a model can record of its inner states (5.0 and later); without an
    entry, `output_hidden_states=True` and `output_attentions=True` give None.
    """
    capturing: Any = sys.modules.get("transformers.utils.output_capturing")
    registry = getattr(capturing, "_CAN_RECORD_REGISTRY", None)
    if not isinstance(registry, dict):
        return
    for module in model.modules():
        recordable = getattr(module, "_can_record_outputs", None)
        if isinstance(recordable, dict):
            dict.setdefault(registry, str(type(module)), recordable)
