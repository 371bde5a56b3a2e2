"""The answer: equally weighted draws, the verdict on them, and the way back to the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshybrid import configuration
from bayeshybrid.contraction import prior_contraction, prior_draws
from bayeshybrid.faults import ModelError
from bayeshybrid.fit import FitCheck, check_fit
from bayeshybrid.forecast import Forecast, Origin, forecast_draws
from bayeshybrid.keys import as_key
from bayeshybrid.summary import Summary, summarise
from bayeshybrid.survey import ask
from bayeshybrid.target import Target
from bayeshybrid.verdict import Verdict

if TYPE_CHECKING:
    import xarray

__all__ = ["Posterior"]


@dataclass(frozen=True)
class Posterior:
    """What every method of inference returns.

    - `target`: the model and its data.
    - `unconstrained`: equally weighted draws, `(chain, draw, size)`.
    - `samples`: unknowns and derived quantities by name, `(chain, draw, ...)`.
    - `statistics`: what the sampler noted of each draw, `(chain, draw)`.
    - `verdict`: whether these draws are the posterior of this model.
    - `method`, `key`: what found it, and from which key; `search`: the basins, in words.
    - `failures`: failed evaluations by reason; `remarks`: what a reader must know.
    - `record`: versions, wall times and the like, plain numbers and words.

    `posterior["birth"]` gives the draws of one quantity, chains one after the other.

    ```python
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    posterior = bh.infer(model, {"y": np.array(2.0)}, bh.NUTS(draws=250, warmup=250), key=0)
    assert abs(posterior["x"].mean() - 1.0) < 0.15
    ```
    """

    target: Target
    unconstrained: np.ndarray
    samples: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]
    verdict: Verdict
    method: str
    key: Any
    search: str = ""
    failures: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    record: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> np.ndarray:
        """The draws of one quantity, `(draws, ...)`, chains one after the other."""
        if name not in self.samples:
            raise KeyError(f"no quantity {name!r}: there are {', '.join(self.samples)}")
        values = self.samples[name]
        return values.reshape(-1, *values.shape[2:])

    @property
    def size(self) -> int:
        """How many draws there are, all chains together."""
        return self.unconstrained.shape[0] * self.unconstrained.shape[1]

    @cached_property
    def contraction(self) -> dict[str, np.ndarray]:
        """How much the data narrowed each unknown: 0 not at all, 1 entirely. See `prior_contraction`."""
        drawn, proper = self._prior
        with configuration.scope():
            return prior_contraction(self.target, self._flat, drawn if proper else None)

    @property
    def prior(self) -> dict[str, np.ndarray]:
        """Draws of the unknowns from their prior, by name, `(draws, ...)`."""
        return self._prior[0]

    @cached_property
    def _prior(self):
        with configuration.scope():
            return prior_draws(self.target, as_key(self.key))

    def summary(self, mass: float = 0.9, weights: bool = False) -> Summary:
        """Mean, spread, interval, precision, unit and contraction of every unknown and derived number.

        **Arguments:**

        - `mass`: what the central interval holds.
        - `weights`: also list the weights of networks, which mean little one by one.

        ```python
        model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
        summary = bh.infer(model, {"y": np.array(2.0)}, bh.NUTS(draws=250, warmup=250), key=0).summary()
        assert summary["x"].low < 1.0 < summary["x"].high
        ```
        """
        return summarise(self, mass, weights)

    def predict(
        self,
        inputs: Mapping[str, Any] | None = None,
        *,
        key: Any,
        new: Sequence[str] = (),
        change: Mapping[str, Any] | None = None,
        draws: int | None = None,
        replicates: int | None = None,
    ) -> Forecast:
        """The forecast of this posterior at `inputs`.

        Each unknown is carried from the posterior, unless it, or a plate around it, is named in `new`: then it is
        drawn anew from its prior given the rest, as for a patient never seen. An unknown that grows with
        inputs that begin with those of the fit keeps what was inferred and is continued.

        **Arguments:**

        - `inputs`: the model's arguments without observations; by default those of the fit.
        - `key`: an integer or a JAX key.
        - `new`: names of unknowns or plates to draw anew.
        - `change`: what is set or changed from outside, by name of an input, an unknown or a derived quantity: a
          function of its value, such as `{"dose": lambda v: 0.5 * v}`, or the new value. What was inferred stays, what
          follows from the change is computed anew; the difference to the forecast without it, under the same key,
          is `forecast - baseline`.
        - `draws`: how many draws to use, evenly spaced; by default all.
        - `replicates`: how often what is drawn anew is drawn for each posterior draw; 8 if there is any.

        **Returns:** a `Forecast`.

        **Raises:** `ModelError` where an unknown changes its shape and nothing says what becomes of it, where the
        model cannot be called without its observations, where every solve fails, or where a change names nothing
        of this model or alters a shape.

        ```python
        model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
        posterior = bh.infer(model, {"y": np.array(2.0)}, bh.NUTS(draws=250, warmup=250), key=0)
        assert posterior.predict(key=1).aleatoric["y"] == 1.0
        ```
        """
        with configuration.scope():
            chosen = self._chosen(draws)
            values = {site.name: self[site.name][chosen] for site in self.target.layout.latent}
            given = self.target.inputs() if inputs is None else inputs
            chain = np.repeat(np.arange(len(self.unconstrained)), self.unconstrained.shape[1])
            origin = Origin(self._flat[chosen], chain[chosen], self.method, self.verdict)
            return forecast_draws(
                self.target, values, given, as_key(key), new, replicates, origin=origin, change=change
            )

    def check(self, *, key: Any, draws: int | None = 1000, new: Sequence[str] = ()) -> FitCheck:
        """The data beside replicated data, with residuals: does this model describe what was measured?

        **Arguments:**

        - `key`: an integer or a JAX key.
        - `draws`: how many posterior draws are replicated, each once.
        - `new`: as for `predict`: with `("subject",)` the replicated subjects are drawn anew from the population,
          as the visual predictive check (`FitCheck.by_time`) wants it; else they keep what was inferred of them.

        **Returns:** a `FitCheck`.

        ```python
        model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
        posterior = bh.infer(model, {"y": np.array(2.0)}, bh.NUTS(draws=250, warmup=250), key=0)
        assert abs(posterior.check(key=1).residuals["y"] - 1.0) < 0.3
        ```
        """
        forecast = self.predict(key=key, draws=draws, new=new, replicates=1)
        with configuration.scope():
            return check_fit(self.target, self._flat[:1], forecast, new)

    def log_likelihood(self) -> dict[str, np.ndarray]:
        """Log probability of each observation at each draw, by observed site, `(chain, draw, ...)`."""
        with configuration.scope():
            found = ask(self.target, self._flat, ["pointwise"])["pointwise"]
        shape = self.unconstrained.shape[:2]
        return {name: values.reshape(*shape, *values.shape[1:]) for name, values in found.items()}

    def to_datatree(
        self, *, predictions: Forecast | None = None, log_likelihood: bool = False
    ) -> xarray.DataTree:
        """This posterior as ArviZ's DataTree: posterior, sample_stats, observed_data, constant_data and more.

        **Arguments:**

        - `predictions`: a forecast to put beside it, as the group `predictions`.
        - `log_likelihood`: also evaluate the log probability of each observation at each draw.

        ```python
        model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
        posterior = bh.infer(model, {"y": np.array(2.0)}, bh.NUTS(draws=250, warmup=250), key=0)
        assert posterior.to_datatree()["posterior"]["x"].shape == (4, 250)
        ```
        """
        from bayeshybrid.storage import to_datatree

        return to_datatree(self, predictions, self.log_likelihood() if log_likelihood else None)

    def save(self, path: str | Path) -> None:
        """Write everything but the model's code to a new folder: npy arrays and a JSON manifest with checksums.

        **Raises:** `FileExistsError` where `path` exists already.
        """
        from bayeshybrid.storage import save

        save(self, Path(path))

    @staticmethod
    def load(path: str | Path, model: Callable[..., Any]) -> Posterior:
        """The posterior saved at `path`, joined again to its model.

        **Arguments:**

        - `path`: the folder that `save` wrote.
        - `model`: the model function that was fitted.

        **Raises:** `DataError` for a damaged or foreign file, and for a model with other unknowns.
        """
        from bayeshybrid.storage import load

        return Posterior(**load(Path(path), model))

    @property
    def _flat(self):
        return self.unconstrained.reshape(-1, self.unconstrained.shape[-1])

    def _chosen(self, draws):
        if draws is not None and draws < 1:
            raise ModelError(f"draws={draws}: at least one draw is needed")
        if draws is None or draws >= self.size:
            return np.arange(self.size)
        return np.linspace(0, self.size - 1, draws).round().astype(int)
