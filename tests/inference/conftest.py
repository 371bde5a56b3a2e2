"""Fits that several tests look at, made once."""

from __future__ import annotations

from collections.abc import Callable

import jax
import pytest

import bayeshybrid as bh
from bayeshybrid.inference.method import Method
from tests.problems import PROBLEMS


@pytest.fixture(scope="session")
def fit() -> Callable[..., bh.Posterior]:
    """`fit("linear")`: the posterior of a problem, by default from 4 chains of 500 draws after 500 of warm-up."""
    made: dict[tuple, bh.Posterior] = {}

    def find(name: str, method: Method | None = None, key: int = 0) -> bh.Posterior:
        method = method or bh.NUTS(draws=500, warmup=500)
        if (name, method, key) not in made:
            with jax.numpy_rank_promotion("raise"):
                problem = PROBLEMS[name]
                made[name, method, key] = bh.infer(problem.model, problem.data, method, key=key)
        return made[name, method, key]

    return find
