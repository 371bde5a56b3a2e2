"""What a basis has become in the fit, written as a law with the terms that the data chose."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Bool, Float

from bayeshybrid import configuration
from bayeshybrid.bases import Basis
from bayeshybrid.faults import ModelError
from bayeshybrid.posterior import Posterior

TAILS = (0.05, 0.95)

__all__ = ["Formula", "formula"]


@dataclass(frozen=True)
class Formula:
    """A function that is a sum of named terms, with what is known of their coefficients.

    - `network`, `unit`: its name, and the unit of its outputs and of the coefficients.
    - `terms`: names of the terms, in the standardised inputs `x1`, `x2`, ...
    - `center`, `spread`: of the inputs, `x = (input - center) / spread`.
    - `mean`, `sd`, `low`, `high`: of each coefficient, the ends those of its central 90 %, `(outputs, terms)`.
    - `chosen`: where the central 90 % do not hold zero.

    Printed, it shows the chosen terms, each with its mean and 90 % interval.

    ```python
    from bayeshybrid.formulas import Formula
    one = np.ones((1, 1))
    told = Formula("law", "mg/d", ("x1",), np.zeros(1), np.ones(1), 2 * one, one, one, 3 * one, one > 0)
    assert str(told).splitlines()[0] == "law [mg/d] = 2 (1 to 3) x1"
    ```
    """

    network: str
    unit: str | None
    terms: tuple[str, ...]
    center: Float[np.ndarray, " inputs"]
    spread: Float[np.ndarray, " inputs"]
    mean: Float[np.ndarray, "outputs terms"]
    sd: Float[np.ndarray, "outputs terms"]
    low: Float[np.ndarray, "outputs terms"]
    high: Float[np.ndarray, "outputs terms"]
    chosen: Bool[np.ndarray, "outputs terms"]

    def __str__(self) -> str:
        unit = f" [{self.unit}]" if self.unit else ""
        lines = []
        for output in range(len(self.mean)):
            which = f", output {output + 1}" if len(self.mean) > 1 else ""
            said = [
                f"{self.mean[output, j]:.3g} ({self.low[output, j]:.3g} to {self.high[output, j]:.3g}) {term}"
                for j, term in enumerate(self.terms)
                if self.chosen[output, j]
            ]
            lines.append(f"{self.network}{which}{unit} = {' + '.join(said) or '0: no term is needed'}")
        standard = [
            f"x{place} = (input {place} - {center:.4g}) / {spread:.4g}"
            for place, (center, spread) in enumerate(zip(self.center, self.spread, strict=True), 1)
        ]
        return "\n".join([*lines, "with " + ", ".join(standard)])


def formula(posterior: Posterior, name: str) -> Formula:
    """The law that a basis has become: its terms, their coefficients, and which of them the data chose.

    With a prior that expects few terms (`Horseshoe`), the others are near zero and their intervals hold it. That a term
    is not chosen says that the data do not need it beside the others, not that it is absent.

    **Arguments:**

    - `posterior`: of a model with a network whose module is a basis, such as `Polynomial`.
    - `name`: of the network.

    **Returns:** a `Formula`.

    **Raises:** `ModelError` where there is no such network, or its module is no basis.

    ```python
    def model(x, y=None):
        law = bh.network("law", bh.Polynomial(1, 1, degree=2), scale=1.0, center=0.0, spread=1.0)
        bh.observe("y", dist.Normal(law(x), 0.05), obs=y)
    x = np.linspace(-1.0, 1.0, 20)[:, None]
    posterior = bh.infer(model, {"x": x, "y": 0.7 * x**2}, bh.NUTS(draws=200, warmup=200), key=0)
    assert bh.formula(posterior, "law").chosen.tolist() == [[False, False, True]]
    ```
    """
    target = posterior.target
    if name not in target.layout.networks:
        known = ", ".join(target.layout.networks) or "none"
        raise ModelError(f"formula(): no network is called {name!r}; the model has {known}")
    points = posterior.unconstrained.reshape(-1, posterior.unconstrained.shape[-1])
    with configuration.scope():
        found = target.networks(points[0])[name]
        if not isinstance(found.net, Basis):
            raise ModelError(
                f"formula(): the module of {name!r} is {type(found.net).__name__}, which has no terms to name: use a "
                "basis, such as bh.Polynomial"
            )
        weights = np.asarray(_coefficients(target, points, name))
    low, high = np.quantile(weights, TAILS, axis=0)
    return Formula(
        network=name,
        unit=found.unit,
        terms=found.net.terms,
        center=np.asarray(found.center),
        spread=np.asarray(found.spread),
        mean=weights.mean(axis=0),
        sd=weights.std(axis=0),
        low=low,
        high=high,
        chosen=(low > 0) | (high < 0),
    )


def _coefficients(target, points, name):
    """The weights times the scale of their output, draw by draw."""

    def one(q):
        found = target.networks(q)[name]
        return found.net.weight * jax.numpy.reshape(found.scale, (-1, 1))

    return jax.jit(lambda points: jax.lax.map(one, points, batch_size=128))(points)
