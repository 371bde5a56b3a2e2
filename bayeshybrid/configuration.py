"""What must be set before JAX starts, and the precision that our verbs run in.

Importing the package changes no value: it only lets XLA compile a whole loop at once and offers one CPU
device per core. Both are read once, when JAX starts, so they are set in the first lines of the package.
`BAYESHYBRID_CONFIGURE=0` in the environment leaves everything as it is.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

Precision = Literal["double", "single", "inherit"]

# An option that XLA does not know ends the process when JAX starts, or is ignored in silence: only
# versions on which the tests have counted compiled loops stand here.
TESTED_JAXLIB = ("0.10.0", "0.10.1", "0.10.2")

# Loops that touch fewer bytes are compiled whole instead of run operation by operation. On the two
# Lotka-Volterra solves of the benchmarks that made gradients 1.5 to 3 times as fast.
LOOP_BYTES = 100_000_000
LOOP_OPTION = "xla_cpu_small_while_loop_byte_threshold"
EXTRA_OPTIONS = "--xla_backend_extra_options"
DEVICE_OPTION = "--xla_force_host_platform_device_count"

# More CPU devices than this cost memory and start-up time without a method that uses them.
MOST_DEVICES = 16

_PACKAGE = str(Path(__file__).parent)


class _Settings:
    """What is in force in this process."""

    precision: Precision = "double"
    prepared: bool = False
    started_by: str | None = None
    notes: tuple[str, ...] = ()


_settings = _Settings()


def _switched_off() -> bool:
    return os.environ.get("BAYESHYBRID_CONFIGURE", "").strip() == "0"


def _jaxlib_tested() -> bool:
    return metadata.version("jaxlib") in TESTED_JAXLIB


def _jax_started() -> bool:
    """Whether JAX has chosen its devices, found out without making it do so."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bridge is not None and bridge.backends_are_initialized()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _with_flags(flags: str, devices: int | None) -> str:
    """XLA_FLAGS with our two options added where the user has not written them."""
    if LOOP_OPTION not in flags:
        option = f"{LOOP_OPTION}={LOOP_BYTES}"
        theirs = re.search(rf"{EXTRA_OPTIONS}=(\S+)", flags)
        if theirs is None:
            flags = f"{flags} {EXTRA_OPTIONS}={option}"
        else:
            # XLA reads the flag once; a second one would replace the first.
            flags = flags[: theirs.end()] + f",{option}" + flags[theirs.end() :]
    if devices is not None and DEVICE_OPTION not in flags and "JAX_NUM_CPU_DEVICES" not in os.environ:
        flags = f"{flags} {DEVICE_OPTION}={devices}"
    return flags.strip()


def prepare() -> None:
    """Sets in `XLA_FLAGS` what JAX reads only when it starts; the package calls it on import.

    Nothing is set where JAX has started already, where `BAYESHYBRID_CONFIGURE=0`, or for a jaxlib on
    which the options were not tested; the first and the last are said in `notes()`. Options that the
    user has set stay as they are.

    ```python
    from bayeshybrid import configuration

    configuration.prepare()                  # a second call changes nothing
    assert isinstance(configuration.notes(), tuple)
    ```
    """
    if _settings.prepared or _switched_off():
        return
    _settings.prepared = True
    if _jax_started():
        _settings.started_by = "code that ran before `import bayeshybrid`"
        note = "JAX had started before bayeshybrid: loops run op by op; import bayeshybrid first"
        _settings.notes = (note,)
    elif not _jaxlib_tested():
        _settings.notes = (
            f"jaxlib {metadata.version('jaxlib')} is not among the tested {', '.join(TESTED_JAXLIB)}: "
            "loops run op by op",
        )
    else:
        os.environ["XLA_FLAGS"] = _with_flags(os.environ.get("XLA_FLAGS", ""), min(_cores(), MOST_DEVICES))


def notes() -> tuple[str, ...]:
    """What the user should hear once, in the first result, about how JAX was started; often empty.

    ```python
    from bayeshybrid import configuration

    assert all("\\n" not in note for note in configuration.notes())
    ```
    """
    return _settings.notes


