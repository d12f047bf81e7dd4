"""The hard cases of PyTorch itself: those of `parity.zoo`, and those of `sweeps.zoo`."""

from __future__ import annotations

import torch
from torch import nn

from parity.zoo import ZOO
from sweeps import zoo
from sweeps.cases import Case


def cases() -> dict[str, Case]:
    """Return all of them by name."""
    rows, images, sequence = torch.randn(5, 3), torch.randn(5, 3, 8, 8), torch.randn(5, 6, 8)
    padding = torch.arange(6) >= torch.tensor([6, 4, 5, 6, 2])[:, None]
    found = {name: Case(kind.build, kind.inputs()) for name, kind in ZOO.items()}
    found["lstm"] = found["lstm"]._replace(batches=(3,))  # its first axis is time, which a trace unrolls
    return (
        found
        | {
            "nested shared modules": Case(zoo.NestedShared, (torch.randn(5, 4),)),
            "tied across layers": Case(zoo.TiedAcross, (torch.randint(0, 11, (5, 7)),)),
            "own parametrization, twice": Case(zoo.parametrized, (torch.randn(5, 4),)),
            "spectral norm of convolutions": Case(zoo.spectral_convolutions, (images,)),
            "weight norm of convolutions": Case(zoo.weight_norms, (torch.randn(5, 4, 9),)),
            "pruned": Case(zoo.pruned, (torch.randn(5, 3, 6, 6),)),
            "pruned globally": Case(zoo.pruned_globally, (torch.randn(5, 4),)),
            "lazy, not initialised": Case(zoo.lazy, (torch.randn(5, 3, 5, 5),), (5,), graph=False),
            "lazy, initialised": Case(zoo.initialised_lazy, (torch.randn(5, 3, 5, 5),)),
            "hooks": Case(zoo.hooked, (torch.randn(5, 4),)),
            "complex, as in Fourier layers": Case(zoo.Complex, (torch.randn(5, 3, 8),)),
            "several inputs": Case(
                zoo.Inputs, {"x": rows, "y": torch.randn(5, 5), "mask": rows[:, 0] > 0, "scale": 0.5}
            ),
            "inputs left out": Case(zoo.Inputs, (rows, torch.randn(5, 5))),
            "dicts and tuples": Case(zoo.Outputs, ({"x": rows, "more": (torch.randn(5, 4), 7)},)),
            "ordered": Case(zoo.ordered, (rows,)),
            "odd names": Case(zoo.OddNames, (rows,)),
            "scalars": Case(zoo.Scalars, (rows,)),
            "buffers that are not persistent": Case(zoo.Volatile, (rows,)),
            "images": Case(zoo.Images, (images,)),
            "convolutions": Case(zoo.convolutions, (torch.randn(5, 3, 6),)),
            "volumes": Case(zoo.volumes, (torch.randn(5, 2, 4, 4, 4),)),
            "norms": Case(zoo.norms, (torch.randn(5, 4, 6),)),
            "activations": Case(zoo.activations, (torch.randn(5, 4, 6),)),
            "bags of embeddings": Case(zoo.Bags, (torch.randint(0, 11, (5, 7)),)),
            "recurrent": Case(zoo.Sequences, (torch.randn(5, 6, 4),)),
            "packed sequences": Case(
                zoo.Packed, (torch.randn(5, 6, 4), torch.tensor([6, 4, 5, 6, 2])), graph=False
            ),  # its steps depend on numbers
            "encoder": Case(zoo.encoder(), (sequence,)),
            "encoder, normed first": Case(zoo.encoder(norm_first=True, activation="gelu"), (sequence,)),
            "encoder with padding": Case(lambda: zoo.Padded(zoo.encoder()()), (sequence, padding)),
            "encoder with masks": Case(lambda: zoo.Masked(zoo.encoder()()), (sequence, padding)),
            "encoder and decoder": Case(zoo.translation, (sequence, sequence[:, :4])),
            "all of attention": Case(zoo.Weighted, (sequence, torch.randn(5, 6, 6), torch.randn(5, 6, 5), padding)),
            "counter": Case(zoo.Counter, (rows,)),
            "extra state in use": Case(zoo.with_state, (rows,)),
            "lists of parameters": Case(zoo.Lists, (rows,)),
            "branches": Case(zoo.Branches, (rows,)),
            "compiled": Case(zoo.compiled, (rows,)),
            "compiled inside": Case(zoo.compiled_inside, (rows,)),
            "compiled and DataParallel": Case(zoo.wrapped_twice, (rows,)),
            "float16": Case(lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)).half(), (rows.half(),)),
            "bfloat16": Case(
                lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.GELU()).bfloat16(),
                (torch.randn(5, 3, 6).bfloat16(),),
            ),
            "float64": Case(lambda: zoo.convolutions().double(), (torch.randn(5, 3, 6, dtype=torch.float64),)),
        }
    )
