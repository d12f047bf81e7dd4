"""The predicted peaks of memory against those that PyTorch's allocators measure."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import perdure
from parity.peaks import MODELS, loss_of, measured_on_cpu


def state_bytes(model: torch.nn.Module) -> int:
    """Return what Adam keeps: two numbers for each parameter, and a count of its steps."""
    return sum(2 * parameter.nbytes + 4 for parameter in model.parameters())


class KeptOutput:
    """A loss like that of the step that is measured: what the model gives lives until its end."""

    output: Any = None

    def __call__(self, model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        self.output = model(inputs)
        return loss_of(self.output)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_peaks_are_those_of_the_allocator(name: str, n_threads: int) -> None:
    build, inputs = MODELS[name]
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        model, example = build(), inputs()
        memory = perdure.summarize(model, example=example, optimizer="adam", loss=KeptOutput()).memory
        measured = measured_on_cpu(model, example)
    finally:
        torch.set_num_threads(before)
    assert memory is not None and memory.training_peak_bytes and memory.optimizer_bytes == state_bytes(model)
    held = memory.weights_bytes + memory.input_bytes
    assert memory.inference_peak_bytes == pytest.approx(held + measured.inference, rel=0.1)
    activations = memory.inference_peak_bytes - held
    assert activations == pytest.approx(measured.inference, rel=0.1), "what is beside the weights, too"
    assert memory.training_peak_bytes == pytest.approx(held + memory.optimizer_bytes + measured.training, rel=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_peaks_on_a_gpu(name: str) -> None:
    build, inputs = MODELS[name]
    torch.manual_seed(0)
    model, example = build().cuda().eval(), inputs().cuda()
    memory = perdure.summarize(model, example=example).memory
    assert memory is not None
    with torch.no_grad():
        model(example)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model(example)
        torch.cuda.synchronize()
    measured = torch.cuda.max_memory_allocated() - before
    held = memory.weights_bytes + memory.input_bytes
    assert memory.inference_peak_bytes == pytest.approx(held + measured, rel=0.1)
