"""What the data could not tell: parameter by parameter, in combination, and against each network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bayeshybrid import configuration
from bayeshybrid.contraction import prior_scores
from bayeshybrid.faults import ModelError
from bayeshybrid.identifiability_words import blind_spots, in_words, table
from bayeshybrid.information import (
    NOTHING,
    Roots,
    absorbed,
    collinear_sets,
    fisher_roots,
    given_free,
    principal_directions,
    prior_units,
)
from bayeshybrid.keys import as_key
from bayeshybrid.parameter_verdict import (
    INTERVAL,
    PRIOR_END,
    Determined,
    Evidence,
    Thresholds,
    determined,
    has_separate_values,
    interval_shift,
)
from bayeshybrid.posterior import Posterior
from bayeshybrid.summary import entry_name, names_of

SCALES = (0.5, 1.0, 2.0)
SCORED_DRAWS = 1000
WORTH_NAMING = 0.2

__all__ = [
    "Absorption",
    "Collinear",
    "Combination",
    "Identifiability",
    "ParameterFinding",
    "Thresholds",
    "assess",
]


@dataclass(frozen=True)
class Absorption:
    """How much of what the data tell about a parameter a network could have taken: 0 nothing, 1 all.

    - `median`, `low`, `high`: over posterior draws, with the central 90 %, at the stated scale of the weights.
    - `scales`: the same three at half, once and twice that scale.

    NaN where the data tell less about the parameter than its prior even with the network known.

    ```python
    from bayeshybrid.identifiability import Absorption
    assert Absorption(0.8, 0.7, 0.9, {1.0: (0.8, 0.7, 0.9)}).median == 0.8
    ```
    """

    median: float
    low: float
    high: float
    scales: dict[float, tuple[float, float, float]]


@dataclass(frozen=True)
class ParameterFinding:
    """What the data determined of one number among the parameters.

    - `name`, `unit`: as in the summary.
    - `verdict`: one of `"identified"`, `"weakly identified"`, `"only in combination"`, `"several separate values"`,
      `"driven by the prior"`; `"not assessable"` where its prior is improper.
    - `contraction`, `score`: one minus variance, and mean, of the posterior on the prior's normal scores.
    - `conflict`: whether `score` lies beyond the threshold: the data put it where the prior held almost nothing.
    - `interval`, `prior_interval`: central 90 % after and before the data, in `unit`.
    - `alone`: what the contraction would be, locally, if the other parameters were known, networks free.
    - `shift`: how far the interval moves under a prior twice as wide, as a share of its width.
    - `absorption`: network name to `Absorption`.
    - `kind`: `"parameter"`, or `"population"`, `"spread"`, `"offset"` where it is pooled across units.

    ```python
    from bayeshybrid.identifiability import ParameterFinding
    found = ParameterFinding("x", "m", "identified", 0.99, 0.3, False, (1.0, 1.2), (0.0, 3.0), 0.99, 0.0, {})
    assert "identified" in str(found)
    ```
    """

    name: str
    unit: str
    verdict: Determined
    contraction: float
    score: float
    conflict: bool
    interval: tuple[float, float]
    prior_interval: tuple[float, float]
    alone: float
    shift: float
    absorption: Mapping[str, Absorption]
    kind: str = "parameter"

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.name}: {self.verdict}, {low:.3g} to {high:.3g} {self.unit}".rstrip()


class Collinear(NamedTuple):
    """Parameters whose effects on the data can undo each other.

    - `names`; `index`: the collinearity index, infinite where one effect is exactly made of the others.
    - `resolved`: whether the data are precise enough to tell them apart all the same.

    ```python
    from bayeshybrid.identifiability import Collinear
    assert str(Collinear(("a", "b"), 40.0, False)).startswith("a, b")
    ```
    """

    names: tuple[str, ...]
    index: float
    resolved: bool

    def __str__(self) -> str:
        said = "told apart all the same" if self.resolved else "not told apart"
        return f"{', '.join(self.names)} (collinearity index {min(self.index, 1e6):.3g}, {said})"


class Combination(NamedTuple):
    """A combination of parameters and what the data tell about it, in units of the prior.

    - `eigenvalue`: of the Fisher information: above 1 the data beat the prior (*stiff*), below 1 not (*sloppy*).
    - `weights`: parameter to its weight, in standard deviations of its prior, positive quantities on the log scale.

    ```python
    from bayeshybrid.identifiability import Combination
    assert str(Combination(0.0, {"a": 0.7, "b": -0.7})) == "0.70 a - 0.70 b: hardly told (0 times the prior)"
    ```
    """

    eigenvalue: float
    weights: dict[str, float]

    def __str__(self) -> str:
        named = {name: w for name, w in self.weights.items() if abs(w) >= WORTH_NAMING} or self.weights
        ordered = sorted(named.items(), key=lambda item: -round(abs(item[1]), 2))
        terms = [f"{'-' if w < 0 else '+'} {abs(w):.2f} {name}" for name, w in ordered]
        told = "told" if self.eigenvalue >= 1 else "hardly told"
        return f"{' '.join(terms).removeprefix('+ ')}: {told} ({_rounded(self.eigenvalue)} times the prior)"


@dataclass(frozen=True)
class Identifiability:
    """What the data told, and what they could not; see `assess`.

    - `parameters`: one `ParameterFinding` for each scalar; `found["birth"]` is one of them.
    - `spectrum`: eigenvalues of the Fisher information in units of the prior, descending, networks free (median over
      draws); `combinations`: those of the most typical draw as `Combination`s, `directions` the same in words.
    - `collinear`: sets of parameters whose effects can undo each other.
    - `absorption`: `(parameter, network)` to the median absorption at half, once and twice the scale of the weights.
    - `words`: what a layperson should know; `blind`: what this cannot see.
    - `thresholds`: where the words begin.

    ```python
    from bayeshybrid.identifiability import Identifiability, Thresholds
    found = Identifiability((), np.zeros(0), (), (), {}, ("Nothing is known.",), (), Thresholds(), 0)
    assert "Nothing is known." in str(found) and found.directions == ()
    ```
    """

    parameters: tuple[ParameterFinding, ...]
    spectrum: np.ndarray
    combinations: tuple[Combination, ...]
    collinear: tuple[Collinear, ...]
    absorption: dict[tuple[str, str], dict[float, float]]
    words: tuple[str, ...]
    blind: tuple[str, ...]
    thresholds: Thresholds
    draws: int

    @property
    def directions(self) -> tuple[str, ...]:
        """The combinations in words, best told first."""
        return tuple(map(str, self.combinations))

    def __getitem__(self, name: str) -> ParameterFinding:
        for found in self.parameters:
            if found.name == name:
                return found
        raise KeyError(f"no parameter {name!r}: there are {', '.join(p.name for p in self.parameters)}")

    def __str__(self) -> str:
        return table(self)


def assess(posterior: Posterior, *, draws: int = 32, thresholds: Thresholds | None = None) -> Identifiability:
    """What the data determined of each parameter, which combinations they tell, and what a network may have taken.

    Contraction comes from all draws; Fisher information, collinearity and absorption are computed at some of them,
    in unconstrained coordinates, in units of the prior (covariance of 2,048 prior draws, correlations too small to
    be told from chance set to zero, weights of networks taken as uncorrelated).

    **Arguments:**

    - `posterior`: what `infer` returned.
    - `draws`: at how many posterior draws the local figures are computed, evenly spaced.
    - `thresholds`: where one word ends and the next begins.

    **Returns:** an `Identifiability`. Where a prior is improper, spectrum, collinearity and absorption are not
    assessable: they are measured in units of it.

    **Raises:** `ModelError` for fewer than one draw.

    ```python
    def model(y=None):
        a, b = (bh.parameter(name, dist.Normal(0.0, 1.0), unit="m") for name in "ab")
        bh.observe("y", dist.Normal(a + b, 0.1), obs=y)
    posterior = bh.infer(model, {"y": np.array(0.4)}, bh.NUTS(draws=250, warmup=250), key=0)
    found = bh.identifiability.assess(posterior)
    assert found["a"].verdict == "only in combination" and found.collinear[0].names == ("a", "b")
    ```
    """
    if draws < 1:
        raise ModelError(f"identifiability.assess(draws={draws}): at least one draw is needed")
    limits = Thresholds() if thresholds is None else thresholds
    flat = posterior.unconstrained.reshape(-1, posterior.unconstrained.shape[-1])
    with configuration.scope():
        prior = prior_units(posterior.target, as_key(posterior.key))
        local = _local(fisher_roots(posterior.target, _spaced(flat, draws)), prior, limits)
        findings = _findings(posterior, flat, prior, local, limits)
    medians = {
        (found.name, network): {scale: told[0] for scale, told in absorption.scales.items()}
        for found in findings
        for network, absorption in found.absorption.items()
    }
    return Identifiability(
        parameters=findings,
        spectrum=local.spectrum,
        combinations=local.combinations,
        collinear=local.collinear,
        absorption=medians,
        words=in_words(posterior, findings, local, prior, limits),
        blind=blind_spots(posterior.target, local.roots),
        thresholds=limits,
        draws=len(local.roots.root),
    )


class Local(NamedTuple):
    """What was found at single draws: see `Identifiability`; `alone` and `absorption` by parameter."""

    roots: Roots
    spectrum: np.ndarray
    combinations: tuple[Combination, ...]
    collinear: tuple[Collinear, ...]
    alone: dict[str, float]
    absorption: dict[str, dict[str, Absorption]]


def _spaced(rows, count):
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]


def _local(roots, prior, limits):
    """Spectrum, collinear sets and absorption in units of the prior; empty where it is improper."""
    count = len(prior.places)
    if not prior.proper or not count or not len(roots.root):
        return Local(roots, np.full(count, np.nan), (), (), {}, {})
    told = roots.root[:, :, prior.places]
    weights = {name: roots.root[:, :, where] * sds for name, (where, sds) in prior.networks.items()}
    every = np.concatenate([told[:, :, :0], *weights.values()], axis=2)
    freed = np.stack([given_free(a, w) for a, w in zip(told, every, strict=True)])
    lengths = np.median(np.sum((freed * prior.sds) ** 2, axis=1), axis=0)
    spectrum, combinations = _spectrum(freed, prior)
    return Local(
        roots=roots,
        spectrum=spectrum,
        combinations=combinations,
        collinear=_collinear(told, every, prior, limits),
        alone=dict(zip(prior.names, (lengths / (1.0 + lengths)).tolist(), strict=True)),
        absorption=_absorption(told, weights, prior),
    )


def _spectrum(freed, prior):
    """Median eigenvalues, and the combinations of the draw whose information is nearest to the others'."""
    inside = freed @ prior.factor
    information = np.swapaxes(inside, 1, 2) @ inside
    values, vectors = np.linalg.eigh(information)
    logs = (vectors * np.log1p(np.maximum(values, 0.0))[:, None]) @ np.swapaxes(vectors, 1, 2)
    typical = int(np.argmin(np.sum((logs - logs.mean(axis=0)) ** 2, axis=(1, 2))))
    sizes, directions = principal_directions(information[typical])
    # From whitened coordinates to standard deviations of each parameter's own prior
    loads = (prior.factor / np.where(prior.sds > 0, prior.sds, 1.0)[:, None]) @ directions
    loads = loads / np.linalg.norm(loads, axis=0)
    first = (np.abs(loads) > 0.99 * np.abs(loads).max(axis=0)).argmax(axis=0)
    loads = loads * np.where(loads[first, np.arange(len(sizes))] < 0, -1.0, 1.0)
    combinations = tuple(
        Combination(float(size), dict(zip(prior.names, load.tolist(), strict=True)))
        for size, load in zip(sizes, loads.T, strict=True)
    )
    return np.maximum(np.median(values, axis=0)[::-1], 0.0), combinations


