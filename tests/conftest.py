"""Settings that hold for every test."""

import os

# Each xdist worker is a process of its own: two of them with a full set of torch threads each only get in each
# other's way. Set before torch is imported, and inherited by the processes that tests start.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# No deadline: a shared machine stalls now and then, and a property that holds slowly still holds. The same examples each
# time, so that a test that fails has something to do with the change; `make search` draws others.
settings.register_profile(
    "same", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", parent=settings.get_profile("same"), derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(scope="module", autouse=True)
def unburdened() -> Iterator[None]:
    """Keep Python's collector from going over all that other modules left: limits of time are on what is tested."""
    gc.freeze()
    yield
    gc.unfreeze()
