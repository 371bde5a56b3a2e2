"""What the pictures of a budget, a track record and an identifiability show: the figures of the results themselves."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from numpy.testing import assert_allclose

import bayeshybrid as bh
from bayeshybrid.calibration import Calibration, Figure, SiteCalibration
from bayeshybrid.class_scores import Reliability
from bayeshybrid.doubt import Budget
from bayeshybrid.faults import ModelError
from bayeshybrid.identifiability import Identifiability, ParameterFinding, Thresholds
from bayeshybrid.plots.doubt import row_styles
from bayeshybrid.scores import ecdf_bands

SHAPE = (3, 2)
ROWS = {"noise": 2.0, "rates": 1.0, "missing": 1.5, "not attributed": -0.5}


def budget(**more) -> Budget:
    rows = {name: np.full(SHAPE, value) for name, value in ROWS.items()}
    total, none = np.full(SHAPE, 4.0), np.zeros(SHAPE)
    fields = {
        "site": "pelts",
        "unit": "kpelt",
        "labels": ("hare", "lynx"),
        "scale": "identity",
        "rows": rows,
        "errors": {},
        "total": total,
        "epistemic": total / 2,
        "groups": ("rates", "missing"),
        "networks": ("missing",),
        "drop": {},
        "compensation": none,
        "compensating": (),
        "solver": none,
    }
    return Budget(**{**fields, **more})


def areas(axes) -> dict:
    return {c.get_label(): c for c in axes.collections if isinstance(c, PolyCollection)}


def edges(area):
    x, y = area.get_paths()[0].vertices.T
    places = np.unique(x)
    return places, *np.array([[y[x == p].min(), y[x == p].max()] for p in places]).T


def test_budget_stacks_the_groups_below_what_cannot_be_known():
    figure = bh.plots.budget(budget(), forecast=SimpleNamespace(inputs={"times": np.array([2.0, 0.0, 1.0])}))
    assert [axes.get_title() for axes in figure.axes] == ["hare", "lynx"]
    assert figure.axes[0].get_xlabel() == "times"
    found = areas(figure.axes[1])
    assert list(found) == ["rates", "missing", "not attributed", "noise"]
    x, low, high = edges(found["rates"])
    assert_allclose(x, [0.0, 1.0, 2.0])
    assert_allclose([low, high], [[0.0] * 3, [1.0 / 4.5] * 3])  # the negative row is drawn as nothing
    assert_allclose(edges(found["missing"])[2], 2.5 / 4.5)
    assert_allclose(edges(found["not attributed"])[1:], 2.5 / 4.5)
    assert_allclose(edges(found["noise"])[2], 1.0)


def test_budget_without_a_forecast_counts_entries():
    assert bh.plots.budget(budget()).axes[0].get_xlabel() == "entry"


def test_groups_differ_without_colour():
    groups = tuple(f"g{i}" for i in range(8))
    styles = row_styles(budget(groups=groups))
    assert len({styles[name]["hatch"] for name in groups}) == 8
    grey = [float(np.dot([0.299, 0.587, 0.114], to_rgb(styles[name]["facecolor"]))) for name in groups]
    assert np.all(np.abs(np.diff(grey)) > 0.1)


def site(pit, reliability=None) -> SiteCalibration:
    figures = {
        f"coverage {level:g} %": Figure(
            share, level / 100, level / 100 - 0.2, min(1.0, level / 100 + 0.2), "as expected"
        )
        for level, share in ((50, 0.3), (90, 0.8))
    }
    return SiteCalibration(
        site="y",
        unit=None,
        nature="numbers",
        figures=figures,
        counts={0.5: (3, 10), 0.9: (8, 10)},
        pit=pit,
        pit_bands=ecdf_bands(len(pit)),
        reliability=reliability,
        entropies=None,
        compared=len(pit),
        censored=0,
        missing=0,
        in_sample=0,
        pareto_k=np.zeros(0),
        words=(),
    )


def test_track_record_stands_beside_a_perfect_one(generator):
    pit = generator.uniform(size=10)
    figure = bh.plots.calibration(Calibration({"y": site(pit)}, False, 1, ()))
    left, right = figure.axes
    (points,) = [line for line in left.lines if line.get_label() == "this forecast"]
    assert_allclose(points.get_xydata(), [[0.5, 0.3], [0.9, 0.8]])
    bars = [line.get_xydata() for line in left.lines if line.get_linewidth() == 7.0]
    assert_allclose(bars, [[[0.5, 0.3], [0.5, 0.7]], [[0.9, 0.7], [0.9, 1.0]]])
    assert [text.get_text() for text in left.texts] == ["3 of 10", "8 of 10"]
    grid, low, high = ecdf_bands(10)
    (curve,) = [line for line in right.lines if line.get_label() == "this forecast"]
    assert_allclose(curve.get_xdata(), grid)
    assert_allclose(curve.get_ydata(), [np.mean(pit <= u) - u for u in grid])
    _, lower, upper = edges(areas(right)["perfect, 95 in 100 curves"])
    assert_allclose(lower, np.minimum(low, high))
    assert_allclose(upper, np.maximum(low, high))
    assert "not used in the fit" in figure.get_suptitle()
    seen = bh.plots.calibration(Calibration({"y": site(pit)}, True, 1, ()))
    assert "in sample" in seen.get_suptitle()


def test_classes_get_a_reliability_diagram(generator):
    table = Reliability(
        stated=np.array([0.2, 0.8]),
        met=np.array([0.25, 0.6]),
        count=np.array([4, 5]),
        low=np.array([0.0, np.nan]),
        high=np.array([0.5, np.nan]),
        edges=np.linspace(0, 1, 3),
    )
    right = bh.plots.calibration(Calibration({"y": site(np.empty(0), table)}, False, 1, ())).axes[1]
    (points,) = [line for line in right.lines if line.get_label() == "this forecast"]
    assert_allclose(points.get_xydata(), [[0.2, 0.25], [0.8, 0.6]])
    assert right.get_xlabel() == "probability stated"


def test_track_record_needs_a_site_where_there_are_several(generator):
    one = site(generator.uniform(size=5))
    both = Calibration({"y": one, "z": one}, False, 1, ())
    with pytest.raises(ModelError, match="the track record has y, z: choose one with site="):
        bh.plots.calibration(both)
    with pytest.raises(ModelError, match="no site 'q' in the track record"):
        bh.plots.calibration(both, site="q")
    assert "Track record of z" in bh.plots.calibration(both, site="z").get_suptitle()


def finding(name, contraction) -> ParameterFinding:
    return ParameterFinding(
        name, "m", "identified", contraction, 0.3, False, (1.0, 1.2), (0.0, 3.0), 0.99, 0.0, {}
    )


def known(absorption) -> Identifiability:
    told = (finding("birth", 0.95), finding("$death$", np.nan))
    return Identifiability(told, np.ones(2), (), (), absorption, (), (), Thresholds(), 1)


def test_identifiability_shows_contraction_and_what_networks_took():
    figure = bh.plots.identifiability(known({("birth", "missing"): {0.5: 0.2, 1.0: 0.4, 2.0: 0.7}}))
    left, right = figure.axes
    assert_allclose([bar.get_width() for bar in left.patches], [0.95, 0.0])
    assert [label.get_text() for label in left.get_yticklabels()] == ["birth", "$death$"]
    figure.canvas.draw()  # a name that looks like a formula is no formula
    whiskers, mark = right.lines
    assert_allclose(whiskers.get_xdata(), [0.2, 0.7])
    assert_allclose(mark.get_xydata(), [[0.4, 0.0]])
    assert mark.get_label() == "taken by missing"


def test_identifiability_without_networks_has_one_part():
    assert len(bh.plots.identifiability(known({})).axes) == 1
    nothing = Identifiability((), np.zeros(0), (), (), {}, (), (), Thresholds(), 0)
    with pytest.raises(ModelError, match="no parameter was examined"):
        bh.plots.identifiability(nothing)
