"""Five models of the same treated tumours: fixed science, free science, the hybrid, a network, an informed network.

All take `dose` `(animal,)`, `day` `(day,)` and `radius` `(radius,)`, and say where a measured density would fall,
`(animal, day, radius)`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import bayeshybrid as bh
from case_studies.tumour_growth.space import RADIUS, at, centres, laplacian
from case_studies.tumour_growth.truth import BEYOND_DOSES, DAYS, first_density

# What fixed science takes from elsewhere. Gliomas: 0.01 to 1 mm^2/d and 0.01 to 0.5 1/d in people, faster in rodents.
LITERATURE = {"diffusion": 0.15, "growth": 0.4, "kill": 0.05}  # mm^2/d, 1/d, 1/d per mg/kg

# Where the effect is told, beside the truth
TOLD_DOSES, TOLD_DAYS = (2.0, 5.0, 10.0, 15.0, 20.0), (1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0)

# The equation as a soft constraint: the mean squared residual at so many points, and that of the first density, count
# as so many measurements with these standard deviations.
POINTS, WEIGHT, RESIDUAL_SD, FIRST_SD = 200, 100.0, 0.05, 0.03  # 1, 1, 1/d, 1

# At 1e-4 the states are good, but steps at the border of stability make slopes by the diffusion 15 % wrong.
TOLERANCE = 1e-6

# What networks are asked, log(1 + dose), day and radius, and how far it usually is from there
MIDDLE, USUAL = np.array([1.5, 6.0, 2.0]), np.array([1.0, 4.0, 1.5])


def transport() -> Any:
    """How cells spread and multiply, with priors that hold what was published for many tumours."""
    return bh.parameters(
        "cells",
        diffusion=bh.Parameter(bh.prior_interval(0.01, 1.0), unit="mm2/d"),
        growth=bh.Parameter(bh.prior_interval(0.1, 1.5), unit="1/d"),
    )


def balance(u, diffusion, growth):
    """What an untreated density changes by, in 1/d: diffusion between shells, logistic growth within each."""
    return diffusion * (laplacian() @ u) + growth * u * (1.0 - u)


def effect(net, dose, day):
    """The rate at which the drug kills: a network that rises with the dose, less what it says without any.

    So it is never negative, and nothing without a dose.
    """
    dosed = jnp.stack([jnp.log1p(dose), day])
    said = net(jnp.stack([dosed, jnp.array([0.0, 1.0]) * dosed]))[:, 0]
    return said[0] - said[1]


def effect_network() -> Any:
    net = bh.MonotoneMLP(2, 1, rises=(0,), width=5, depth=1)
    return bh.network("effect", net, scale=1.0, unit="1/d", center=MIDDLE[:2], spread=USUAL[:2])


def tell_effect(net) -> None:
    """The effect at the doses and days of the table, `(dose, day)`."""
    over_days = jax.vmap(lambda dose, day: effect(net, dose, day), (None, 0))
    over_doses = jax.vmap(over_days, (0, None))
    numpyro.deterministic("effect_told", over_doses(jnp.array(TOLD_DOSES), jnp.array(TOLD_DAYS)))


def _observe(expected, density):
    noise = bh.parameter("noise", bh.prior_interval(0.01, 0.1), unit="1", group="noise")
    bh.observe("density", dist.Normal(expected, noise), obs=density, unit="1", across="animal")


def solved(field, args, mapped, dose, day, radius, tolerance=TOLERANCE):
    """The densities that an equation says, `(animal, day, radius)`; the animals differ by their dose alone."""
    path = bh.solve_ode(
        "path",
        field,
        first_density(centres()),
        day,
        t0=0.0,
        args=(args, dose),
        in_axes=(None, None, (mapped, 0)),
        across="animal",
        unit="1",
        rtol=tolerance,
        atol=tolerance,
    )
    return path.ys @ at(radius)


def fixed_science(dose, radius, day, density=None):
    """The equation with numbers from elsewhere, and a kill in proportion to the dose, the same on all days."""

    def field(t, u, args):
        known, dose = args
        return balance(u, known["diffusion"], known["growth"]) - known["kill"] * dose * u

    _observe(solved(field, LITERATURE, None, dose, day, radius), density)


def free_science(dose, radius, day, density=None):
    """The same form with all its numbers unknown."""
    cells = transport()
    kill = bh.parameter("kill", bh.prior_interval(0.005, 0.5), unit="1/d per mg/kg")

    def field(t, u, args):
        (cells, kill), dose = args
        return balance(u, cells.diffusion, cells.growth) - kill * dose * u

    _observe(solved(field, (cells, kill), None, dose, day, radius), density)


def hybrid(dose, radius, day, density=None):
    """The equation, with a network for the effect of the drug over dose and time."""
    cells, learned = transport(), effect_network()

    def known(t, u, args):
        (cells, _), _ = args
        return balance(u, cells.diffusion, cells.growth)

    def killed(t, u, args):
        (_, learned), dose = args
        return -effect(learned, dose, t) * u

    change = bh.residual("change", known, killed, unit="1/d")
    _observe(solved(change, (cells, learned), None, dose, day, radius), density)
    tell_effect(learned)


def density_network() -> Any:
    net = bh.MLP(3, 1, width=8, depth=2)
    return bh.network("tumour", net, scale=0.5, unit="1", bounds=(0.0, 1.0), center=MIDDLE, spread=USUAL)


def everywhere(net, dose, day, radius):
    """What a network says at all combinations, `(animal, day, radius)`."""
    grid = jnp.meshgrid(jnp.log1p(dose), day, radius, indexing="ij")
    return net(jnp.stack(grid, axis=-1))[..., 0]


def network_only(dose, radius, day, density=None):
    """A network of dose, day and radius, without any equation."""
    _observe(everywhere(density_network(), dose, day, radius), density)


def informed_network(dose, radius, day, density=None):
    """The same network, which is charged for how far it is from the equation, on average over points everywhere.

    The points go up to the largest dose that is asked about: the equation can be asked for where nothing is measured.
    """
    cells, learned, net = transport(), effect_network(), density_network()
    points = collocation()
    residual = jax.vmap(lambda point: imbalance(net, learned, cells, point))(points)
    first = net(points * jnp.array([[1.0, 0.0, 1.0]]))[:, 0] - first_density(points[:, 2])
    charge = jnp.mean((residual / RESIDUAL_SD) ** 2) + jnp.mean((first / FIRST_SD) ** 2)
    numpyro.factor("physics", -0.5 * WEIGHT * charge)
    _observe(everywhere(net, dose, day, radius), density)
    tell_effect(learned)


def collocation() -> np.ndarray:
    """Points at which the equation is asked for: log(1 + dose), day, radius, `(point, 3)`."""
    ends = [np.log1p(max(BEYOND_DOSES)), max(DAYS), RADIUS]
    return np.random.default_rng(0).uniform(0.0, ends, (POINTS, 3))


def imbalance(net, learned, cells, point):
    """`u_t - D (u_rr + 2 u_r / r) - rho u (1 - u) + E u` of a network at a point, in 1/d."""

    def u(day, radius):
        return net(jnp.stack([point[0], day, radius]))[0]

    day, radius = point[1], point[2]
    here, slope = jax.value_and_grad(u, (0, 1))(day, radius)
    curved = jax.grad(jax.grad(u, 1), 1)(day, radius)
    spreads = cells.diffusion * (curved + 2.0 * slope[1] / radius)
    killed = effect(learned, jnp.expm1(point[0]), day) * here
    return slope[0] - spreads - cells.growth * here * (1.0 - here) + killed


MODELS: dict[str, Any] = {
    "fixed science": fixed_science,
    "free science": free_science,
    "network": network_only,
    "informed network": informed_network,
    "hybrid": hybrid,
}
