"""The solve of the models by hand: what a user of numpyro writes with diffrax."""

from __future__ import annotations

from typing import Any


def solve(field: Any, y0: Any, times: Any, t0: float, args: Any, rtol: float, atol: float, **settings: Any):
    """States at `times`; where the solver gives up they are infinite, and so is the density.

    `forward=False` differentiates backwards through the solve, `stiff=True` takes an implicit solver.
    """
    import diffrax

    forward, stiff = settings.get("forward", True), settings.get("stiff", False)
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Kvaerno5() if stiff else diffrax.Tsit5(),
        t0=t0,
        t1=times[-1],
        dt0=None,
        y0=y0,
        args=args,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        adjoint=diffrax.ForwardMode() if forward else diffrax.RecursiveCheckpointAdjoint(),
        max_steps=settings.get("max_steps", 4096),
        throw=False,
    ).ys
