"""What every test runs in: 64-bit, no silent rank promotion, fixed seeds."""

from __future__ import annotations

import gc
import os
import random
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

# First of all imports that could start JAX: it sets XLA flags that are read once, when JAX starts.
import bayeshybrid  # noqa: F401  isort: skip

import jax
import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

# Tracing makes millions of small objects that live on: looking through them again and again is a twentieth of the time.
gc.freeze()
gc.set_threshold(200_000, 20, 50)

# Programs that are the same in several tests are compiled once in a run, whichever process meets them first.
_programs = Path(tempfile.gettempdir(), f"programs-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}")
jax.config.update("jax_compilation_cache_dir", str(_programs))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


# Linux gives a process 65,530 mappings of memory, and each compiled program keeps some: beyond that XLA crashes.
MAPPINGS = Path("/proc/self/maps")
MOST_MAPPINGS = 30_000


def seed_of(name: str) -> int:
    """A seed that depends on the test's name alone, so that a test alone equals the test in a full run."""
    return zlib.crc32(name.encode())


@pytest.fixture(autouse=True)
def strict(request: pytest.FixtureRequest) -> Iterator[None]:
    """64-bit arrays, rank promotion an error (unless marked with a reason), global generators seeded."""
    allowed = request.node.get_closest_marker("rank_promotion_allowed")
    if allowed is not None and not (allowed.args and isinstance(allowed.args[0], str)):
        pytest.fail("rank_promotion_allowed needs a reason: which library broadcasts, and where")
    seed = seed_of(request.node.name)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  libraries under test may still draw from it
    with ExitStack() as stack:
        stack.enter_context(jax.enable_x64(True))
        stack.enter_context(jax.numpy_rank_promotion("allow" if allowed else "raise"))
        yield


@pytest.fixture(autouse=True, scope="module")
def few_programs() -> Iterator[None]:
    """Programs of earlier modules are dropped once there are very many; those on disk need not be compiled again."""
    yield
    if MAPPINGS.exists() and MAPPINGS.read_bytes().count(b"\n") > MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def key(request: pytest.FixtureRequest) -> jax.Array:
    """A JAX key that belongs to this test."""
    return jax.random.key(seed_of(request.node.name))


@pytest.fixture
def generator(request: pytest.FixtureRequest) -> np.random.Generator:
    """A NumPy generator that belongs to this test."""
    return np.random.default_rng(seed_of(request.node.name))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Away with the compiled programs, once every process is done with them."""
    if not hasattr(session.config, "workerinput"):
        manager = session.config.pluginmanager.getplugin("dsession")
        run = getattr(getattr(manager, "nodemanager", None), "testrunuid", os.getpid())
        shutil.rmtree(Path(tempfile.gettempdir(), f"programs-{run}"), ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--sample N` for suites that are too long to run whole each time."""
    parser.addoption(
        "--sample", type=int, metavar="N", help="run N of the selected tests; each commit draws others"
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the sample: the N smallest hashes of commit and test, the same on every machine."""
    size = config.getoption("--sample")
    if size is None or len(items) <= size:
        return
    head = commit(config.rootpath)
    chosen = set(sorted(items, key=lambda item: seed_of(f"{head} {item.nodeid}"))[:size])
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]


def commit(root: Path) -> str:
    """The commit that is tested, empty outside a checkout."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
