"""Posteriors on disk.

A saved posterior is a folder: one npy file for each array, and `manifest.json`, which says what each of them
is and how long it is, with its checksum. Nothing in it is code, and reading it runs nothing but the model that
the reader gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np

from bayeshybrid import configuration
from bayeshybrid.archive import plain, read_archive, restored, write_archive
from bayeshybrid.datatree import to_datatree
from bayeshybrid.faults import DataError
from bayeshybrid.survey import ask
from bayeshybrid.target import Target
from bayeshybrid.verdict import Verdict

if TYPE_CHECKING:
    from bayeshybrid.posterior import Posterior

FORMAT = "bayeshybrid posterior"
SCHEMA = 1
KEY_KINDS = ("threefry2x32", "rbg", "unsafe_rbg")
WITNESSES = 4
TESTIMONY = ("log likelihood", "slope of the log prior")
# Coarser than rounding, and than what another machine makes of an adaptive solve; finer than another model
AGREEMENT = 1e-4

__all__ = ["load", "save", "to_datatree"]


# Writing


def save(posterior: Posterior, path: Path) -> None:
    """Write a posterior to the new folder `path`; the model's code stays out, `load` asks for it.

    The folder appears whole or not at all: it is written under another name beside `path` and then renamed.

    **Raises:** `FileExistsError` where `path` exists; `DataError` for an argument of the model that is neither
    an array nor plain (numbers, words, `None`, and lists, tuples or dictionaries of them).

    ```python
    import tempfile
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    posterior = bh.infer(model, {"y": np.array(2.0)}, bh.NUTS(draws=100, warmup=100), key=0)
    with tempfile.TemporaryDirectory() as folder:
        posterior.save(folder + "/mine")
        assert np.array_equal(bh.Posterior.load(folder + "/mine", model)["x"], posterior["x"])
    ```
    """
    write_archive(path, FORMAT, SCHEMA, lambda keep: _content(posterior, keep))


def _content(posterior, write):
    """Everything but the arrays' entries, as JSON; the arrays are written on the way."""
    target = posterior.target
    arguments = target.arguments()
    data = {name: _encoded(value, f"argument {name!r}", write) for name, value in arguments.items()}
    return {
        "written by": {"bayeshybrid": _version(), "time": datetime.now(UTC).isoformat()},
        "model": {"name": _title(target.model), "unknowns": _unknowns(target), "observed": _observed(target)},
        "data": data,
        "labels": {axis: list(names) for axis, names in target.labels.items()},
        "scalings": {
            name: [
                write(f"{word} of the inputs of {name!r}", x)
                for word, x in zip(("center", "spread"), pair, strict=True)
            ]
            for name, pair in target.scalings.items()
        },
        "unconstrained": write("draws", posterior.unconstrained),
        "samples": {name: write(f"draws of {name!r}", x) for name, x in posterior.samples.items()},
        "statistics": {name: write(f"statistic {name!r}", x) for name, x in posterior.statistics.items()},
        "witnesses": {
            k: write(f"what the model says: {k}", x) for k, x in _witnesses(target, posterior).items()
        },
        "verdict": plain(posterior.verdict.to_dict(), "verdict"),
        "method": posterior.method,
        "key": _encoded_key(posterior.key),
        "search": posterior.search,
        "failures": plain(posterior.failures, "failures"),
        "remarks": list(posterior.remarks),
        "record": plain(posterior.record, "record"),
    }


def _version():
    try:
        return metadata.version("bayeshybrid")
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return "unknown"


def _title(model):
    return getattr(model, "__name__", type(model).__name__)


def _unknowns(target):
    return [
        {"name": site.name, "shape": list(site.shape), "unconstrained": list(site.unconstrained_shape)}
        for site in target.layout.latent
    ]


def _observed(target):
    return [{"name": site.name, "shape": list(site.shape)} for site in target.layout.observed]


def _witnesses(target, posterior):
    """What the model says at a few draws, by which another model under the same names is told."""
    flat = posterior.unconstrained.reshape(-1, target.layout.size)
    return _testimony(target, flat[_places(len(flat))])


def _places(count):
    return np.linspace(0, count - 1, min(WITNESSES, count)).round().astype(int)


def _testimony(target, points):
    with configuration.scope():
        told = ask(target, points, ["log_likelihood", "prior_slope"])
    return dict(zip(TESTIMONY, (told["log_likelihood"], told["prior_slope"]), strict=True))


def _encoded(value, place, write):
    """An argument of the model as JSON, its arrays as names of files."""
    if isinstance(value, np.ndarray | np.generic):
        return {"array": write(place, value)}
    if value is None or isinstance(value, bool | int | float | str):
        return {"plain": plain(value, place)}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"mapping": {key: _encoded(part, f"{place}[{key!r}]", write) for key, part in value.items()}}
    if type(value) in (tuple, list):
        parts = [_encoded(part, f"{place}[{i}]", write) for i, part in enumerate(value)]
        return {type(value).__name__: parts}
    raise DataError(
        f"{place} is a {type(value).__name__}, which cannot be saved: only arrays, numbers, words, None, and plain "
        "lists, tuples and dictionaries of them can. Bind it to the model before fitting, as in "
        "functools.partial(model, ...), and give the same to load"
    )


def _encoded_key(key):
    if isinstance(key, int | np.integer):
        return {"integer": int(key)}
    if jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        return {"kind": str(jax.random.key_impl(key)), "data": np.asarray(jax.random.key_data(key)).tolist()}
    return {"data": np.asarray(key).tolist()}


