"""Keys: an integer or a JAX key, the same everywhere."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeshybrid.faults import ModelError


def as_key(key: Any) -> Any:
    """A JAX key from an integer or a key of either style.

    **Raises:** `ModelError` for anything else.

    ```python
    from bayeshybrid.keys import as_key
    assert as_key(3) == as_key(jax.random.key(3))
    ```
    """
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        return jax.random.key(int(key))
    if isinstance(key, jax.Array | np.ndarray):
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
            return key
        if key.dtype == jnp.uint32 and key.shape == (2,):
            return jax.random.wrap_key_data(jnp.asarray(key))
    raise ModelError(f"key={key!r}: write an integer, such as key=0, or jax.random.key(0)")