def _collinear(told, every, prior, limits):
    """Sets among all parameters but the offsets of single units, which are free as the networks are."""
    offset = np.array([kind == "offset" for kind in prior.kinds])
    free = np.concatenate([every, (told * prior.sds)[:, :, offset]], axis=2)
    columns = np.stack(
        [given_free(a, w) for a, w in zip((told * prior.sds)[:, :, ~offset], free, strict=True)]
    )
    names = [name for name, own in zip(prior.names, offset, strict=True) if not own]
    return tuple(
        Collinear(tuple(names[i] for i in chosen), index, weakest > 1.0)
        for chosen, index, weakest in collinear_sets(columns, limits.collinear)
    )


def _absorption(told, weights, prior):
    """Parameter to network to `Absorption`: each network alone, the others unknown under their priors."""
    found: dict[str, dict[str, Absorption]] = {name: {} for name in prior.names}
    for network, own in weights.items():
        others = np.concatenate(
            [told[:, :, :0], *(other for name, other in weights.items() if name != network)], axis=2
        )
        shares = {
            scale: np.stack(
                [absorbed(a, prior.factor, o, scale * w) for a, o, w in zip(told, others, own, strict=True)]
            )
            for scale in SCALES
        }
        for i, name in enumerate(prior.names):
            scales = {scale: _middle(share[:, i]) for scale, share in shares.items()}
            median, low, high = scales[1.0]
            found[name][network] = Absorption(median, low, high, scales)
    return found


