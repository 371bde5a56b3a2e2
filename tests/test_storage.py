"""A saved posterior comes back as it was, or is refused with a reason; nothing that is read is ever run."""

from __future__ import annotations

import hashlib
import io
import json
import pickle  # noqa: TID251 - its refusal is what is tested
import shutil
from pathlib import Path

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh
from bayeshybrid import archive
from tests.posteriors import from_draws

TIMES = np.array([0.0, 1.0, 2.0, 3.0])
PELTS = np.array([0.3, np.nan, 1.9, 3.2])


def line(times, pelts=None, *, offset=1, extra=None):
    """Two labelled parameters, a derived quantity, an argument that is no array, a missing cell."""
    rates = bh.parameter("rates", dist.Normal(0.0, 1.0), unit="1/yr", shape=(2,), labels=("birth", "death"))
    noise = bh.parameter("noise", dist.LogNormal(-1.0, 0.5))
    numpyro.deterministic("net", rates[0] - rates[1])
    mean = offset + rates[0] + rates[1] * times
    return bh.observe("pelts", dist.Normal(mean, noise), obs=pelts, unit="thousands", missing=True)


DATA = {"times": TIMES, "pelts": PELTS, "offset": 2, "extra": {"weights": np.arange(3), "none": None}}


@pytest.fixture
def posterior(generator):
    return from_draws(
        line,
        DATA,
        generator.normal(size=(4, 25, 3)),
        key=7,
        search="one basin",
        failures={"max steps": 2},
        remarks=("a remark", "another"),
        record={"seconds": {"total": 1.5}, "ratio": float("inf"), "ended": "finished"},
    )


@pytest.fixture
def saved(posterior, tmp_path):
    posterior.save(tmp_path / "saved")
    return tmp_path / "saved"


def test_everything_comes_back(posterior, saved):
    back = bh.Posterior.load(saved, line)
    assert np.array_equal(back.unconstrained, posterior.unconstrained)
    for name in ("samples", "statistics"):
        before, after = getattr(posterior, name), getattr(back, name)
        assert list(before) == list(after)
        assert all(np.array_equal(before[k], after[k]) and before[k].dtype == after[k].dtype for k in before)
    for name in ("method", "key", "search", "failures", "remarks", "record"):
        assert getattr(back, name) == getattr(posterior, name), name
    assert str(back.verdict) == str(posterior.verdict)
    assert np.isnan(back.verdict.checks[1].figure)
    assert back.target.layout == posterior.target.layout
    assert np.array_equal(back.target.arguments()["extra"]["weights"], np.arange(3))
    assert back.target.arguments()["extra"]["none"] is None


def test_the_loaded_posterior_predicts_the_same_bits(posterior, saved):
    before = posterior.predict({"times": np.array([4.0, 5.0]), "offset": 2}, key=3)
    after = bh.Posterior.load(str(saved), line).predict({"times": np.array([4.0, 5.0]), "offset": 2}, key=3)
    assert np.array_equal(before.observed["pelts"].draws, after.observed["pelts"].draws)
    assert np.array_equal(before.epistemic["pelts"], after.epistemic["pelts"])


@pytest.mark.parametrize("style", ["new", "old"])
def test_keys_of_jax_come_back(generator, tmp_path, style):
    key = jax.random.key(5) if style == "new" else jax.random.PRNGKey(5)
    from_draws(line, DATA, generator.normal(size=(2, 5, 3)), key=key).save(tmp_path / "saved")
    back = bh.Posterior.load(tmp_path / "saved", line).key
    assert back.dtype == key.dtype
    assert np.array_equal(jax.random.key_data(back), jax.random.key_data(key))


def hybrid(x, y=None):
    """A network that asks for the magnitude of its inputs."""
    rate = bh.network("rate", bh.MLP(1, 1, width=2), scale=1.0)
    return bh.observe("y", dist.Normal(rate(x[:, None])[:, 0], 0.1), obs=y)


def test_scalings_and_names_with_slashes_come_back(generator, tmp_path):
    import equinox as eqx

    data = {"x": np.linspace(0.0, 90.0, 4), "y": np.zeros(4)}
    target = bh.Target(hybrid, data)
    scaled = eqx.tree_at(lambda t: t.scalings, target, {"rate": (np.array([45.0]), np.array([30.0]))})
    draws = generator.normal(size=(1, 6, target.layout.size))
    posterior = from_draws(hybrid, data, draws, target=scaled)
    posterior.save(tmp_path / "saved")
    back = bh.Posterior.load(tmp_path / "saved", hybrid)
    assert back.target.scalings["rate"][0] == 45.0
    told = posterior.predict(key=0).epistemic["y"]
    assert np.array_equal(told, back.predict(key=0).epistemic["y"])
    plain = from_draws(hybrid, data, draws).predict(key=0).epistemic["y"]
    assert not np.allclose(told, plain)
    names = set(posterior.to_datatree()["posterior"].data_vars)
    assert any("." in name for name in names)
    assert not any("/" in name for name in names)


