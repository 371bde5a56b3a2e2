"""The table of a posterior: what is known of each number, how precisely, and how much the data moved it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshybrid import diagnostics
from bayeshybrid.faults import ModelError
from bayeshybrid.sites import Tag

if TYPE_CHECKING:
    from bayeshybrid.posterior import Posterior

__all__ = ["Row", "Summary", "entry_name", "names_of", "summarise"]


@dataclass(frozen=True)
class Row:
    """One number of the model.

    - `mean`, `sd`, `low`, `high`: of its posterior, the ends of the central interval.
    - `error`: Monte Carlo standard error of the mean.
    - `rhat`, `ess`: R-hat, and the smallest of bulk, tail and squares effective sample size.
    - `unit`: as the model stated it.
    - `contraction`: how much the data narrowed it; NaN for derived numbers and improper priors.
    - `prior_low`, `prior_high`: the same interval of its prior; NaN where `contraction` is.

    ```python
    from bayeshybrid.summary import Row
    row = Row("x", 1.0, 0.1, 0.8, 1.2, 0.01, 1.0, 900.0, "m", 0.99, -2.0, 2.0)
    assert row.low < row.mean < row.high
    ```
    """

    name: str
    mean: float
    sd: float
    low: float
    high: float
    error: float
    rhat: float
    ess: float
    unit: str
    contraction: float
    prior_low: float
    prior_high: float


@dataclass(frozen=True)
class Summary:
    """The rows of a summary; `summary["birth"]` is one of them, `str` the table.

    ```python
    from bayeshybrid.summary import Row, Summary
    row = Row("x", 1.0, 0.1, 0.8, 1.2, 0.01, 1.0, 900.0, "m", 0.99, -2.0, 2.0)
    assert "0.99" in str(Summary((row,), 0.9))
    ```
    """

    rows: tuple[Row, ...]
    mass: float

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no row {name!r}: there are {', '.join(row.name for row in self.rows)}")

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        ends = tuple(f"{100 * level:g} %" for level in ((1 - self.mass) / 2, (1 + self.mass) / 2))
        header = ("", "mean", "sd", *ends, "unit", "moved", f"prior {100 * self.mass:g} %", "R-hat", "ESS")
        body = [_cells(row) for row in self.rows]
        widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]
        return "\n".join(
            "  ".join(
                cell.ljust(w) if i in (0, 5) else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in [header, *body]
        )

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Name to the row's fields, for a file or a data frame."""
        return {row.name: {k: v for k, v in vars(row).items() if k != "name"} for row in self.rows}


def _cells(row):
    def number(value):
        return "" if np.isnan(value) else f"{value:.4g}"

    prior = "" if np.isnan(row.prior_low) else f"{row.prior_low:.3g} to {row.prior_high:.3g}"
    moved = "" if np.isnan(row.contraction) else f"{row.contraction:.2f}"
    rhat = "" if np.isnan(row.rhat) else f"{row.rhat:.3f}"
    ess = "" if np.isnan(row.ess) else f"{row.ess:.0f}"
    return (row.name, *map(number, (row.mean, row.sd, row.low, row.high)), row.unit, moved, prior, rhat, ess)


