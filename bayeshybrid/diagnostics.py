"""R-hat, effective sample size and Monte Carlo error of one quantity, as this package means them.

The effective sample size of a quantity is the smallest of bulk, tail and that of its centred square: long
trajectories can make a mean look precise while the spread is not (Vehtari et al. 2021, "Rank-normalization,
folding, and localization").
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["effective_sample_size", "mean_error", "mean_size", "rhat"]


def effective_sample_size(draws: np.ndarray) -> float:
    """The smallest of bulk, tail (5 and 95 %) and squares effective sample size of `(chain, draw)`.

    **Returns:** the size; NaN for a constant quantity or one that is not finite.

    ```python
    from bayeshybrid.diagnostics import effective_sample_size
    independent = np.random.default_rng(0).standard_normal((4, 500))
    assert 1000 < effective_sample_size(independent) < 3000
    ```
    """
    from arviz_stats.base import array_stats

    if not _varies(draws):
        return float("nan")
    squares = ((draws - draws.mean()) / np.ptp(draws)) ** 2  # in its own units: nothing overflows
    bulk = array_stats.ess(draws, method="bulk")
    tail = array_stats.ess(draws, method="tail", prob=(0.05, 0.95))
    square = array_stats.ess(squares, method="bulk") if _varies(squares) else bulk
    return float(np.min([_number(size) for size in (bulk, tail, square)]))


def rhat(draws: np.ndarray) -> float:
    """Rank-normalised split and folded R-hat of `(chain, draw)`; NaN for a constant quantity.

    ```python
    from bayeshybrid.diagnostics import rhat
    independent = np.random.default_rng(0).standard_normal((4, 500))
    assert rhat(independent) < 1.01 < rhat(independent + np.arange(4)[:, None])
    ```
    """
    from arviz_stats.base import array_stats

    if not _varies(draws) or len(draws) < 2:
        return float("nan")
    return _number(array_stats.rhat(draws, method="rank"))


def mean_error(draws: np.ndarray) -> float:
    """Monte Carlo standard error of the mean of `(chain, draw)`; NaN for a constant quantity.

    ```python
    from bayeshybrid.diagnostics import mean_error
    independent = np.random.default_rng(0).standard_normal((4, 500))
    assert 0.02 < mean_error(independent) < 0.025
    ```
    """
    from arviz_stats.base import array_stats

    return _number(array_stats.mcse(draws, method="mean")) if _varies(draws) else float("nan")


def mean_size(draws: np.ndarray) -> float:
    """How many independent draws `(chain, draw)` are worth for their mean; NaN for a constant quantity.

    ```python
    from bayeshybrid.diagnostics import mean_size
    independent = np.random.default_rng(0).standard_normal((4, 500))
    assert 1500 < mean_size(independent) < 3000
    ```
    """
    from arviz_stats.base import array_stats

    return _number(array_stats.ess(draws, method="mean")) if _varies(draws) else float("nan")


def _varies(draws):
    return draws.shape[-1] > 3 and bool(np.all(np.isfinite(draws))) and float(np.ptp(draws)) > 0


def _number(figure: Any) -> float:
    """A figure of ArviZ, which comes as a number or an array without axes."""
    return float(figure)
