"""How each tool fits a row. A tool is made once in a process and fits twice there: cold, then warm.

Whatever a tool needs is imported when it is made, so that each process pays for its own imports and no others'.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.rows.row import Row


@dataclass(frozen=True)
class Settings:
    """How a tool shall run: the usual four chains of 1000 + 1000, unless the tool stops by itself.

    `target` is the effective sample size at which ours stops. `shared` is a folder for what is made once an
    installation. Tolerances are the row's where none are given; `reference` takes the row's program for its reference.
    """

    chains: int = 4
    warmup: int = 1000
    draws: int = 1000
    target: int | None = None
    rtol: float | None = None
    atol: float | None = None
    reference: bool = False
    shared: Path = Path()

    def tolerances(self, row: Row) -> tuple[float, float]:
        return self.rtol or row.rtol, self.atol or row.atol


@dataclass
class Fit:
    """What one fit gave.

    - `draws`: by common name, `(chain, draw, ...)`.
    - `kept_seconds`: wall seconds that went into the kept draws alone, `None` where `Tool.rate` must tell.
    - `gradients`, `all_gradients`: those of the kept draws, and those of warm-up and search besides.
    - `divergences`, `failures`: of the kept draws; solves that failed at any time. `None`: not told.
    """

    draws: dict[str, np.ndarray]
    kept_seconds: float | None
    gradients: int | None
    all_gradients: int | None = None
    divergences: int | None = None
    failures: int | None = None
    record: dict[str, Any] = field(default_factory=dict)


class Tool:
    """The interface: `needs` are the packages, `fit` is timed, `seconds_per_gradient` is asked after both fits."""

    needs: tuple[str, ...] = ()
    stops_at_target = False

    def __init__(self, row: Row, settings: Settings) -> None:
        self.row, self.settings = row, settings

    @classmethod
    def missing(cls, row: Row) -> str:
        """Why this tool cannot fit that row here; empty where it can."""
        lacking = [name for name in cls.needs if find_spec(name) is None]
        return f"not installed: {', '.join(lacking)}" if lacking else ""

    def fit(self, seed: int) -> Fit:
        raise NotImplementedError

    def seconds_per_gradient(self) -> float | None:
        """Wall seconds per gradient while drawing, where a fit does not tell them."""
        return None

    def versions(self) -> dict[str, str]:
        """Of the packages that did the work."""
        return {name: metadata.version(name) for name in (*self.needs, "numpy")}


class Ours(Tool):
    """`bayeshybrid.infer` as it is, with no method named."""

    needs = ("bayeshybrid", "jax", "jaxlib", "numpyro", "diffrax")
    stops_at_target = True

    def __init__(self, row, settings):
        super().__init__(row, settings)
        import bayeshybrid as bh

        self.infer = bh.infer
        self.model, self.data = row.ours()

    def fit(self, seed):
        import inspect

        known = inspect.signature(self.infer).parameters
        asked = {"target_ess": self.settings.target} if "target_ess" in known and self.settings.target else {}
        posterior = self.infer(self.model, self.data, key=seed, **asked)
        samples = {k: v for k, v in posterior.samples.items() if self.row.renamed.get(k, k) in self.row.sites}
        kept = _total(posterior.statistics.get("n_steps"))
        told = posterior.record.get("gradients")
        everything = int(np.sum(told)) if isinstance(told, int | float | list) else None
        if isinstance(told, dict):
            everything = int(sum(np.sum(count) for count in told.values()))
        record = {
            "method": posterior.method,
            "verdict": str(posterior.verdict),
            "remarks": list(posterior.remarks),
            "seconds": posterior.record.get("seconds"),
            "cost": str(posterior.record.get("cost", "")),
        }
        return Fit(
            draws=self.row.common(samples),
            kept_seconds=_kept_seconds(posterior, kept, everything),
            gradients=kept,
            all_gradients=everything,
            divergences=_total(posterior.statistics.get("diverging")),
            failures=sum(posterior.failures.values()),
            record=record,
        )


class OursCached(Ours):
    """The same with the programs of an earlier process kept on disk."""

    def __init__(self, row, settings):
        import bayeshybrid as bh

        bh.configure(cache_directory=Path(os.environ["XDG_CACHE_HOME"]) / "programs")
        super().__init__(row, settings)


class NumpyroByHand(Tool):
    """numpyro's NUTS as users run it, diffrax in the model, chains side by side.

    Not by numpyro's own `chain_method="parallel"`: that compiles anew at each fit, and under it diffrax 0.7 with jax
    0.10 cannot differentiate backwards. Here all chains, and the second fit, share one program.
    """

    needs = ("numpyro", "jax", "jaxlib", "diffrax")
    dense = False

    def __init__(self, row, settings):
        super().__init__(row, settings)
        import numpyro
        from numpyro.infer import MCMC, NUTS

        numpyro.enable_x64()
        model = row.by_hand(*settings.tolerances(row))
        kernel = NUTS(model, dense_mass=self.dense, forward_mode_differentiation=row.forward)
        counts = {"num_warmup": settings.warmup, "num_samples": settings.draws, "num_chains": settings.chains}
        self.programs: dict[Any, Any] = {}
        self.mcmc = MCMC(kernel, chain_method=self.side_by_side, progress_bar=False, **counts)

    def side_by_side(self, chain):
        """numpyro's chains mapped over threads: XLA computes outside Python's lock."""
        import jax

        def run(given):
            count = len(jax.tree.leaves(given)[0])
            each = [jax.tree.map(lambda leaf, i=i: leaf[i], given) for i in range(count)]
            asked = tuple(self.mcmc._collection_params.items())
            if asked not in self.programs:
                self.programs[asked] = jax.jit(chain).lower(each[0]).compile()
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
                found = list(threads.map(lambda one: jax.block_until_ready(self.programs[asked](one)), each))
            return jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *found)

        return run

    def fit(self, seed):
        import jax

        self.mcmc.run(jax.random.key(seed), extra_fields=("num_steps", "diverging"))
        samples = jax.device_get(self.mcmc.get_samples(group_by_chain=True))
        extra = jax.device_get(self.mcmc.get_extra_fields(group_by_chain=True))
        return Fit(
            draws=self.row.common(samples),
            kept_seconds=None,
            gradients=_total(extra["num_steps"]),
            divergences=_total(extra["diverging"]),
        )

    def seconds_per_gradient(self):
        """From a fifth of a run more, without warm-up; the first such run compiles and is not counted."""
        import jax

        self.mcmc.num_samples = max(1, self.settings.draws // 5)
        for seed in (101, 102):
            self.mcmc.post_warmup_state = self.mcmc.last_state
            began = time.perf_counter()
            self.mcmc.run(jax.random.key(seed), extra_fields=("num_steps", "diverging"))
            steps = _total(jax.device_get(self.mcmc.get_extra_fields())["num_steps"])
            seconds = time.perf_counter() - began
        return seconds / steps


class NumpyroDense(NumpyroByHand):
    """The same with a dense metric."""

    dense = True


class Stan(Tool):
    """Stan through pystan with its default, diagonal metric; one process a chain."""

    needs = ("stan", "httpstan")

    def __init__(self, row, settings):
        super().__init__(row, settings)
        import stan

        self.build = stan.build
        self.program = row.reference if settings.reference else row.stan
        self.data = row.stan_input(*settings.tolerances(row))

    def fit(self, seed):
        settings = self.settings
        model = self.build(self.program, data=self.data, random_seed=seed)
        counts = {"num_warmup": settings.warmup, "num_samples": settings.draws}
        began = time.perf_counter()
        fit = model.sample(num_chains=settings.chains, save_warmup=True, **counts)
        seconds = time.perf_counter() - began
        lines = [line for output in fit.stan_outputs for line in output.decode().splitlines()]
        steps, divergent = (_stan_values(fit, name) for name in ("n_leapfrog__", "divergent__"))
        kept = steps[settings.warmup :]
        drawn, elapsed = (_elapsed(lines, phase) for phase in ("Sampling", "Total"))
        return Fit(
            draws=self.row.common(_stan_samples(fit, settings.warmup)),
            kept_seconds=seconds * drawn / max(elapsed, 1e-9),
            gradients=_total(kept),
            all_gradients=_total(steps),
            divergences=_total(divergent[settings.warmup :]),
            failures=sum('"logger"' in line and "xception" in line for line in lines),
        )

    def versions(self):
        return {name: metadata.version(name) for name in ("pystan", "httpstan", "numpy")}


class StanDense(Stan):
    """The same with a dense metric."""

    def __init__(self, row, settings):
        from tests.benchmarks.stan_dense import dense_service, use

        super().__init__(row, settings)
        use(dense_service(settings.shared))


class PyMC(Tool):
    """PyMC's own NUTS, for rows without an equation."""

    needs = ("pymc",)

    def __init__(self, row, settings):
        super().__init__(row, settings)
        self.model = row.pymc()

    @classmethod
    def missing(cls, row):
        return super().missing(row) or ("" if row.pymc else "the row has an equation")

    def sample(self, seed):
        import pymc

        settings = self.settings
        return pymc.sample(
            settings.draws,
            tune=settings.warmup,
            chains=settings.chains,
            cores=os.cpu_count(),
            random_seed=seed,
            progressbar=False,
            compute_convergence_checks=False,
            discard_tuned_samples=False,
            model=self.model,
        )

    def fit(self, seed):
        began = time.perf_counter()
        trace = self.sample(seed)
        seconds = time.perf_counter() - began
        kept, before = (
            _total(np.asarray(group["n_steps"])) for group in (trace.sample_stats, trace.warmup_sample_stats)
        )
        posterior = trace.posterior
        return Fit(
            draws=self.row.common({name: posterior[name].values for name in self.row.sites}),
            kept_seconds=seconds * kept / (kept + before),
            gradients=kept,
            all_gradients=kept + before,
            divergences=_total(np.asarray(trace.sample_stats["diverging"])),
        )


