"""Scores of classes against scoringrules, exact sums and simulation."""

from __future__ import annotations

import numpy as np
import pytest
import scoringrules

from bayeshybrid import class_scores


@pytest.fixture
def yes_or_no(generator) -> tuple[np.ndarray, np.ndarray]:
    stated = generator.beta(2.0, 2.0, 3000)
    return stated, (generator.uniform(size=3000) < stated).astype(int)


def test_brier_score_equals_scoringrules(yes_or_no):
    stated, met = yes_or_no
    assert np.isclose(class_scores.brier_score(stated, met), scoringrules.brier_score(met, stated).mean())
    both = np.stack([1 - stated, stated], axis=1)
    assert np.isclose(class_scores.brier_score(both, met), 2 * class_scores.brier_score(stated, met))


def test_brier_parts_add_up_and_tell_faults_apart(yes_or_no):
    stated, met = yes_or_no
    right = class_scores.brier_parts(stated, met)
    total = right.reliability - right.resolution + right.uncertainty + right.within
    assert np.isclose(total, class_scores.brier_score(stated, met))
    assert right.reliability < 0.005
    assert abs(right.within) < 0.005
    bold = class_scores.brier_parts(np.clip(1.8 * stated - 0.4, 0, 1), met)
    assert bold.reliability > 5 * right.reliability
    constant = class_scores.brier_parts(np.full(3000, met.mean()), met)
    assert np.isclose(constant.resolution, 0)
    assert np.isclose(constant.uncertainty, met.mean() * (1 - met.mean()))


def test_brier_parts_of_rounded_probabilities_are_murphys(generator):
    stated = generator.integers(0, 10, 500) / 10 + 0.05
    met = (generator.uniform(size=500) < stated).astype(int)
    parts = class_scores.brier_parts(stated, met)
    assert abs(parts.within) < 1e-12
    naive = sum(np.mean(stated == p) * (p - met[stated == p].mean()) ** 2 for p in np.unique(stated))
    assert np.isclose(parts.reliability, naive)


def test_calibration_error_of_few_cases_is_biased_and_debiased(generator):
    binned, debiased = [], []
    for _ in range(300):
        stated = generator.uniform(size=100)
        met = generator.uniform(size=100) < stated
        binned.append(class_scores.calibration_error(stated, met))
        debiased.append(class_scores.debiased_calibration_error(stated, met) ** 2)
    assert np.mean(binned) > 0.08  # though the forecast is perfect
    raw = np.mean([error**2 for error in binned])
    assert np.mean(debiased) < 0.5 * raw


def test_debiased_square_is_right_on_average(generator):
    """Against the closed form where all state 0.7 and 0.5 comes true: squared gap 0.04."""
    found = []
    for _ in range(2000):
        met = generator.uniform(size=40) < 0.5
        found.append(class_scores.debiased_calibration_error(np.full(40, 0.7), met, bins=1) ** 2)
    # zero where negative, which at this gap is rare
    assert abs(np.mean(found) - 0.04) < 4 * np.std(found) / np.sqrt(2000) + 0.001


def test_calibration_error_sees_overconfidence(yes_or_no):
    stated, met = yes_or_no
    bold = np.clip(1.8 * stated - 0.4, 0, 1)
    assert (
        class_scores.calibration_error(stated, met) < 0.03 < 0.1 < class_scores.calibration_error(bold, met)
    )
    assert (
        class_scores.debiased_calibration_error(stated, met)
        < 0.03
        < 0.1
        < class_scores.debiased_calibration_error(bold, met)
    )
    assert np.isnan(class_scores.debiased_calibration_error(np.array([0.5]), np.array([1])))


def test_reliability_table_and_its_bars(generator, yes_or_no):
    stated, met = yes_or_no
    played = generator.uniform(size=(200, 3000)) < stated
    table = class_scores.reliability_table(stated, met, played=played)
    assert table.count.sum() == 3000
    assert len(table.stated) == len(table.met) == 10
    inside = (table.met >= table.low) & (table.met <= table.high)
    assert inside.sum() >= 7
    bold = class_scores.reliability_table(np.clip(1.8 * stated - 0.4, 0, 1), met)
    assert np.isnan(bold.low).all()
    assert abs(bold.met[0] - bold.stated[0]) > 0.05
