"""When a method that does not know how long to run has drawn enough."""

from __future__ import annotations

import numpy as np

from bayeshybrid.diagnostics import effective_sample_size, rhat
from bayeshybrid.functions import leading_components
from bayeshybrid.inference.convergence import ESS_LIMIT, FEWEST_DRAWS, RHAT_LIMIT
from bayeshybrid.inference.method import Chunk, Method
from bayeshybrid.target import Target

GROWTH = 1.2
LOOKS = 2
MOST_FUNCTION_DRAWS = 2000

__all__ = ["Precision"]


class Precision:
    """The stopping rule: the wanted effective sample size and R-hat, at two looks running.

    A look is taken only when the draws have grown by a fifth since the last one, and none counts before an
    effective sample size of 400: who looks often enough sees by chance what they hope for.

    **Arguments:**

    - `target`: the density.
    - `wanted`: effective sample size of every unknown, its square included, and of each network's functions.

    ```python
    from bayeshybrid.inference.stopping import Precision
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    precision = Precision(bh.Target(model, {"y": np.array(2.0)}), wanted=1000)
    draws = np.random.default_rng(0).normal(size=(64, 200, 1))
    assert not precision.enough((draws[:, :100],)) and precision.enough((draws[:, :150],))
    ```
    """

    def __init__(self, target: Target, wanted: float) -> None:
        self.target = target
        self.wanted = max(wanted, ESS_LIMIT)
        self.last, self.running = 0, 0

    def reached(self, method: Method, state: object, chunks: list[Chunk]) -> bool:
        """Whether to stop now."""
        since = method.sampling_since(state)
        if since is None:
            return False
        draws = sum(chunk.draws.shape[1] for chunk in chunks) - since
        if draws < max(FEWEST_DRAWS, GROWTH * self.last):
            return False
        self.last = draws
        return self.enough(method.judged(state, chunks))

    def enough(self, judged: tuple[np.ndarray, ...]) -> bool:
        """One look at the draws of each basin, `(chain, draw, size)`: whether it and the last are good enough."""
        self.running = self.running + 1 if all(map(self._good, judged)) else 0
        return self.running >= LOOKS

    def _good(self, draws):
        if not all(map(self._precise, self._columns(draws))):
            return False
        if not self.target.layout.networks:
            return True
        kept = draws[:, :: max(1, draws.shape[0] * draws.shape[1] // MOST_FUNCTION_DRAWS)]
        share = kept.shape[1] / draws.shape[1]
        components = leading_components(self.target, kept.reshape(-1, kept.shape[-1])).values()
        return all(self._precise(c.reshape(kept.shape[:2]), share) for c in components)

    def _precise(self, column, share=1.0):
        return effective_sample_size(column) >= share * self.wanted and rhat(column) <= RHAT_LIMIT

    def _columns(self, draws):
        for site in self.target.layout.latent:
            if site.tag.kind != "weight":
                for place in range(site.start, site.stop):
                    yield draws[..., place]
