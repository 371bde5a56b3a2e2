"""What `import bayeshybrid` costs, and that names stay apart. Times: `tests/benchmarks/import_time.py`."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import bayeshybrid

PACKAGE = Path(bayeshybrid.__path__[0])

# Each of these takes long to import or starts JAX when imported.
HEAVY = ("arviz_base", "arviz_plots", "arviz_stats", "blackjax", "matplotlib", "optax", "pandas", "xarray")

# jax._src: nothing public tells whether JAX has started without starting it.
PROBE = """
import json, sys
{before}
present = set(sys.modules)
import bayeshybrid
from jax._src.xla_bridge import backends_are_initialized
print(json.dumps({{"added": sorted(set(sys.modules) - present), "started": backends_are_initialized()}}))
"""


def probe(before: str) -> dict:
    """What a fresh interpreter loads by `import bayeshybrid` after the statement `before`."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE.format(before=before)],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_import_starts_no_jax_backend_and_loads_nothing_heavy():
    """A flag for XLA can only be set, and a device count chosen, while JAX has not started."""
    seen = probe("")
    assert not seen["started"], (
        "importing bayeshybrid starts JAX: a computation stands at the top of a module"
    )
    loaded = {name.partition(".")[0] for name in seen["added"]}
    assert not loaded & set(HEAVY), f"loaded on import: {sorted(loaded & set(HEAVY))}; import them where used"


def test_import_adds_few_modules():
    """Beyond jax, equinox, diffrax and numpyro come our own files and a handful of others."""
    added = probe("import jax, equinox, diffrax, numpyro")["added"]
    own = [name for name in added if name.partition(".")[0] == "bayeshybrid"]
    foreign = sorted(set(added) - set(own))
    assert len(foreign) <= 8, f"{len(foreign)} modules beyond our own: {foreign}"
    assert len(own) <= 130, f"{len(own)} modules of our own: {own}"


def public_functions(path: Path) -> list[str]:
    """The public functions that a file defines at its top."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    names = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [name for name in names if not name.startswith("_")]


def test_no_module_has_the_name_of_a_public_function():
    """`bh.predict` must never mean a module before an import and a function after it."""
    files = sorted(PACKAGE.rglob("*.py"))
    modules = {path.stem if path.stem != "__init__" else path.parent.name for path in files}
    # The pictures are always reached through their module, as `bh.plots.forecast`.
    shared = [path for path in files if "plots" not in path.relative_to(PACKAGE).parts]
    functions = {name: path for path in shared for name in public_functions(path)}
    clashes = [f"{name} in {functions[name]}" for name in sorted(modules & set(functions))]
    assert not clashes, clashes


def test_every_promised_name_exists():
    """`__all__` is the vocabulary of a first script: nothing in it is missing."""
    assert bayeshybrid.__all__
    missing = [name for name in bayeshybrid.__all__ if not hasattr(bayeshybrid, name)]
    assert not missing
