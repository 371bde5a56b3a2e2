"""What every method of inference promises, over the register of methods: one file, one export, one row."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, get_args

import jax
import numpy as np
import pytest

import bayeshybrid as bh
from bayeshybrid import configuration
from bayeshybrid.diagnostics import mean_error
from bayeshybrid.inference.method import METHODS, Basin, Chunk, Claim, Method, Result, register
from bayeshybrid.keys import as_key
from tests.problems import PROBLEMS, linear_answer

# Settings with which each method ends in a moment, and others that differ from its defaults.
QUICK: dict[str, dict[str, Any]] = {
    "SharedHMC": {"chains": 32, "most_draws": 20, "most_warmup": 20},
    "NUTS": {"draws": 60, "warmup": 60},
    "SVI": {"draws": 60, "steps": 60},
    "DeepEnsemble": {"members": 4, "steps": 60},
}
OTHER: dict[str, dict[str, Any]] = {
    "SharedHMC": {"chains": 36},
    "NUTS": {"draws": 61},
    "SVI": {"guide": "flow"},
    "DeepEnsemble": {"members": 5},
}
# Settings with which it can be held to its claim.
LONG: dict[str, dict[str, Any]] = {
    "SharedHMC": {},
    "NUTS": {"draws": 500, "warmup": 500},
    "SVI": {"draws": 500, "steps": 500},
    "DeepEnsemble": {"steps": 300},
}


@pytest.fixture(params=sorted(METHODS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def method(name: str) -> Method:
    return METHODS[name](**QUICK.get(name, {}))


@pytest.fixture(scope="module")
def target() -> bh.Target:
    with configuration.scope():
        return bh.Target(PROBLEMS["linear"].model, PROBLEMS["linear"].data)


@pytest.fixture(scope="module")
def basins() -> tuple[Basin, ...]:
    mean, covariance, _ = linear_answer()
    return (Basin(mean, -10.0, mean[None], np.linalg.cholesky(covariance), np.ones(2), 1.0, 0.0),)


def turn(method, target, state, length: int = 17) -> tuple[object, list[Chunk]]:
    """Turn a method until it is finished."""
    chunks = []
    while not method.finished(state):
        state, chunk = method.advance(target, state, length)
        chunk.statistics.pop("failed_at", None)
        chunks.append(chunk)
    return state, chunks


def through_files(state):
    """A state as it comes back from a file: plain arrays of the same content, nothing shared."""
    leaves, structure = jax.tree.flatten(state)
    return jax.tree.unflatten(
        structure, [np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape) for x in map(np.asarray, leaves)]
    )


def test_every_method_is_exported_by_its_name(name):
    assert getattr(bh, name) is METHODS[name]
    assert name in bh.__all__
    assert issubclass(METHODS[name], Method)


def test_a_method_is_its_configuration(name):
    kind = METHODS[name]
    assert kind() == kind()
    assert hash(kind()) == hash(kind())
    assert len({kind(), kind(), kind(**OTHER[name])}) == 2
    assert repr(kind()).startswith(f"{name}(")
    assert eval(repr(kind()), {name: kind}) == kind()


def test_a_method_does_not_change(name):
    method = METHODS[name]()
    for entry in dataclasses.fields(method):  # type: ignore[arg-type]
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(method, entry.name, 3)
        hash(getattr(method, entry.name))


def test_a_method_says_what_its_draws_are(name):
    assert METHODS[name].claims in get_args(Claim)


def test_every_part_is_documented(name):
    for part in (
        METHODS[name],
        *(
            getattr(METHODS[name], p)
            for p in ("start", "advance", "finished", "finish", "progress", "expected")
        ),
    ):
        assert part.__doc__


def test_the_state_machine(method, target, basins):
    with configuration.scope():
        assert min(method.expected(target.layout.size, len(basins), 1000.0)) > 0
        state = method.start(target, basins, as_key(0))
        done, total, doing = method.progress(state)
        assert (done, method.finished(state)) == (0, False)
        assert total > 0
        assert doing
        state, first = method.advance(target, state, 5)
        after = method.progress(state)
        assert done < after[0] <= total
        assert after[1] == total
        first.statistics.pop("failed_at", None)
        state, rest = turn(method, target, state)
        assert method.finished(state)
        assert method.progress(state)[0] == total
        result = method.finish(target, state, [first, *rest], basins)
    assert isinstance(result, Result)
    assert result.draws.ndim == 3
    assert result.draws.shape[-1] == target.layout.size
    assert isinstance(result.draws, np.ndarray)
    assert np.all(np.isfinite(result.draws))
    assert len(result.raw) == len(basins)
    for values in result.statistics.values():
        assert values.shape[:2] == result.draws.shape[:2]


def test_the_state_is_a_checkpoint(method, target, basins):
    """Taken down at any moment and taken up again it goes on bit for bit."""
    with configuration.scope():
        state = method.start(target, basins, as_key(3))
        _, whole = turn(method, target, state)
        state, pieces = method.start(target, basins, as_key(3)), []
        while not method.finished(state):
            state, chunk = method.advance(target, through_files(state), 17)
            chunk.statistics.pop("failed_at", None)
            pieces.append(chunk)
    assert len(whole) == len(pieces)
    for one, other in zip(whole, pieces, strict=True):
        assert np.array_equal(one.draws, other.draws)
        assert one.statistics.keys() == other.statistics.keys()
        for statistic in one.statistics:
            assert np.array_equal(one.statistics[statistic], other.statistics[statistic]), statistic


def test_the_state_is_arrays_and_nothing_else(method, target, basins):
    with configuration.scope():
        state = method.start(target, basins, as_key(0))
        turned, _ = method.advance(target, state, 3)
    assert jax.tree.structure(state) == jax.tree.structure(turned)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(turned), strict=True):
        assert np.asarray(before).dtype == np.asarray(after).dtype
        assert np.asarray(before).dtype.kind in "fiub"
        assert before.shape == after.shape


def test_cut_short_there_is_a_result(method, target, basins):
    with configuration.scope():
        state = method.start(target, basins, as_key(0))
        state, chunk = method.advance(target, state, 5)
        chunk.statistics.pop("failed_at", None)
        result = method.finish(target, state, [chunk], basins)
    assert result.draws.shape[-1] == target.layout.size


def test_what_is_claimed_holds(fit: Callable[..., bh.Posterior], name):
    """Draws said to be the posterior's find the closed form; a method that claims less may not pass by silence."""
    posterior = fit("linear", METHODS[name](**LONG[name]))
    if METHODS[name].claims == "predictive only":
        assert posterior.verdict.nature == "not draws of a posterior"
        assert "pass" not in posterior.verdict.state
        return
    assert posterior.verdict.nature == "draws of the posterior"
    mean, _, _ = linear_answer()
    for i in range(2):
        w = posterior.samples["w"][..., i]
        assert abs(w.mean() - mean[i]) < 4 * mean_error(w)
    assert posterior.verdict.state == "pass"
    assert posterior.method == repr(METHODS[name](**LONG[name]))


def test_registering_is_one_row(monkeypatch):
    monkeypatch.setattr("bayeshybrid.inference.method.METHODS", METHODS.copy())

    class Another(bh.NUTS):
        """A method of somebody else."""

    assert register(Another) is Another


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (bh.NUTS, r"method=NUTS: write NUTS\(\), with its settings in the brackets"),
        ("NUTS", r"method='NUTS' is not a method: write one of .*NUTS\(\)"),
    ],
)
def test_what_is_no_method_is_refused(method, words):
    with pytest.raises(bh.ModelError, match=words):
        bh.infer(PROBLEMS["linear"].model, PROBLEMS["linear"].data, method, key=0)
