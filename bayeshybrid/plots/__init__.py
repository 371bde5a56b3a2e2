"""Pictures of a fit, a forecast, the unknowns and of what the analyses say: matplotlib figures, without global state.

What differs by colour differs also by hatch or line, so that the pictures survive grey print and colour blindness.
"""

from bayeshybrid.plots.bands import fit, forecast
from bayeshybrid.plots.difference import contrast
from bayeshybrid.plots.doubt import budget
from bayeshybrid.plots.knowledge import identifiability
from bayeshybrid.plots.misfit import residuals
from bayeshybrid.plots.quantiles import visual_predictive_check
from bayeshybrid.plots.record import calibration
from bayeshybrid.plots.unknowns import density, moved, parameters

__all__ = [
    "budget",
    "calibration",
    "contrast",
    "density",
    "fit",
    "forecast",
    "identifiability",
    "moved",
    "parameters",
    "residuals",
    "visual_predictive_check",
]
