"""What the pictures show: bands at the forecast's own quantiles, names and units, data in their place."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from numpy.testing import assert_allclose

import bayeshybrid as bh
from bayeshybrid.faults import ModelError
from bayeshybrid.forecast import Forecast, Part, Quantity
from bayeshybrid.plots import density, moved
from tests.posteriors import from_draws
from tests.problems import PROBLEMS

LABELS = ("hare", "lynx")
TIMES = np.array([0.0, 1.0, 2.0, 4.0])
DATA = np.array([[1.0, 2.0], [1.1, 1.8], [1.3, 1.7], [1.6, 1.3]])


def growth(times, counts=None):
    """Two populations on straight lines of the log, with a solve as the state."""
    rate = bh.parameter("rate", dist.Normal(0.0, 0.5), shape=(2,), unit="1/yr", labels=LABELS)
    noise = bh.parameter("noise", dist.HalfNormal(0.5), unit="1")
    path = bh.solve_ode(
        "path", lambda t, y, r: r * y, jnp.ones(2), times, t0=0.0, args=rate, labels=LABELS, unit="kpelt"
    )
    numpyro.deterministic("doubled", 2.0 * path.ys)
    bh.observe("counts", dist.LogNormal(jnp.log(path.ys), noise), obs=counts, unit="kpelt", labels=LABELS)


@pytest.fixture(scope="module")
def posterior():
    generator = np.random.default_rng(0)
    draws = np.array([0.12, -0.1, -2.5]) + np.array([0.03, 0.03, 0.3]) * generator.normal(size=(4, 60, 3))
    return from_draws(growth, {"times": TIMES, "counts": DATA}, draws)


@pytest.fixture(scope="module")
def ahead(posterior):
    return posterior.predict({"times": np.array([5.0, 4.0, 6.0])}, key=1)


def areas(axes) -> dict:
    """Label to area."""
    return {c.get_label(): c for c in axes.collections if isinstance(c, PolyCollection)}


def edges(area):
    """Where an area stands: x, lower and upper edge."""
    x, y = area.get_paths()[0].vertices.T
    places = np.unique(x)
    return places, *np.array([[y[x == p].min(), y[x == p].max()] for p in places]).T


def grey(color) -> float:
    """Lightness in grey print."""
    return float(np.dot([0.299, 0.587, 0.114], to_rgb(color)))


def test_forecast_bands_are_the_intervals_of_the_forecast(ahead):
    figure = bh.plots.forecast(ahead)
    assert len(figure.axes) == 4
    order = np.argsort([5.0, 4.0, 6.0])
    for column in (0, 1):
        found = areas(figure.axes[column])
        assert len(found) == 4
        for quantity, word in (
            (ahead.observed["counts"], "new measurement"),
            (ahead.latent["path"], "state"),
        ):
            for mass in (0.5, 0.9):
                x, low, high = edges(found[f"{word}, {100 * mass:.0f} %"])
                assert_allclose(x, [4.0, 5.0, 6.0])
                assert_allclose([low, high], quantity.interval(mass)[:, order, column])


def test_bands_differ_without_colour(ahead):
    found = areas(bh.plots.forecast(ahead).axes[0])
    for mass in ("50 %", "90 %"):
        measured, state = found[f"new measurement, {mass}"], found[f"state, {mass}"]
        assert measured.get_hatch()
        assert not state.get_hatch()
        assert measured.get_linestyle() != state.get_linestyle()
    lightness = [grey(found[name].get_facecolor()[0, :3]) for name in found]
    assert min(abs(np.diff(sorted(lightness)))) > 0.05


def test_axes_carry_names_and_units(ahead):
    above, other, below, _ = bh.plots.forecast(ahead).axes
    assert above.get_ylabel() == "counts (kpelt)"
    assert [above.get_title(), other.get_title()] == ["hare", "lynx"]
    assert below.get_xlabel() == "times"
    assert below.get_ylabel() == "share of variance"


def test_shares_of_the_variance_fill_the_height(ahead):
    order = np.argsort([5.0, 4.0, 6.0])
    found = areas(bh.plots.forecast(ahead).axes[3])
    _, low, high = edges(found["epistemic: not known"])
    assert_allclose(low, 0.0)
    assert_allclose(high, ahead.epistemic.share["counts"][order, 1])
    _, low, top = edges(found["aleatoric: noise"])
    assert_allclose(low, high)
    assert_allclose(top, 1.0)


def marks(axes) -> dict:
    return {line.get_label(): line for line in axes.lines if line.get_marker() not in ("None", None, "")}


def test_data_that_were_fitted_and_held_out_are_told_apart(posterior, ahead):
    held_out = {"times": np.array([5.0, 6.0]), "counts": np.array([[1.0, 2.0], [3.0, 4.0]])}
    figure = bh.plots.forecast(ahead, data=held_out, fitted=posterior)
    for column in (0, 1):
        found = marks(figure.axes[column])
        used, held = found["data, used in the fit"], found["data, held out"]
        assert_allclose(used.get_xydata(), np.stack([TIMES, DATA[:, column]], 1))
        assert_allclose(held.get_xydata(), np.stack([[5.0, 6.0], held_out["counts"][:, column]], 1))
        assert used.get_marker() != held.get_marker()
    given = bh.plots.forecast(ahead, fitted={"times": TIMES, "counts": DATA})
    assert_allclose(marks(given.axes[0])["data, used in the fit"].get_ydata(), DATA[:, 0])


def test_data_without_their_place_are_refused(ahead):
    with pytest.raises(
        ModelError, match=r"data 'counts' have shape \(2, 2\).*times has 3 entries: give both"
    ):
        bh.plots.forecast(ahead, data={"counts": np.ones((2, 2))})
    with pytest.raises(ModelError, match="no 'counts' among the data, which hold pelts"):
        bh.plots.forecast(ahead, data={"pelts": np.ones((2, 2))})


def test_fit_shows_data_and_residuals(posterior):
    figure = bh.plots.fit(posterior, key=3)
    checked = posterior.check(key=3)
    assert "in sample" in figure.get_suptitle()
    for column in (0, 1):
        assert len(areas(figure.axes[column])) == 4
        assert_allclose(marks(figure.axes[column])["data, used in the fit"].get_ydata(), DATA[:, column])
        (drawn,) = marks(figure.axes[2 + column]).values()
        assert_allclose(drawn.get_ydata(), checked.residuals["counts"][:, column])
    _, low, high = edges(areas(figure.axes[0])["new measurement, 90 %"])
    assert_allclose([low, high], checked.replicated["counts"].interval(0.9)[:, :, 0])
    assert figure.axes[2].get_ylabel() == "residual (sd)"


def test_parameters_before_and_after_in_words_and_units(posterior):
    figure = bh.plots.parameters(posterior)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert [title.splitlines()[0] for title in titles] == ["rate[hare]", "rate[lynx]", "noise"]
    told = [*posterior.contraction["rate"], float(posterior.contraction["noise"])]
    assert [title.splitlines()[1] for title in titles] == [moved(value) for value in told]
    assert [axes.get_ylabel() for axes in figure.axes] == ["1/yr", "1/yr", "1"]
    for axes in figure.axes:
        before, after = areas(axes)["before: prior"], areas(axes)["after: posterior"]
        assert before.get_hatch()
        assert not after.get_hatch()
        assert before.get_paths()[0].vertices[:, 0].min() == pytest.approx(-1.0)
        assert after.get_paths()[0].vertices[:, 0].max() == pytest.approx(1.0)
    low, high = np.quantile(posterior["noise"], [0.05, 0.95])
    bars = [line.get_ydata() for line in figure.axes[2].lines]
    assert any(np.allclose(bar, [low, high]) for bar in bars)


@pytest.mark.parametrize(
    ("contraction", "words"),
    [
        (0.95, "moved much (0.95)"),
        (0.7, "moved some (0.70)"),
        (0.05, "moved hardly (0.05)"),
        (np.nan, "no prior to compare with"),
    ],
)
def test_movement_in_words(contraction, words):
    assert moved(contraction) == words


def made(generator, inputs, **shapes) -> Forecast:
    """A forecast of independent noise: sites to their shapes, nothing latent."""
    observed = {name: Quantity(name, generator.normal(size=(50, *shape))) for name, shape in shapes.items()}
    ones = {name: np.ones(shape) for name, shape in shapes.items()}
    zeros = {name: np.zeros(shape) for name, shape in shapes.items()}
    return Forecast(
        observed=observed,
        latent={},
        aleatoric=Part(ones, ones),
        epistemic=Part(zeros, ones),
        total=Part(ones, ones),
        inputs=inputs,
        carried=(),
        continued=(),
        drawn_anew=(),
        asked=50,
        failures=0,
        remarks=(),
        conditional={},
        replicates=1,
        target=bh.Target(PROBLEMS["linear"].model, PROBLEMS["linear"].data),
        kept=np.arange(50),
        key=0,
    )


def test_a_site_must_be_named_where_there_are_several(generator):
    before = made(generator, {"x": np.arange(3.0)}, a=(3,), b=(3,))
    with pytest.raises(ModelError, match="observes a, b: choose one with site="):
        bh.plots.forecast(before)
    with pytest.raises(ModelError, match="no observed site 'c': there are a, b"):
        bh.plots.forecast(before, site="c")
    figure = bh.plots.forecast(before, site="b")
    assert figure.axes[0].get_ylabel() == "b"
    assert len(areas(figure.axes[0])) == 2  # nothing latent has the site's shape: no band of a state
    with pytest.raises(ModelError, match="observes nothing"):
        bh.plots.forecast(made(generator, {}))


def test_along_chooses_another_axis_and_input(generator):
    before = made(generator, {"dose": np.arange(2.0), "times": np.arange(3.0) + 1}, y=(2, 3))
    assert bh.plots.forecast(before).axes[-1].get_xlabel() == "dose"
    figure = bh.plots.forecast(before, along="times", data={"times": np.array([2.0]), "y": [[7.0], [8.0]]})
    assert [axes.get_title() for axes in figure.axes[:2]] == ["0", "1"]
    x, low, high = edges(areas(figure.axes[1])["new measurement, 90 %"])
    assert_allclose(x, [1.0, 2.0, 3.0])
    assert_allclose([low, high], before.observed["y"].interval(0.9)[:, 1])
    assert_allclose(marks(figure.axes[1])["data, held out"].get_xydata(), [[2.0, 8.0]])
    with pytest.raises(ModelError, match=r"along='day' is no one-dimensional input.*dose \(2\), times \(3\)"):
        bh.plots.forecast(before, along="day")


def test_many_units_are_cut_to_six_panels(generator):
    before = made(generator, {"times": np.arange(3.0)}, y=(9, 3))
    figure = bh.plots.forecast(before, along="times")
    assert len(figure.axes) == 12
    assert "first 6 of 9" in figure.get_suptitle()


def test_a_single_number_is_drawn_wide_enough_to_be_seen(generator):
    before = made(generator, {}, y=())
    figure = bh.plots.forecast(before)
    x, low, _ = edges(areas(figure.axes[0])["new measurement, 90 %"])
    assert np.ptp(x) > 0.5
    assert_allclose(low, before.observed["y"].interval(0.9)[0])


def test_density_keeps_its_mass_at_an_abrupt_end(generator):
    grid = np.linspace(0.0, 12.0, 2001)
    found = density(generator.exponential(size=2000), grid)
    assert found.sum() * (grid[1] - grid[0]) == pytest.approx(1.0, abs=0.01)
    assert found[grid > 0.01][0] == pytest.approx(1.0, abs=0.15)


def test_pictures_use_no_global_state(ahead):
    figure = bh.plots.forecast(ahead)
    assert figure.canvas.manager is None
