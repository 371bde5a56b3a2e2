"""Stan with a dense metric through pystan, whose server offers the diagonal one only.

httpstan ships the source of its sampling service, the compiled object of it, and Stan's headers, which hold both
metrics. Here the service is compiled once more with the other sampler in it; models are then linked with that object.
It takes a minute or two, once an installation. The object of the diagonal metric comes compiled, so these minutes
are not counted as part of a fit with the dense one either.
"""

from __future__ import annotations

import functools
import subprocess
import sysconfig
from pathlib import Path
from types import SimpleNamespace

DIAGONAL, DENSE = "hmc_nuts_diag_e_adapt", "hmc_nuts_dense_e_adapt"
# As httpstan's own build and its `models.py` compile; libraries of the wheel are of the older C++ interface.
FLAGS = ["-O3", "-std=c++14", "-fPIC", "-w", "-D_REENTRANT", "-DSTAN_THREADS", "-D_GLIBCXX_USE_CXX11_ABI=0"]
FLAGS += ["-DBOOST_DISABLE_ASSERTS", "-DBOOST_PHOENIX_NO_VARIADIC_EXPRESSION"]

CHANGES = {
    "stan_services.cpp": {  # the name that Python sees stays: `..._wrapper` is not touched
        f"sample/{DIAGONAL}.hpp": f"sample/{DENSE}.hpp",
        f"return_code = stan::services::sample::{DIAGONAL}(": f"return_code = stan::services::sample::{DENSE}(",
    },
    "socket_writer.hpp": {  # the line after which draws may come
        'rfind("Diagonal elements of inverse mass matrix"': 'rfind("Elements of inverse mass matrix"',
    },
}


def dense_service(directory: Path) -> Path:
    """The compiled service with the dense metric under its old name; made in `directory` where it is not there."""
    import httpstan

    compiled = directory / f"stan_services_dense_{httpstan.__version__}.o"
    if compiled.exists():
        return compiled
    directory.mkdir(parents=True, exist_ok=True)
    package = Path(httpstan.__file__).parent
    for name, changes in CHANGES.items():  # beside each other, so that the one includes the other
        (directory / name).write_text(_changed((package / name).read_text(), changes, httpstan.__version__))
    include = [f"-I{package}", f"-I{package / 'include'}", f"-I{sysconfig.get_path('include')}"]
    unfinished = compiled.with_suffix(".unfinished")
    command = ["g++", *FLAGS, *include, "-c", str(directory / "stan_services.cpp"), "-o", str(unfinished)]
    subprocess.run(command, check=True)
    return unfinished.rename(compiled)


def _changed(source: str, changes: dict[str, str], version: str) -> str:
    for before, after in changes.items():
        if source.count(before) != 1:
            raise RuntimeError(
                f"httpstan {version} has another service than this was written for: no {before!r}"
            )
        source = source.replace(before, after)
    return source


def use(compiled: Path) -> None:
    """From here on this process links the models that pystan builds with that service."""
    import httpstan.models
    import setuptools

    extension = functools.partial(_linked, setuptools.Extension, str(compiled))
    httpstan.models.setuptools = SimpleNamespace(Extension=extension)


def _linked(extension, compiled, *arguments, **settings):
    return extension(*arguments, **{**settings, "extra_objects": [compiled]})
