"""The range in which a quantity is believable: as stated, or made from the data."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bayeshybrid.faults import ModelError
from bayeshybrid.layout import Layout

FACTOR = 10.0

__all__ = ["Range", "default_range", "stated_range"]


class Range(NamedTuple):
    """Lower and upper end, one number for all entries or one for each label, and whether it was stated."""

    low: np.ndarray
    high: np.ndarray
    stated: bool


def stated_range(layout: Layout, name: str, told: Any) -> Range:
    """A plausible range as a user wrote it: a pair, or label to pair; `None` is an open end.

    **Raises:** `ModelError` for names or labels that the model does not have, and for ends that do not rise.

    ```python
    from bayeshybrid.ranges import stated_range
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    assert stated_range(bh.Target(model, {"y": 0.0}).layout, "x", (0, None)).high == np.inf
    ```
    """
    known = {site.name: site.tag.labels for site in (*layout.latent, *layout.observed)}
    known |= {site.name: site.tag.labels if site.tag else () for site in layout.deterministic}
    known |= {solve.name: solve.labels for solve in layout.solves}
    if name not in known:
        raise ModelError(
            f"plausible={{{name!r}: ...}}: the model has no such quantity{_nearest(name, known)}"
        )
    labels = known[name]
    if not isinstance(told, Mapping):
        low, high = _ends(name, told)
        return Range(np.asarray(low), np.asarray(high), True)
    for label in told:
        if label not in labels:
            raise ModelError(
                f"plausible={{{name!r}: {{{label!r}: ...}}}}: no such label{_nearest(label, labels)}"
            )
    pairs = np.array([_ends(name, told.get(label, (None, None))) for label in labels])
    return Range(pairs[:, 0], pairs[:, 1], True)


def _nearest(name, known):
    close = difflib.get_close_matches(str(name), known, 1)
    return f": did you mean {close[0]!r}?" if close else f"; there are {', '.join(known) or 'none'}"


def _ends(name, pair):
    try:
        low, high = pair
        low, high = (
            default if end is None else float(end) for end, default in ((low, -np.inf), (high, np.inf))
        )
    except (TypeError, ValueError):
        low = high = np.nan
    if not low < high:
        raise ModelError(f"plausible={{{name!r}: {pair!r}}}: give two ends that rise, such as (0.0, 500.0)")
    return low, high


def default_range(values: np.ndarray) -> Range | None:
    """A range made from values that were measured, `None` where there are none.

    Positive ones: from a tenth of the smallest to ten times the largest. Else their range, or their size where
    they are all alike, widened tenfold about its middle.

    ```python
    from bayeshybrid.ranges import default_range
    assert default_range(np.array([1.0, 5.0]))[:2] == (0.1, 50.0)
    assert default_range(np.array([0.0, 2.0]))[:2] == (-9.0, 11.0)
    ```
    """
    if not values.size:
        return None
    low, high = float(np.min(values)), float(np.max(values))
    if low > 0:
        return Range(np.asarray(low / FACTOR), np.asarray(high * FACTOR), False)
    middle, half = 0.5 * (low + high), 0.5 * (high - low) or abs(high) or 1.0
    return Range(np.asarray(middle - FACTOR * half), np.asarray(middle + FACTOR * half), False)
