"""R-hat, effective sample size and Monte Carlo error of one quantity, as this package means them.

The effective sample size of a quantity is the smallest of bulk, tail and that of its centred square: long
trajectories can make a mean look precise while the spread is not (Vehtari et al. 2021, "Rank-normalization,
folding, and localization").
"""

from __future__ import annotations

from typing import Any

import numpy as np

MANY_CHAINS = 16
PER_GROUP = 4

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
    """R-hat of `(chain, draw)`; NaN for a constant quantity.

    Up to 16 chains: rank-normalised, split and folded (Vehtari et al. 2021). More: the larger of nested R-hat of
    ranks and of folded ranks (Margossian et al. 2024, "Nested R-hat", equation 4), where each four
    successive chains are a group that shared its start; short chains need not agree one by one, groups must.

    ```python
    from bayeshybrid.diagnostics import rhat
    independent = np.random.default_rng(0).standard_normal((4, 500))
    assert rhat(independent) < 1.01 < rhat(independent + np.arange(4)[:, None])
    ```
    """
    from arviz_stats.base import array_stats

    if not _varies(draws) or len(draws) < 2:
        return float("nan")
    if len(draws) > MANY_CHAINS and len(draws) % PER_GROUP == 0:
        return max(_nested(_normal_ranks(each)) for each in (draws, np.abs(draws - np.median(draws))))
    return _number(array_stats.rhat(draws, method="rank"))


def _nested(draws):
    """Nested R-hat of the chains in groups of four."""
    means = draws.mean(axis=1).reshape(-1, PER_GROUP)
    within = np.mean(np.var(draws, axis=1, ddof=1)) + np.mean(np.var(means, axis=1, ddof=1))
    return float(np.sqrt(1 + np.var(means.mean(axis=1), ddof=1) / within))


def _normal_ranks(draws):
    """Each draw's rank among all as the normal quantile that belongs to it (Blom)."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    return ndtri((rankdata(draws).reshape(draws.shape) - 0.375) / (draws.size + 0.25))


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
