"""Block 11: for statisticians. Jargon is allowed here and nowhere else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from bayeshybrid.inference.cost import Cost
from bayeshybrid.reporting.further import figures
from bayeshybrid.reporting.markup import Markup, bullets, element, folded, paragraph, table
from bayeshybrid.reporting.material import Material
from bayeshybrid.reporting.numbers import number, span
from bayeshybrid.target import Target

__all__ = ["fingerprint", "for_statisticians"]


def for_statisticians(material: Material) -> list[Markup]:
    """Diagnostics, priors, solver, versions, key, hash of the data, method, search, wall times."""
    parts = [
        _checks(material),
        _convergence(material),
        _priors(material),
        _identifiability(material.found),
        *_budgets(material),
        *_record(material.record),
        _run(material),
        _search(material),
    ]
    return [part for part in parts if part]


def _checks(material):
    verdict = material.posterior.verdict
    rows = [
        [
            check.name,
            check.state,
            f"{check.figure:.4g}" if check.figure or check.limit else "",
            f"{check.limit:.4g}" if check.limit else "",
            check.place,
            check.remedy if check.state != "pass" else "",
        ]
        for check in verdict.checks
    ]
    claims = "; ".join(f"{claim}: {verdict[claim]}" for claim in verdict.claims)
    told = table(
        "Verdict: checks of the computation", ("", "State", "Figure", "Limit", "Place", "Remedy"), rows
    )
    said = paragraph(f"Verdict: {claims}. The draws are by nature {_nature(verdict)}.")
    return Markup(said + bullets(verdict.remarks) + told)


def _nature(verdict):
    return "an approximation" if verdict.nature == "approximate" else verdict.nature


def _convergence(material):
    caption = "Posterior of the unknowns; ESS is the smallest of bulk, tail and squares"
    return _of_all(material, caption, _posterior_of)


def _of_all(material, caption, make):
    """A table of the main unknowns, and folded the one of those behind the values of units."""
    told = make(caption, material.rows, material) if material.rows or material.contributions else ""
    if not material.behind:
        return told
    behind = make(f"{caption}: of single units", material.behind, None)
    return Markup(told + folded(f"{caption}: {len(material.behind)} of single units", behind))


def _posterior_of(caption, rows, material):
    cells = [
        [
            row.name,
            number(row.mean, row.high - row.low),
            number(row.sd),
            number(row.error),
            "" if np.isnan(row.rhat) else f"{row.rhat:.3f}",
            "" if np.isnan(row.ess) else f"{row.ess:.0f}",
            "" if np.isnan(row.contraction) else f"{row.contraction:.2f}",
        ]
        for row in rows
    ]
    header = ("", "Posterior mean", "sd", "MCSE of the mean", "R-hat", "ESS", "Contraction")
    return table(caption, header, cells) if cells else ""


def _priors(material):
    return _of_all(material, "Priors as central 90 % intervals", _priors_of)


def _priors_of(caption, rows, material):
    cells = [
        [row.name, "improper" if np.isnan(row.prior_low) else span(row.prior_low, row.prior_high), row.unit]
        for row in rows
    ]
    for network, found in (material.contributions if material is not None else {}).items():
        spread = " and ".join(number(one) for one in found.before)
        cells.append(
            [f"{network} (output of the network, prior sd at the points it met)", spread, found.unit or ""]
        )
    return table(caption, ("", "Prior", "Unit"), cells) if cells else ""


def _identifiability(found: Any):
    if found is None:
        return ""
    rows = [
        [
            one.name,
            one.verdict,
            number(float(one.contraction)),
            f"{number(one.score)}{', in conflict' if one.conflict else ''}",
            "; ".join(f"{name} {number(at.median)}" for name, at in one.absorption.items()),
        ]
        for one in found.parameters
    ]
    header = ("", "Verdict", "Contraction", "Mean score under the prior", "Absorption")
    told: Any = table("Identifiability", header, rows) + bullets(found.words)
    if len(found.spectrum):
        spectrum = ", ".join(f"{value:.3g}" for value in found.spectrum)
        told += paragraph(
            f"Fisher spectrum in units of the prior (above 1 the data beat the prior): {spectrum}."
        )
    return Markup(told)


def _budgets(material):
    told = []
    for site, budget in material.budgets.items():
        rows = []
        for name, variance in budget.rows.items():
            error = number(float(np.nanmean(budget.errors[name]))) if name in budget.errors else ""
            rows.append([name, number(float(np.nanmean(variance))), error])
        told.append(
            table(f"Variance of {site}, mean over its entries", ("", "Variance", "Jackknife error"), rows)
        )
        if np.any(np.isfinite(budget.compensation)):
            most = number(float(np.nanmax(budget.compensation)))
            told.append(
                paragraph(f"Compensation (sum of separate over joint variance) of {site}: at most {most}.")
            )
        told.append(bullets(budget.remarks))
    return told


def _record(record):
    if record is None:
        return []
    return [
        bullets(record.words),
        *figures(record),
        *(bullets(found.words) for found in record.sites.values()),
    ]


def _run(material):
    posterior = material.posterior
    record, forecast = posterior.record, material.forecast
    seconds = record.get("seconds", {})
    versions = record.get("versions", {})
    rows = [
        ["Method", posterior.method],
        ["Draws", f"{posterior.unconstrained.shape[0]} chains of {posterior.unconstrained.shape[1]}"],
        ["Key", posterior.key],
        ["SHA-256 of the data", fingerprint(posterior.target)],
        ["Solves", ", ".join(s.name for s in posterior.target.layout.solves) or "none"],
        ["Solver's tolerance", "times " + number(posterior.target.finer) + " finer than stated"]
        if posterior.target.finer != 1
        else [
            "Solver's tolerance",
            "as stated in the model; held against solves 100 times finer where checked",
        ],
        ["Failed evaluations", "; ".join(f"{n} x {why}" for why, n in posterior.failures.items()) or "none"],
        [
            "Wall time, s",
            ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()) or "not recorded",
        ],
        ["Expected before the run", _expected(record.get("expected"))],
        ["Versions", ", ".join(f"{name} {value}" for name, value in versions.items()) or "not recorded"],
    ]
    if forecast is not None:
        for what, names in (
            ("Carried into the forecast", forecast.carried),
            ("Continued", forecast.continued),
            ("Drawn anew", forecast.drawn_anew),
        ):
            rows.append([what, ", ".join(names) or "nothing"])
        rows.append(
            ["Draws of the forecast", f"{forecast.asked - forecast.failures} of {forecast.asked} solved"]
        )
    return table("The run", ("", ""), rows)


def _expected(told):
    return str(Cost(**told)) if told else "not recorded"


def _search(material):
    posterior = material.posterior
    told = element("pre", posterior.search) if posterior.search else ""
    said = [*posterior.remarks, *posterior.target.notes, *posterior.target.losses]
    notes = bullets(list(dict.fromkeys(said)))  # what is noted of the data is a remark too, as a rule
    return Markup((element("h3", "Search") + told if told else "") + notes)


def fingerprint(target: Target) -> str:
    """SHA-256 over names, types, shapes and bytes of the arrays that the model was given."""
    told = hashlib.sha256()
    for name, leaf in _leaves(target.data):
        array = np.ascontiguousarray(leaf)
        told.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        told.update(array.tobytes())
    return told.hexdigest()


def _leaves(value, name=""):
    """Arrays with the names they go by, tables part by part, in an order of their own."""
    if isinstance(value, Mapping):
        for key, part in sorted(value.items()):
            yield from _leaves(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part, name)
    else:
        yield name, value
