"""Files that mean no harm: what people save, in every kind of file; none of them may be called dangerous."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

import perdure
from torchvision_operators import declare_operators

declare_operators()


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))


class OfMain(nn.Module):
    """A class of somebody's script."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = _net()
        self.settings = {"dropout": 0.1, "names": ("a", "b")}
        self.scale = nn.Parameter(torch.ones(2))


def _trained() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    net = _net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
    net(torch.ones(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    scheduler.step()
    return net, optimizer, scheduler


def _checkpoint() -> dict[str, Any]:
    net, optimizer, scheduler = _trained()
    return {
        "epoch": 3,
        "model": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "args": argparse.Namespace(lr=0.1, path=Path("data"), when=datetime.datetime(2024, 1, 2), layers=[1, 2]),
        "history": collections.defaultdict(list, {"loss": [0.1, np.float64(0.2)]}),
        "random": (torch.get_rng_state(), np.random.get_state()),
        "best": np.float32(0.5),
        "counts": collections.Counter("abc"),
    }


def _lightning() -> dict[str, Any]:
    net, optimizer, _ = _trained()
    return {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {f"model.{name}": tensor for name, tensor in net.state_dict().items()},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1, "completed": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best_model_score": torch.tensor(0.5), "dirpath": "x"}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.001, "sizes": [1, 2]},
    }


def _save(value: Any, **how: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(
        value() if callable(value) and not isinstance(value, nn.Module) else value, path, **how
    )


def _pickle(value: Any, protocol: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(pickle.dumps(value, protocol))


def _resnet() -> nn.Module:
    import torchvision

    return torchvision.models.resnet18(num_classes=2)


def _bert() -> nn.Module:
    import transformers

    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=20
    )
    return transformers.BertModel(config)


_ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(["x", "yy"]), "c": np.float16(3)}

# Each with the verdicts that it may get.
BENIGN: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "state_dict.pt": (_save(lambda: _net().state_dict()), ("safe",)),
    "state_dict_legacy.pt": (_save(lambda: _net().state_dict(), _use_new_zipfile_serialization=False), ("safe",)),
    "tensor.pt": (_save(lambda: torch.arange(4.0)), ("safe",)),
    "list.pt": (_save(lambda: [torch.ones(2), torch.zeros(2)]), ("safe",)),
    "sparse.pt": (_save(lambda: {"w": torch.eye(3).to_sparse()}), ("safe",)),
    "quantized.pt": (_save(lambda: {"w": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}), ("safe",)),
    "checkpoint.pt": (_save(_checkpoint), ("safe", "needs code")),
    "checkpoint_legacy.pt": (_save(_checkpoint, _use_new_zipfile_serialization=False), ("safe", "needs code")),
    "lightning.ckpt": (_save(_lightning), ("safe",)),
    "optimizer.pt": (_save(lambda: _trained()[1]), ("safe", "needs code")),
    "module.pt": (_save(_net), ("safe", "needs code")),
    "own_module.pt": (_save(lambda: OfMain()), ("needs code",)),
    "resnet.pt": (_save(_resnet), ("needs code",)),
    "bert.pt": (_save(_bert), ("needs code",)),
    "lstm.pt": (_save(lambda: nn.LSTM(2, 3)), ("safe", "needs code")),
    "transformer.pt": (
        _save(lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2), 1)),
        ("safe", "needs code"),
    ),
    "parametrized.pt": (_save(lambda: nn.utils.weight_norm(nn.Linear(2, 2))), ("safe", "needs code")),
    "script.pt": (lambda path: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path), ("needs code",)),
    "program.pt2": (
        lambda path: torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), path),
        ("safe", "needs code"),
    ),
    "arrays.pkl": (_pickle(_ARRAYS, 4), ("safe",)),
    "arrays_2.pkl": (_pickle(_ARRAYS, 2), ("safe",)),
    "arrays_0.pkl": (_pickle(_ARRAYS, 0), ("safe",)),
    "arrays_5.pkl": (_pickle(_ARRAYS, 5), ("safe",)),
    "plain.pkl": (_pickle({"a": [1, 2.5, None, True], "b": {1, 2}, "c": (b"x", "y"), "d": 1 + 2j}, 4), ("safe",)),
    "times.pkl": (_pickle([datetime.datetime(2020, 1, 1), datetime.timedelta(1), Path("a/b")], 4), ("safe",)),
    "array.npy": (lambda path: np.save(path, _ARRAYS["a"]), ("safe",)),
    "arrays.npz": (lambda path: np.savez(path, a=_ARRAYS["a"], c=_ARRAYS["c"]), ("safe",)),
    "arrays_compressed.npz": (lambda path: np.savez_compressed(path, a=_ARRAYS["a"]), ("safe",)),
    "plain.safetensors": (
        lambda path: safetensors.torch.save_file({"w": torch.ones(2)}, path, metadata={"format": "pt"}),
        ("safe",),
    ),
    "ours.safetensors": (lambda path: _keep(perdure.save_weights(_net(), path)), ("safe",)),
    "ours_model.safetensors": (
        lambda path: _keep(perdure.save(_net(), path, example=torch.ones(1, 3, 3, 3))),
        ("safe",),
    ),
    "ours_checkpoint.safetensors": (lambda path: _keep(perdure.save_checkpoint({"a": 1}, path)), ("safe",)),
    "sharded": (lambda path: _shard(path), ("safe",)),
    "dcp": (lambda path: _distribute(path), ("safe", "needs code")),
}


def _keep(_report: object) -> None:
    return None


def _shard(path: Path) -> None:
    path.mkdir()
    torch.save({"w": torch.ones(2)}, path / "pytorch_model-00001-of-00001.bin")
    index = {"metadata": {"total_size": 8}, "weight_map": {"w": "pytorch_model-00001-of-00001.bin"}}
    (path / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def _distribute(path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    dcp.save({"w": torch.ones(4), "step": 3}, checkpoint_id=path)


def write_benign(folder: Path) -> Iterator[Path]:
    """Write every one into a folder and give its path."""
    place = folder / "benign"
    place.mkdir()
    for name, (write, _) in BENIGN.items():
        write(place / name)
        yield place / name
