"""The tumours that the synthetic measurements are of: the truth that no model is told, and what is measured of it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

import bayeshybrid as bh
from case_studies.tumour_growth.space import SHELLS, centres, laplacian

DIFFUSION = 0.1  # mm^2/d
GROWTH = 0.5  # 1/d
NOISE = 0.03  # standard deviation of a measured density

# The drug reaches the tumour within days and is cleared over a week; its effect is a Hill function of what is there.
INTO, OUT = 0.8, 0.25  # 1/d
STRONGEST, HALF_EFFECT, HILL = 0.7, 4.0, 2.0  # 1/d, mg/kg, 1

SEEN_DOSES, BEYOND_DOSES = (0.0, 2.0, 5.0, 10.0), (15.0, 20.0)  # mg/kg
DAYS, OTHER_DAYS = tuple(np.arange(0.0, 12.1, 2.0)), tuple(np.arange(1.0, 12.0, 2.0))
RADII, OTHER_RADII = tuple(centres()[[0, 4, 8, 12]]), tuple(centres()[[2, 6, 10, 14]])  # mm

FINER = 5  # an odd number, so that each shell of a model has its centre in the middle of one of these
STEP = 0.01  # d
DRAWN_WITH, CHOSEN_WITH = 1, 2


def first_density(radius: Any) -> Any:
    """The share of the volume that tumour cells fill on day 0, imaged before the treatment and known to all models."""
    return 0.8 * np.exp(-((radius / 1.2) ** 2))


def effect(dose: Any, day: Any) -> Any:
    """The rate at which the drug kills, in 1/d, so many days after a dose in mg/kg."""
    there = dose * INTO / (INTO - OUT) * (np.exp(-OUT * day) - np.exp(-INTO * day))
    return STRONGEST * there**HILL / (HALF_EFFECT**HILL + there**HILL)


@lru_cache
def density(doses: tuple[float, ...], days: tuple[float, ...]) -> np.ndarray:
    """The true density at the centres of the models' shells, `(dose, day, shell)`.

    By the classical Runge-Kutta method on shells five times as thin, in code of its own, so that the truth does not
    share the models' errors.
    """
    shells = FINER * SHELLS
    spread, dose = DIFFUSION * laplacian(shells).T, np.array(doses)[:, None]

    def slope(t, u):
        return u @ spread + GROWTH * u * (1 - u) - effect(dose, t) * u

    u = np.tile(first_density(centres(shells)), (len(doses), 1))
    wanted = np.rint(np.array(days) / STEP).astype(int)
    kept = {0: u}
    for step in range(wanted.max()):
        t = step * STEP
        k1 = slope(t, u)
        k2 = slope(t + STEP / 2, u + STEP / 2 * k1)
        k3 = slope(t + STEP / 2, u + STEP / 2 * k2)
        k4 = slope(t + STEP, u + STEP * k3)
        u = u + STEP / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        kept[step + 1] = u
    return np.stack([kept[step] for step in wanted], axis=1)[..., FINER // 2 :: FINER]


def conditions(
    doses: tuple[float, ...], days: tuple[float, ...], radii: tuple[float, ...]
) -> dict[str, np.ndarray]:
    """Inputs of the models: one animal a dose, each measured on the same days at the same radii."""
    return {"dose": np.array(doses), "day": np.array(days), "radius": np.array(radii)}


def _measured(name, doses, days, radii, key) -> bh.Measurements:
    """Densities with noise, `(animal, day, radius)`, as the arguments of a model."""
    shells = np.searchsorted(centres(), np.array(radii) - 1e-9)
    exact = density(doses, days)[..., shells]
    values = exact + NOISE * np.random.default_rng(key).standard_normal(exact.shape)
    marked = {"values": values, "missing": np.zeros(values.shape, bool)}
    return bh.Measurements(
        entries=conditions(doses, days, radii) | {"density": marked},
        labels={"animal": tuple(f"{dose:g} mg/kg" for dose in doses)},
        units={"dose": "mg/kg", "day": "d", "radius": "mm", "density": "1"},
        rows={},
        line=f"{name}: {len(doses)} animals, {len(days)} days, {len(radii)} radii, {values.size} values",
        individual="animal",
    )


def training(share: float = 1.0) -> bh.Measurements:
    """What the models are fitted to, or a share of its cells; those of a smaller share are among those of a larger."""
    read = _measured("fitted", SEEN_DOSES, DAYS, RADII, DRAWN_WITH)
    cells = read["density"]
    order = np.random.default_rng(CHOSEN_WITH).permutation(cells["values"].size)
    kept = np.zeros(cells["values"].size, bool)
    kept[order[: round(share * kept.size)]] = True
    return read | {"density": cells | {"missing": ~kept.reshape(cells["values"].shape)}}


def held_out() -> bh.Measurements:
    """The same animals on other days at other radii."""
    return _measured("held out", SEEN_DOSES, OTHER_DAYS, OTHER_RADII, DRAWN_WITH + 10)


def beyond(radii: tuple[float, ...] = tuple(sorted(RADII + OTHER_RADII))) -> bh.Measurements:
    """Animals with doses larger than any that was fitted."""
    days = tuple(sorted(DAYS[1:] + OTHER_DAYS))
    return _measured("beyond", BEYOND_DOSES, days, radii, DRAWN_WITH + 20)
