"""Quantities of a forecast as draws, the parts of a variance, and the probability of an event."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bayeshybrid.diagnostics import mean_size

SHOWN = 12
FEW_DRAWS = 8  # in a chain: fewer say nothing of their correlation

__all__ = ["Part", "Probability", "Quantity", "probability"]


@dataclass(frozen=True)
class Quantity:
    """One quantity of a forecast as draws, with the names and unit of its entries.

    - `draws`: `(draw, ...)`, equally weighted.
    - `labels`: names along the last axis; `unit`: as the model stated it; `across`: what the first axis of an
      entry counts, such as `"subject"`.

    ```python
    from bayeshybrid.quantities import Quantity
    q = Quantity("y", np.arange(101.0))
    assert np.allclose(q.interval(0.9), [5.0, 95.0])
    ```
    """

    name: str
    draws: np.ndarray
    labels: tuple[str, ...] = ()
    unit: str | None = None
    across: str | None = None

    def __str__(self) -> str:
        unit, ends = f" {self.unit}" if self.unit else "", self.interval(0.9)
        told = [
            f"{mean:.4g}{unit} (9 in 10 draws from {low:.4g} to {high:.4g})"
            for mean, low, high in zip(*(np.ravel(x)[:SHOWN] for x in (self.mean, *ends)), strict=True)
        ]
        rest = [f"and {np.size(self.mean) - SHOWN} more"] if np.size(self.mean) > SHOWN else []
        return f"{self.name}: {', '.join([*told, *rest])}"

    @property
    def mean(self) -> np.ndarray:
        """Mean over draws, element by element."""
        return self.draws.mean(axis=0)

    @property
    def sd(self) -> np.ndarray:
        """Standard deviation over draws (ddof 0: the forecast is the equal mixture of its draws)."""
        return self.draws.std(axis=0)

    def quantile(self, level: float | Sequence[float]) -> np.ndarray:
        """Quantiles over draws; several levels come back along the first axis."""
        return np.quantile(self.draws, level, axis=0)

    def interval(self, mass: float = 0.9) -> np.ndarray:
        """Lower and upper end of the central interval that holds `mass`, along the first axis."""
        if not 0 < mass < 1:
            raise ValueError(f"interval(mass={mass}): write a share between 0 and 1, such as 0.9")
        return self.quantile([(1 - mass) / 2, (1 + mass) / 2])


class Part(Mapping[str, np.ndarray]):
    """One part of the variance of each observed site; `.sd` its root, `.share` its share of the total.

    ```python
    from bayeshybrid.quantities import Part
    part = Part({"y": np.array([4.0])}, {"y": np.array([16.0])})
    assert part["y"][0] == 4.0 and part.sd["y"][0] == 2.0 and part.share["y"][0] == 0.25
    ```
    """

    def __init__(self, values: Mapping[str, np.ndarray], total: Mapping[str, np.ndarray]) -> None:
        self._values = dict(values)
        self._total = dict(total)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def sd(self) -> dict[str, np.ndarray]:
        """Its square root, in the unit of the observation."""
        return {name: np.sqrt(value) for name, value in self._values.items()}

    @property
    def share(self) -> dict[str, np.ndarray]:
        """Its share of the total variance, between 0 and 1; NaN where there is no variance."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return {name: value / self._total[name] for name, value in self._values.items()}


@dataclass(frozen=True)
class Probability:
    """The probability of an event under a forecast.

    - `value`: the share of draws in which it happens; `error`: its Monte Carlo standard error; `draws`: how many
      independent draws the forecast's draws are worth for it.

    ```python
    from bayeshybrid.quantities import Probability
    assert str(Probability(np.array(0.25), np.array(0.01), np.array(1500.0))) == "0.250 (Monte Carlo error 0.010)"
    ```
    """

    value: np.ndarray
    error: np.ndarray
    draws: np.ndarray

    def __str__(self) -> str:
        if np.ndim(self.value):
            return f"probabilities {np.array2string(self.value, precision=3)}, errors up to {np.max(self.error):.3f}"
        return f"{float(self.value):.3f} (Monte Carlo error {float(self.error):.3f})"


def probability(happened: np.ndarray, chain: np.ndarray) -> Probability:
    """The probability of an event from whether it happened, `(draw, replicate, ...)`, draws being of these chains.

    The error is that of a share among as many independent draws as these are worth, with half an event and half
    a non-event added, so that what never happened has an error too.

    ```python
    from bayeshybrid.quantities import probability
    never = probability(np.zeros((400, 1), bool), np.repeat(np.arange(4), 100))
    assert never.value == 0 and 0.001 < never.error < 0.005
    ```
    """
    share = happened.mean(axis=1)
    entries = share.reshape(len(share), -1)
    sizes = np.array([_worth(column, chain) for column in entries.T]).reshape(share.shape[1:])
    value = share.mean(axis=0)
    eased = (value * sizes + 0.5) / (sizes + 1)
    spread = np.maximum(share.var(axis=0), eased * (1 - eased) / happened.shape[1])
    return Probability(value, np.sqrt(spread / sizes), sizes)


def _worth(column, chain):
    """How many independent draws these are worth for a mean; all of them where chains cannot be told apart."""
    chains = [column[chain == c] for c in np.unique(chain)]
    if len({len(c) for c in chains}) > 1 or len(chains[0]) < FEW_DRAWS or np.ptp(column) == 0:
        return float(len(column))
    size = float(mean_size(np.stack(chains)))
    return min(size, float(len(column))) if np.isfinite(size) else float(len(column))
