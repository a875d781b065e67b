"""Makes the many short runs of these tests quick."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(scope="session", autouse=True)
def _few_objects_to_collect() -> None:
    """A trainer collects garbage when it starts; without this it would walk through all imported modules each time."""
    gc.collect()
    gc.freeze()
