"""What every test runs in: 64-bit, no silent rank promotion, fixed seeds."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import ExitStack

# First of all imports that could start JAX: it sets XLA flags that are read once, when JAX starts.
import bayeshybrid  # noqa: F401  isort: skip

import jax
import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")


def seed_of(name: str) -> int:
    """A seed that depends on the test's name alone, so that a test alone equals the test in a full run."""
    return zlib.crc32(name.encode())


@pytest.fixture(autouse=True)
def strict(request: pytest.FixtureRequest) -> Iterator[None]:
    """64-bit arrays, rank promotion an error (unless marked with a reason), global generators seeded."""
    allowed = request.node.get_closest_marker("rank_promotion_allowed")
    if allowed is not None and not (allowed.args and isinstance(allowed.args[0], str)):
        pytest.fail(
            "rank_promotion_allowed needs a reason: which library broadcasts, and where"
        )
    seed = seed_of(request.node.name)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  libraries under test may still draw from it
    with ExitStack() as stack:
        stack.enter_context(jax.enable_x64(True))
        stack.enter_context(jax.numpy_rank_promotion("allow" if allowed else "raise"))
        yield


@pytest.fixture
def key(request: pytest.FixtureRequest) -> jax.Array:
    """A JAX key that belongs to this test."""
    return jax.random.key(seed_of(request.node.name))


@pytest.fixture
def generator(request: pytest.FixtureRequest) -> np.random.Generator:
    """A NumPy generator that belongs to this test."""
    return np.random.default_rng(seed_of(request.node.name))