# Writing


def test_an_existing_path_is_never_touched(posterior, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="exists already"):
        posterior.save(tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []
    with pytest.raises(FileNotFoundError, match="make it first"):
        posterior.save(tmp_path / "nowhere" / "there")


def test_a_failed_save_leaves_nothing(posterior, tmp_path, monkeypatch):
    written = archive._write

    def full(path, data):
        if path.name == "00004.npy":
            raise OSError(28, "No space left on device")
        written(path, data)

    monkeypatch.setattr(archive, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        posterior.save(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


class Odd:
    """An argument that no file can hold."""

    def __eq__(self, other):
        return isinstance(other, Odd)

    __hash__ = None


def test_an_argument_that_cannot_be_written_is_named(generator, tmp_path):
    posterior = from_draws(line, {**DATA, "extra": [np.ones(2), Odd()]}, generator.normal(size=(1, 5, 3)))
    with pytest.raises(bh.DataError, match=r"argument 'extra'\[1\] is a Odd.*functools.partial"):
        posterior.save(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_names_of_files_do_not_come_from_names_of_sites(generator, tmp_path):
    def wild(y=None):
        numpyro.sample("../../<script>", dist.Normal())
        return numpyro.sample("y", dist.Normal(), obs=y)

    from_draws(wild, {"y": np.array(0.0)}, generator.normal(size=(1, 5, 1))).save(tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert names == {archive.MANIFEST} | {name for name in names if archive.FILE_NAME.fullmatch(name)}
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    assert "../../<script>" in bh.Posterior.load(tmp_path / "saved", wild).samples


# Reading what is damaged


def part_of(saved, words):
    """The file that holds an array, by what the manifest calls it."""
    entries = json.loads((saved / archive.MANIFEST).read_text())["arrays"]
    return saved / next(name for name, entry in entries.items() if entry["part"] == words)


def cut(path):
    path.write_bytes(path.read_bytes()[:-8])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(bytes(data))


def remove(path):
    path.unlink()


@pytest.mark.parametrize(
    ("harm", "words"),
    [(cut, "has 920 bytes"), (empty, "has 0 bytes"), (flip, "checksum"), (remove, "missing")],
)
def test_a_damaged_array_is_named(saved, harm, words):
    harm(part_of(saved, "draws of 'noise'"))
    with pytest.raises(bh.DataError, match=rf"1 of \d+ parts .*draws of 'noise' .*{words}"):
        bh.Posterior.load(saved, line)


def test_all_damaged_arrays_are_named(saved):
    cut(part_of(saved, "draws of 'noise'"))
    flip(part_of(saved, "argument 'times'"))
    with pytest.raises(bh.DataError, match=r"2 of .*argument 'times'.*draws of 'noise'"):
        bh.Posterior.load(saved, line)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (cut, "damaged"),
        (empty, "0 bytes"),
        (remove, "no manifest.json"),
        (lambda p: p.write_text("[]"), "damaged"),
    ],
)
def test_a_damaged_manifest_is_refused(saved, harm, words):
    harm(saved / archive.MANIFEST)
    with pytest.raises(bh.DataError, match=words):
        bh.Posterior.load(saved, line)


def test_a_changed_word_of_the_manifest_is_noticed(saved):
    file = saved / archive.MANIFEST
    text = file.read_text()
    assert '"state": "fail"' in text
    file.write_text(text.replace('"state": "fail"', '"state": "pass"'))
    with pytest.raises(bh.DataError, match="changed or damaged"):
        bh.Posterior.load(saved, line)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        bh.Posterior.load(tmp_path / "nowhere", line)


# Reading what is hostile: these manifests carry a checksum that agrees


def forge(saved, change):
    """Change the manifest and seal it again, as somebody who means harm would."""
    file = saved / archive.MANIFEST
    whole = json.loads(file.read_text())
    head = {name: whole.pop(name) for name in ("format", "schema", "checksum")}
    change(whole, head)
    head["checksum"] = archive._checksum(whole)
    file.write_text(json.dumps({**head, **whole}))


def replace_draws(saved, data):
    """Put other bytes where the draws were, sealed."""
    path = part_of(saved, "draws")
    path.write_bytes(data)

    def seal(whole, head):
        entry = whole["arrays"][path.name]
        entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    forge(saved, seal)


def npy(array, **words):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **words)
    return buffer.getvalue()


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_pickle_is_never_opened(saved, tmp_path, wrapped):
    bomb = Bomb(tmp_path / "exploded")
    holder = np.empty(1, object)
    holder[0] = bomb
    replace_draws(saved, npy(holder, allow_pickle=True) if wrapped else pickle.dumps(bomb))
    with pytest.raises(bh.DataError, match="never objects" if wrapped else "no npy file"):
        bh.Posterior.load(saved, line)
    assert not (tmp_path / "exploded").exists()


def test_a_header_that_claims_a_giant_array_is_refused(saved):
    shape = (10**6, 10**6, 3)
    header = {"descr": "<f8", "fortran_order": False, "shape": shape}
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, header)
    replace_draws(saved, buffer.getvalue())
    forge(saved, lambda whole, head: whole["arrays"][part_of(saved, "draws").name].update(shape=list(shape)))
    with pytest.raises(bh.DataError, match="claims the shape"):
        bh.Posterior.load(saved, line)


def test_a_giant_header_is_refused(saved):
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (), }" + b" " * 60_000
    replace_draws(saved, b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    with pytest.raises(bh.DataError, match="no npy file"):
        bh.Posterior.load(saved, line)


def test_a_path_outside_the_folder_is_refused(saved, tmp_path):
    outside = tmp_path / "00000.npy"
    shutil.copy(part_of(saved, "draws"), outside)

    def point(whole, head):
        name = part_of(saved, "draws").name
        whole["arrays"]["../00000.npy"] = whole["arrays"].pop(name)
        whole["content"]["unconstrained"] = "../00000.npy"

    forge(saved, point)
    with pytest.raises(bh.DataError, match="outside the folder"):
        bh.Posterior.load(saved, line)


def test_a_link_out_of_the_folder_is_refused(saved, tmp_path):
    inside = part_of(saved, "draws")
    shutil.move(inside, tmp_path / "elsewhere.npy")
    inside.symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(bh.DataError, match="outside the folder"):
        bh.Posterior.load(saved, line)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda whole, head: head.update(schema=2), "schema 2.*reads up to 1"),
        (lambda whole, head: head.update(schema="1"), "schema '1'"),
        (lambda whole, head: head.update(format="checkpoint"), "format 'checkpoint'"),
        (lambda whole, head: whole["content"].pop("verdict"), "not what this version writes"),
        (lambda whole, head: whole["content"].update(samples=3), "not what this version writes"),
        (lambda whole, head: whole.pop("arrays"), "not what this version writes"),
        (
            lambda whole, head: whole["content"].update(key={"kind": "__import__", "data": [1, 2]}),
            "key of kind",
        ),
    ],
)
def test_a_manifest_of_another_form_is_refused(saved, change, words):
    forge(saved, change)
    with pytest.raises(bh.DataError, match=words):
        bh.Posterior.load(saved, line)


