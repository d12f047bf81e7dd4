"""What `summarize` returns: a row for each module, and the totals."""

from __future__ import annotations

import dataclasses
from typing import Any

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class SummaryTensor:
    """A tensor that a module holds itself.

    Attributes:
        name: its full name, e.g. `layers.0.weight`.
        dtype: its type as PyTorch names it, less `torch.`; of a quantised block that of its format, e.g. `Q4_K`.
        shape: its sizes.
        n_bytes: bytes that it takes; 0 for one that lies in the memory of another.
        role: `"parameter"` or `"buffer"`.
        trainable: it gets gradients.
        tied_to: the name of the tensor that it is, if that came before; it is then counted once.
    """

    name: str
    dtype: str
    shape: Shape
    n_bytes: int
    role: str = "parameter"
    trainable: bool = False
    tied_to: str = ""


@dataclasses.dataclass(frozen=True)
class ModuleCall:
    """The shapes of one call: of each tensor among the arguments, and of each among what it gave, in order."""

    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]


@dataclasses.dataclass(frozen=True)
class SummaryRow:
    """One module, with all that is below it. What was not found out is None.

    Attributes:
        name: its path, e.g. `layers.0`; empty for the model.
        kind: the name of its class; empty where that is not known.
        depth: levels below the model.
        tensors: what it holds itself.
        n_parameters: elements of its parameters and of those below, of tied ones once.
        n_trainable: how many of these get gradients.
        n_buffers: elements of its buffers and of those below.
        n_bytes: bytes of both.
        n_calls: how often it was called.
        calls: the shapes of its calls, those that are alike once.
        flops: floating-point operations of its calls, by the summary's convention.
        macs: multiply-accumulate operations of its calls.
        backward_flops: floating-point operations of the backward pass of its calls.
        activation_bytes: the most memory that its tensors took at once in a call, beyond what was there before it.
        seconds: median time of its calls in one forward pass.
        same_as: the path at which this very module stands before; it is then counted once, and what is below it stands
            there.
        n_tied: how many elements of its parameters are those of a tensor that stands elsewhere, and are counted there: what
            a module adds to the one above it is `n_parameters - n_tied`.
        tied_bytes: bytes of its parameters and buffers that are counted elsewhere.
    """

    name: str
    kind: str
    depth: int
    tensors: tuple[SummaryTensor, ...] = ()
    n_parameters: int = 0
    n_trainable: int = 0
    n_buffers: int = 0
    n_bytes: int = 0
    n_calls: int = 0
    calls: tuple[ModuleCall, ...] = ()
    flops: int | None = None
    macs: int | None = None
    backward_flops: int | None = None
    activation_bytes: int | None = None
    seconds: float | None = None
    same_as: str | None = None
    n_tied: int = 0
    tied_bytes: int = 0

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        """The shapes of the tensors that its first call took."""
        return self.calls[0].inputs if self.calls else ()

    @property
    def output_shapes(self) -> tuple[Shape, ...]:
        """The shapes of the tensors that its first call gave."""
        return self.calls[0].outputs if self.calls else ()


@dataclasses.dataclass(frozen=True)
class Memory:
    """How much memory a model takes, in bytes, by simulation on tensors without content.

    Attributes:
        weights_bytes: parameters and buffers, those of shared memory once.
        input_bytes: the example's tensors.
        inference_peak_bytes: weights, inputs and the most that lived at once in a forward pass without gradients.
        gradients_bytes: of the trainable parameters; None where no training step was simulated.
        optimizer: its name.
        optimizer_bytes: what it keeps from step to step.
        training_peak_bytes: the most at once in a step of training: forward, backward, optimizer, with its state there.
    """

    weights_bytes: int
    input_bytes: int
    inference_peak_bytes: int
    gradients_bytes: int | None = None
    optimizer: str = ""
    optimizer_bytes: int | None = None
    training_peak_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class ValueStatistics:
    """What the values of one tensor are like; all in float64. NaN and infinities are left out of all but their counts.

    Attributes:
        mean: their mean; None where there are none.
        std: their standard deviation, of the population.
        min: the least.
        max: the largest.
        n_zeros: how many are zero.
        n_nan: how many are not a number.
        n_infinite: how many are infinite.
        spectral_norm: the largest singular value of the tensor as a matrix of its first axis by all others; None for one of
            less than two axes, or where it holds what is not finite.
        histogram: counts of equal bins from `min` to `max`.
    """

    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    n_zeros: int
    n_nan: int
    n_infinite: int
    spectral_norm: float | None
    histogram: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Summary:
    """What is in a model.

    Attributes:
        title: the file, or the class of the module.
        format: `"module"`, or the kind of the file, as `Info.format`.
        n_parameters: elements of all parameters, of tied ones once.
        n_trainable: how many of these get gradients.
        n_buffers: elements of all buffers.
        n_bytes: bytes of both.
        rows: a row for each module, the model first, each followed by what is below it.
        flops: floating-point operations of a forward pass, by `convention`; None without an example.
        macs: multiply-accumulate operations of a forward pass.
        backward_flops: of the backward pass; None where no training step was simulated.
        activation_bytes: the most memory that the tensors of a forward pass took at once, beside weights and inputs.
        memory: the peaks of memory; None without an example.
        convention: how operations were counted: `"aten"`, `"torchinfo"` or `"fvcore"`.
        uncounted: operators that the convention gives no number, and how often each was called.
        ran: on what the forward pass ran: `"fake tensors"`, `"graph"`, `"real tensors"`; empty where there was none.
        notes: what the reader should know, such as that roles were inferred from names.
        facts: what the file says about itself that belongs here, such as the number of its shards.
        statistics: on request, of each tensor.
    """

    title: str
    format: str
    n_parameters: int
    n_trainable: int
    n_bytes: int
    rows: tuple[SummaryRow, ...]
    n_buffers: int = 0
    flops: int | None = None
    macs: int | None = None
    backward_flops: int | None = None
    activation_bytes: int | None = None
    memory: Memory | None = None
    convention: str = "aten"
    uncounted: dict[str, int] = dataclasses.field(default_factory=dict)
    ran: str = ""
    notes: tuple[str, ...] = ()
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    statistics: dict[str, ValueStatistics] = dataclasses.field(default_factory=dict)

    def __getitem__(self, name: str) -> SummaryRow:
        """Return the row of a module.

        Raises:
            KeyError: there is none of that name.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def __str__(self) -> str:
        """Return the tree of its modules and its totals as text."""
        return self.to_text()

    def to_text(self, *, width: int | None = None) -> str:
        """Return the tree of its modules and its totals as text, in lines of at most so many columns."""
        from perdure.records.summary.text import to_text

        return to_text(self, width=width)

    def to_json(self) -> str:
        """Return all of it as JSON, with exact figures."""
        from perdure.records.summary.data import to_json

        return to_json(self)

    def to_csv(self) -> str:
        """Return a table with a line for each module, with exact figures."""
        from perdure.records.summary.table import to_csv

        return to_csv(self)

    def to_markdown(self) -> str:
        """Return the tree and the totals as Markdown."""
        from perdure.records.summary.table import to_markdown

        return to_markdown(self)

    def to_html(self) -> str:
        """Return a page of its own, which loads nothing, with a treemap that zooms and a table."""
        from perdure.records.summary.page import to_html

        return to_html(self)
