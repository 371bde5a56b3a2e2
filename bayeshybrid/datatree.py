"""A posterior as ArviZ's DataTree, so that everything of ArviZ can be used on it.

The tree follows the ArviZ schema (arviz-devs, "InferenceData schema specification"), built with xarray alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshybrid import configuration
from bayeshybrid.forecast import Forecast
from bayeshybrid.survey import ask

if TYPE_CHECKING:
    import xarray

    from bayeshybrid.posterior import Posterior

__all__ = ["to_datatree"]


def to_datatree(
    posterior: Posterior,
    predictions: Forecast | None = None,
    log_likelihood: Mapping[str, np.ndarray] | None = None,
) -> xarray.DataTree:
    """A posterior as an `xarray.DataTree` in the ArviZ schema.

    Groups: `posterior` (unknowns and derived quantities), `sample_stats`, `observed_data`, `constant_data`, and
    where given `predictions` with `predictions_constant_data`, and `log_likelihood`. Each quantity has the
    dimensions `chain`, `draw`, then `<name>_dim_0` and so on, with its labels as coordinates of the last; an axis
    of units that the data name, such as subjects, is a dimension of that name with theirs as coordinates. Its unit
    is in `attrs["units"]`. A name with a slash, which xarray does not allow, has a dot there; the name in
    the model is in `attrs["site"]`.

    In `observed_data` missing cells are NaN and censored cells hold their limit; where there are any,
    `constant_data` says cell by cell in `<name>_kinds` what is known (0 exact, 1 missing, 2 below, 3 above,
    4 between). In `log_likelihood` the cells of a site with missing ones stand in one row, `<name>_cell`, without
    those, because `arviz_stats.loo` cannot be asked about cells that say nothing. A forecast that lost draws to
    failed solves, or has replicates, is one chain.

    **Arguments:**

    - `posterior`: what `infer` returned.
    - `predictions`: a forecast, of which the observed sites are taken.
    - `log_likelihood`: observed site to `(chain, draw, ...)`, as `Posterior.log_likelihood` gives it.

    **Returns:** the tree.

    ```python
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    posterior = bh.infer(model, {"y": np.array(2.0)}, bh.NUTS(draws=100, warmup=100), key=0)
    tree = posterior.to_datatree(predictions=posterior.predict(key=1))
    assert tree["predictions"]["y"].dims == ("chain", "draw")
    ```
    """
    import xarray

    tags = _tags(posterior.target, posterior.target.labels)
    observed, kinds = _observations(posterior)
    groups = {
        "posterior": _dataset(posterior.samples, tags, 2),
        "sample_stats": _dataset(posterior.statistics, {}, 2),
        "observed_data": _dataset(observed, tags, 0),
        "constant_data": _dataset({**_arrays(posterior.target.inputs()), **kinds}, {}, 0),
    }
    if log_likelihood is not None:
        groups["log_likelihood"] = _measured(_dataset(log_likelihood, tags, 2), kinds)
    if predictions is not None:
        asked = _tags(posterior.target, predictions.labels)
        groups["predictions"] = _dataset(_predicted(posterior, predictions), asked, 2)
        groups["predictions_constant_data"] = _dataset(_arrays(predictions.inputs), {}, 0)
    attributes = {
        "inference_library": "bayeshybrid",
        "inference_method": posterior.method,
        "created_at": datetime.now(UTC).isoformat(),
    }
    groups = {name: data.assign_attrs(attributes) for name, data in groups.items()}
    return xarray.DataTree.from_dict(
        {name: data for name, data in groups.items() if data.data_vars or name == "posterior"}
    )


def _tags(target, labels):
    """Site name to its labels, its unit, what its first axis counts, and the names of these."""
    sites = (*target.layout.latent, *target.layout.observed, *target.layout.deterministic)
    return {
        site.name: (site.tag.labels, site.tag.unit, site.tag.across, labels.get(site.tag.across or "", ()))
        for site in sites
        if site.tag is not None
    }


def _observations(posterior):
    """Observed data with NaN where missing, and what is known of each cell where not all are exact."""
    target = posterior.target
    if not target.layout.observed:
        return {}, {}
    with configuration.scope():
        told = ask(target, posterior.unconstrained.reshape(-1, target.layout.size)[:1], ["data", "kinds"])
    observed, kinds = {}, {}
    for site, (values,) in told["data"].items():
        (known,) = told["kinds"][site]
        missing = known.reshape(known.shape + (1,) * (values.ndim - known.ndim)) == 1
        observed[site] = np.where(missing, np.nan, values) if missing.any() else values
        if np.any(known):
            kinds[f"{site}_kinds"] = known
    return observed, kinds


def _measured(log_likelihood: xarray.Dataset, kinds: Mapping[str, np.ndarray]) -> xarray.Dataset:
    """The log likelihood without the cells that were not measured."""
    for site in list(log_likelihood.data_vars):
        known = kinds.get(f"{site}_kinds")
        values = log_likelihood[site]
        if known is None or not np.any(known == 1) or known.shape != values.shape[2:]:
            continue
        measured = np.flatnonzero(known != 1)
        cells = [str(list(map(int, np.unravel_index(place, known.shape)))) for place in measured]
        row = values.values.reshape(*values.shape[:2], -1)[..., measured]
        own = f"{site}_cell"
        log_likelihood = log_likelihood.drop_dims(values.dims[2:]).assign_coords({own: cells})
        log_likelihood[site] = (("chain", "draw", own), row, values.attrs)
    return log_likelihood


def _predicted(posterior, forecast):
    """Draws of the observed sites; in the chains of the fit where each draw gave one."""
    lead = posterior.unconstrained.shape[:2]
    whole = forecast.replicates == 1 and forecast.failures == 0 and forecast.asked == posterior.size
    return {
        name: quantity.draws.reshape(
            *(lead if whole else (1, len(quantity.draws))), *quantity.draws.shape[1:]
        )
        for name, quantity in forecast.observed.items()
    }


def _arrays(inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The numbers among the arguments of a model, those inside other containers by their path."""
    return dict(_leaves("", inputs))


