"""Keys: an integer or a JAX key, the same everywhere, and the keys that are made of one."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeshybrid import configuration
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


@partial(jax.jit, compiler_options=configuration.compile_options(level=0))
def child(key: Any, place: Any) -> Any:
    """The key that belongs to a place, as `jax.random.fold_in` gives it, by a program that compiles sooner.

    ```python
    from bayeshybrid.keys import child
    assert child(jax.random.key(0), 3) == jax.random.fold_in(jax.random.key(0), 3)
    ```
    """
    return jax.random.fold_in(key, place)


def children(key: Any, count: int) -> tuple[Any, ...]:
    """So many keys of one, as `jax.random.split` gives them.

    ```python
    from bayeshybrid.keys import children
    assert all(a == b for a, b in zip(children(jax.random.key(0), 3), jax.random.split(jax.random.key(0), 3)))
    ```
    """
    return tuple(child(key, place) for place in range(count))
