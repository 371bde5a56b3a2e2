"""The verdict as data: the gravest state wins, claim by claim, and what is not known is never a pass."""

from __future__ import annotations

import json
import math

import pytest

from bayeshybrid.verdict import FORECASTS, FUNCTIONS, PARAMETERS, Check, Verdict, worst


@pytest.mark.parametrize(
    ("states", "gravest"),
    [
        (["pass"], "pass"),
        (["pass", "pass with remarks"], "pass with remarks"),
        (["pass with remarks", "not assessable", "pass"], "not assessable"),
        (["not assessable", "fail", "pass"], "fail"),
        ([], "not assessable"),
    ],
)
def test_the_gravest_state_wins(states, gravest):
    assert worst(states) == gravest
    checks = tuple(Check(f"check {i}", state) for i, state in enumerate(states))
    assert Verdict(checks).state == gravest


@pytest.mark.parametrize("state", ["pass", "pass with remarks"])
def test_a_figure_that_is_not_a_number_never_passes(state):
    assert Check("R-hat", state, math.nan, 1.01).state == "fail"
    assert Verdict((Check("R-hat", state, math.nan, 1.01),)).state == "fail"


def test_what_was_not_assessable_stays_so_without_a_figure():
    assert Check("R-hat", "not assessable", math.nan).state == "not assessable"


def test_one_failed_claim_does_not_spoil_the_others():
    verdict = Verdict(
        (
            Check("R-hat", "pass", 1.001, 1.01, "birth", claims=(PARAMETERS, FORECASTS)),
            Check("R-hat", "fail", 1.4, 1.01, "missing, component 1", claims=(FUNCTIONS, FORECASTS)),
            Check("divergent transitions", "pass with remarks", 5e-4, 1e-3),
        ),
        (PARAMETERS, FUNCTIONS, FORECASTS),
    )
    assert verdict[PARAMETERS] == "pass with remarks"
    assert verdict[FUNCTIONS] == verdict[FORECASTS] == verdict.state == "fail"
    assert [check.state for check in verdict.reasons] == ["fail", "pass with remarks"]


def test_a_claim_without_a_check_is_not_assessable():
    verdict = Verdict((Check("R-hat", "pass", claims=(PARAMETERS,)),), (PARAMETERS, FUNCTIONS))
    assert (verdict[PARAMETERS], verdict[FUNCTIONS]) == ("pass", "not assessable")
    assert verdict.state == "not assessable"


def test_a_claim_that_was_not_made_is_an_error():
    with pytest.raises(KeyError, match="no claim 'evidence' was made: scientific parameters, forecasts"):
        Verdict(())["evidence"]


def test_a_remark_weighs_on_a_pass_and_on_nothing_graver():
    passed, failed = Check("R-hat", "pass", 1.0, 1.01), Check("R-hat", "fail", 1.2, 1.01)
    assert Verdict((passed,), remarks=("a remark",)).state == "pass with remarks"
    assert Verdict((failed,), remarks=("a remark",)).state == "fail"


def test_in_words():
    verdict = Verdict(
        (
            Check("R-hat", "pass", 1.002, 1.01, "birth", "run longer"),
            Check("divergent transitions", "fail", 0.02, 0.001, "chain 3", "reparametrise"),
        ),
        remarks=("one value was measured",),
        unchecked=("evidence",),
        blind=("a basin that nobody reached",),
    )
    told = str(verdict)
    assert told.splitlines()[0] == "scientific parameters: fail"
    assert "fail              divergent transitions: 0.02 (limit 0.001) at chain 3. reparametrise" in told
    assert "R-hat" not in told  # what passed is listed only where everything did
    for line in ("remark: one value", "not checked: evidence", "cannot be seen: a basin"):
        assert line in told
    assert told.endswith("a pass does not mean that the model is right.")
    assert "R-hat: 1.002 (limit 1.01) at birth\n" in str(Verdict(verdict.checks[:1]))


def test_through_a_file_and_back():
    verdict = Verdict(
        (
            Check("R-hat", "fail", 1.3, 1.01, "birth", "run longer", (PARAMETERS,)),
            Check("basins", "pass", 2.0),
        ),
        (PARAMETERS, FUNCTIONS, FORECASTS),
        ("a remark",),
        ("evidence",),
        ("what nobody reached",),
    )
    assert Verdict.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict
