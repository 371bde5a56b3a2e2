"""The one seam between a numpyro model and everything that finds or reads its posterior.

`Target(model, data)` is the model as a density over one flat unconstrained vector. The arrays of the data are
its leaves, so that one compiled program serves every data set of the same shape.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
from numpyro.distributions import Distribution, biject_to

from bayeshybrid.data import check_arguments, conversions, precision_losses
from bayeshybrid.faults import ModelError
from bayeshybrid.layout import Fixed, Layout, read_layout, split_arguments
from bayeshybrid.moments import Moments, conditional_moments
from bayeshybrid.observation import Measured
from bayeshybrid.tracing import Run, place_constrained, place_unconstrained, run

__all__ = ["Outcome", "Target", "guarded", "labels_of", "log_prob"]


class Outcome(NamedTuple):
    """What a model gives for one set of unknowns and given inputs.

    - `moments`: observed site to its conditional mean, variance and class probabilities.
    - `observed`: observed site to one draw of it.
    - `latent`: unknowns, derived quantities and solutions by name.
    - `log_likelihood`: observed site to its elementwise log probability, where observations were given.
    - `reasons`: solve name to its reason codes, 0 where it succeeded.
    - `visited`: network name to what it was asked and answered, where wanted.
    """

    moments: dict[str, Moments]
    observed: dict[str, Array]
    latent: dict[str, Array]
    log_likelihood: dict[str, Array]
    reasons: dict[str, Array]
    visited: dict[str, Any]


class Target(eqx.Module):
    """A model and its data as a density over one flat vector `q` of unconstrained numbers.

    **Arguments:**

    - `model`: a numpyro model; each observation is an argument that defaults to `None`.
    - `data`: argument names to arrays (or anything else that the model takes).

    `q` is ordered by group, and each group is a slice. Derivatives are with respect to `q` alone.

    **Raises:** `ModelError` for a discrete unknown, a repeated name, a Python `if` on an unknown, a solve inside
    a mapped function; `DataError` for names or values that the model cannot take.

    ```python
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    target = bh.Target(model, {"y": np.array(1.0)})
    assert jnp.allclose(target.log_density(jnp.zeros(1)), -jnp.log(2 * jnp.pi) - 0.5)
    ```
    """

    data: dict[str, Any]
    scalings: dict[str, tuple[Any, Any]]
    grids: dict[str, Any]
    model: Callable[..., Any] = eqx.field(static=True)
    layout: Layout = eqx.field(static=True)
    fixed: tuple[tuple[str, Fixed], ...] = eqx.field(static=True)
    notes: tuple[str, ...] = eqx.field(static=True)
    losses: tuple[str, ...] = eqx.field(static=True)
    named: tuple[tuple[str, tuple[str, ...]], ...] = eqx.field(static=True)
    finer: float = eqx.field(static=True)

    def __init__(self, model: Callable[..., Any], data: Mapping[str, Any]) -> None:
        checked = check_arguments(model, data)
        arrays, fixed, compiled_in = split_arguments(model, checked)
        self.model = model
        self.data = arrays
        self.fixed = tuple(sorted(fixed.items()))
        self.losses = precision_losses(data)
        self.scalings = {}
        self.grids = {}
        self.named = labels_of(data)
        self.finer = 1.0
        self.layout = read_layout(model, arrays, fixed)
        self.notes = conversions(data) + compiled_in + self.layout.remarks

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """The names of the units that the data count, by what they are: `{"subject": ("1", "2")}`."""
        return dict(self.named)

    # The density

    def log_prior(self, q: Float[Array, " size"]) -> Float[Array, ""]:
        """Log prior density of `q`, its transforms' Jacobian and all soft constraints included."""
        return self.densities(self.run_at(q, solved=self.layout.prior_solves))[0]

    def log_likelihood(self, q: Float[Array, " size"]) -> Float[Array, ""]:
        """Log probability of the observations at `q`; `-inf` where a solve failed."""
        return self.densities(self.run_at(q))[1]

    def log_density(self, q: Float[Array, " size"], key: Any = None) -> Float[Array, ""]:
        """Log prior plus log likelihood: finite, or `-inf` with gradient zero.

        With a `key`, an unbiased estimate: subsampled plates draw their rows. Without one every plate has
        all of its rows.
        """
        return guarded(self, q, key)

    def pointwise(self, q: Float[Array, " size"]) -> dict[str, Array]:
        """Log probability of each observation at `q`, by observed site and in its shape, without plate scale."""
        found = self.run_at(q)
        return {site.name: log_prob(found.sites[site.name]) for site in self.layout.observed}

    def explain(self, q: Float[Array, " size"]) -> dict[str, dict[str, Any]]:
        """Why `q` has the density that it has: for points known to have failed, never inside a sampler.

        **Returns:** by solve `reasons` and `steps` (per unit where mapped), `start` (whether the field is finite at
        the start) and `initial` (state, time and field there); by site `finite` (whether its log probability
        is); by observed site `data`, `support` (elementwise, whether the observation lies where its distribution
        has mass) and `kinds` (as `Measured.kinds`).
        """
        return self.explanation(self.run_at(q))

    def explanation(self, found: Run) -> dict[str, dict[str, Any]]:
        """What `explain` tells, read off a run that was made."""
        fixed = (*self.layout.observed, *self.layout.pinned)
        observed = {site.name: found.sites[site.name] for site in fixed}
        return {
            "reasons": {name: m["value"].reason for name, m in found.solutions.items()},
            "steps": {name: m["value"].steps for name, m in found.solutions.items()},
            "start": {
                name: jnp.all(jnp.isfinite(m["initial"]()["slope"])) for name, m in found.solutions.items()
            },
            "finite": {
                name: jnp.all(jnp.isfinite(log_prob(site)))
                for name, site in found.sites.items()
                if site["type"] == "sample"
            },
            "initial": {
                name: {"times": m["times"], **jax.tree.map(jnp.atleast_1d, m["initial"]())}
                for name, m in found.solutions.items()
            },
            "data": {name: site["value"] for name, site in observed.items()},
            "support": {name: _in_support(site) for name, site in observed.items()},
            "kinds": {name: _kinds(site) for name, site in observed.items()},
        }

    # The unknowns

    def constrain(self, q: Float[Array, " size"]) -> dict[str, Array]:
        """The unknowns and the derived quantities at `q`, by name, as the model sees them."""
        found = self.run_at(q)
        wanted = [site.name for site in self.layout.latent + self.layout.deterministic]
        return {name: found.sites[name]["value"] for name in wanted}

    def unconstrain(self, values: Mapping[str, Any]) -> Float[Array, " size"]:
        """The flat vector at which the unknowns have these values."""
        missing = [site.name for site in self.layout.latent if site.name not in values]
        if missing:
            raise ModelError(f"no value for {', '.join(map(repr, missing))}: every unknown needs one")
        found = self._run(place_constrained(values))
        pieces = [self._piece(found.sites[site.name]) for site in self.layout.latent]
        return jnp.concatenate([jnp.ravel(piece) for piece in pieces]) if pieces else jnp.zeros(0)

    def draw_prior(self, key: Any) -> tuple[Float[Array, " size"], Bool[Array, ""]]:
        """One draw from the prior as a flat vector, and whether every prior could be drawn from.

        An improper prior cannot; its sites are drawn uniformly from -2 to 2 on the unconstrained scale, where
        Stan and numpyro start too.
        """
        proper = True
        keys = iter(jax.random.split(key, len(self.layout.latent) + 1))

        def place(site):
            nonlocal proper
            if site["type"] != "sample" or site.get("is_observed"):
                return None
            if type(_unwrapped(site["fn"])).__name__ != "ImproperUniform":
                return None
            proper = False
            transform = biject_to(site["fn"].support)
            shape = transform.inverse_shape(site["fn"].shape())
            return transform(jax.random.uniform(next(keys), shape, minval=-2.0, maxval=2.0))

        found = self._run(place, key=next(keys), solved=self.layout.prior_solves)
        pieces = [jnp.ravel(self._piece(found.sites[site.name])) for site in self.layout.latent]
        return (jnp.concatenate(pieces) if pieces else jnp.zeros(0)), jnp.asarray(proper)

    # Predictions

    def observations(
        self,
        q: Float[Array, " size"],
        inputs: Mapping[str, Any] | None = None,
        key: Any = None,
    ) -> Outcome:
        """What the model expects to be observed at `q`: moments, log probability of the data, draws.

        **Arguments:**

        - `q`: the unknowns.
        - `inputs`: the model's arguments, with or without observations; by default the data.
        - `key`: a JAX key for the draws.
        """
        values = {site.name: self.constrain(q)[site.name] for site in self.layout.latent}
        return self.outcome(values, self.arguments() if inputs is None else inputs, key)

    def outcome(
        self,
        carried: Mapping[str, Any],
        inputs: Mapping[str, Any],
        key: Any = None,
        visit: bool = False,
        remembers: tuple[str, ...] = (),
    ) -> Outcome:
        """Run the model on `inputs` with some unknowns carried and all others drawn from their priors.

        A carried value that is smaller than its site fills the beginning, and the rest is drawn. Observed sites in
        `remembers` are conditioned on their data.
        """
        key = jax.random.key(0) if key is None else key
        bare = {k: v for k, v in inputs.items() if k not in self.layout.observation_arguments}
        run_key, moment_key = jax.random.split(key)
        place = place_constrained(carried)
        settings = {"key": run_key, "place": place, "scalings": self.scalings, "finer": self.finer}
        found = run(self.model, bare, visit=visit or bool(self.layout.parts), **settings)
        names = [site.name for site in self.layout.observed if site.name in found.sites]
        for name, conditioned in self.remembered(found, carried, remembers).items():
            key = jax.random.fold_in(run_key, names.index(name))
            found.sites[name] |= {"fn": conditioned, "value": conditioned.sample(key)}
        open_sites = [name for name in names if not found.sites[name]["is_observed"]]
        likelihood = {}
        if any(name in inputs for name in self.layout.observation_arguments):
            given = run(self.model, inputs, **settings)
            likelihood = {
                name: log_prob(given.sites[name]) for name in names if given.sites[name]["is_observed"]
            }
        latent = {
            name: site["value"]
            for name, site in found.sites.items()
            if name not in names
            and site["type"] in ("sample", "deterministic")
            and not site.get("is_observed")
        }
        latent |= {name: message["value"].ys for name, message in found.solutions.items()}
        latent |= {name: said for name, (said, _) in found.parts.items()}
        return Outcome(
            moments={name: conditional_moments(found.sites[name]["fn"], moment_key) for name in names},
            observed={name: found.sites[name]["value"] for name in open_sites},
            latent=latent,
            log_likelihood=likelihood,
            reasons={name: message["value"].reason for name, message in found.solutions.items()},
            visited=found.visited if visit else {},
        )

    def remembered(
        self, found: Run, carried: Mapping[str, Any], names: tuple[str, ...]
    ) -> dict[str, Distribution]:
        """The distributions of observed sites with memory in a run, conditioned on what was measured in the fit.

        **Arguments:**

        - `found`: a run at other inputs than those of the fit.
        - `carried`: the unknowns of that run; where one has been continued, its beginning is that of the fit.
        - `names`: the sites.
        """
        if not names:
            return {}
        shapes = {site.name: site.shape for site in self.layout.latent}
        place = place_constrained(
            {k: v[tuple(slice(0, n) for n in shapes[k])] for k, v in carried.items() if k in shapes}
        )
        fitted = self.frozen({})._run(place).sites
        return {
            name: found.sites[name]["fn"].given(fitted[name]["fn"], fitted[name]["value"]) for name in names
        }

    def visited(self, q: Float[Array, " size"]) -> dict[str, Any]:
        """Network name to `(inputs, outputs)`: every question that it was asked at `q`, one row each."""
        return self._run(place_unconstrained(self._pieces(q)), visit=True).visited

    def networks(self, q: Float[Array, " size"]) -> dict[str, Any]:
        """The networks of the model with the weights that `q` gives them."""
        return self.run_at(q).networks

    def inputs(self) -> dict[str, Any]:
        """The model's arguments as they were given, without the observations."""
        return {k: v for k, v in self.arguments().items() if k not in self.layout.observation_arguments}

    def arguments(self) -> dict[str, Any]:
        """The model's arguments as they were given, observations included."""
        return {**self.data, **{name: value.value for name, value in self.fixed}}

    def refined(self, finer: float = 100.0) -> Target:
        """The same target with the tolerances of its solvers `finer` times smaller, steps to match and no grids."""
        return self._with(finer=finer, grids={})

    def frozen(self, plans: Mapping[str, Any]) -> Target:
        """The same target with these solves on grids of steps that stand; predictions are adaptive as before.

        - `plans`: solve name to where steps end, `(n + 1,)` for all units, `(units, n + 1)` or `pacing.Buckets`, with
          start, times of the fit and jumps of inputs; see `inference.grids.learn`. The other solves are adaptive.

        ```python
        def model(times, y=None):
            rate = numpyro.sample("rate", dist.LogNormal())
            path = bh.solve_ode("path", lambda t, y, k: -k * y, 1.0, times, t0=0.0, args=rate)
            bh.observe("y", dist.Normal(path.ys, 0.1), obs=y)
        target = bh.Target(model, {"times": np.array([1.0, 2.0]), "y": np.array([0.4, 0.1])})
        frozen = target.frozen({"path": np.linspace(0.0, 2.0, 9)})
        assert abs(frozen.log_density(jnp.zeros(1)) - target.log_density(jnp.zeros(1))) < 1e-3
        ```
        """
        return self._with(grids=jax.tree.map(jnp.asarray, dict(plans)))

    def modelled(self, model: Callable[..., Any]) -> Target:
        """The same target with another model of the same sites."""
        return self if model is self.model else self._with(model=model, grids={})

    def labelled(self, labels: Mapping[str, tuple[str, ...]]) -> Target:
        """The same target with these names of the units that its data count."""
        return self._with(named=tuple(sorted(labels.items())))

    # Within

    def _with(self, **changes):
        other = object.__new__(Target)
        for entry in dataclasses.fields(self):
            object.__setattr__(other, entry.name, changes.get(entry.name, getattr(self, entry.name)))
        return other

    def _pieces(self, q):
        return {
            site.name: q[site.start : site.stop].reshape(site.unconstrained_shape)
            for site in self.layout.latent
        }

    def _piece(self, site):
        return biject_to(site["fn"].support).inv(site["value"])

    def _run(self, place, *, key=None, whole=True, visit=False, solved=True) -> Run:
        return run(
            self.model,
            self.arguments(),
            key=jax.random.key(0) if key is None else key,
            place=place,
            scalings=self.scalings,
            whole=whole,
            visit=visit,
            finer=self.finer,
            grids=self.grids,
            unsolved=None if solved else 0.0,
        )

    def run_at(self, q: Float[Array, " size"], key: Any = None, solved: bool = True) -> Run:
        """One run of the model at `q`, for what the other methods do not give; with zeros for solutions if asked."""
        return self._run(place_unconstrained(self._pieces(q)), key=key, whole=key is None, solved=solved)

    def densities(self, found: Run, cells: Mapping[str, Array] | None = None) -> tuple[Array, Array]:
        """Log prior and log likelihood of a run, of these cells alone; the latter `-inf` where a solve failed."""
        observed = {site.name for site in self.layout.observed}
        prior = likelihood = jnp.zeros(())
        for name, site in found.sites.items():
            if site["type"] != "sample":
                continue
            each = log_prob(site)
            each = jnp.where(cells[name] > 0, each, 0.0) if cells and name in cells else each
            scaled = jnp.sum(each if site["scale"] is None else site["scale"] * each)
            if name in self.layout.absent:
                continue
            if name in observed:
                likelihood = likelihood + scaled
            else:
                prior = prior + scaled
        solved = jnp.array(True)
        for message in found.solutions.values():
            solved = solved & jnp.all(message["value"].ok)
        return prior, jnp.where(solved, likelihood, -jnp.inf)


