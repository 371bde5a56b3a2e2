"""One run of a numpyro model, and what it says about itself.

Everything that is read off a model goes through `run`: the sites with their values and distributions, the
solutions that our statements publish and the networks that ask for the magnitude of their inputs.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jax.extend.core import Var, get_opaque_trace_state
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.util import sum_rightmost
from numpyro.primitives import Messenger

from bayeshybrid.faults import ModelError
from bayeshybrid.joins import JOIN, listening, together
from bayeshybrid.networks import INPUTS, NETWORK, recording, replaying
from bayeshybrid.science.ode import outlined
from bayeshybrid.sites import Tag
from bayeshybrid.statements import GRID, HELD, PRECISION, SOLUTION

__all__ = ["Run", "depends", "place_constrained", "place_unconstrained", "run"]

JACOBIAN = "_{}_log_det"


@dataclass
class Run:
    """What one run of a model left behind.

    - `sites`: numpyro's trace, name to site.
    - `solutions`: solve name to the message of its statement.
    - `networks`: network name to the Network as the model built it.
    - `asking`: names of networks that take the magnitude of their inputs from the data, with input sizes.
    - `visited`: network name to `(inputs, outputs)`, rows over everything that it was asked, where wanted.
    - `direct`: network name to what it was asked and answered at the model's own level, call by call.
    - `joins`: name of a join to the tags of its parts.
    - `parts`: `"<join>.<part>"` to what the part said and its tag, where wanted: along a solution at its times, one
      behind the other where the join is called several times.
    """

    sites: dict[str, Any] = field(default_factory=dict)
    solutions: dict[str, Any] = field(default_factory=dict)
    networks: dict[str, Any] = field(default_factory=dict)
    asking: dict[str, int] = field(default_factory=dict)
    visited: dict[str, Any] = field(default_factory=dict)
    direct: dict[str, Any] = field(default_factory=dict)
    joins: dict[str, dict[str, Tag]] = field(default_factory=dict)
    parts: dict[str, tuple[Any, Tag]] = field(default_factory=dict)


class _Listener(Messenger):
    """Reads the package's own messages and gives every plate all its rows where no key asks otherwise."""

    hears_solutions = True

    def __init__(
        self,
        found: Run,
        scalings: Mapping[str, Any],
        whole: bool,
        finer: float,
        beside: Run | None,
        grids: Mapping[str, Any],
        unsolved: Any,
    ) -> None:
        super().__init__()
        self.unsolved = unsolved
        self.grids = grids
        self.beside = beside
        self.found = found
        self.scalings = scalings
        self.whole = whole
        self.finer = finer
        self.entry = get_opaque_trace_state()

    def process_message(self, msg: Any) -> None:
        kind = msg["type"]
        if kind == SOLUTION:
            self._solution(msg)
        elif kind == INPUTS:
            self.found.asking[msg["network"]] = msg["size"]
            msg["value"] = self.scalings.get(msg["network"], msg["value"])
        elif kind == PRECISION:
            msg["value"] = self.finer
        elif kind == GRID:
            msg["value"] = self.grids.get(msg["statement"])
        elif kind == HELD and self.beside is not None:
            msg["value"] = self.beside.solutions[msg["statement"]]
        elif kind == NETWORK:
            self.found.networks[msg["network"]] = msg["value"]
        elif kind == JOIN:
            if msg["join"] in self.found.joins:
                raise ModelError(
                    f"the name {msg['join']!r} is used by two joins: every statement needs its own name"
                )
            self.found.joins[msg["join"]] = msg["tags"]
        elif kind == "plate" and self.whole and msg["args"][1] is not None:
            size = msg["args"][0]
            msg["args"] = (size, size)
            msg["value"] = jnp.arange(size)
        elif kind == "param" and not msg["name"].endswith("$params"):
            raise ModelError(
                f"numpyro.param({msg['name']!r}) has no prior, so it has no posterior: "
                "write numpyro.sample or bh.parameter with a prior"
            )

    def _solution(self, msg):
        name = msg["statement"]
        if get_opaque_trace_state() != self.entry:
            raise ModelError(
                f"solve_ode({name!r}) stands inside a mapped or compiled function (jax.vmap, jax.jit, "
                "jax.lax.scan). It is a statement of the model: call it at the model's own level and give "
                "in_axes to solve many units, or use bayeshybrid.science.ode.solve inside"
            )
        if name in self.found.solutions:
            raise ModelError(f"the name {name!r} is used by two solves: every statement needs its own name")
        msg["heard"] = True
        if self.unsolved is not None:
            ys = msg["value"].ys
            msg["value"] = msg["value"]._replace(
                ys=jnp.broadcast_to(self.unsolved, ys.shape).astype(ys.dtype)
            )
        self.found.solutions[name] = msg


