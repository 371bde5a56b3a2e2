"""What a run will take, told before it begins: from a measured gradient, and from what compiling one took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import jax
import numpy as np

from bayeshybrid.inference.devices import mesh_of
from bayeshybrid.inference.method import Basin, Method
from bayeshybrid.inference.trajectories import slopes
from bayeshybrid.survey import BATCH
from bayeshybrid.target import Target

# Tracing is left out: it is told for functions within functions, so that a sum would count it many times.
LOWERED, COMPILED = (
    f"/jax/core/compile/{what}_duration" for what in ("jaxpr_to_mlir_module", "backend_compile")
)
GRADIENT, LARGEST = "_march", "_survey"
REPEATS = 3

__all__ = ["Cost", "expect", "listening"]


class Cost(NamedTuple):
    """What a run is expected to take.

    - `microseconds`: measured, for one gradient in a batch of 64 on one device.
    - `gradients`: expected, of all chains together; right within a factor of three or so where the posterior suits
      the method.
    - `compile_seconds`: what compiling the gradient has taken, and about what the program of another sampler than
      `SharedHMC` will; zero where it was there already.
    - `run_seconds`: expected, of the gradients alone, on all devices that are used.
    - `megabytes`: of the draws that are kept, with their derived quantities.
    """

    microseconds: float
    gradients: int
    compile_seconds: float
    run_seconds: float
    megabytes: float

    def __str__(self) -> str:
        return (
            f"{self.microseconds:.3g} microseconds a gradient, about {self.gradients:,} of them: "
            f"{self.run_seconds:.2g} s of gradients after {self.compile_seconds:.2g} s of compiling, and "
            f"{self.megabytes:.2g} MB of draws"
        )


@contextmanager
def listening(idle: Callable[[], object] = lambda: None) -> Iterator[dict[str, float]]:
    """Seconds spent in lowering and compiling meanwhile, by the name of the function.

    **Arguments:**

    - `idle`: called when the largest program goes to the compilers, which leave the interpreter idle for seconds.

    ```python
    from bayeshybrid.inference.cost import listening
    with listening() as spent:
        jax.jit(lambda x: x + 1)(jnp.ones(3))
    assert sum(spent.values()) > 0
    ```
    """
    spent: dict[str, float] = {}

    def heard(event: str, duration_secs: float, **about: str | int) -> None:
        if event in (LOWERED, COMPILED):
            name = str(about.get("fun_name", "")).removeprefix("jit(").removesuffix(")")
            spent[name] = spent.get(name, 0.0) + duration_secs
            if event == LOWERED and name == LARGEST:
                idle()

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        yield spent
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)


def expect(
    method: Method, target: Target, basins: tuple[Basin, ...], target_ess: float, spent: Mapping[str, float]
) -> Cost:
    """What the method is expected to take, from gradients that are made now at the modes.

    **Arguments:**

    - `spent`: what `listening` has heard so far.

    ```python
    from bayeshybrid.inference.cost import expect
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    basin = bh.inference.method.Basin(np.zeros(1), 0.0, np.zeros((1, 1)), np.eye(1), np.ones(1), 1.0, 0.0)
    cost = expect(bh.SharedHMC(), bh.Target(model, {"y": np.array(2.0)}), (basin,), 1000, {})
    assert cost.gradients > 1000 and cost.microseconds > 0
    ```
    """
    modes = np.stack([basins[i % len(basins)].mode for i in range(BATCH)])
    slopes(target, modes)  # compiles it, where the grids of the draws are not those of the search
    took = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        slopes(target, modes)
        took.append(time.perf_counter() - began)
        if took[-1] > 0.1:
            break
    each = float(np.median(took)) / BATCH
    work = method.expected(target.layout.size, len(basins), target_ess)
    derived = sum(int(np.prod(site.shape)) for site in target.layout.deterministic)
    return Cost(
        microseconds=1e6 * each,
        gradients=work.gradients,
        compile_seconds=spent.get(GRADIENT, 0.0),
        run_seconds=work.gradients * each / mesh_of(work.chains).size,
        megabytes=8e-6 * work.draws * (2 * target.layout.size + derived),
    )