def summarise(posterior: Posterior, mass: float = 0.9, weights: bool = False) -> Summary:
    """The summary of a posterior; see `Posterior.summary`.

    **Raises:** `ModelError` for a mass that is not between 0 and 1.

    ```python
    from bayeshybrid.summary import summarise
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    posterior = bh.infer(model, {"y": np.array(2.0)}, bh.NUTS(draws=100, warmup=100), key=0)
    assert [row.name for row in summarise(posterior, mass=0.5)] == ["x"]
    ```
    """
    if not 0 < mass < 1:
        raise ModelError(f"summary(mass={mass}): write a share between 0 and 1, such as 0.9")
    levels = ((1 - mass) / 2, (1 + mass) / 2)
    tags = {site.name: site.tag for site in posterior.target.layout.latent}
    tags |= {site.name: site.tag for site in posterior.target.layout.deterministic if site.tag is not None}
    rows = []
    for name, samples in posterior.samples.items():
        tag = tags.get(name)
        if tag is not None and tag.kind == "weight" and not weights:
            continue
        told = posterior.contraction.get(name)
        prior = _prior_interval(posterior, name, told, levels)
        for index in np.ndindex(samples.shape[2:]):
            draws = np.asarray(samples[(..., *index)], float)
            with np.errstate(invalid="ignore", over="ignore"):  # a derived number may be infinite
                low, high = np.quantile(draws, levels)
                mean, sd = draws.mean(), draws.std()
            # Chains can be compared and draws counted only where they were drawn
            drawn = posterior.verdict.nature != "not draws of a posterior"
            ess = diagnostics.effective_sample_size(draws) if drawn else float("nan")
            rows.append(
                Row(
                    name=entry_name(name, index, *names_of(tag, posterior.target.labels)),
                    mean=float(mean),
                    sd=float(sd),
                    low=float(low),
                    high=float(high),
                    error=float(np.hypot(diagnostics.mean_error(draws), _mass_error(posterior, draws))),
                    rhat=diagnostics.rhat(draws) if drawn else float("nan"),
                    ess=ess,
                    unit=(tag.unit or "") if tag else "",
                    contraction=float("nan") if told is None else float(told[index]),
                    prior_low=float(prior[(0, *index)]),
                    prior_high=float(prior[(1, *index)]),
                )
            )
    return Summary(tuple(rows), mass)


def _mass_error(posterior, draws):
    """What the standard errors of the basins' masses add to that of a mean."""
    basin = posterior.statistics.get("basin")
    if basin is None:
        return 0.0
    errors = posterior.record["basins"]["mass_error"]
    found = [(draws[basin == b].mean(), error) for b, error in enumerate(errors) if np.any(basin == b)]
    return float(np.sqrt(sum(error**2 * (mean - draws.mean()) ** 2 for mean, error in found)))


def _prior_interval(posterior, name, told, levels):
    """Ends of the prior's interval; NaN where there is no contraction, because there the prior is not known.

    An improper prior is "drawn" from a stand-in, which must never reach a reader, and whatever depends on it too.
    """
    if told is None:
        return np.full((2, *posterior.samples[name].shape[2:]), np.nan)
    return np.where(np.isnan(told), np.nan, np.quantile(posterior.prior[name], levels, axis=0))


def names_of(
    tag: Tag | None, labels: Mapping[str, tuple[str, ...]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Labels along the last axis of a site, and words for its units along the first, such as "subject 3".

    `labels` are those of the data, by what they count: `Target.labels`.

    ```python
    from bayeshybrid.sites import Tag
    from bayeshybrid.summary import names_of
    assert names_of(Tag("k", across="subject"), {"subject": ("3", "7")}) == ((), ("subject 3", "subject 7"))
    ```
    """
    if tag is None:
        return (), ()
    return tag.labels, tuple(f"{tag.across} {name}" for name in labels.get(tag.across or "", ()))


def entry_name(
    name: str, index: tuple[int, ...], labels: tuple[str, ...] = (), units: tuple[str, ...] = ()
) -> str:
    """What one entry of a quantity is called: its name with its place in brackets.

    `labels` name the entries of the last axis, `units` those of the first.

    ```python
    from bayeshybrid.summary import entry_name
    assert entry_name("start", (1,), ("hare", "lynx")) == "start[lynx]"
    assert entry_name("clearance", (0,), units=("subject 3",)) == "clearance[subject 3]"
    ```
    """
    if not index:
        return name
    words = [*map(str, index[:-1]), labels[index[-1]] if labels else str(index[-1])]
    if units and index[0] < len(units) and not (labels and len(index) == 1):
        words[0] = units[index[0]]
    return f"{name}[{', '.join(words)}]"