# Another model


def fewer(times, pelts=None, offset=1, extra=None):
    rates = bh.parameter("rates", dist.Normal(0.0, 1.0), shape=(3,))
    other = bh.parameter("other", dist.LogNormal(0.0, 1.0))
    return bh.observe("pelts", dist.Normal(offset + rates[0] * times, other), obs=pelts, missing=True)


def other_prior(times, pelts=None, offset=1, extra=None):
    rates = bh.parameter("rates", dist.Normal(0.0, 1.1), shape=(2,))
    noise = bh.parameter("noise", dist.LogNormal(-1.0, 0.5))
    return bh.observe(
        "pelts", dist.Normal(offset + rates[0] + rates[1] * times, noise), obs=pelts, missing=True
    )


def other_likelihood(times, pelts=None, offset=1, extra=None):
    rates = bh.parameter("rates", dist.Normal(0.0, 1.0), shape=(2,))
    noise = bh.parameter("noise", dist.LogNormal(-1.0, 0.5))
    return bh.observe(
        "pelts", dist.Normal(offset - rates[0] + rates[1] * times, noise), obs=pelts, missing=True
    )


def other_order(times, pelts=None, offset=1, extra=None):
    noise = bh.parameter("noise", dist.LogNormal(-1.0, 0.5))
    rates = bh.parameter("rates", dist.Normal(0.0, 1.0), shape=(2,))
    return bh.observe(
        "pelts", dist.Normal(offset + rates[0] + rates[1] * times, noise), obs=pelts, missing=True
    )


def other_arguments(days, pelts=None):
    return bh.observe("pelts", dist.Normal(days, 1.0), obs=pelts)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            fewer,
            r"lacks 'noise'; it has 'other', which was not saved; 'rates' has shape \(3,\), saved was \(2,\)",
        ),
        (other_prior, "slope of the log prior"),
        (other_likelihood, "log likelihood"),
        (other_order, "order noise, rates, pelts, saved was rates, noise, pelts"),
        (other_arguments, "no argument 'times'"),
    ],
)
def test_another_model_is_refused(saved, model, words):
    with pytest.raises(bh.DataError, match=words):
        bh.Posterior.load(saved, model)
