"""Fit three models of one outbreak, ask them what isolation would have done, and say what they cannot tell."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bayeshybrid as bh
from case_studies.influenza.model import BOYS, ISOLATION_DAY, MODELS, read_cases
from case_studies.influenza.tables import (
    answers_in_words,
    answers_plain,
    published_in_words,
    published_rows,
    record_in_words,
    record_plain,
    unknowns,
)
from case_studies.influenza.what_if import Answer, ahead, answers, days_in_bed, put_to_bed
from case_studies.writing import write

IN_WORDS = {
    "sir": "an SIR model (susceptible, ill, recovered)",
    "seir": "an SEIR model (susceptible, latent, ill, recovered)",
    "open": "an SEIR model that does not know its start, whom it can reach and who is put to bed",
}
PLAUSIBLE = {"peak": (10, 700)}  # boys in bed on the worst day: an outbreak, and not everybody at once


@dataclass(frozen=True)
class Story:
    """A fit, and the outbreak ahead of it with the sick isolated and without."""

    model: str
    posterior: bh.Posterior
    isolated: bh.Forecast
    baseline: bh.Forecast
    answers: list[Answer]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the case study as the command line asks."""
    began = time.monotonic()
    asked = _parse(arguments)
    data = read_cases(asked.day)
    print(f"{data}, of {BOYS} boys\n")
    models = (asked.model,) if asked.model else tuple(MODELS)
    stories, written = [], []
    for model in models:
        story = _fit(model, data, asked)
        stories.append(story)
        written += _tables(story, asked)
    written += _side_by_side(stories, asked)
    written.append(_page(stories, asked))
    names = ", ".join(str(path.relative_to(asked.output)) for path in written)
    print(f"Wrote {names} to {asked.output.resolve()}")
    print(f"{time.monotonic() - began:.0f} s in all")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m case_studies.influenza", description=__doc__, allow_abbrev=False
    )
    add = parser.add_argument
    add("--model", choices=MODELS, help="one model only (all three)")
    add("--share", type=float, default=0.75, help="share of transmission that isolation takes away (0.75)")
    add("--day", type=float, default=ISOLATION_DAY, help="the day from which on it does (4)")
    add("--key", type=int, default=0, help="seed of everything random (0)")
    add("--chains", type=int, default=4, help="chains of NUTS (4)")
    add("--draws", type=int, default=1000, help="draws kept of each chain (1000)")
    add("--warmup", type=int, default=500, help="transitions before those (500)")
    add("--output", type=Path, default=Path("influenza_output"), help="folder to write to")
    asked = parser.parse_args(arguments)
    if not 0 <= asked.share <= 1:
        parser.error(f"--share {asked.share}: write a share between 0 and 1, such as 0.75")
    if not 0 < asked.day < 14:
        parser.error(f"--day {asked.day}: write a day between 0 and 14, such as 4")
    return asked


def _fit(model, data, asked) -> Story:
    method = bh.NUTS(asked.chains, asked.draws, asked.warmup, target_acceptance=0.9)
    if model == "sir":
        print(f"{bh.preflight.assess(MODELS[model], data, key=asked.key, plausible=PLAUSIBLE)}\n")
    print(f"{model}: {IN_WORDS[model]} by {method!r}\n")
    posterior = bh.infer(MODELS[model], data, method, key=asked.key, progress=bh.TextBar())
    isolated, baseline = ahead(posterior, asked.share, key=asked.key + 1, day=asked.day)
    for remark in dict.fromkeys((*baseline.remarks, *isolated.remarks)):
        print(f"Remark on the forecasts: {remark}\n")
    return Story(model, posterior, isolated, baseline, answers(isolated, baseline))


def _tables(story, asked) -> list[Path]:
    """What one fit says, printed, drawn and written."""
    posterior = story.posterior
    summary, checked = unknowns(posterior), posterior.check(key=asked.key)
    tables: dict[str, tuple[str, Any]] = {
        "summary": (str(summary), summary.to_dict()),
        "verdict": (str(posterior.verdict), posterior.verdict.to_dict()),
        "fit": (str(checked), {"inside": checked.inside, "residuals": checked.residuals}),
    }
    if story.model == "sir":
        rows = published_rows(posterior)
        tables["published"] = (published_in_words(rows), rows)
    pictures = {
        "fit": bh.plots.fit(posterior, key=asked.key),
        "as_it_was": bh.plots.forecast(story.baseline, fitted=posterior),
        "isolated": bh.plots.forecast(story.isolated, fitted=posterior),
        "difference": bh.plots.contrast(story.isolated - story.baseline, name="in_bed"),
        "parameters": bh.plots.parameters(posterior),
    }
    if story.model == "open":
        found = bh.identifiability.assess(posterior)
        tables["identifiability"] = (str(found), {"words": found.words, "directions": found.directions})
        pictures["identifiability"] = bh.plots.identifiability(found)
    for title, (text, _) in tables.items():
        print(f"{title.capitalize()}\n\n{text}\n")
    return write(asked.output / story.model, tables, pictures)


def _side_by_side(stories, asked) -> list[Path]:
    """The answers of all models, and what they say of the rest of the record."""
    found = {story.model: story.answers for story in stories}
    beside = {story.model: (put_to_bed(story.baseline), days_in_bed(story.baseline)) for story in stories}
    tables = {
        "record": (record_in_words(beside), record_plain(beside)),
        "what_if": (answers_in_words(found, asked.share, asked.day), answers_plain(found)),
    }
    for title, (text, _) in tables.items():
        print(f"{title.replace('_', ' ').capitalize()}\n\n{text}\n")
    return write(asked.output, tables, {})


def _page(stories, asked) -> Path:
    """The page of one fit, the SEIR's if there is one, with what would have followed from isolation."""
    story = next((one for one in stories if one.model == "seir"), stories[-1])
    return bh.report(
        story.posterior,
        story.isolated,
        path=asked.output / "report.html",
        title=f"Influenza in a boarding school, 1978, had the sick been isolated on day {asked.day:g}",
        fitted=f"{IN_WORDS[story.model]}, to the number of boys in bed on 14 days; the forecast is of what would have "
        f"followed, by this model, had transmission been reduced by {asked.share:.0%} from day {asked.day:g} on",
    )


if __name__ == "__main__":
    raise SystemExit(main())
