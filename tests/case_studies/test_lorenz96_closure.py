"""Lorenz 1996 with two scales: the truth against slow independent code, the figures of forecasts, and the whole run."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from scipy.integrate import solve_ivp
from scipy.stats import kstest, norm

import bayeshybrid as bh
from case_studies.lorenz96_closure import comparison, model, records, scores, tables, truth
from case_studies.lorenz96_closure.__main__ import main

EXPECTED = json.loads((records.FOLDER / "expected.json").read_text(encoding="utf-8"))
README = (records.FOLDER / "README.md").read_text(encoding="utf-8")


def one_by_one(state, forcing):
    """Both scales as Lorenz wrote them, a variable at a time, fast ones counted around the whole circle."""
    x, y = state[: truth.SLOW], state[truth.SLOW :]
    h, b, c = truth.COUPLING, truth.AMPLITUDE, truth.PACE
    slopes = np.empty_like(state)
    for k in range(len(x)):
        own = y[k * truth.FAST : (k + 1) * truth.FAST].sum()
        slopes[k] = -x[k - 1] * (x[k - 2] - x[(k + 1) % len(x)]) - x[k] + forcing - h * c / b * own
    for j in range(len(y)):
        after, later = y[(j + 1) % len(y)], y[(j + 2) % len(y)]
        driven = h * c / b * x[j // truth.FAST]
        slopes[truth.SLOW + j] = -c * b * after * (later - y[j - 1]) - c * y[j] + driven
    return slopes


@pytest.fixture
def state(generator):
    """Slow and fast variables of two members, of the size that they have on the attractor."""
    return generator.normal(3.0, 4.0, (2, truth.SLOW)), generator.normal(
        0.1, 0.3, (2, truth.SLOW * truth.FAST)
    )


def test_the_slopes_are_those_that_lorenz_wrote(state):
    """Both scales, a variable at a time."""
    found = np.concatenate(truth.slopes(state, 20.0), axis=-1)
    for member, both in enumerate(np.concatenate(state, axis=-1)):
        np.testing.assert_allclose(found[member], one_by_one(both, 20.0), rtol=1e-12, atol=1e-10)


def test_the_scales_pass_energy_on_and_lose_none(state):
    """Advection and coupling drop out: what is left is forced in and damped away."""
    x, y = state
    dx, dy = truth.slopes(state, 20.0)
    change = np.sum(x * dx, axis=-1) + np.sum(y * dy, axis=-1)
    expected = np.sum(20.0 * x - x**2, axis=-1) - truth.PACE * np.sum(y**2, axis=-1)
    np.testing.assert_allclose(change, expected, rtol=1e-11)


def test_no_slow_variable_is_special(state):
    """Turned around the circle by one, with their fast ones, they have the slopes of before, turned."""
    turned = (np.roll(state[0], 1, axis=-1), np.roll(state[1], truth.FAST, axis=-1))
    dx, dy = truth.slopes(state, 20.0)
    again = truth.slopes(turned, 20.0)
    np.testing.assert_allclose(again[0], np.roll(dx, 1, axis=-1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(again[1], np.roll(dy, truth.FAST, axis=-1), rtol=1e-12, atol=1e-12)


def test_a_run_is_that_of_another_solver(state):
    """A twentieth of a time unit, half a period of the fast scale, by scipy's method of order eight."""
    last, x, u = truth.run(state, 20.0, 1)
    np.testing.assert_array_equal(x[0], state[0])
    np.testing.assert_allclose(u[0, 0, 0], state[1][0, : truth.FAST].sum(), rtol=1e-12)
    whole = np.concatenate(state, axis=-1)[0]
    solved = solve_ivp(
        lambda t, z: one_by_one(z, 20.0), (0.0, truth.EVERY), whole, method="DOP853", rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(np.concatenate(last, axis=-1)[0], solved.y[:, -1], rtol=1e-5, atol=1e-5)


def test_the_records_are_complete():
    """Sizes, forcings and times of what is fitted and what is held out, and no window that is in both."""
    fitted, held = records.training(), records.held_out(times=records.AHEAD)
    other = records.held_out(records.OTHER_FORCINGS)
    assert fitted["x"].shape == (truth.TRAINED, 2, 8)
    assert held["x"].shape == (truth.TESTED, 8, 8)
    assert other["x"].shape == (truth.TESTED, 2, 8)
    assert set(fitted["forcing"]) == {20.0}
    assert sorted(set(other["forcing"])) == [16.0, 24.0]
    np.testing.assert_array_equal(records.training(16)["x"], fitted["x"][:16])
    assert not set(map(tuple, fitted["start"])) & set(map(tuple, held["start"]))
    forcing, x, u = records.subgrid(records.OTHER_FORCINGS)
    assert x.shape == u.shape == (len(forcing), 8)
    # The same states, read with the stated error.
    error = np.concatenate([held["start"], other["start"]]) - np.concatenate([records.subgrid()[1], x])
    assert 0.8 * records.NOISE < error.std() < 1.2 * records.NOISE
    for given in (16.0, 20.0, 24.0):
        told = records.climate(given)
        assert (np.diff(told.quantiles) > 0).all()
        assert abs(told.quantiles[len(told.quantiles) // 2] - told.mean) < told.sd


def test_the_published_closures_are_those_of_the_papers():
    """Worked by hand at five, and zero without a closure."""
    assert model.polynomial(model.WILKS, 5.0) == pytest.approx(6.50325)
    assert model.polynomial(model.ARNOLD, 5.0) == pytest.approx(6.20725)
    assert model.polynomial(model.NO_CLOSURE, 5.0) == 0.0


@pytest.mark.parametrize("published", [model.WILKS, model.ARNOLD])
def test_the_published_closures_are_those_of_this_truth(published):
    """No bias and a scatter of about two, as Wilks found: so the parameters are those of the papers."""
    _, x, u = records.subgrid()
    apart = u - model.polynomial(published, x)
    assert abs(apart.mean()) < 0.4
    assert 1.6 < apart.std() < 2.4


def slopes_of(name, data, values):
    """Slopes that a model states at the starts of windows."""
    fixed = numpyro.handlers.substitute(model.MODELS[name], values)
    seeded = numpyro.handlers.seed(fixed, 0)
    sites = numpyro.handlers.trace(seeded).get_trace(**model.arguments(name, data))
    return np.asarray(sites["tendency"]["value"])


def few(windows=3):
    """A record of a few windows."""
    return {name: z if name == "times" else z[:windows] for name, z in records.training().items()}


@pytest.mark.parametrize("name", ["hybrid", "network"])
def test_the_models_know_no_special_variable(name):
    """Turned windows have turned slopes, whatever closure or network stands for the fast scale."""
    data = few(2)
    data["start"] = np.stack([data["start"][0], np.roll(data["start"][0], 1)])
    own, turned = slopes_of(name, data, {"advection": 0.9})
    np.testing.assert_allclose(turned, np.roll(own, 1), rtol=1e-12)


def test_with_the_true_subgrid_terms_the_equation_is_the_truth(generator):
    """What the models leave open is the subgrid term and nothing else."""
    x, u = generator.normal(3.0, 4.0, (2, 8)), generator.normal(4.0, 3.0, (2, 8))
    forcing = np.full((2, 1), 16.0)
    found = model.resolved(0.0, x, (forcing, 1.0)) - u
    np.testing.assert_allclose(found, truth.slow(x, 16.0, u), rtol=1e-12)
    forecast = SimpleNamespace(latent={"tendency": SimpleNamespace(mean=np.asarray(found) + 0.5)})
    assert scores.residual(forecast, forcing[:, 0], x, u) == pytest.approx(0.5)


def test_the_scores_are_those_of_a_normal_forecast(generator):
    """CRPS in closed form, and nine in ten inside."""
    draws = generator.normal(1.0, 2.0, (4000, 5, 3, 8))
    x = generator.normal(1.0, 2.0, (5, 3, 8))
    z = (x - 1.0) / 2.0
    exact = 2.0 * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    found = scores.figures(SimpleNamespace(observed={"x": SimpleNamespace(draws=draws)}), x)
    assert found["CRPS"] == pytest.approx(exact.mean(), rel=0.02)
    assert found["RMSE"] == pytest.approx(np.sqrt(np.mean((x - 1.0) ** 2)), rel=0.02)
    assert found["coverage 90 %"] == pytest.approx(np.mean(np.abs(z) < 1.645), abs=0.02)


def test_a_free_run_of_the_truth_is_no_distance_away(generator):
    """Draws of the truth's distribution are as far as chance takes them; shifted by a unit they are told apart."""
    told = records.climate()
    drawn = np.interp(generator.uniform(size=(4, 3, 250, 8)), told.levels, told.quantiles)
    forecast = SimpleNamespace(latent={"path": SimpleNamespace(draws=drawn)}, asked=4)
    found = scores.free(forecast, 20.0)
    shifted = SimpleNamespace(latent={"path": SimpleNamespace(draws=drawn + 1.0)}, asked=5)
    assert found.distance < 0.02
    assert found.lost == 0.0
    exact = kstest(drawn.ravel() + 1.0, lambda v: np.interp(v, told.quantiles, told.levels)).statistic
    assert scores.free(shifted, 20.0).distance == pytest.approx(exact, abs=0.01)
    assert scores.free(shifted, 20.0).lost == pytest.approx(0.2)


def test_the_autocorrelation_of_a_wave_is_a_wave():
    """Over whole periods, by hand."""
    wave = np.sin(np.linspace(0.0, 200 * np.pi, 20_000, endpoint=False))[:, None]
    found = records.autocorrelation(wave, np.array([25, 50, 100, 200]))
    np.testing.assert_allclose(found, [np.cos(np.pi / 4), 0.0, -1.0, 1.0], atol=0.02)


def test_the_closure_is_read_off_uniform_states():
    """Slopes with a published closure give back its polynomial."""
    at = np.linspace(-8.0, 15.5, 6)
    inputs = scores.uniform(at, 20.0, records.WINDOW)
    start = inputs["start"]
    told = model.resolved(0.0, start, (20.0, 1.0)) - model.polynomial(model.WILKS, start)
    forecast = SimpleNamespace(latent={"tendency": SimpleNamespace(draws=np.asarray(told)[None])})
    found = scores.closure(forecast, at, 20.0)
    np.testing.assert_allclose(found["median"], model.polynomial(model.WILKS, at), rtol=1e-9)
    assert "Wilks" in tables.closure_in_words(tables.closure_rows(at, found))


def test_the_readme_says_what_is_expected():
    """Every line of the table of held-out windows, with the figures of `expected.json`."""
    for name, places in EXPECTED["figures"].items():
        same, other = places["same forcing"], places["other forcing"]
        cells = [f"{told[what]:.3f}" for what in ("RMSE", "CRPS") for told in (same, other)]
        pattern = rf"\| {re.escape(name)} \|" + "".join(rf" *{re.escape(cell)} *\|" for cell in cells)
        assert re.search(pattern, README), (name, cells)


@pytest.mark.slow
def test_the_truth_makes_the_same_climate_anew():
    """From other noise, and shorter: the stored distribution within what chance allows."""
    start = truth.on_the_attractor(24, 20.0, 99)
    _, x, _ = truth.run(start, 20.0, 400)
    told = records.climate()
    below = np.searchsorted(np.sort(np.ravel(x)), told.quantiles) / x.size
    assert np.abs(below - told.levels).max() < 0.03
    assert jnp.std(x) == pytest.approx(told.sd, rel=0.05)


@pytest.mark.slow
def test_a_tiny_fit_is_judged_in_full():
    """Members of 20 steps on four windows: every figure there and finite, and a verdict that claims nothing."""
    with jax.enable_x64(True):
        row = comparison.row("hybrid", bh.DeepEnsemble(members=4, steps=20), 0, windows=4)
    told = row.to_dict()
    assert told["windows"] == 4
    assert told["verdict"]["state"] in ("fail", "not assessable")
    assert np.isfinite([*told["figures"]["other forcing"].values(), *told["advection"]]).all()
    assert len(told["leads"]["same forcing"]) == len(records.AHEAD)
    assert set(told["free"]) == {"16", "20", "24"}
    assert "hybrid" in tables.comparison_in_words([row])
    assert "hybrid" in tables.climate_in_words([row])


@pytest.mark.slow
def test_the_whole_case(tmp_path, capsys):
    """As `expected.json` has it, within its tolerances."""
    assert main(["--output", str(tmp_path)]) == 0
    capsys.readouterr()
    rows = {one["model"]: one for one in json.loads((tmp_path / "comparison.json").read_text())}
    for name, places in EXPECTED["figures"].items():
        for place, figures in places.items():
            for what, value in figures.items():
                found = rows[name]["figures"][place][what]
                assert found == pytest.approx(value, rel=EXPECTED["relative tolerances"][name]), (
                    name,
                    place,
                    what,
                )
    assert {path.name for path in tmp_path.iterdir()} > {"report.html", "closure.png", "leads.png"}
    assert rows["hybrid"]["verdict"]["state"] in ("pass", "pass with remarks")
