"""What is set before JAX starts, and what is left alone; each case in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from bayeshybrid import configuration

ROOT = Path(__file__).parents[1]

# A loop over more bytes than XLA compiles whole by itself.
COUNT_LOOPS = """
import jax, numpy as np
def loop(x):
    body = lambda s: (s[0] + 1, s[1] * 1.01 + jax.numpy.sin(s[1]))
    return jax.lax.while_loop(lambda s: s[0] < 10, body, (0, x))
text = jax.jit(loop).lower(np.ones(2000)).compile().as_text()
print("whole", text.count("xla_cpu_small_call"), "devices", len(jax.devices()))
"""
PREPARE = "from bayeshybrid import configuration; configuration.prepare()\n"
# The module without the package around it, which would prepare by itself.
ALONE = f"""
from importlib import util
spec = util.spec_from_file_location("configuration", {configuration.__file__!r})
configuration = util.module_from_spec(spec)
spec.loader.exec_module(configuration)
"""
CORES = min(configuration._cores(), configuration.MOST_DEVICES)


def run(code: str, **environment: str) -> str:
    """The last line that a fresh interpreter prints."""
    ours = ("XLA_FLAGS", "BAYESHYBRID_CONFIGURE", "JAX_NUM_CPU_DEVICES")
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=inherited | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", "--xla_backend_extra_options={loops} {devices}"),
        (
            "--a=1",
            "--a=1 --xla_backend_extra_options={loops} {devices}",
        ),
        (
            "--xla_backend_extra_options=b=2 --a=1",
            "--xla_backend_extra_options=b=2,{loops} --a=1 {devices}",
        ),
        (
            "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=7",
            "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=7 {devices}",
        ),
    ],
)
def test_flags_are_merged_and_the_users_stand(flags, expected, monkeypatch):
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    devices = "--xla_force_host_platform_device_count=3"
    loops = f"{configuration.LOOP_OPTION}={configuration.LOOP_BYTES}"
    flags, expected = flags.format(loops=loops), expected.format(devices=devices, loops=loops)
    assert configuration._with_flags(flags, 3) == expected
    assert configuration._with_flags(f"{flags} {devices}", 5).count("device_count") == 1
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    assert "device_count" not in configuration._with_flags(flags, 3)


def test_preparing_folds_loops_and_offers_a_device_per_core():
    assert run(COUNT_LOOPS) == "whole 0 devices 1"
    assert run(PREPARE + COUNT_LOOPS) == f"whole 1 devices {CORES}"


def test_users_extra_options_are_kept():
    theirs = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=10"
    assert run(PREPARE + COUNT_LOOPS, XLA_FLAGS=theirs).startswith("whole 0")
    other = "--xla_backend_extra_options=xla_cpu_some_other_option=1 --xla_force_host_platform_device_count=3"
    assert run(PREPARE + COUNT_LOOPS, XLA_FLAGS=other) == "whole 1 devices 3"


def test_it_can_be_switched_off():
    code = (
        PREPARE
        + COUNT_LOOPS
        + "print('whole', text.count('small_call'), configuration.notes(), configuration.compile_options())"
    )
    assert run(code, BAYESHYBRID_CONFIGURE="0") == "whole 0 () None"


def test_started_jax_is_left_alone_and_said():
    started = "import jax; jax.numpy.ones(1)\n" + PREPARE + COUNT_LOOPS + "print(*configuration.notes())"
    assert run(started) == (
        "JAX had started before bayeshybrid: loops run op by op; import bayeshybrid first"
    )
    assert run("import jax; jax.devices()\n" + PREPARE + COUNT_LOOPS) == "whole 0 devices 1"
    imported = "import jax, numpyro, diffrax\n" + PREPARE + COUNT_LOOPS
    assert run(imported) == f"whole 1 devices {CORES}"


def test_untested_jaxlib_gets_no_flag():
    code = """
    import os
    configuration.TESTED_JAXLIB = ("0.0.1",)
    configuration.prepare()
    print(os.environ.get("XLA_FLAGS"), configuration.compile_options(), configuration.notes()[0])
    """
    printed = run(ALONE + textwrap.dedent(code))
    assert printed.startswith("None None jaxlib ")
    assert "not among the tested 0.0.1" in printed


def test_preparing_neither_imports_nor_starts_jax():
    code = ALONE + "configuration.prepare(); import sys; print('jax' in sys.modules)"
    assert run(code) == "False"


def test_devices_can_be_chosen_before_jax_starts():
    assert run(PREPARE + "configuration.configure(devices=3)\n" + COUNT_LOOPS) == "whole 1 devices 3"


@pytest.mark.parametrize(
    ("starting", "named"),
    [
        ("with configuration.scope(): jax.numpy.ones(1)", "bayeshybrid, called at <string>, line 3"),
        ("jax.numpy.ones(1)", "a computation made after"),
        ("jax.numpy.ones(1)\nwith configuration.scope(): pass", "a computation made before <string>, line 4"),
    ],
)
def test_devices_too_late_names_what_started_jax(starting, named):
    late = "\ntry: configuration.configure(devices=7)\nexcept RuntimeError as error: print(error)"
    printed = run(PREPARE + "import jax\n" + starting + late)
    assert printed.startswith("devices=7 came too late")
    assert named in printed


def test_scope_is_double_inside_and_untouched_outside():
    with jax.enable_x64(False):
        with configuration.scope():
            assert jnp.ones(1).dtype == jnp.float64
            assert jax.config.jax_default_matmul_precision == "highest"
        assert jnp.ones(1).dtype == jnp.float32


def test_scope_follows_the_configured_precision(monkeypatch):
    monkeypatch.setattr(configuration._settings, "precision", "double")
    configuration.configure(precision="single")
    with configuration.scope():
        assert jnp.ones(1).dtype == jnp.float32
    configuration.configure(precision="inherit")
    with configuration.scope():
        assert jnp.ones(1).dtype == jnp.float64
    with jax.enable_x64(False), configuration.scope():
        assert jnp.ones(1).dtype == jnp.float32


def test_cache_directory_is_private_and_filled(tmp_path):
    code = f"""
    import jax
    configuration.configure(cache_directory={str(tmp_path / "cache")!r})
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.jit(lambda x: x * 2 + 1)(1.0)
    """
    run(PREPARE + textwrap.dedent(code) + "\nprint(0)")
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    assert list((tmp_path / "cache").iterdir())


def test_cache_directory_open_to_others_is_refused(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(ValueError, match="chmod 700"):
        configuration.configure(cache_directory=tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"precision": "half"}, {"devices": 0}, {"devices": True}, {"devices": 2.0}]
)
def test_values_that_cannot_be(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)) + "="):
        configuration.configure(**wrong)


def test_kernels_without_fusion_emitters_compile():
    options = configuration.compile_options()
    brief = configuration.compile_options(level=1)
    assert options == {"xla_cpu_use_fusion_emitters": False}
    assert brief == {**options, "xla_backend_optimization_level": 1}
    for each in (options, brief):
        assert jax.jit(lambda x: x + 1, compiler_options=each)(1.0) == 2.0