class Nutpie(PyMC):
    """nutpie on the PyMC model."""

    needs = ("nutpie", "pymc")

    def __init__(self, row, settings):
        super().__init__(row, settings)
        import nutpie

        self.compiled = nutpie.compile_pymc_model(self.model)

    def sample(self, seed):
        import nutpie

        settings = self.settings
        counts = {"draws": settings.draws, "tune": settings.warmup, "chains": settings.chains}
        return nutpie.sample(self.compiled, seed=seed, progress_bar=False, save_warmup=True, **counts)


TOOLS: dict[str, type[Tool]] = {
    "ours": Ours,
    "ours_cached": OursCached,
    "stan": Stan,
    "stan_dense": StanDense,
    "numpyro": NumpyroByHand,
    "numpyro_dense": NumpyroDense,
    "nutpie": Nutpie,
    "pymc": PyMC,
}


def _total(values: Any) -> int | None:
    return None if values is None else int(np.sum(values))


def _kept_seconds(posterior, kept, everything):
    """Seconds of the kept draws: as told, else by their share of the gradients, else all that sampling took."""
    seconds = posterior.record.get("seconds", {})
    if "draws" in seconds:
        return float(seconds["draws"])
    sampling = float(seconds.get("sampling", float("nan")))
    return sampling * (min(1.0, kept / everything) if kept and everything else 1.0)


def _stan_values(fit, name):
    """`(iteration, chain)` of one of Stan's own columns."""
    return fit._draws[fit.sample_and_sampler_param_names.index(name)]


def _stan_samples(fit, warmup):
    """Draws after the warm-up by name, `(chain, draw, ...)`."""
    start, found = len(fit.sample_and_sampler_param_names), {}
    for name, dims in zip(fit.param_names, fit.dims, strict=True):
        size = int(np.prod(dims)) if dims else 1
        flat = fit._draws[start : start + size, warmup:].T  # (chain, draw, size), matrices by column
        values = flat.reshape(*flat.shape[:2], *reversed(dims))
        found[name] = values.transpose(0, 1, *range(values.ndim - 1, 1, -1))
        start += size
    return found


def _elapsed(lines, phase):
    """Seconds that Stan reports of a phase, all chains together."""
    told = [line for line in lines if '"logger"' in line and f"seconds ({phase})" in line]
    return sum(float(line.split(" seconds")[0].split()[-1]) for line in told)