def run(
    model: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    key: Any,
    place: Callable[[Any], Any],
    scalings: Mapping[str, Any] | None = None,
    whole: bool = True,
    visit: bool = False,
    finer: float = 1.0,
    beside: Run | None = None,
    grids: Mapping[str, Any] | None = None,
    unsolved: Any = None,
) -> Run:
    """Run a model once and collect what it said.

    **Arguments:**

    - `model`, `arguments`: the numpyro model and its keyword arguments.
    - `key`: a JAX key for whatever the model draws.
    - `place`: given a site, its value or `None`; see `place_unconstrained` and `place_constrained`.
    - `scalings`: network name to `(center, spread)` of its inputs.
    - `whole`: give subsampled plates all their rows.
    - `visit`: also note what every network was asked and every part of a join said, along each solution and at the
      model's own level.
    - `finer`: how many times smaller than stated the tolerances of solvers shall be.
    - `beside`: an earlier run in the same trace; networks then answer what they answered in it, at the same call
      and, along a solution, at the same time.
    - `grids`: solve name to the step ends of a frozen grid; the other solves are adaptive.
    - `unsolved`: a number that stands for all states of all solutions: then nothing is solved.

    **Returns:** a `Run`.

    **Raises:** `ModelError` for repeated names, `numpyro.param`, and solves inside mapped functions.

    ```python
    from bayeshybrid.tracing import run, place_constrained
    place = place_constrained({"x": 2.0})
    found = run(lambda: numpyro.sample("x", dist.Normal()), {}, key=jax.random.key(0), place=place)
    assert found.sites["x"]["value"] == 2.0
    ```
    """
    found = Run()
    tracer = numpyro.handlers.trace()
    listener = _Listener(found, scalings or {}, whole, finer, beside, grids or {}, unsolved)
    with (
        nullcontext() if unsolved is None else outlined(),
        recording() as direct,
        listening() as said,
        nullcontext() if beside is None else replaying(beside.direct),
        tracer,
        numpyro.handlers.substitute(substitute_fn=lambda site: _place_late(place, site)),
        numpyro.handlers.seed(rng_seed=key),
        listener,
        numpyro.handlers.substitute(substitute_fn=place),  # before keys are split for what needs none
    ):
        try:
            model(**arguments)
        except AssertionError as error:
            raise _repeated_name(error) from None
    found.sites = dict(tracer.trace)
    clash = sorted(set(found.sites) & set(found.solutions))
    if clash:
        raise ModelError(
            f"the name {clash[0]!r} is used by a site and by a solve: every statement needs its own"
        )
    found.direct = direct
    if visit:
        along = {name: message["visited"]() for name, message in found.solutions.items()}
        found.visited = _visited([direct, *(notes for notes, _ in along.values())])
        found.parts = _parts(found, said, {name: said for name, (_, said) in along.items()})
    return found


def _place_late(place, site):
    """A second chance for values that need a key, which a site gets only after the first."""
    return place(site) if site.get("value") is None else None


def _repeated_name(error):
    text = str(error)
    if "unique names" not in text:
        return error
    name = text.split("`")[1]
    return ModelError(f"the site {name!r} stands twice in the model: give each statement a name of its own")


def _parts(found, direct, along):
    """What each part of a join said; a join stands in one place, so that it is known where that was."""
    told = {}
    for solve, joins in ((None, together(direct)), *along.items()):
        for join, outputs in joins.items():
            if f"{join}.{next(iter(outputs))}" in told:
                raise ModelError(
                    f"the join {join!r} is called in two places: build one for each, with its own name"
                )
            across = found.solutions[solve]["across"] if solve else None
            for part, output in outputs.items():
                told[f"{join}.{part}"] = output, replace(found.joins[join][part], across=across)
    return told


def _visited(notes):
    """Everything that each network was asked and answered, one row a call."""
    seen = {}
    for each in notes:
        for name, pairs in each.items():
            seen.setdefault(name, []).extend(pairs)
    rows = {}
    for name, pairs in seen.items():
        inputs, outputs = (
            [x.reshape(-1, x.shape[-1]) for x in column] for column in zip(*pairs, strict=True)
        )
        rows[name] = (jnp.concatenate(inputs), jnp.concatenate(outputs))
    return rows


