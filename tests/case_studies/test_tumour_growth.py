"""Tumours: the shells and the laws against closed forms, the models piece by piece, and whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from case_studies.tumour_growth import comparison, growth, model, space, tables, truth
from case_studies.tumour_growth.__main__ import main

README = Path(model.__file__).with_name("README.md")
FIRST_ROOT = 4.493409457909064  # of tan x = x: the slowest radial mode through whose surface nothing flows


def test_no_cell_is_lost_by_diffusion():
    """What all shells hold together stays the same to rounding, and a density that is level stays level."""
    for shells in (5, 20, 100):
        spread = space.laplacian(shells)
        assert (
            np.abs(space.volumes(shells) @ spread).max()
            < 1e-12 * np.abs(space.volumes(shells)[:, None] * spread).max() * shells
        )
        assert np.abs(spread.sum(axis=1)).max() < 1e-12 * np.abs(spread).max()
    assert space.volumes().sum() == pytest.approx(4 / 3 * np.pi * space.RADIUS**3)


def mode(radius, day):
    """A density about level that decays as heat does: `sin(kr) / kr`, with no slope at the centre or the surface."""
    k = FIRST_ROOT / space.RADIUS
    return np.sin(k * radius) / (k * radius) * np.exp(-truth.DIFFUSION * k**2 * day)


def test_diffusion_converges_at_second_order():
    """Twice as many shells, a quarter of the error against the closed form of radial heat flow."""
    day, errors = 12.0, []
    for shells in (10, 20, 40, 80):
        r = space.centres(shells)
        found = expm(day * truth.DIFFUSION * space.laplacian(shells)) @ mode(r, 0.0)
        errors.append(np.abs(found - mode(r, day)).max())
    assert np.log2(np.array(errors[:-1]) / errors[1:]) == pytest.approx(2.0, abs=0.15)
    assert errors[1] < 0.01


def test_values_between_shells_lie_on_straight_lines():
    """Exact at the centres, where everything is measured, and for densities that are straight."""
    radii = jnp.array([*space.centres()[[0, 4]], 1.0, 3.3])
    found = jnp.array(np.stack([space.centres(), np.ones(space.SHELLS)])) @ space.at(radii)
    assert found.tolist() == [pytest.approx(radii.tolist()), pytest.approx([1.0] * 4)]


def test_the_models_shells_are_fine_enough():
    """Twenty shells with the true effect stay near the truth of a hundred: by less than the noise of a measurement."""
    days = np.array(truth.DAYS)
    spread = truth.DIFFUSION * space.laplacian()
    for dose in (0.0, 10.0, 20.0):
        slope = lambda t, u, dose=dose: spread @ u + truth.GROWTH * u * (1 - u) - truth.effect(dose, t) * u  # noqa: E731
        start = truth.first_density(space.centres())
        found = solve_ivp(slope, (0, 12), start, t_eval=days, rtol=1e-8, atol=1e-8).y.T
        assert np.abs(found - truth.density((dose,), truth.DAYS)[0]).max() < truth.NOISE / 3


def test_the_true_balance_holds_of_the_truth_and_of_nothing_else():
    """The physical residual is small for the truth, and the effect's own size where the effect is left out."""
    treated = truth.density(truth.SEEN_DOSES, comparison.DENSE_DAYS)
    assert comparison.physical_residual(treated, truth.SEEN_DOSES) < 0.02
    untreated = np.repeat(treated[:1], 4, axis=0)
    assert comparison.physical_residual(untreated, truth.SEEN_DOSES) > 0.05


def test_the_measurements_are_as_stated():
    """Sizes, noise, and shares that lie within each other; larger doses leave fewer cells."""
    whole, half, quarter = (~truth.training(share)["density"]["missing"] for share in (1.0, 0.5, 0.25))
    assert (whole.sum(), half.sum(), quarter.sum()) == (112, 56, 28)
    assert (half | ~quarter).all()
    assert str(truth.held_out()) == "held out: 4 animals, 6 days, 4 radii, 96 values"
    assert str(truth.beyond()) == "beyond: 2 animals, 12 days, 8 radii, 192 values"
    cells = truth.beyond()["density"]["values"]
    exact = truth.density(truth.BEYOND_DOSES, tuple(truth.beyond()["day"]))[..., :16:2]
    assert np.std(cells - exact) == pytest.approx(truth.NOISE, rel=0.15)
    later = truth.density(truth.SEEN_DOSES + truth.BEYOND_DOSES, (12.0,))[:, 0] @ space.volumes()
    assert (np.diff(later) < 0).all()


def test_the_effect_is_never_negative_and_rises_with_the_dose():
    """By its form, whatever the weights; without a dose there is none."""
    doses, days = jnp.array([0.0, 1.0, 4.0, 20.0]), jnp.array([0.0, 3.0, 12.0])
    told = jax.jit(lambda net: jax.vmap(lambda a: jax.vmap(lambda t: model.effect(net, a, t))(days))(doses))
    for seed in range(3):
        effects = np.asarray(told(numpyro.handlers.seed(model.effect_network, seed)()))
        assert np.abs(effects[0]).max() < 1e-12
        assert (np.diff(effects, axis=0) > 0.0).all()


def test_the_gradient_is_that_of_differences():
    """Through the solve and the shells, by diffusion, growth and the weight of a dose."""
    inputs = [jnp.array(values) for values in ((0.0, 5.0), (4.0, 12.0), space.centres()[[0, 8]])]

    @jax.jit
    @jax.value_and_grad
    def reached(rates):
        def field(t, u, args):
            return model.balance(u, *args[0][:2]) - args[0][2] * args[1] * u

        dose, day, radius = inputs
        return jnp.sum(jnp.sin(model.solved(field, rates, None, dose, day, radius, 1e-8)))

    rates, step = np.array([0.1, 0.5, 0.05]), 0.003
    slopes = reached(rates)[1]
    for place, size in enumerate(rates):
        moved = np.eye(3)[place] * step * size
        by_difference = (reached(rates + moved)[0] - reached(rates - moved)[0]) / (2 * step * size)
        assert float(slopes[place]) == pytest.approx(float(by_difference), rel=1e-3)


