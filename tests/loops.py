"""How many loops of a program XLA compiles whole, asked of a fresh process: its options are read once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS = ("XLA_FLAGS", "BAYESHYBRID_CONFIGURE", "JAX_NUM_CPU_DEVICES")
PRINTED = '\nprint(text.count(" while("), text.count("xla_cpu_small_call"))'


def counted_loops(code: str, **environment: str) -> list[str]:
    """All loops, and those compiled whole, in the compiled `text` that the code leaves behind."""
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    done = subprocess.run(
        [sys.executable, "-c", code + PRINTED],
        env=kept | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()
