"""How a site of the model carries its group, unit and labels.

A statement tags each numpyro site that it makes; the tag travels in the site's ``infer`` mapping under
one key, which numpyro's handlers hand on. Everything that reads a model asks `read` and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

KEY = "bayeshybrid"

Kind = Literal["parameter", "population", "spread", "offset", "weight", "observation"]


@dataclass(frozen=True)
class Tag:
    """What a statement says of one site.

    **Arguments:**

    - `group`: the name of the block of parameters, or of the network, that the site belongs to.
    - `unit`: the unit of its values, as written by the user; `None` where nothing was said.
    - `labels`: names of the entries along the last axis of the value.
    - `kind`: the part that the site plays in its group.
    - `initial`: `"zero"` where a search should begin at zero instead of at a prior draw.
    - `across`: what the leading axis of the value counts, such as `"subject"`; `None` where it counts no units.
    - `remark`: of a soft constraint, what a reader of the posterior must know of it.

    ```python
    from bayeshybrid.sites import Tag, mapping, read
    tag = Tag("rates", unit="1/yr")
    infer = mapping(tag)
    assert read({"infer": infer}) == tag
    ```
    """

    group: str
    unit: str | None = None
    labels: tuple[str, ...] = ()
    kind: Kind = "parameter"
    initial: Literal["zero"] | None = None
    across: str | None = None
    remark: str = ""


def mapping(tag: Tag) -> dict[str, Tag]:
    """The tag as the `infer` argument of `numpyro.sample`."""
    return {KEY: tag}


def read(site: Mapping[str, Any]) -> Tag | None:
    """The tag of a site of a numpyro trace, `None` where no statement of ours made it."""
    return (site.get("infer") or {}).get(KEY)
