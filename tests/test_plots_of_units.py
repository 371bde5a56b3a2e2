"""Pictures of many units: a panel each on its own times, marks for what was measured, and quantiles over all."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from matplotlib.collections import PolyCollection
from numpy.testing import assert_allclose, assert_array_equal

import bayeshybrid as bh
from bayeshybrid.contrast import Contrast
from bayeshybrid.doubt import Budget
from bayeshybrid.extrapolation import Asked
from bayeshybrid.faults import ModelError
from bayeshybrid.forecast import Quantity
from bayeshybrid.plots.beyond import extrapolation_words
from bayeshybrid.plots.cells import read_cells
from bayeshybrid.plots.units import counted
from tests.forecasts import made
from tests.posteriors import from_draws

UNITS, WIDTH = 7, 5


def decay(times, conc=None):
    """A drug that leaves each subject at its own rate."""
    rate = bh.parameter(
        "rate",
        bh.prior_interval(0.1, 1.0),
        unit="1/h",
        across="subject",
        size=len(times),
        spread=dist.HalfNormal(0.5),
    )
    bh.observe(
        "conc", dist.Normal(jnp.exp(-rate[:, None] * times), 0.1), obs=conc, unit="mg/L", across="subject"
    )


class Table(dict):
    """Data with the names of their units, as a table gives them."""

    labels: dict


def table(units=UNITS) -> Table:
    """Units of 5, 4, 5, 4 ... times, padded by repeating the last; one cell missing, some below 0.2."""
    times = np.linspace(0.5, 6.0, WIDTH) + 0.1 * np.arange(units)[:, None]
    times[1::2, -1] = times[1::2, -2]
    values = np.exp(-0.4 * times) + 0.05 * np.sin(7 * times)
    missing = np.zeros((units, WIDTH), bool)
    missing[1::2, -1] = missing[0, 1] = True
    left = (values < 0.2) & ~missing
    found = Table(times=times, conc={"values": np.where(left, 0.2, values), "missing": missing, "left": left})
    found.labels = {"subject": tuple(f"P{i}" for i in range(units))}
    return found


@pytest.fixture(scope="module")
def target():
    return bh.Target(decay, table())


def ahead(target, times, shape=None, **more):
    """A forecast of noise at these times, `(unit, time)`."""
    shape = np.shape(times) if shape is None else shape
    draws = np.random.default_rng(0).normal(size=(40, *shape))
    found = made(decay, {"times": np.asarray(times, float)}, {}, {"conc": draws}, target=target)
    observed = {"conc": Quantity("conc", draws, unit="mg/L", across="subject", **more)}
    return replace(found, observed=observed)


def areas(axes) -> dict:
    return {c.get_label(): c for c in axes.collections if isinstance(c, PolyCollection)}


def edges(area):
    x, y = area.get_paths()[0].vertices.T
    places = np.unique(x)
    return places, *np.array([[y[x == p].min(), y[x == p].max()] for p in places]).T


def marks(axes) -> dict:
    """Label to the points that are drawn, without those that are NaN."""
    lines = [line for line in axes.lines if line.get_marker() not in ("None", None, "")]
    return {
        line.get_label(): line.get_xydata()[np.isfinite(line.get_xydata()).all(axis=1)]
        for line in lines
        if len(line.get_xydata())
    }


def test_each_unit_has_a_panel_on_its_own_times(target):
    data = table()
    figure = bh.plots.forecast(ahead(target, data["times"]))
    assert [axes.get_title() for axes in figure.axes] == [f"subject P{i}" for i in range(UNITS)]
    observed = ahead(target, data["times"]).observed["conc"].interval(0.9)
    for unit, axes in enumerate(figure.axes):
        x, low, high = edges(areas(axes)["new measurement, 90 %"])
        length = WIDTH - unit % 2  # padding repeats a time, and is not drawn
        assert_allclose(x, data["times"][unit, :length])
        assert_allclose([low, high], observed[:, unit, :length])
        assert axes.get_xlim() == figure.axes[0].get_xlim()
        assert axes.get_ylim() == figure.axes[0].get_ylim()
    assert figure.get_supylabel() == "conc (mg/L)"


def test_times_that_units_share_and_times_that_fall_are_told_apart(target):
    found = ahead(target, np.ones((3, 4)))
    weights = {"weight": np.array([70.0, 60.0, 80.0]), "n": np.full((3, 4), 2), "hours": np.arange(4.0)}
    figure = bh.plots.forecast(replace(found, inputs=weights))
    assert figure.axes[-1].get_xlabel() == "hours"
    assert_allclose(edges(areas(figure.axes[0])["new measurement, 90 %"])[0], np.arange(4.0))
    with pytest.raises(ModelError, match=r"along='weight' is no input of shape \(3, 4\) or \(4,\)"):
        bh.plots.forecast(found, along="weight")


def test_of_many_units_24_are_shown_and_the_rest_counted(target):
    figure = bh.plots.forecast(ahead(target, np.tile(np.arange(3.0), (30, 1))))
    assert len(figure.axes) == 24
    assert figure.axes[0].get_title() == "subject 0"  # names of seven units are not those of thirty
    assert figure.axes[-1].get_title() == "subject 29"
    assert "24 of 30 subjects, evenly chosen; 6 are not shown" in figure.get_suptitle()


def test_few_units_have_the_shares_of_the_variance_below(target):
    figure = bh.plots.forecast(ahead(target, table()["times"][:3]))
    assert len(figure.axes) == 6
    assert figure.axes[3].get_ylabel() == "share of variance"
    assert len(bh.plots.forecast(ahead(target, table()["times"][:5])).axes) == 5


def test_what_was_not_measured_is_not_drawn_and_limits_have_triangles(target):
    data = table()
    figure = bh.plots.forecast(ahead(target, data["times"]), fitted=data)
    cells = data["conc"]
    for unit, axes in enumerate(figure.axes):
        exact = ~cells["missing"][unit] & ~cells["left"][unit]
        found = marks(axes)
        assert_allclose(
            found["data, used in the fit"], np.stack([data["times"], cells["values"]], -1)[unit, exact]
        )
        below = found.get("known to be below this", np.zeros((0, 2)))
        assert_allclose(below[:, 0], data["times"][unit, cells["left"][unit]])
        assert_allclose(below[:, 1], 0.2)
    triangles = [line for line in figure.axes[0].lines if line.get_label() == "known to be below this"]
    assert [line.get_marker() for line in triangles] == ["v"]


def test_held_out_data_stand_at_times_of_their_own(target):
    later = {"times": np.full((UNITS, 2), [6.5, 7.0]), "conc": np.full((UNITS, 2), [0.1, np.nan])}
    found = marks(bh.plots.forecast(ahead(target, table()["times"]), data=later).axes[4])
    assert_allclose(found["data, held out"], [[6.5, 0.1]])
    with pytest.raises(ModelError, match=r"data 'conc' have shape \(2, 2\).*one row for each subject"):
        bh.plots.forecast(
            ahead(target, table()["times"]), data={"times": [1.0, 2.0], "conc": np.ones((2, 2))}
        )


def test_kinds_of_cells_are_read_from_a_table():
    found = read_cells(
        {
            "values": [1.0, 2.0, 3.0, 4.0, np.nan],
            "right": [False, True, False, False, False],
            "upper": [np.nan, np.nan, 3.5, np.nan, np.nan],
            "missing": [False, False, False, True, False],
        }
    )
    assert_array_equal(found.kinds, [0, 3, 4, 1, 1])
    assert_array_equal(found.values, [1.0, *[np.nan] * 4])
    assert_array_equal(found.limits, [np.nan, 2.0, 3.0, np.nan, np.nan])
    assert_array_equal(found.upper, [np.nan, np.nan, 3.5, np.nan, np.nan])


def test_components_have_colours_and_names_of_their_own(target):
    times = table()["times"]
    found = ahead(target, times, (UNITS, WIDTH, 2), labels=("drug", "metabolite"))
    seen = {"times": times, "conc": np.zeros((UNITS, WIDTH, 2))}
    first, second = bh.plots.forecast(found, fitted=seen).axes[:2]
    assert [text.get_text() for text in first.texts] == ["drug", "metabolite"]
    assert not second.texts
    lines = [line for line in first.lines if line.get_label() == "_median"]
    assert len({line.get_color() for line in lines}) == len({line.get_linestyle() for line in lines}) == 2
    points = [line for line in first.lines if line.get_marker() not in ("None", "") and len(line.get_xdata())]
    assert len({line.get_marker() for line in points}) == 2


def test_units_that_are_drawn_anew_are_called_new(target):
    found = ahead(target, table()["times"])
    assert bh.plots.forecast(found).axes[0].get_title() == "subject P0"
    fresh = replace(found, drawn_anew=("rate_offset",))
    assert bh.plots.forecast(fresh).axes[0].get_title() == "new subject P0"


def test_where_a_network_extrapolates_the_unit_is_hatched(target):
    found = ahead(target, table()["times"])
    along = np.zeros((UNITS, WIDTH))
    along[2, 3:] = 0.9
    found.__dict__["extrapolation"] = {"extra": Asked(0.06, along.ravel(), np.zeros((1, 4)))}
    figure = bh.plots.forecast(found)
    spans = [[p for p in axes.patches if p.get_label() == "a network extrapolates"] for axes in figure.axes]
    assert [len(one) for one in spans] == [0, 0, 1, 0, 0, 0, 0]
    left, right = (spans[2][0].get_x() + part * spans[2][0].get_width() for part in (0, 1))
    assert_allclose([left, right], [table()["times"][2, 2:4].mean(), table()["times"][2, 4]])
    assert (
        "The network extra is asked outside what it met in the fit in 6 % of its calls"
        in figure.get_suptitle()
    )
    assert extrapolation_words({"extra": Asked(0.0, None, np.zeros((1, 4)))}) == ""


def test_a_contrast_has_a_line_at_zero_and_the_part_through_a_network(target):
    forecast = ahead(target, table()["times"])
    rows = np.tile(np.arange(40), (2, 1))
    observed = {"conc": replace(forecast.observed["conc"], draws=forecast.observed["conc"].draws + 5.0)}
    effect = Contrast({}, observed, replace(forecast, changed=("rate",)), forecast, rows)
    effect.__dict__["through_networks"] = {}
    figure = bh.plots.contrast(effect)
    assert len(figure.axes) == UNITS
    assert "Difference in conc that a change of rate makes" in figure.get_suptitle()
    assert figure.get_supylabel() == "difference in conc (mg/L)"
    assert not [label for label in areas(figure.axes[0]) if "network" in label]
    _, low, high = edges(areas(figure.axes[0])["difference, 90 %"])
    assert_allclose([low, high], observed["conc"].interval(0.9)[:, 0])
    new = Contrast({}, observed, replace(effect.changed, drawn_anew=("rate_offset",)), forecast, rows)
    new.__dict__["through_networks"] = {}
    assert bh.plots.contrast(new).axes[0].get_title().startswith("new subject ")
    effect.__dict__["through_networks"] = {
        "conc": replace(observed["conc"], draws=0.5 * observed["conc"].draws)
    }
    figure = bh.plots.contrast(effect)
    part = areas(figure.axes[0])["through a network, 90 %"]
    assert part.get_hatch()
    assert_allclose(edges(part)[2], 0.5 * high)
    assert "50 % of it came through a network" in figure.get_suptitle()
    with pytest.raises(ModelError, match="no 'path' among the differences: there are conc"):
        bh.plots.contrast(effect, name="path")


@pytest.fixture(scope="module")
def posterior():
    data = table()
    layout = bh.Target(decay, data).layout
    drawn = 0.1 * np.random.default_rng(1).standard_normal((4, 100, layout.size))
    drawn[..., layout["rate_population"].start] += np.log(0.4)
    drawn[..., layout["rate_spread"].start] += np.log(0.1)
    return from_draws(decay, data, drawn)


def test_the_fit_of_units_counts_what_is_censored(posterior):
    figure = bh.plots.fit(posterior, key=1)
    checked = posterior.check(key=1, draws=1000)
    count, cells = checked.inside["conc"]
    censored = int(table()["conc"]["left"].sum())
    assert censored
    assert (
        f"{count} of {cells} data inside the 90 % band (in sample), {censored} censored"
        in figure.get_suptitle()
    )
    assert len(figure.axes) == UNITS
    assert_allclose(len(marks(figure.axes[0])["known to be below this"]), table()["conc"]["left"][0].sum())


def test_residuals_stand_by_time_and_by_unit(posterior):
    figure = bh.plots.residuals(posterior, key=1)
    checked = posterior.check(key=1, draws=1000)
    over_time, by_unit, scores_over_time, scores_by_unit = figure.axes
    for values, (left, right) in (
        (checked.residuals["conc"], (over_time, by_unit)),
        (checked.scores["conc"], (scores_over_time, scores_by_unit)),
    ):
        drawn = np.concatenate([marks(left).get(name, np.zeros((0, 2))) for name in ("_data", "_odd")])
        assert_allclose(np.sort(drawn[:, 1]), np.sort(values[np.isfinite(values)]))
        means = [line.get_ydata()[0] for line in right.lines if line.get_label() == "mean of a unit"]
        assert_allclose(means, np.nanmean(values, axis=1))
    assert [tick.get_text() for tick in scores_by_unit.get_xticklabels()] == [f"P{i}" for i in range(UNITS)]
    assert "censored values are left out" in figure.get_suptitle()


def test_the_visual_predictive_check_draws_the_figures_of_the_check(posterior):
    figure = bh.plots.visual_predictive_check(posterior, key=2, bins=3)
    found = posterior.check(key=2, draws=1000, new=("subject",)).by_time("times", bins=3)
    above, below = figure.axes
    median = next(line for line in above.lines if line.get_label() == "median of the data")
    assert_allclose(median.get_xydata(), np.stack([found.centres, found.observed[:, 1]], -1))
    boxes = [c for c in above.collections if c.get_label() == "median, replicated data"]
    first = edges(boxes[0])
    assert_allclose(first[0], found.edges[:2])
    assert_allclose([first[1][0], first[2][0]], found.simulated[0, 1, [0, 2]])
    assert_allclose(below.lines[0].get_ydata(), found.below)
    assert "subject drawn anew, in sample" in figure.get_suptitle()


def test_single_units_are_left_out_of_the_unknowns(posterior):
    figure = bh.plots.parameters(posterior)
    titles = [axes.get_title(loc="left").split()[0] for axes in figure.axes]
    assert titles == ["rate_population", "rate_spread"]
    assert "7 values of single units are not shown" in figure.get_suptitle()


def test_a_budget_of_units_has_a_panel_for_each(target):
    found = ahead(target, table()["times"])
    one = np.ones((UNITS, WIDTH))
    rows = {"noise": one, "rates": 3 * one}
    told = Budget(
        "conc", None, (), "identity", rows, {}, 4 * one, 3 * one, ("rates",), (), {}, one, (), 0 * one
    )
    figure = bh.plots.budget(told, forecast=found)
    assert len(figure.axes) == UNITS
    x, low, high = edges(areas(figure.axes[1])["rates"])
    assert_allclose(x, table()["times"][1, :-1])
    assert_allclose([low, high], [[0.0] * (WIDTH - 1), [0.75] * (WIDTH - 1)])


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [
        (1, "subject", "1 subject"),
        (3, "species", "3 species"),
        (2, "colony", "2 colonies"),
        (2, "day", "2 days"),
    ],
)
def test_units_are_counted_in_words(number, noun, words):
    assert counted(number, noun) == words
