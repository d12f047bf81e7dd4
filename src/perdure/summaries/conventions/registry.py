"""All conventions of counting operations."""

from __future__ import annotations

import dataclasses

from perdure.errors import InputError
from perdure.summaries.conventions.aten import AtenCounter
from perdure.summaries.conventions.counting import Counter
from perdure.summaries.conventions.fvcore import FvcoreCounter
from perdure.summaries.conventions.torchinfo import TorchinfoCounter


@dataclasses.dataclass(frozen=True)
class Convention:
    """A way to count operations.

    Attributes:
        name: what the caller calls it.
        counter: counts so.
        counts: what counts.
        reference: the tool that it equals.
    """

    name: str
    counter: type[Counter]
    counts: str
    reference: str


CONVENTIONS: tuple[Convention, ...] = (
    Convention(
        name="aten",
        counter=AtenCounter,
        counts="A multiplication and an addition in products of matrices, convolutions and attention: 2·m·n·k, without "
        "bias; causal attention is not halved. MACs are half of it.",
        reference="torch.utils.flop_counter.FlopCounterMode",
    ),
    Convention(
        name="torchinfo",
        counter=TorchinfoCounter,
        counts="MACs of the calls of modules without modules below them, from their parameters and the shape of what they "
        "give; what functions compute does not count. FLOPs are twice as many.",
        reference="torchinfo 1.8: torchinfo.summary(…).total_mult_adds",
    ),
    Convention(
        name="fvcore",
        counter=FvcoreCounter,
        counts="A multiplication with its addition is one FLOP, in linear layers, products of matrices, convolutions and "
        "einsum; 1 to 5 for each number in a normalisation, and some for interpolation and adaptive pooling.",
        reference="fvcore 0.1.5: fvcore.nn.FlopCountAnalysis(model, inputs).total()",
    ),
)


def convention_named(name: str) -> Convention:
    """Return a convention.

    Raises:
        InputError: none of that name is known.
    """
    found = next((convention for convention in CONVENTIONS if convention.name == name), None)
    if found is None:
        known = ", ".join(convention.name for convention in CONVENTIONS)
        raise InputError(f"counting operations: no convention {name!r}. Known are {known}.")
    return found
