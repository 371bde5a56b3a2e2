"""The search for basins: what is one, how much it carries, and what is said where there is none."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import bayeshybrid as bh
from bayeshybrid import configuration
from bayeshybrid.inference import search as searching
from bayeshybrid.inference.gates import scout
from bayeshybrid.inference.method import Basin
from bayeshybrid.inference.search import Search, _keep, at_initial_values, find_basins
from bayeshybrid.progress import Silent
from bayeshybrid.survey import draw_prior
from tests.problems import (
    BIMODAL,
    PROBLEMS,
    bimodal_log_density,
    linear_answer,
    mirrored_log_density,
    narrow_answer,
    share_above,
)


def search(name: str, key: int = 0, starts: int = 32) -> Search:
    problem = PROBLEMS[name]
    with configuration.scope():
        target = bh.Target(problem.model, problem.data)
        points = scout(target, jax.random.key(key), starts).points
        return find_basins(target, points, jax.random.key(key + 1), Silent())


def test_one_basin_with_the_curvature_of_the_closed_form():
    found = search("linear")
    mean, covariance, _ = linear_answer()
    assert [basin.mass for basin in found.basins] == [1.0]
    assert found.left_out == ()
    assert len(found.basins[0].members) == found.starts == 32
    assert np.allclose(found.basins[0].mode, mean, atol=1e-3)
    factor = found.basins[0].factor
    assert factor is not None
    assert np.allclose(factor @ factor.T, covariance, rtol=1e-5)
    assert np.allclose(factor, np.tril(factor))


def test_a_narrow_basin_is_a_maximum_too():
    found = search("narrow")
    factor = found.basins[0].factor
    assert factor is not None
    assert np.allclose(factor @ factor.T, narrow_answer()[1], rtol=1e-4)


def test_curvature_in_any_unit():
    factor = search("wide").basins[0].factor
    assert factor is not None
    assert abs(factor.item() / np.sqrt(9e7) - 1) < 1e-6


def test_masses_agree_with_quadrature():
    exact = share_above(bimodal_log_density)
    for key in range(5):
        found = search("bimodal", key=10 * key)
        masses = {basin.mode.item() > 0: (basin.mass, basin.mass_error) for basin in found.basins}
        assert abs(sum(mass for mass, _ in masses.values()) - 1) < 1e-12
        mass, error = masses[True]
        assert 0 < error < 0.05
        assert abs(mass - exact) < 4 * error


@pytest.mark.slow
def test_stated_errors_of_masses_cover():
    """Over 100 keys the errors in units of the stated one have a mean square near 1 (false alarm 1 in 1,000)."""
    exact = share_above(bimodal_log_density)
    scores = []
    for key in range(100):
        best = max(search("bimodal", key=10 * key).basins, key=lambda basin: basin.mode.item())
        scores.append((best.mass - exact) / best.mass_error)
    assert 0.6 < np.mean(np.square(scores)) < 1.55


def test_the_mixed_posterior_has_the_masses(fit):
    posterior = fit("bimodal")
    assert posterior.unconstrained.shape == (4, 500, 1)
    exact = share_above(bimodal_log_density)
    share = np.mean(posterior["x"] > 0)
    assert abs(share - exact) < 0.06  # four standard errors of a mass
    assert any("2 basins put together with masses" in remark for remark in posterior.remarks)
    assert "2 basin(s) kept" in posterior.search
    assert posterior.verdict.state == "pass with remarks"
    for chain in posterior.samples["x"]:  # every chain holds both, in no order
        assert abs(np.mean(chain > 0) - share) < 0.01
        assert abs(np.mean(chain[:250] > 0) - share) < 0.15


def test_modes_that_predict_the_same_are_one_basin_and_its_chains_disagree(fit):
    """Told apart by predictions they are one basin, but its searches ended in both, so chains start in both."""
    posterior = fit("mirrored")
    assert "1 basin(s) kept, 0 left out" in posterior.search
    assert 0.3 < share_above(mirrored_log_density) < 0.7
    assert posterior.verdict["scientific parameters"] == "fail"
    assert "R-hat" in {check.name for check in posterior.verdict.reasons}


def test_a_light_basin_is_left_out_and_reported():
    """The prior leaves the mode at -2 a thousandth."""

    def model(square=None):
        x = numpyro.sample("x", dist.Normal(1.5, 0.8))
        numpyro.sample("square", dist.Normal(x**2, 0.3), obs=square)
        numpyro.sample("side", dist.Normal(x, 3.0), obs=0.5 if square is None else square / 8)

    with configuration.scope():
        target = bh.Target(model, {"square": np.array(4.0)})
        starts = np.array([[-2.5], [-1.5], [1.5], [2.5]])
        found = find_basins(target, starts, jax.random.key(0), Silent())
    assert [round(basin.mode.item()) for basin in found.basins] == [2]
    assert [round(basin.mode.item()) for basin in found.left_out] == [-2]
    assert found.left_out[0].mass < 0.01
    assert found.basins[0].mass == 1.0
    assert "left out" in str(found)


def test_masses_that_cannot_be_estimated_are_not_claimed(monkeypatch):
    monkeypatch.setattr(searching, "KHAT_LIMIT", -np.inf)
    found = search("bimodal")
    assert len(found.basins) == 2
    assert all(np.isnan(basin.mass) for basin in found.basins)
    assert "mass not known" in str(found)


@pytest.mark.parametrize(("shape", "low", "high"), [(0.2, 0.0, 0.5), (0.5, 0.3, 0.67), (0.95, 0.7, 1.3)])
def test_the_tail_of_weights_is_read_the_right_way_up(generator, shape, low, high):
    weights = generator.pareto(1 / shape, 4000) + 1
    assert low < searching._tail_shape(np.log(weights)) < high


def test_equal_weights_have_no_tail():
    assert searching._tail_shape(np.full(1000, -3.0)) == -np.inf


def test_no_maximum_is_said():
    """The density only grows, towards a plateau at infinity."""

    def model(y=None):
        x = numpyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(jnp.tanh(x), 0.5), obs=y)

    with configuration.scope():
        target = bh.Target(model, {"y": np.array(1.0)})
        starts = np.linspace(-2, 2, 5)[:, None]
        found = find_basins(target, starts, jax.random.key(0), Silent())
    assert len(found.basins) == 1
    assert found.basins[0].factor is None
    assert np.isnan(found.basins[0].mass)
    assert found.notes == (
        "no search ended in a maximum: chains start at the best points found, without curvature",
    )


def test_a_density_without_bound_is_not_where_chains_start():
    """In the neck of a funnel the density of the prior has no bound, and next to no volume."""

    def model(y=None):
        v = numpyro.sample("v", dist.Normal(0.0, 3.0))
        numpyro.sample("x", dist.Normal(0.0, jnp.exp(v / 2)).expand([9]))
        numpyro.sample("y", dist.Normal(v, 100.0), obs=y)

    with configuration.scope():
        target = bh.Target(model, {"y": np.array(0.0)})
        starts = draw_prior(target, jax.random.key(1), 32)[0]
        found = find_basins(target, starts, jax.random.key(0), Silent())
    assert "as in a funnel" in found.notes[0]
    assert set(map(tuple, found.basins[0].members)) <= set(map(tuple, starts))


def test_starts_that_fail_are_counted():
    problem = PROBLEMS["linear"]
    with configuration.scope():
        target = bh.Target(problem.model, problem.data)
        starts = np.array([[0.0, 0.0], [1e200, 0.0], [1.0, 1.0]])
        found = find_basins(target, starts, jax.random.key(0), Silent())
    assert (found.starts, found.failed) == (3, 1)
    assert len(found.basins[0].members) == 2


def test_nothing_finite_is_said():
    problem = PROBLEMS["bimodal"]
    with configuration.scope():
        target = bh.Target(problem.model, BIMODAL)
        found = find_basins(target, np.full((3, 1), 1e200), jax.random.key(0), Silent())
    assert (found.basins, found.failed) == ((), 3)
    assert found.notes == ("no search found a finite density",)


def test_searches_of_a_network_may_begin_at_zero():
    def model(x, y=None):
        net = bh.network("net", bh.MLP(1, 1, width=2), scale=1.0, initial="zero", center=0.0, spread=1.0)
        slope = bh.parameter("slope", dist.Normal(0.0, 1.0))
        bh.observe("y", dist.Normal(slope * x + net(x[:, None])[:, 0], 0.1), obs=y)

    with configuration.scope():
        target = bh.Target(model, {"x": np.linspace(0, 1, 4), "y": np.ones(4)})
        starts = at_initial_values(target, np.ones((2, target.layout.size)))
    outputs = target.layout.groups["net"].stop - 3
    assert np.all(starts[:, outputs : outputs + 3] == 0)  # the last layer, so that the network says zero
    assert np.all(np.delete(starts, slice(outputs, outputs + 3), axis=1) == 1)


def test_a_search_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Search((), (), 0, 0, ()).starts = 1  # type: ignore[misc]


def test_where_only_zero_fails_the_mend_is_said():
    def model(x, y=None):
        net = bh.network("net", bh.MLP(1, 1, width=2), scale=1.0, initial="zero", center=0.0, spread=1.0)
        out = net(x[:, None])[:, 0]
        bh.observe("y", dist.Normal(1 / out, 0.1), obs=y)

    with pytest.raises(bh.StartError, match='Write initial="prior"'):
        bh.infer(model, {"x": np.linspace(0, 1, 4), "y": np.ones(4)}, bh.NUTS(draws=5, warmup=0), key=0)


def test_the_highest_searches_are_not_left_for_a_lower_maximum():
    """Off a maximum nothing can be weighed, but forty units of log density further down there is no mass."""
    top = Basin(np.zeros(1), -90.0, np.zeros((1, 1)), None, np.ones(1), np.nan, np.nan)
    lower = Basin(np.ones(1), -130.0, np.ones((1, 1)), np.eye(1), np.ones(1), 1.0, 0.0)
    kept, left_out, notes = _keep([top, lower], 1)
    assert kept == (top,)
    assert len(left_out) == 1
    assert np.isnan(left_out[0].mass)
    assert "did not end in a maximum" in notes[0]
    near = dataclasses.replace(top, log_density=-125.0)
    assert _keep([near, lower], 1)[0][0].mode is lower.mode
