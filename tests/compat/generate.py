"""Writes the files of this folder: what protocol 1 wrote, to be read by every later perdure. Run once for each protocol.

    python tests/compat/generate.py tests/compat/protocol-1

Files that are there are never written anew: they are what older versions left in the world.
"""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import perdure


class Net(nn.Module):
    """A tie, batch norm, a buffer that is not persistent, a type of its own, an activation by name."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.body = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.act = nn.functional.gelu
        self.sizes = (7, 6)
        self.register_buffer("scale", torch.tensor(0.5), persistent=False)
        self.register_buffer("brain", torch.arange(3).to(torch.bfloat16))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.act(self.body(self.embedding(tokens).mean(1))))
        return self.head(self.drop(hidden)) * self.scale


def checkpoint() -> dict[str, Any]:
    tied = torch.arange(4.0)
    return {
        "epoch": 3, "tied": [tied, tied[1:3]], "when": datetime.datetime(2026, 1, 31, 9, 30), "key": {(1, "a"): None},
        "big": 2**70, "loss": [0.5, float("inf")], "raw": b"\x00\xff", "path": Path("data"), "dtype": torch.float16,
    }  # fmt: skip


def main(folder: Path) -> None:
    """Write all files that are not there."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    net, tokens = Net().train(), torch.tensor([[0, 1, 2], [3, 4, 5], [6, 0, 1]])
    net(tokens)
    perdure.save_weights(net, folder / "weights.safetensors", notes="protocol 1")
    perdure.save_weights(net, folder / "shards", shard_bytes=200)
    perdure.save_checkpoint(checkpoint(), folder / "checkpoint.safetensors")
    perdure.save(net, folder / "model.safetensors", example=tokens, labels=list("abcdefg"))
    answer = net.eval()(tokens).tolist()
    (folder / "answer.json").write_text(json.dumps({"tokens": tokens.tolist(), "answer": answer}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