def _leaves(path: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _leaves(f"{path}.{name}" if path else str(name), part)
    elif isinstance(value, tuple | list) and any(
        isinstance(part, np.ndarray | tuple | list) for part in value
    ):
        for i, part in enumerate(value):
            yield from _leaves(f"{path}.{i}", part)
    elif np.asarray(value).dtype.kind in "fiub":
        yield path, np.asarray(value)


def _dataset(values: Mapping[str, np.ndarray], tags: Mapping[str, Any], lead: int) -> xarray.Dataset:
    """Arrays with `lead` axes of chains and draws as a dataset with named axes and coordinates."""
    import xarray

    variables, coordinates = {}, {}
    for site, array in values.items():
        name = _flat(site, {*values, *variables})
        labels, unit, across, units = tags.get(site, ((), None, None, ()))
        own = [f"{name}_dim_{i}" for i in range(array.ndim - lead)]
        if across and own and len(units) == array.shape[lead]:
            own[0] = across
        attributes = {**({"units": unit} if unit else {}), **({"site": site} if name != site else {})}
        variables[name] = (["chain", "draw"][:lead] + own, array, attributes)
        for dimension, size in zip(own, array.shape[lead:], strict=True):
            coordinates[dimension] = np.arange(size)
        if own and len(labels) == array.shape[-1]:
            coordinates[own[-1]] = np.array(labels)
        if own and own[0] == across:
            coordinates[across] = np.array(units)
        for dimension, size in zip(("chain", "draw")[:lead], array.shape, strict=False):
            coordinates[dimension] = np.arange(size)
    return xarray.Dataset(variables, coordinates)


def _flat(site: str, taken: Set[str]) -> str:
    """A name without slashes, which part the groups of a tree, that no other quantity has."""
    if "/" not in site:
        return site
    name = site.replace("/", ".")
    while name in taken:
        name += "_"
    return name
