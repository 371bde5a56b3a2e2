"""Science and networks joined into one function, each part's own output kept.

A join is called like the function that it replaces: as the field of a solve, on a solution, as an operator of
observation, or on covariates to give parameters. Its parts are functions, networks or other joins. What each part
says where the model asks is noted, so that a forecast can tell what came from where.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro.primitives import apply_stack

from bayeshybrid import sites
from bayeshybrid.faults import ModelError
from bayeshybrid.joins import GATE, JOIN, Function, Gated, Hierarchical, Join, Parallel, Residual, Series
from bayeshybrid.networks import Network
from bayeshybrid.priors import parameter

__all__ = ["gated", "hierarchical", "parallel", "residual", "series"]

Part = Callable[..., Any]


def series(
    name: str,
    parts: Mapping[str, Part],
    *,
    keep: bool = False,
    inputs: Callable[..., Any] | None = None,
    unit: str | None = None,
    labels: Sequence[str] = (),
) -> Join:
    """Statement: parts one behind the other, each given what the one before says.

    Science may feed a network, or a network science: a law whose rates a network reads off covariates.

    **Arguments:**

    - `name`: its name, different from every other one of the model.
    - `parts`: name to function, network or join, at least two, in order. The first is given the arguments.
    - `keep`: later functions are given the arguments too, behind the output of the one before; networks never are.
    - `inputs`: what a network that comes first is asked, from the arguments, where these are not one array.
    - `unit`, `labels`: of the last output.

    **Returns:** a `Join`, called with the arguments of the first part. A forecast has what each part says as
    `latent["<name>.<part>"]`.

    **Raises:** `ModelError` for fewer than two parts, what cannot be called, and, when called, for a network that
    is to be asked several arguments at once.

    ```python
    def model(x):
        rate = bh.series("rate", {"scaled": lambda x: x / 10.0, "law": lambda z: jnp.exp(-z)})
        return rate(x)
    assert numpyro.handlers.seed(model, 0)(jnp.zeros(3)).tolist() == [1.0, 1.0, 1.0]
    ```
    """
    checked = _checked("series", name, parts)
    last = list(checked)[-1]
    tags = dict.fromkeys(checked, sites.Tag(name)) | {last: sites.Tag(name, unit=unit, labels=tuple(labels))}
    return _built(Series(checked, name, "series", inputs, keep), tags)


def residual(
    name: str,
    known: Part,
    missing: Part,
    *,
    into: Sequence[int] | None = None,
    how: Literal["sum", "factor"] = "sum",
    inputs: Callable[..., Any] | None = None,
    unit: str | None = None,
    labels: Sequence[str] = (),
) -> Join:
    """Statement: what is known, and a term for what it leaves out.

    **Arguments:**

    - `name`: its name, different from every other one of the model.
    - `known`, `missing`: functions, networks or joins, called with the same arguments. A network for the missing
      term that says `initial="zero"` lets a search begin at the known part alone.
    - `into`: places along the last axis of `known` that the missing term has an entry for; all by default.
    - `how`: `"sum"`, or `"factor"` for `known * exp(missing)`, which keeps signs.
    - `inputs`: what networks are asked, from the arguments, such as `lambda t, y, args: y` in a field.
    - `unit`, `labels`: of the output; of a factor the missing term has none.

    **Returns:** a `Join`. A forecast has its parts as `latent["<name>.known"]` and `latent["<name>.missing"]`.

    **Raises:** `ModelError` for what cannot be called, and, when called, for shapes that do not go together.

    ```python
    def model(x):
        law = bh.residual("law", lambda x: 2.0 * x, lambda x: jnp.sin(x))
        return law(x)
    assert numpyro.handlers.seed(model, 0)(jnp.zeros(3)).tolist() == [0.0, 0.0, 0.0]
    ```
    """
    checked = _checked("residual", name, {"known": known, "missing": missing})
    if how not in ("sum", "factor"):
        raise ModelError(f'residual({name!r}): how={how!r}; write "sum" or "factor"')
    tag = sites.Tag(name, unit=unit, labels=tuple(labels))
    own = replace(tag, labels=() if into is not None else tag.labels, unit="1" if how == "factor" else unit)
    places = None if into is None else tuple(int(place) for place in into)
    return _built(Residual(checked, name, "residual", inputs, places, how), {"known": tag, "missing": own})


def parallel(
    name: str,
    parts: Mapping[str, Part],
    *,
    fusion: Literal["sum", "linear"] | Network = "linear",
    prior: dist.Distribution | None = None,
    inputs: Callable[..., Any] | None = None,
    unit: str | None = None,
    labels: Sequence[str] = (),
) -> Join:
    """Statement: parts side by side, their outputs fused.

    **Arguments:**

    - `name`: its name, different from every other one of the model.
    - `parts`: name to function, network or join, at least two, called with the same arguments.
    - `fusion`: `"linear"`: an unknown coefficient for each, site `<name>_coefficient`; `"sum"`; or a network that is
      asked all outputs behind one another along the last axis.
    - `prior`: of each coefficient; Normal(1 / n, 1 / n) of n parts by default.
    - `inputs`: what networks among the parts are asked, from the arguments.
    - `unit`, `labels`: of the outputs.

    **Returns:** a `Join`. A forecast has what each part says, before it is fused, as `latent["<name>.<part>"]`.

    **Raises:** `ModelError` for fewer than two parts, what cannot be called, and, when called, outputs of
    different shapes.

    ```python
    def model(x):
        both = bh.parallel("both", {"line": lambda x: x, "square": lambda x: x**2}, fusion="sum")
        return both(x)
    assert numpyro.handlers.seed(model, 0)(2.0 * jnp.ones(2)).tolist() == [6.0, 6.0]
    ```
    """
    checked = _checked("parallel", name, parts)
    if isinstance(fusion, Network):
        fused = fusion
    elif fusion in ("sum", "linear"):
        count = len(checked)
        prior = prior or dist.Normal(1.0 / count, 1.0 / count)
        fused = None if fusion == "sum" else _unknown(name, "coefficient", prior, tuple(checked))
    else:
        raise ModelError(f'parallel({name!r}): fusion={fusion!r}; write "linear", "sum" or a bh.network')
    tag = sites.Tag(name, unit=unit, labels=tuple(labels))
    return _built(Parallel(checked, name, "parallel", inputs, fused), dict.fromkeys(checked, tag))


def hierarchical(
    name: str,
    levels: Mapping[str, Part],
    *,
    prior: dist.Distribution | None = None,
    lift: Callable[[Array], Array] | None = None,
    inputs: Callable[..., Any] | None = None,
    unit: str | None = None,
    labels: Sequence[str] = (),
) -> Join:
    """Statement: models of several scales or levels, each a correction of the coarser one.

    `z_k = coupling_k lift(z_(k-1)) + level_k`, the autoregressive form of Kennedy and O'Hagan (2000), "Predicting the
    output from a complex computer code when fast approximations are available", equation 1.

    **Arguments:**

    - `name`: its name, different from every other one of the model.
    - `levels`: name to function, network or join, at least two, from coarse to fine, called with the same arguments.
    - `prior`: of each coupling, site `<name>_coupling`; Normal(1, 0.5) by default.
    - `lift`: from what a level comes to, to the shape of the finer one's output; nothing where they are alike.
    - `inputs`: what networks among the levels are asked, from the arguments.
    - `unit`, `labels`: of the outputs.

    **Returns:** a `Join`. A forecast has what each level says by itself as `latent["<name>.<level>"]`.

    **Raises:** `ModelError` for fewer than two levels, what cannot be called, and, when called, shapes that do not go
    together.

    ```python
    def model(x):
        return bh.hierarchical("fine", {"coarse": lambda x: x, "detail": lambda x: 0.0 * x})(x)
    told = bh.simulate(lambda x: numpyro.deterministic("z", model(x)), {"x": np.ones(2)}, key=0, draws=4000)
    assert abs(told.latent["z"].mean[0] - 1.0) < 0.05
    ```
    """
    checked = _checked("hierarchical", name, levels)
    coupling = _unknown(name, "coupling", prior or dist.Normal(1.0, 0.5), tuple(checked)[1:])
    tag = sites.Tag(name, unit=unit, labels=tuple(labels))
    built = Hierarchical(checked, name, "hierarchical", inputs, coupling, lift)
    return _built(built, dict.fromkeys(checked, tag))


def gated(
    name: str,
    parts: Mapping[str, Part],
    gate: Network | None = None,
    *,
    attention: bool = False,
    prior: dist.Distribution | None = None,
    inputs: Callable[..., Any] | None = None,
    unit: str | None = None,
    labels: Sequence[str] = (),
) -> Join:
    """Statement: parts weighed against each other; the weights are positive and sum to one.

    **Arguments:**

    - `name`: its name, different from every other one of the model.
    - `parts`: name to function, network or join, at least two, called with the same arguments.
    - `gate`: nothing for constant weights, unknowns of the site `<name>_weight`; or a network, asked what networks
      are, with an output for each part (for two parts one will do: of the first), through a softmax.
    - `attention`: the gate is asked once for each part, at the inputs with the part's output behind them, and has one
      output, its score (Bahdanau, Cho and Bengio 2015, "Neural machine translation by jointly learning to align and
      translate", section 3.1): so it may trust a part by what that says, and new parts need no new gate.
    - `prior`: of constant weights; Dirichlet(1, ..., 1) by default.
    - `inputs`: what networks are asked, from the arguments.
    - `unit`, `labels`: of the outputs.

    **Returns:** a `Join`. A forecast has what each part says, before it is weighed, as `latent["<name>.<part>"]`, and
    the weights as `latent["<name>.gate"]`.

    **Raises:** `ModelError` for fewer than two parts, what cannot be called, attention without a network, and, when
    called, outputs of different shapes or a gate of another size.

    ```python
    def model(x):
        law = bh.gated("law", {"low": lambda x: x, "high": lambda x: x + 1.0})
        return law(x)
    assert 0 < numpyro.handlers.seed(model, 0)(jnp.zeros(())) < 1
    ```
    """
    checked = _checked("gated", name, parts)
    if GATE in checked:
        raise ModelError(f"gated({name!r}): a part cannot be called {GATE!r}, as the weights are")
    if gate is not None and not isinstance(gate, Network):
        raise ModelError(
            f"gated({name!r}): gate={gate!r}; write a bh.network, or nothing for constant weights"
        )
    if attention and gate is None:
        raise ModelError(f"gated({name!r}): attention=True needs a bh.network as the gate")
    among = tuple(checked)
    if gate is None:
        tag = sites.Tag(name, unit="1", labels=among)
        stated = prior or dist.Dirichlet(jnp.ones(len(among)))
        weights: Any = numpyro.sample(f"{name}_weight", stated, infer=sites.mapping(tag))
    else:
        weights = gate
    tags = dict.fromkeys(checked, sites.Tag(name, unit=unit, labels=tuple(labels)))
    tags[GATE] = sites.Tag(name, unit="1", labels=among)
    return _built(Gated(checked, name, "gated", inputs, weights, attention), tags)


def _unknown(name, what, prior, labels):
    """A number for each of several parts."""
    return parameter(f"{name}_{what}", prior, unit="1", shape=(len(labels),), labels=labels, group=name)


def _built(join, tags):
    return apply_stack({"type": JOIN, "join": join.name, "tags": tags, "value": join})["value"]


def _checked(kind, name, parts):
    """The parts as pytrees that can be called."""
    if not isinstance(parts, Mapping):
        raise ModelError(f'{kind}({name!r}): write the parts as {{"name": function, ...}}, got {parts!r}')
    if len(parts) < 2:
        raise ModelError(f"{kind}({name!r}): it joins at least two parts, got {list(parts)}")
    for what, part in parts.items():
        if not isinstance(what, str) or not what.isidentifier():
            raise ModelError(
                f"{kind}({name!r}): {what!r} is no name for a part: write a word, such as 'known'"
            )
        if not callable(part):
            raise ModelError(f"{kind}({name!r}): part {what!r} is {part!r}, which cannot be called")
    whole = (eqx.Module, jax.tree_util.Partial)
    return {what: part if isinstance(part, whole) else Function(part) for what, part in parts.items()}
