"""Pictures of a fit, a forecast and the unknowns: matplotlib figures, made without any global state.

What differs by colour differs also by hatch or line, so that the pictures survive grey print and colour blindness.
"""

from bayeshybrid.plots.bands import fit, forecast
from bayeshybrid.plots.unknowns import density, moved, parameters

__all__ = ["density", "fit", "forecast", "moved", "parameters"]
