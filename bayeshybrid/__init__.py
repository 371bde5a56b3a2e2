"""Probabilistic programming and uncertainty quantification for models that join equations and networks.

A model is a numpyro model. bayeshybrid adds statements to write inside it, one verb that finds its posterior
by any method, and analyses of what comes out.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bayeshybrid import configuration as configuration

configuration.prepare()

from bayeshybrid import calibration as calibration  # noqa: E402
from bayeshybrid import identifiability as identifiability  # noqa: E402
from bayeshybrid import noise as noise  # noqa: E402
from bayeshybrid import preflight as preflight  # noqa: E402
from bayeshybrid import uncertainty as uncertainty  # noqa: E402
from bayeshybrid.bases import Fourier, Polynomial, Radial, Spline  # noqa: E402
from bayeshybrid.comparison import ablation, compare  # noqa: E402
from bayeshybrid.composition import gated, hierarchical, parallel, residual, series  # noqa: E402
from bayeshybrid.configuration import configure  # noqa: E402
from bayeshybrid.discrepancies import discrepancy  # noqa: E402
from bayeshybrid.faults import DataError, ModelError, StartError  # noqa: E402
from bayeshybrid.forecast import Forecast  # noqa: E402
from bayeshybrid.formulas import formula  # noqa: E402
from bayeshybrid.inference import recipes as recipes  # noqa: E402
from bayeshybrid.inference.ensemble import DeepEnsemble  # noqa: E402
from bayeshybrid.inference.nuts import NUTS  # noqa: E402
from bayeshybrid.inference.shared import SharedHMC  # noqa: E402
from bayeshybrid.inference.svi import SVI  # noqa: E402
from bayeshybrid.inference.training import Trained, train  # noqa: E402
from bayeshybrid.inference.verbs import infer, simulate  # noqa: E402
from bayeshybrid.measured import Measurements  # noqa: E402
from bayeshybrid.networks import MLP, MonotoneMLP, network  # noqa: E402
from bayeshybrid.observation import observe  # noqa: E402
from bayeshybrid.posterior import Posterior  # noqa: E402
from bayeshybrid.priors import (  # noqa: E402
    Covariate,
    Parameter,
    bounded,
    parameter,
    parameters,
    prior_interval,
    prior_quantiles,
)
from bayeshybrid.progress import Silent, TextBar  # noqa: E402
from bayeshybrid.reporting import report  # noqa: E402
from bayeshybrid.science.inputs import Doses, Forcing, doses, forcing  # noqa: E402
from bayeshybrid.sparsity import Horseshoe  # noqa: E402
from bayeshybrid.statements import solve_ode  # noqa: E402
from bayeshybrid.tables import measurements  # noqa: E402
from bayeshybrid.target import Target  # noqa: E402
from bayeshybrid.verdict import Verdict  # noqa: E402

if TYPE_CHECKING:
    from bayeshybrid import baselines as baselines
    from bayeshybrid import plots as plots
    from bayeshybrid.ablations import ablate
    from bayeshybrid.penalties import penalty, physics_residual

# Loaded when first asked for, since most scripts do not: name to module.
_LATER = {
    "ablate": "ablations",
    "baselines": "baselines",
    "penalty": "penalties",
    "physics_residual": "penalties",
    "plots": "plots",
}


def __getattr__(name: str) -> Any:
    """What is not loaded by the import itself."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_LATER[name]}")
    found = module if name == _LATER[name] else getattr(module, name)
    globals()[name] = found
    return found


__all__ = [
    "MLP",
    "NUTS",
    "SVI",
    "Covariate",
    "DataError",
    "DeepEnsemble",
    "Doses",
    "Forcing",
    "Forecast",
    "Fourier",
    "Horseshoe",
    "Measurements",
    "ModelError",
    "MonotoneMLP",
    "Parameter",
    "Polynomial",
    "Posterior",
    "Radial",
    "SharedHMC",
    "Silent",
    "Spline",
    "StartError",
    "Target",
    "TextBar",
    "Trained",
    "Verdict",
    "ablate",
    "ablation",
    "bounded",
    "compare",
    "configure",
    "discrepancy",
    "doses",
    "forcing",
    "formula",
    "gated",
    "hierarchical",
    "infer",
    "measurements",
    "network",
    "observe",
    "parallel",
    "parameter",
    "parameters",
    "penalty",
    "physics_residual",
    "prior_interval",
    "prior_quantiles",
    "report",
    "residual",
    "series",
    "simulate",
    "solve_ode",
    "train",
]