def test_the_imbalance_is_that_of_the_equation():
    """Of a density and an effect that are written down, against their derivatives by hand."""
    cells = SimpleNamespace(diffusion=0.2, growth=0.7)
    net = lambda x: jnp.stack([jnp.exp(-x[1]) * jnp.cos(x[2])])  # noqa: E731
    point = jnp.array([1.1, 0.4, 1.7])
    u = np.exp(-0.4) * np.cos(1.7)
    curved = -u - 2 / 1.7 * np.exp(-0.4) * np.sin(1.7)
    by_hand = -u - 0.2 * curved - 0.7 * u * (1 - u) + 0.3 * 1.1 * u
    found = model.imbalance(net, lambda x: 0.3 * x[:, :1], cells, point)
    assert float(found) == pytest.approx(by_hand)


SLOPES = {
    "Gompertz": lambda v, a, b: (a - b * np.log(v)) * v,
    "logistic": lambda v, a, k: a * v * (1 - v / k),
    "power law": lambda v, a, g: a * v**g,
}


@pytest.mark.parametrize(
    ("name", "numbers"), [("Gompertz", (0.8, 0.1)), ("logistic", (0.5, 1500.0)), ("power law", (0.9, 0.8))]
)
def test_each_law_solves_its_equation(name, numbers):
    """From the injected volume on, with the slope that the law states."""
    curve = growth.LAWS[name][0]
    for day in (0.0, 5.0, 20.0):
        slope = jax.grad(lambda t: curve(t, *numbers))(day)
        assert float(slope) == pytest.approx(SLOPES[name](float(curve(day, *numbers)), *numbers))
    assert float(curve(0.0, *numbers)) == pytest.approx(growth.FIRST_VOLUME)


def test_the_record_is_complete_and_divided():
    """Twenty mice; each volume is either fitted or held back."""
    record = growth.read_record()
    assert str(record).startswith("20 animals, 173 values")
    there = [~read["volume"]["missing"] for read in (record, growth.early(record), growth.late(record))]
    assert [int(each.sum()) for each in there] == [173, 102, 71]
    assert (there[0] == (there[1] ^ there[2])).all()
    assert record["volume"]["values"][there[0]].sum() == pytest.approx(91720.13, abs=0.01)


@pytest.mark.slow
def test_networks_are_judged(capsys):
    """Four members and a few steps: not to be believed, but every table can be written."""
    how = comparison.methods(members=4, steps=4)
    names = ("network", "informed network")
    (found,) = comparison.rounds((0.5,), {name: how[name] for name in names}, key=0)
    assert "network, 50% of the measurements" in capsys.readouterr().out
    assert found.scores["held out"].compared == 96
    assert found.judged["network"].effect is None
    assert found.judged["informed network"].effect.shape == (3, 5, 7)
    assert "informed network    50%" in tables.scores_in_words([found])
    assert len(tables.effect_rows(found)) == 35
    assert "beyond" in tables.effect_in_words(found)
    assert "fail" in tables.costs_in_words([found])
    assert set(tables.plain(found)["models"]) == set(names)


def markdown(share, name, row):
    """A row of `expected.json` as the README shows it."""
    inside, residual = f"{row['coverage 90 %']:.0%}".replace("%", " %"), f"{row['residual']:.3f}"
    rest = " | ".join(f"{row[name]:.4f}" for name in ("RMSE", "MAE", "CRPS"))
    return f"| {share} | {name} | {rest} | {inside} | {row['true error']:.4f} | {residual} |"


def test_the_readme_shows_the_expected_figures():
    """Each row of its tables is a row of expected.json."""
    text, told = README.read_text(encoding="utf-8"), tables.expected()
    for conditions in tables.CONDITIONS:
        for share, models in told["treated"].items():
            for name, row in models.items():
                assert markdown(share, name, row[conditions]) in text, (conditions, share, name)
    for name, figures in told["growth"].items():
        cells = [f"{figures[name]:.4g}" for name in ("log score", *comparison.FIGURES[2::-1])]
        assert f"| {name} | {' | '.join(cells)} |" in text, name


@pytest.mark.slow
def test_the_whole_case(tmp_path, capsys):
    """All five models and three laws with their own settings, near what is expected of them."""
    assert main(["--output", str(tmp_path)]) == 0
    assert "s in all" in capsys.readouterr().out
    assert (tmp_path / "report.html").exists()
    told = tables.expected()
    (found,) = json.loads((tmp_path / "treated" / "scores.json").read_text())
    for name, row in told["treated"]["100%"].items():
        for conditions in tables.CONDITIONS:
            scores = found["models"][name]["scores"][conditions]
            for figure in ("RMSE", "CRPS"):
                within = told["tolerance"][figure]
                assert scores[figure] == pytest.approx(row[conditions][figure], rel=within), (name, figure)
            error = found["models"][name]["true_error"][conditions]
            assert error == pytest.approx(row[conditions]["true error"], rel=told["tolerance"]["true error"])
    laws = json.loads((tmp_path / "growth" / "laws.json").read_text())
    for name, figures in told["growth"].items():
        for figure, value in figures.items():
            assert laws["figures"][name][figure] == pytest.approx(value, rel=told["tolerance"]["growth"])
