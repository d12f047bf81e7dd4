"""Tests that are marked `gpu` are collected only where there is one."""

import pytest
import torch

from torchvision_operators import declare_operators

declare_operators()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    absent = [item for item in items if item.get_closest_marker("gpu")]
    config.hook.pytest_deselected(items=absent)
    items[:] = [item for item in items if item not in absent]
