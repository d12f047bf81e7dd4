"""Archives of `torch.package`: the weights of a pickled model are found without its code."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.package import PackageExporter

import perdure


def test_weights_of_a_packaged_model_are_found(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with PackageExporter(tmp_path / "net.pt") as exporter:
        exporter.extern("torch.**")
        exporter.save_source_string("mine", "X = 1\n")
        exporter.save_pickle("model", "model.pkl", model)
    with perdure.open(tmp_path / "net.pt") as weights:
        assert set(weights) == set(model.state_dict())
        assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    info = perdure.info(tmp_path / "net.pt")
    assert info.format == "torch.package archive"
    report = perdure.check(tmp_path / "net.pt")
    assert report.verdict == "needs code"
    assert "mine.py" in str(report.findings)


def test_several_pickles_lie_under_their_paths(tmp_path: Path) -> None:
    with PackageExporter(tmp_path / "net.pt") as exporter:
        exporter.extern("torch.**")
        exporter.save_pickle("a", "x.pkl", {"w": torch.ones(2)})
        exporter.save_pickle("b", "y.pkl", {"w": torch.zeros(2)})
    with perdure.open(tmp_path / "net.pt", prefix="b/y.pkl") as weights:
        assert torch.equal(weights["w"], torch.zeros(2))