def place_unconstrained(pieces: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Values from unconstrained pieces; each transform is read when its site is met.

    The log determinant of the transform enters the trace as a factor named `JACOBIAN`, as numpyro's own
    potential does, because only a site can carry a value out of `numpyro.contrib.control_flow.scan`.

    ```python
    from bayeshybrid.tracing import run, place_unconstrained
    place = place_unconstrained({"x": 0.0})
    found = run(lambda: numpyro.sample("x", dist.HalfNormal()), {}, key=jax.random.key(0), place=place)
    assert found.sites["x"]["value"] == 1.0
    ```
    """

    def place(site):
        name = site["name"]
        if site["type"] != "sample" or name not in pieces or site.get("is_observed"):
            return None
        piece = pieces[name]
        support = site["fn"].support
        transform = biject_to(support)
        index = site["infer"].get("_scan_current_index")
        shift = transform.codomain.event_dim - transform.domain.event_dim
        if index is not None and jnp.ndim(piece) > len(site["fn"].shape()) - shift:
            piece = piece[index]
        if support is constraints.real:
            return piece
        value = transform(piece)
        log_det = transform.log_abs_det_jacobian(piece, value)
        extra = jnp.ndim(log_det) - jnp.ndim(value) + len(site["fn"].event_shape)
        numpyro.factor(JACOBIAN.format(name), sum_rightmost(log_det, extra))
        return value

    return place


def place_constrained(values: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Values as given; where a site has grown along one axis, what is given stays and the rest is drawn.

    ```python
    from bayeshybrid.tracing import run, place_constrained
    model = lambda: numpyro.sample("x", dist.Normal().expand([3]))
    found = run(model, {}, key=jax.random.key(0), place=place_constrained({"x": jnp.zeros(2)}))
    assert found.sites["x"]["value"].shape == (3,) and (found.sites["x"]["value"][:2] == 0).all()
    ```
    """

    def place(site):
        if site["type"] != "sample" or site["name"] not in values or site.get("is_observed"):
            return None
        value = values[site["name"]]
        shape = (*site["kwargs"].get("sample_shape", ()), *site["fn"].shape())
        if jnp.shape(value) == shape:
            return value
        if site["kwargs"]["rng_key"] is None:
            return None
        drawn = site["fn"].sample(site["kwargs"]["rng_key"], site["kwargs"].get("sample_shape", ()))
        index = site["infer"].get("_scan_current_index")
        if index is not None and jnp.ndim(value) == len(shape) + 1:
            return jnp.where(index < len(value), value[index], drawn)
        return drawn.at[tuple(slice(0, n) for n in jnp.shape(value))].set(value)

    return place


def line_of(error: BaseException, model: Callable[..., Any]) -> str:
    """Where in the user's own code an error came from, as `file:line: code`."""
    own = getattr(getattr(inspect.unwrap(model), "__code__", None), "co_filename", None)
    frames = traceback.extract_tb(error.__traceback__)
    mine = [frame for frame in frames if frame.filename == own] or frames[-1:]
    return f"{mine[-1].filename}:{mine[-1].lineno}: {mine[-1].line}" if mine else "the model"


def depends(function: Callable[..., Any], argument: Any, *others: Any) -> bool:
    """Whether anything that `function` returns was computed from its first argument, as its program tells.

    What enters an operation counts as entering all of its results, so that `True` may be said too often.

    ```python
    from bayeshybrid.tracing import depends
    assert depends(lambda x, y: x * y, 1.0, 2.0) and not depends(lambda x, y: y, 1.0, 2.0)
    ```
    """
    program = jax.make_jaxpr(function)(argument, *others).jaxpr
    reached = set(program.invars[: len(jax.tree.leaves(argument))])
    for step in program.eqns:
        if any(isinstance(entry, Var) and entry in reached for entry in step.invars):
            reached.update(step.outvars)
    return any(isinstance(entry, Var) and entry in reached for entry in program.outvars)


def abstract(function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function` records about a model, found by tracing alone: no arithmetic is done.

    `function` returns a static description; the arrays that it met on the way are dropped. Fields are traced, solvers
    are not: tracing them is most of the work, and shapes do not need it.

    ```python
    from bayeshybrid.tracing import abstract
    assert abstract(lambda x: x.shape, np.zeros(3)) == (3,)
    ```
    """
    kept = []

    def trace(arguments):
        kept.append(function(*arguments))
        return 0

    with outlined():
        jax.eval_shape(trace, arguments)
    return kept[-1]
