"""Pure functions that turn a mechanism into a differentiable solution; none of them knows numpyro."""