def labels_of(data: Any) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The names that a table gives to the units along its axes, in an order of their own."""
    named = getattr(data, "labels", None) or {}
    return tuple(sorted((str(axis), tuple(map(str, names))) for axis, names in named.items()))


def log_prob(site: Any) -> Array:
    """Elementwise log probability of the value of a site, without its scale."""
    if site.get("intermediates"):
        return site["fn"].log_prob(site["value"], site["intermediates"])
    with (
        warnings.catch_warnings()
    ):  # numpyro warns of values outside the support; the gates say it with a name
        warnings.filterwarnings("ignore", "Out-of-support values", UserWarning)
        return site["fn"].log_prob(site["value"])


def _unwrapped(distribution):
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return distribution


def _in_support(site):
    distribution = site["fn"]
    if isinstance(_unwrapped(distribution), Measured):
        distribution = _unwrapped(distribution)
    inside = distribution.support(site["value"])
    return jnp.broadcast_to(
        inside.reshape(inside.shape + (1,) * (jnp.ndim(site["value"]) - inside.ndim)),
        jnp.shape(site["value"]),
    )


def _kinds(site):
    distribution = _unwrapped(site["fn"])
    if isinstance(distribution, Measured):
        return distribution.kinds(site["value"])
    return jnp.zeros(jnp.shape(site["value"]), dtype=int)


@jax.custom_jvp
def guarded(target: Any, q: Array, key: Any = None) -> Array:
    """The sum of `target.densities` at `q`, a target's or a like one's: finite, or `-inf` with gradient zero."""
    value = sum(target.densities(target.run_at(q, key)))
    return jnp.where(jnp.isfinite(value), value, -jnp.inf)


@guarded.defjvp
def _density_derivative(primals, tangents):
    """Value and gradient are one decision: where either is not finite the point has no density."""
    target, q, key = primals
    value, gradient = _value_and_gradient(target, q, key)
    sound = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient))
    return jnp.where(sound, value, -jnp.inf), jnp.where(sound, gradient, 0.0) @ tangents[1]


@jax.jit  # within other programs too: so the model is traced once, however often they ask
def _value_and_gradient(target, q, key):
    return jax.value_and_grad(lambda q: sum(target.densities(target.run_at(q, key))))(q)