def _decoded_key(stored):
    if "integer" in stored:
        return int(stored["integer"])
    data = np.asarray(stored["data"], np.uint32)
    if "kind" not in stored:
        return data
    if stored["kind"] not in KEY_KINDS:
        raise DataError(
            f"the manifest names a key of kind {stored['kind']!r}; known are {', '.join(KEY_KINDS)}"
        )
    return jax.random.wrap_key_data(jax.numpy.asarray(data), impl=stored["kind"])


# Reading


def load(path: Path, model: Callable[..., Any]) -> dict[str, Any]:
    """The fields of the `Posterior` in the folder `path`, joined to its model; it predicts what the saved one did.

    Whatever was written is checked before it is used: sizes, checksums, types, the model's unknowns, and what
    the model says at a few of the draws.

    **Raises:** `DataError` where a part is missing, damaged, of a newer version or not of this format, and
    where `model` is another than the one that was saved; `FileNotFoundError` where there is no folder.

    ```python
    from bayeshybrid.storage import load
    try:
        load(__import__("pathlib").Path("."), lambda y=None: None)
    except bh.DataError as error:
        assert "manifest.json" in str(error)
    ```
    """
    content, read = read_archive(path, FORMAT, SCHEMA)
    try:
        data = {name: _decoded(stored, read) for name, stored in content["data"].items()}
        scalings = {
            name: (read[center], read[spread]) for name, (center, spread) in content["scalings"].items()
        }
        statistics = {name: read[file] for name, file in content["statistics"].items()}
        samples = {name: read[file] for name, file in content["samples"].items()}
        witnesses = {name: read[content["witnesses"][name]] for name in TESTIMONY}
        unconstrained = read[content["unconstrained"]]
        verdict = Verdict.from_dict(restored(content["verdict"]))
        described = {name: content[name] for name in ("method", "search")}
        told = {name: restored(content[name]) for name in ("failures", "record")}
        remarks, key, stated = tuple(content["remarks"]), _decoded_key(content["key"]), content["model"]
        labels = {axis: tuple(names) for axis, names in content.get("labels", {}).items()}
        told_unknowns = [(site["name"], site) for site in [*stated["unknowns"], *stated["observed"]]]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"the manifest of {path} is not what this version writes ({error!r}): it cannot be read"
        ) from error
    with configuration.scope():
        target = _joined(path, model, data, scalings, dict(told_unknowns)).labelled(labels)
    _check_draws(path, target, unconstrained, samples)
    _check_testimony(path, target, unconstrained, witnesses)
    return {
        "target": target,
        "unconstrained": unconstrained,
        "samples": samples,
        "statistics": statistics,
        "verdict": verdict,
        "key": key,
        "remarks": remarks,
        **described,
        **told,
    }


def _decoded(stored, read):
    ((kind, value),) = stored.items()
    if kind == "array":
        return read[value]
    if kind == "plain":
        return restored(value)
    if kind == "mapping":
        return {key: _decoded(part, read) for key, part in value.items()}
    parts = [_decoded(part, read) for part in value]
    return {"tuple": tuple, "list": list}[kind](parts)


def _joined(path, model, data, scalings, stated):
    """The target of this model and the saved data, if it has the unknowns that were saved."""
    try:
        target = Target(model, data)
    except Exception as error:  # whatever a model raises that was written for other data
        raise DataError(
            f"{path}: {_title(model)} cannot take the saved data, so it is another model: {error}"
        ) from error
    now = {site["name"]: site for site in [*_unknowns(target), *_observed(target)]}
    differs = [f"it lacks {name!r}" for name in stated if name not in now]
    differs += [f"it has {name!r}, which was not saved" for name in now if name not in stated]
    differs += [
        f"{name!r} has shape {tuple(now[name]['shape'])}, saved was {tuple(stated[name]['shape'])}"
        for name in now
        if name in stated and now[name] != stated[name]
    ]
    if not differs and list(now) != list(stated):
        differs = [f"its unknowns come in the order {', '.join(now)}, saved was {', '.join(stated)}"]
    if differs:
        raise DataError(f"{path}: {_title(model)} is not the model that was saved: {'; '.join(differs)}")
    return eqx.tree_at(lambda t: t.scalings, target, scalings)


def _check_draws(path, target, unconstrained, samples):
    if unconstrained.ndim != 3 or unconstrained.shape[-1] != target.layout.size:
        raise DataError(
            f"{path}: the draws have shape {unconstrained.shape}, not (chain, draw, {target.layout.size})"
        )
    lead = unconstrained.shape[:2]
    odd = [name for name, values in samples.items() if values.shape[:2] != lead]
    lacking = [site.name for site in target.layout.latent if site.name not in samples]
    if odd or lacking:
        raise DataError(f"{path}: the draws of {', '.join([*odd, *lacking])} do not belong to these chains")


def _check_testimony(path, target, unconstrained, witnesses):
    """A model of the same unknowns with another prior or likelihood says something else at the same draws."""
    flat = unconstrained.reshape(-1, target.layout.size)
    places = _places(len(flat))
    for name, now in _testimony(target, flat[places]).items():
        before = witnesses[name]
        scale = np.max(np.abs(before[np.isfinite(before)]), initial=1.0)
        if before.shape != now.shape or not np.allclose(
            now, before, rtol=0, atol=AGREEMENT * scale, equal_nan=True
        ):
            raise DataError(
                f"{path}: {_title(target.model)} is not the model that was saved. At draws {places.tolist()} its "
                f"{name} is {np.array2string(now, precision=4, threshold=8)}, saved was "
                f"{np.array2string(before, precision=4, threshold=8)}: prior, likelihood or constants differ"
            )