def compile_options(*, level: int | None = None) -> dict[str, Any] | None:
    """Options for `jax.jit(compiler_options=...)` of our own kernels; `None` where they were not tested.

    Without the fusion emitters XLA can compile mapped adaptive loops whole: on Lotka-Volterra, four
    lanes, gradients came 1.9 (forward) and 3 (reverse) times as fast.

    `level`: how much a program is optimised that runs a few times only: 1 for one with much to do, such as a forecast
    (that of an SIR model with overdispersed counts compiled in 5.0 s instead of 8.4 s), 0 for one with little (prior
    draws of Lotka-Volterra compiled in 0.4 s instead of 1.5 s, and take 0.2 ms instead of 0.1).

    ```python
    from bayeshybrid import configuration

    kernel = jax.jit(jnp.sin, compiler_options=configuration.compile_options())
    assert kernel(0.0) == 0.0
    ```
    """
    if _switched_off() or not _jaxlib_tested():
        return None
    options: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False}
    return options | ({} if level is None else {"xla_backend_optimization_level": level})


@contextmanager
def scope() -> Iterator[None]:
    """The precision of our verbs: 64-bit and full matrix products inside, the user's own outside.

    Every verb enters it, and so does every thread that a verb starts. `configure(precision=...)` says
    otherwise.

    ```python
    from bayeshybrid import configuration

    with configuration.scope():
        assert jnp.ones(2).dtype == jnp.float64
    ```
    """
    import jax

    if _settings.started_by is None:
        _settings.started_by = _caller("a computation made" if _jax_started() else "bayeshybrid, called")
    if _settings.precision == "inherit":
        yield
        return
    with jax.enable_x64(_settings.precision == "double"), jax.default_matmul_precision("highest"):
        yield


def _caller(what: str) -> str:
    """Where outside the package the present call comes from."""
    outside = [
        frame
        for frame in traceback.extract_stack()
        if not frame.filename.startswith(_PACKAGE) and Path(frame.filename).name != "contextlib.py"
    ]
    if not outside:
        return f"{what} in this process"
    where = "before" if what.startswith("a computation") else "at"
    return f"{what} {where} {outside[-1].filename}, line {outside[-1].lineno}"


def configure(
    *,
    precision: Precision | None = None,
    devices: int | None = None,
    cache_directory: str | os.PathLike[str] | None = None,
) -> None:
    """Says how bayeshybrid runs in this process; what is not given stays as it is.

    **Arguments:**

    - `precision`: `"double"` (64-bit inside our verbs, the default), `"single"`, or `"inherit"` for
      whatever JAX is set to where a verb is called.
    - `devices`: how many CPU devices JAX offers, before JAX starts.
    - `cache_directory`: where compiled programs are kept between runs. It is made readable to the user
      alone; a directory that others may write to is refused, since what lies there is run.

    **Raises:** `ValueError` for a value that cannot be; `RuntimeError` where JAX has started already and
    `devices` differs from what it offers, saying what started it.

    ```python
    bh.configure(precision="double")
    ```
    """
    if precision is not None and precision not in get_args(Precision):
        raise ValueError(f'precision={precision!r}: write "double", "single" or "inherit"')
    if devices is not None and (isinstance(devices, bool) or not isinstance(devices, int) or devices < 1):
        raise ValueError(f"devices={devices!r}: write a whole number of CPU devices, at least 1")
    directory = None if cache_directory is None else _private(Path(cache_directory))
    if devices is not None:
        _set_devices(devices)
    if directory is not None:
        _set_cache(directory)
    if precision is not None:
        _settings.precision = precision


def _set_devices(devices: int) -> None:
    import jax

    if not _jax_started():
        jax.config.update("jax_num_cpu_devices", devices)
        return
    offered = jax.local_device_count("cpu")
    if offered != devices:
        first = _settings.started_by or "a computation made after `import bayeshybrid`"
        raise RuntimeError(
            f"devices={devices} came too late: JAX runs with {offered} already, started by {first}. "
            "Call bayeshybrid.configure(...) before it"
        )


def _private(directory: Path) -> Path:
    directory = directory.expanduser().resolve()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.stat()
    foreign = hasattr(os, "getuid") and status.st_uid != os.getuid()
    if foreign or (os.name == "posix" and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        raise ValueError(
            f"cache_directory={str(directory)!r} can be written by others, who could put programs there: "
            "choose a directory of your own, or chmod 700 it"
        )
    return directory


def _set_cache(directory: Path) -> None:
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    jax.config.update("jax_compilation_cache_dir", str(directory))
    # JAX looks for the directory at its first compilation only.
    compilation_cache.reset_cache()
