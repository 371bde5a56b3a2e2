"""What is known of a series before any of it is seen, and the plain models of it that are made from that."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from bayeshybrid import sites
from bayeshybrid.faults import ModelError
from bayeshybrid.observation import observe
from bayeshybrid.priors import parameter, tagged_deterministic

NOISES = ("normal", "lognormal")
USUAL_NOISE = 0.3  # of the scale, up to a factor of e: the middle of the prior of the noise

__all__ = ["Baseline", "Record"]


@dataclass(frozen=True, eq=False)
class Record:
    """What is known of a series before any of it is seen: its name, where it lies, how it is measured.

    **Arguments:**

    - `name`: of the observation, and of the model's argument for it, `None` by default.
    - `span`: first and last time of the measurements to be fitted, in the unit of times.
    - `center`, `scale`: a typical value and the size of deviations from it, in `unit`; numbers for a series of shape
      `(times,)`, or one for each component, `(times, components)`.
    - `noise`: `"normal"` or `"lognormal"`, with an unknown size, site `noise`, about 0.3 scales (of the logarithm for
      the second, and then 0.3); or a function from the mean, in the data's unit and shape, to a distribution, which
      may have unknowns of its own.
    - `positive`: whether the series is modelled by its logarithm; by default for log-normal noise.
    - `unit`, `labels`: of the series, and names of its components.
    - `inputs`: function from a time to what is known to act then, `(inputs,)`, of order one; for all baselines but
      `physics_informed`, whose equation may use it.

    **Raises:** `ModelError` for a span that is none, scales that are not above zero, a centre of a positive series that
    is not, shapes that do not go together, and noise of an unknown name.

    ```python
    pelts = bh.baselines.Record("pelts", span=(1900.0, 1920.0), center=(30.0, 20.0), scale=(20.0, 15.0),
                                noise="lognormal", unit="kpelt", labels=("hare", "lynx"))
    assert pelts.size == 2 and pelts.positive
    ```
    """

    name: str
    span: tuple[float, float]
    center: ArrayLike
    scale: ArrayLike
    noise: Literal["normal", "lognormal"] | Callable[[Array], dist.Distribution] = "normal"
    positive: bool | None = None
    unit: str | None = None
    labels: tuple[str, ...] = ()
    inputs: Callable[[Array], Array] | None = None

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name.isidentifier() or self.name == "times":
            raise ModelError(
                f"Record: name = {self.name!r} must be a word that can name an argument, not 'times'"
            )
        if len(self.span) != 2 or not -np.inf < self.span[0] < self.span[1] < np.inf:
            raise ModelError(
                f"Record({self.name!r}): span = {self.span}: write the first time and a later last one"
            )
        if not callable(self.noise) and self.noise not in NOISES:
            raise ModelError(
                f'Record({self.name!r}): noise = {self.noise!r}; write "normal", "lognormal" or a function from the '
                "mean to a distribution"
            )
        object.__setattr__(
            self, "positive", self.noise == "lognormal" if self.positive is None else self.positive
        )
        object.__setattr__(self, "labels", tuple(map(str, self.labels)))
        self._check_numbers()

    def _check_numbers(self):
        shapes = {
            np.shape(self.center),
            np.shape(self.scale),
            *([(len(self.labels),)] if self.labels else []),
        }
        if len(shapes - {()}) > 1 or any(len(shape) > 1 for shape in shapes):
            raise ModelError(
                f"Record({self.name!r}): center has shape {np.shape(self.center)}, scale {np.shape(self.scale)}, and "
                f"there are {len(self.labels)} labels: give numbers, or one for each component"
            )
        positive = {"scale": self.scale} | ({"center": self.center} if self.positive else {})
        for what, given in positive.items():
            if not np.all(np.isfinite(given)) or not np.all(np.asarray(given) > 0):
                raise ModelError(f"Record({self.name!r}): {what} = {given} must be above zero")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is measured at one time."""
        shapes = (np.shape(self.center), np.shape(self.scale), (len(self.labels),) if self.labels else ())
        return next((shape for shape in shapes if shape), ())

    @property
    def size(self) -> int:
        """How many components there are."""
        return int(np.prod(self.shape, dtype=int))

    @property
    def middle(self) -> Float[np.ndarray, " size"]:
        """The typical value, as its logarithm for a positive series."""
        center = np.broadcast_to(np.asarray(self.center, float), (self.size,))
        return np.log(center) if self.positive else center

    @property
    def spread(self) -> Float[np.ndarray, " size"]:
        """The size of deviations from it, as a share of the typical value for a positive series."""
        scale = np.broadcast_to(np.asarray(self.scale, float), (self.size,))
        return scale / np.asarray(self.center, float) if self.positive else scale

    @property
    def stretch(self) -> float:
        """The length of the span."""
        return float(self.span[1] - self.span[0])

    def acting(self, times: Float[Array, " times"]) -> Float[Array, "times inputs"]:
        """What is known to act at each of these times."""
        inputs = self.inputs
        if inputs is None:
            return jnp.zeros((len(times), 0))
        return jax.vmap(lambda t: jnp.atleast_1d(jnp.asarray(inputs(t), dtype=float)))(times)

    @property
    def acting_size(self) -> int:
        """How many known inputs there are."""
        return jax.eval_shape(self.acting, jnp.zeros(1)).shape[1]

    def natural(self, values: Float[Array, "times size"]) -> Float[Array, "times size"]:
        """From the scale of the model, which is the logarithm's for a positive series, to the unit of the data."""
        return jnp.exp(values) if self.positive else values

    def measured(self, values: Float[Array, "times size"], given: Any) -> None:
        """Statement: the series, site `state`, and its measurement, from values on the scale of the model."""
        values = values.reshape((len(values), *self.shape))
        tag = sites.Tag("state", unit=self.unit, labels=self.labels)
        mean = tagged_deterministic("state", self.natural(values), tag)
        observe(
            self.name, self._distribution(values, mean), obs=given, unit=self.unit, labels=self.labels or None
        )

    def _distribution(self, values, mean):
        """Of a measurement, given the series on the scale of the model and in the unit of the data."""
        if callable(self.noise):
            return self.noise(mean)
        of_the_logarithm = self.noise == "lognormal"
        scale = 1.0 if of_the_logarithm else np.broadcast_to(np.asarray(self.scale, float), self.shape)
        prior = dist.LogNormal(np.log(USUAL_NOISE * scale), 1.0)
        unit = "1" if of_the_logarithm else self.unit
        size = parameter("noise", prior, unit=unit, shape=self.shape, labels=self.labels or None)
        size = jnp.broadcast_to(jnp.asarray(size)[None], mean.shape)
        if of_the_logarithm:
            return dist.LogNormal(values if self.positive else jnp.log(mean), size)
        return dist.Normal(mean, size)


class Baseline:
    """A model of a record: a function of `times` and the observation, by its name.

    - `series`: from times to the series on the scale of the model, `(times, size)`; it may make statements.

    ```python
    from bayeshybrid.records import Baseline, Record
    record = Record("y", span=(0.0, 1.0), center=0.0, scale=1.0)
    flat = Baseline("flat", record, lambda times: jnp.zeros((len(times), 1)))
    assert bh.simulate(flat, {"times": np.arange(3.0)}, key=0, draws=5).observed["y"].draws.shape == (5, 3)
    ```
    """

    def __init__(self, title: str, record: Record, series: Callable[[Any], Array]) -> None:
        self.__name__ = title
        self.record, self.series = record, series
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        arguments = (
            inspect.Parameter("times", kind),
            inspect.Parameter(record.name, kind, default=None),
        )
        self.__signature__ = inspect.Signature(arguments)

    def __call__(self, *arguments: Any, **named: Any) -> None:
        """The statements of the model, at times and with or without the observation."""
        bound = self.__signature__.bind(*arguments, **named)
        times = bound.arguments["times"]
        self.record.measured(self.series(times), bound.arguments.get(self.record.name))
