"""What others found in the same record, beside this fit: typical values per kg, and how people differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import bayeshybrid as bh

MEAN_WEIGHT = 69.58  # kg, of the twelve; for analyses whose doses are in mg
QUANTITIES = {
    "absorption": "1/h",
    "clearance": "L/h/kg",
    "volume": "L/kg",
    "elimination": "1/h",
    "spread of absorption": "1",
    "spread of clearance": "1",
    "spread of volume": "1",
    "noise, additive": "mg/L",
    "noise, proportional": "1",
}


@dataclass(frozen=True)
class Analysis:
    """Estimates of one published analysis by the names of `QUANTITIES`; `remark` says where its model differs."""

    name: str
    source: str
    remark: str
    values: dict[str, float]


def _of_rates(lke, lka, lcl, spreads, residual):
    """From logarithms of elimination, absorption and clearance, as `SSfol` of R has them."""
    ka, ke, cl = np.exp([lka, lke, lcl])
    told = {"absorption": ka, "clearance": cl, "volume": cl / ke, "elimination": ke}
    return {**told, **spreads, "noise, additive": residual}


def _spread(cv):
    """The standard deviation of the logarithm, from a coefficient of variation."""
    return float(np.sqrt(np.log1p(cv**2)))


PUBLISHED = (
    Analysis(
        "nlme, correlated",
        "Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, chapter 8, fm1Theo.nlme",
        "all three rates differ between subjects, correlated (elimination and clearance 0.995)",
        _of_rates(
            -2.4327,
            0.4514,
            -3.2145,
            # log volume is log clearance minus log elimination
            {
                "spread of absorption": 0.638,
                "spread of clearance": 0.251,
                "spread of volume": float(np.sqrt(0.2512**2 + 0.1310**2 - 2 * 0.995 * 0.2512 * 0.1310)),
            },
            0.682,
        ),
    ),
    Analysis(
        "nlme, independent",
        "the same, fm2Theo.nlme",
        "elimination does not differ between subjects, so that volume differs as clearance does",
        _of_rates(
            -2.4547,
            0.4658,
            -3.2272,
            {"spread of absorption": 0.644, "spread of clearance": 0.167, "spread of volume": 0.167},
            0.709,
        ),
    ),
    Analysis(
        "nlmixr2, FOCEi",
        "nlmixr2 documentation, Running PK models with nlmixr (doses in mg; here divided by 69.6 kg)",
        "clearance and volume of the whole body, not per kg",
        {
            "absorption": 1.59,
            "clearance": 2.75 / MEAN_WEIGHT,
            "volume": 31.8 / MEAN_WEIGHT,
            "elimination": 2.75 / 31.8,
            "spread of absorption": _spread(0.706),
            "spread of clearance": _spread(0.268),
            "spread of volume": _spread(0.139),
            "noise, additive": 0.693,
        },
    ),
    Analysis(
        "nlme, this model",
        "run for this page with R 4.2.2 and nlme 3.1-162, by maximum likelihood",
        "the standard deviations of the two kinds of noise add up, here their squares do",
        {
            "absorption": np.exp(0.3566),
            "clearance": np.exp(-3.2178),
            "volume": np.exp(-0.7907),
            "elimination": np.exp(-3.2178 + 0.7907),
            "spread of absorption": 0.620,
            "spread of clearance": 0.261,
            "spread of volume": 0.127,
            "noise, additive": 2.6206 * 0.09508,
            "noise, proportional": 0.0951,
        },
    ),
)


def own(posterior: bh.Posterior) -> dict[str, np.ndarray]:
    """The draws of this fit by the same names; a noise that the model does not have is left out."""
    typical = {name: posterior[f"{name}_population"] for name in ("absorption", "clearance", "volume")}
    found = {**typical, "elimination": typical["clearance"] / typical["volume"]}
    found |= {f"spread of {name}": posterior[f"{name}_spread"] for name in typical}
    return found | {
        f"noise, {name}": posterior[name]
        for name in ("additive", "proportional")
        if name in posterior.samples
    }


def rows(posterior: bh.Posterior) -> list[dict[str, Any]]:
    """One row a quantity: median and central 90 % of this fit, and what each published analysis has."""
    found = []
    for name, draws in own(posterior).items():
        low, middle, high = np.quantile(draws, [0.05, 0.5, 0.95])
        theirs = {one.name: one.values.get(name) for one in PUBLISHED}
        found.append(
            {
                "quantity": name,
                "unit": QUANTITIES[name],
                "median": float(middle),
                "interval": [float(low), float(high)],
                "published": theirs,
            }
        )
    return found


def in_words(table: list[dict[str, Any]]) -> str:
    """The comparison as a table, with the sources below."""
    titles = [one.name for one in PUBLISHED]
    lines = [
        f"{'':<22}{'unit':<8}{'here: median':>13}{'central 90 %':>20}" + "".join(f"{t:>20}" for t in titles)
    ]
    for row in table:
        low, high = row["interval"]
        theirs = [row["published"][title] for title in titles]
        lines.append(
            f"{row['quantity']:<22}{row['unit']:<8}{row['median']:>13.3g}{f'{low:.3g} to {high:.3g}':>20}"
            + "".join(f"{'' if value is None else f'{value:.3g}':>20}" for value in theirs)
        )
    lines += [f"{one.name}: {one.source}; {one.remark}" for one in PUBLISHED]
    return "\n".join(lines)
