"""What the data could not tell, in words: sentences for a layperson and a table."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshybrid.information import Roots
from bayeshybrid.parameter_verdict import Thresholds
from bayeshybrid.target import Target

if TYPE_CHECKING:
    from bayeshybrid.identifiability import Identifiability

MOST_NAMED = 3
FEW_DRAWS = 100
SINGLE_OFFSETS = 6

__all__ = ["blind_spots", "in_words", "table"]


def in_words(
    posterior: Any, findings: tuple[Any, ...], local: Any, prior: Any, limits: Thresholds
) -> tuple[str, ...]:
    """Sentences for a layperson, most important first.

    **Arguments:** the posterior, the findings on its parameters, what was found at single draws, the prior as units,
    and the thresholds.

    ```python
    from bayeshybrid.identifiability_words import in_words
    from bayeshybrid.parameter_verdict import Thresholds
    assert "no parameters" in in_words(None, (), None, None, Thresholds())[0]
    ```
    """
    if not findings:
        return (
            "The model has no parameters beside its networks: the weights of a network mean nothing one by one.",
        )
    said = [*_best_and_least(findings), *_separate(findings), *_trading(local, findings)]
    said += _networks(findings, prior, limits)
    conflicts = [found.name for found in findings if found.conflict]
    if conflicts:
        said.append(
            f"The data put {_listed(conflicts)} where the prior held almost nothing: prior and data are in conflict."
        )
    if not posterior.target.layout.observed or posterior.target.layout.absent:
        said.append("Nothing was observed: everything here is the prior.")
    if not prior.proper:
        said.append(
            "A prior is improper, so spectrum, combinations and what a network may have taken are not assessable: they "
            "are measured in units of the prior."
        )
    if posterior.size < FEW_DRAWS:
        said.append(f"All this rests on {posterior.size} draws, so the figures are rough.")
    if posterior.verdict.nature != "draws of the posterior":
        said.append(
            f"All spreads are those of {posterior.method.partition('(')[0]}, whose results are "
            f"{_nature(posterior.verdict.nature)}: where it is too sure, so is this."
        )
    return tuple(said)


def _nature(nature):
    return "an approximation of the posterior" if nature == "approximate" else nature


def _best_and_least(findings):
    rated = [f for f in findings if f.kind != "offset" and not np.isnan(f.contraction)]
    if not rated:
        return
    best = max(rated, key=lambda f: f.contraction)
    least = min(rated, key=lambda f: f.contraction)
    if best.verdict in ("identified", "weakly identified"):
        yield f"Known best is {_range(best)}; the data took away {_share(best.contraction)} of the prior's variance."
    if len(rated) > 1 or best.verdict not in ("identified", "weakly identified"):
        taken = _share(max(least.contraction, 0.0))
        yield f"Known least is {_range(least)}, {_least(least)}; the data took away {taken} of the prior's variance."
    driven = [f.name for f in rated if f.verdict == "driven by the prior" and not _narrowed(f)]
    moving = [f.name for f in rated if f.verdict == "driven by the prior" and _narrowed(f)]
    if moving:
        yield f"The data narrow {_listed(moving)}, but where the range lies still depends on the prior."
    if driven:
        them = "them" if len(driven) > 1 else "it"
        yield f"About {_listed(driven)} the data say too little: what is reported of {them} is the prior."


def _narrowed(found):
    """Whether the data took away half of the variance: then it is the place of the range that the prior drives."""
    return found.contraction >= 0.5


def _least(found):
    moving = "whose range still depends on the prior"
    return {
        "driven by the prior": moving if _narrowed(found) else "which is what the prior said",
        "only in combination": "which is known only in combination with others",
        "several separate values": "which may have several separate values",
    }.get(found.verdict, "which the data told all the same")


def _separate(findings):
    several = [f.name for f in findings if f.verdict == "several separate values"]
    if several:
        yield f"The data allow several separate values of {_listed(several)}, and none between them."


def _trading(local, findings):
    unresolved = [found for found in local.collinear if not found.resolved]
    for found in unresolved[:MOST_NAMED]:
        names = found.names
        yield (
            f"{_listed(names)} trade off: a change of one can be undone by the other"
            f"{'s' if len(names) > 2 else ''}, so the data tell a combination of them and hardly each by itself."
        )
    if len(unresolved) > MOST_NAMED:
        yield f"{len(unresolved) - MOST_NAMED} more sets of parameters trade off in this way."
    named = {name for found in unresolved for name in found.names}
    rest = [f.name for f in findings if f.verdict == "only in combination" and f.name not in named]
    if rest:
        yield f"The data tell {_listed(rest)} only in combination with other parameters."


def _networks(findings, prior, limits):
    several = len(prior.networks) > 1
    for network in prior.networks:
        told = [
            (found, found.absorption[network])
            for found in findings
            if network in found.absorption and not np.isnan(found.absorption[network].median)
        ]
        if not told:
            if prior.proper:
                yield (
                    f"Whether the network {network} took anything from a parameter cannot be assessed: "
                    "about none of them do the data say more than the prior."
                )
            continue
        told.sort(key=lambda pair: -pair[1].median)
        taken = [pair for pair in told if pair[1].median >= limits.absorbed and pair[0].kind != "offset"]
        beside = ", the other networks being free too" if several else ""
        for found, share in taken[:MOST_NAMED]:
            half, twice = (share.scales[scale][0] for scale in (0.5, 2.0))
            yield (
                f"The network {network} could have taken {_share(share.median)} of what the data say about "
                f"{found.name} ({_share(half)} if its weights are held half as wide, {_share(twice)} if twice"
                f"{beside})."
            )
        if not taken:
            most, share = told[0]
            yield (
                f"The network {network} could have taken at most {_share(share.median)} of what the data say about a "
                f"parameter ({most.name}{beside})."
            )


def blind_spots(target: Target, roots: Roots) -> tuple[str, ...]:
    """What these figures cannot see, in sentences.

    **Arguments:** the target, and the roots of the information at its draws.

    ```python
    from bayeshybrid.identifiability_words import blind_spots
    from bayeshybrid.information import Roots
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 0.5), obs=y)
    target = bh.Target(model, {"y": np.array(2.0)})
    said = blind_spots(target, Roots(np.ones((1, 1, 1)), {"y": (0, 0, 1, 0)}, 0.0, 0))
    assert "1 censored cells of y" in said[-1]
    ```
    """
    said = [
        "Fisher information, collinearity and absorption are local: they are those of a straight model about each draw",
        "a model that is wrong: parameters can be told precisely and mean nothing",
    ]
    if target.layout.networks:
        said.append(
            "a prior on the weights that forbids a network to act hides what it would take: compare half and twice the "
            "scale; figures are those of posterior draws, not of a network that starts at zero"
        )
    if target.layout.soft:
        said.append("soft constraints of the model are not part of the prior that is the unit here")
    left_out = {name: cells[3] for name, cells in roots.cells.items() if cells[3]}
    said += [
        f"{count} cells of {name}, for whose distribution there is no information"
        for name, count in left_out.items()
    ]
    censored = {name: cells[2] for name, cells in roots.cells.items() if cells[2]}
    said += [
        f"{count} censored cells of {name} count by whether they lay beyond their limit only"
        for name, count in censored.items()
    ]
    if roots.error > 0.05:
        said.append(f"the information of some cells comes from draws, with an error of {_share(roots.error)}")
    if roots.lost:
        said.append(f"{roots.lost} draws, at which the model has no finite derivative")
    return tuple(said)


def table(found: Identifiability) -> str:
    """The findings as a table with what was found in combination, sentences, blind spots and thresholds.

    ```python
    from bayeshybrid.identifiability import Identifiability, Thresholds
    from bayeshybrid.identifiability_words import table
    found = Identifiability((), np.zeros(0), (), (), {}, ("Nothing is known.",), (), Thresholds(), 0)
    assert "Nothing is known." in table(found)
    ```
    """
    networks = list(dict.fromkeys(network for _, network in found.absorption))
    header = (
        "",
        "verdict",
        "moved",
        "if others known",
        "90 %",
        "unit",
        "prior 90 %",
        *(f"taken by {n}" for n in networks),
    )
    shown = [p for p in found.parameters if p.kind != "offset"]
    offsets = [p for p in found.parameters if p.kind == "offset"]
    if len(offsets) <= SINGLE_OFFSETS:
        shown, offsets = list(found.parameters), []
    lines = [header, *(_row(p, networks) for p in shown)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    if offsets:
        counts = Counter(p.verdict for p in offsets)
        text.append(
            f"{len(offsets)} offsets of single units: "
            + ", ".join(f"{n} {word}" for word, n in counts.most_common())
        )
    if found.combinations:
        text += ["", "combinations, best told first"]
        text += [f"  {line}" for line in _ends(found.directions)]
    if found.collinear:
        text += ["", "effects that can undo each other"]
        text += [f"  {line}" for line in _ends(tuple(map(str, found.collinear)))]
    text += ["", *found.words, "", *(f"cannot be seen: {what}" for what in found.blind)]
    return "\n".join([*text, f"limits: {found.thresholds}"])


def _ends(lines, most=4):
    """The first and last lines of a long list."""
    if len(lines) <= 2 * most:
        return lines
    return (*lines[:most], f"... {len(lines) - 2 * most} more ...", *lines[-most:])


def _row(found, networks):
    def number(value):
        return "" if np.isnan(value) else f"{value:.2f}"

    def ends(pair):
        return "" if np.isnan(pair[0]) else f"{pair[0]:.3g} to {pair[1]:.3g}"

    word = f"{found.verdict}, conflict with the prior" if found.conflict else found.verdict
    taken = [number(found.absorption[n].median) if n in found.absorption else "" for n in networks]
    figures = (number(found.contraction), number(found.alone))
    return (
        found.name, word, *figures, ends(found.interval), found.unit, ends(found.prior_interval), *taken
    )  # fmt: skip


def _range(found):
    low, high = found.interval
    return f"{found.name}: {low:.3g} to {high:.3g} {found.unit}".rstrip()


def _share(value):
    if 0.99 < value < 1:
        return "more than 99 %"
    return f"{100 * value:.0f} %"


def _listed(names):
    names = list(names)
    if len(names) > 6:
        return f"{', '.join(names[:5])} and {len(names) - 5} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