def _middle(shares) -> tuple[float, float, float]:
    """Median and central 90 % over draws; NaN where fewer than half of them could be assessed."""
    told = shares[np.isfinite(shares)]
    if 2 * len(told) < len(shares):
        return float("nan"), float("nan"), float("nan")
    median, low, high = np.quantile(told, (0.5, *INTERVAL))
    return float(median), float(low), float(high)


def _findings(posterior, flat, prior, local, limits):
    drawn = posterior.prior if prior.proper else None
    scores = prior_scores(posterior.target, _spaced(flat, SCORED_DRAWS), drawn)
    basins = posterior.statistics.get("basin")
    basins = None if basins is None else np.ravel(basins)
    together = {name for found in local.collinear if not found.resolved for name in found.names}
    findings = []
    for site in posterior.target.layout.latent:
        if site.tag.kind == "weight":
            continue
        values, told = posterior[site.name], posterior.contraction[site.name]
        place = flat[:, site.start : site.stop].reshape(-1, *site.unconstrained_shape)
        before = np.quantile(posterior.prior[site.name], INTERVAL, axis=0)
        for index in np.ndindex(site.shape):
            at = (slice(None), *index)
            name = entry_name(site.name, index, *names_of(site.tag, posterior.target.labels))
            z = scores[site.name][at]
            contraction, alone = float(told[index]), local.alone.get(name, float("nan"))
            separate = place[at] if site.shape == site.unconstrained_shape else values[at]
            evidence = Evidence(
                contraction=contraction,
                closed=bool(np.max(np.abs(np.quantile(z, INTERVAL))) < PRIOR_END),
                shift=interval_shift(z),
                alone=alone,
                together=name in together,
                separate=has_separate_values(separate, basins, limits.valley),
            )
            known = not np.isnan(contraction)
            findings.append(
                ParameterFinding(
                    name=name,
                    unit=site.tag.unit or "",
                    verdict=determined(evidence, limits),
                    contraction=contraction,
                    score=float(np.mean(z)),
                    conflict=bool(abs(np.mean(z)) > limits.conflict),
                    interval=_pair(np.quantile(values[at], INTERVAL)),
                    prior_interval=_pair(before[at]) if known else (float("nan"), float("nan")),
                    alone=alone,
                    shift=evidence.shift,
                    absorption=local.absorption.get(name, {}),
                    kind=site.tag.kind,
                )
            )
    return tuple(findings)


def _rounded(size):
    return f"{size:.2g}" if size >= NOTHING else "0"


def _pair(ends):
    return float(ends[0]), float(ends[1])
