"""One run by two processes that `jax.distributed` joins, beside one process with as many devices."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from bayeshybrid.inference import hosts

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("process_of_many.py")
SECONDS = 300.0  # an idle machine takes 40
INHERITED_NOT = ("XLA_FLAGS", "BAYESHYBRID_CONFIGURE", "JAX_NUM_CPU_DEVICES", "JAX_COMPILATION_CACHE_DIR")


class Made(NamedTuple):
    """What the two processes found, what one alone did, how the two ended, and what they wrote."""

    both: list[dict[str, np.ndarray]]
    alone: dict[str, np.ndarray]
    codes: list[int]
    words: list[str]


def run(what: str, folder: Path, count: int) -> tuple[list[int], list[str]]:
    """Exit codes and words of so many processes, none of which outlives this."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    inherited = {name: value for name, value in os.environ.items() if name not in INHERITED_NOT}
    logs = [folder / f"{process}_of_{count}.txt" for process in range(count)]
    begun = []
    try:
        for process, log in enumerate(logs):
            with log.open("w") as words:
                begun.append(
                    subprocess.Popen(
                        [sys.executable, str(SCRIPT), what, *map(str, (process, count, port)), str(folder)],
                        env=inherited | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
                        stdout=words,
                        stderr=subprocess.STDOUT,
                    )
                )
        codes = [process.wait(SECONDS) for process in begun]
    finally:
        for process in begun:  # JAX takes SIGTERM for a notice and goes on
            process.kill()
            process.wait()
    return codes, [log.read_text() for log in logs]


def compared(what: str, folder: Path) -> Made:
    codes, words = run(what, folder, 2)
    alone_codes, alone_words = run(what, folder, 1)
    assert alone_codes == [0], alone_words[0]
    names = ("0_of_2", "1_of_2", "0_of_1")
    missing = [
        text for name, text in zip(names, words, strict=False) if not (folder / f"{name}.npz").exists()
    ]
    assert not missing, missing[0]
    first, second, alone = (dict(np.load(folder / f"{name}.npz")) for name in names)
    return Made([first, second], alone, codes, words)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return compared("programs", tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return compared("fits", tmp_path_factory.mktemp("fits"))


@pytest.mark.slow
def test_chains_lie_on_the_devices_of_both(fits):
    """32 chains, eight on each of four devices: those of the first process hold others than those of the second."""
    assert fits.both[0]["rows"].tolist() == [[0, 8]]
    assert fits.both[1]["rows"].tolist() == [[16, 24]]
    assert all(found["fit_over"] == 4 for found in (*fits.both, fits.alone))


def test_log_densities_agree_with_those_of_one_process(programs):
    for found in programs.both:
        assert found["densities_over"] == 4
        assert found["densities"].dtype == np.float64
        np.testing.assert_allclose(found["densities"], programs.alone["densities"], rtol=1e-12)


def test_rows_that_do_not_fill_the_devices_are_filled_up_and_cut_off(programs):
    for found in programs.both:
        assert found["filled_over"] == 4
        np.testing.assert_array_equal(found["filled"], programs.alone["filled"])


def test_a_program_that_waits_for_shared_threads_gets_one_device_of_each(programs):
    assert programs.both[0]["waiting_over"] == 2
    np.testing.assert_allclose(programs.both[0]["waiting"], programs.alone["waiting"], rtol=1e-12)


@pytest.mark.slow
def test_the_first_transitions_are_those_of_one_process(fits):
    for found in fits.both:
        np.testing.assert_allclose(found["first"], fits.alone["first"], atol=1e-8)


@pytest.mark.slow
def test_both_have_the_same_draws_of_the_posterior_of_one_process(fits):
    """Means agree up to Monte Carlo error: both stop at 1,000 effective draws, so the difference has 0.045 sd."""
    first, second = fits.both
    np.testing.assert_array_equal(first["fit_draws"], second["fit_draws"])
    assert first["fit_draws"].dtype == np.float64
    expected, draws = fits.alone["fit_draws"], first["fit_draws"]
    sd = expected.std(axis=(0, 1))
    assert np.all(np.abs(draws.mean(axis=(0, 1)) - expected.mean(axis=(0, 1))) < 0.2 * sd)
    np.testing.assert_allclose(draws.std(axis=(0, 1)), sd, rtol=0.15)
    assert all(found["fit_verdict"] == fits.alone["fit_verdict"] == "pass" for found in fits.both)


@pytest.mark.slow
def test_the_clock_of_the_first_ends_both(fits):
    """The second was given a thousand seconds."""
    first, second = fits.both
    assert first["limited_ended"] == second["limited_ended"] == "out of time"
    np.testing.assert_array_equal(first["limited_draws"], second["limited_draws"])


@pytest.mark.slow
def test_an_interruption_of_the_second_ends_both(fits):
    first, second = fits.both
    assert first["interrupted_ended"] == second["interrupted_ended"] == "interrupted"
    np.testing.assert_array_equal(first["interrupted_draws"], second["interrupted_draws"])


def test_another_key_in_another_process_is_refused_in_both(programs):
    assert all(
        "the key, the method or its settings differ" in str(found["refused"]) for found in programs.both
    )


def test_one_that_dies_ends_the_other(programs):
    """It does not wait for ever, and says why."""
    assert programs.codes[1] == 7
    assert programs.codes[0] != 0
    assert "Connection closed by peer" in programs.words[0] or "heartbeat" in programs.words[0]


def test_one_process_compiles_nothing_to_agree_with_itself():
    before = hosts._exchange.cache_info().misses
    hosts.same("the data", {"y": np.arange(3.0)})
    assert hosts.first(0.25) == 0.25
    assert hosts.anyone(True)
    assert not hosts.anyone(False)
    assert hosts._exchange.cache_info().misses == before
