"""Writes the three tables beside it, each simulated from a truth that its first lines state.

Nothing here knows bayeshybrid: NumPy and SciPy alone, with closed forms or SciPy's own solver.
Run it from anywhere: `python tests/tables/make_tables.py`. The files are the same every time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

HERE = Path(__file__).resolve().parent

RAGGED = {"absorption": 1.2, "clearance": 0.15, "spread": 0.25, "noise": 0.12, "volume": 20.0}
FORCING = {"inflow": 0.8, "drain": 0.35, "loss": 0.1, "start": 6.0, "noise": 0.4}
REPLICATES = {"growth": 0.55, "capacity": 40.0, "start": 3.0, "noise": 1.8}
LIMIT = 0.3


def header(name: str, about: str, truth: dict[str, float]) -> str:
    """The comment lines that open a file."""
    planted = ", ".join(f"{key} = {value:g}" for key, value in truth.items())
    return f"# {name}: {about}\n# planted truth: {planted}\n"


def ragged() -> str:
    """Eight subjects with one or two oral doses, log-normal noise, a limit of quantification and an empty cell.

    gut' = -absorption gut, blood' = absorption gut / volume - k blood; k = clearance exp(spread z) by subject.
    """
    generator = np.random.default_rng(1)
    truth = RAGGED
    lines = ["subject,time [h],conc [mg/L],dose [mg]"]
    for subject in range(1, 9):
        rate = truth["clearance"] * np.exp(truth["spread"] * generator.normal())
        doses = [(0.0, 100.0 + 20.0 * (subject % 3))] + ([(12.0, 60.0)] if subject % 2 else [])
        times = np.sort(generator.choice([0.5, 1, 2, 4, 6, 8, 11, 14, 18, 24, 36], 5 + subject % 4, False))
        lines += [f"{subject},{t:g},,{amount:g}" for t, amount in doses]
        for number, t in enumerate(times):
            given = [(t - at, amount) for at, amount in doses if t > at]
            share = truth["absorption"] / (truth["absorption"] - rate) / truth["volume"]
            level = sum(a * share * (np.exp(-rate * s) - np.exp(-truth["absorption"] * s)) for s, a in given)
            value = level * np.exp(truth["noise"] * generator.normal())
            cell = f"<{LIMIT:g}" if value < LIMIT else f"{value:.4g}"
            lines.append(f"{subject},{t:g},{'' if (subject, number) == (5, 2) else cell},")
    about = "eight subjects, oral doses, gut' = -ka gut, blood' = ka gut / volume - k blood, log-normal noise"
    return header("ragged.csv", about, truth) + "\n".join(lines) + "\n"


def forcing() -> str:
    """Rain fills a soil store that drains into ground water, of which alone the level is measured.

    soil' = inflow rain - drain soil, ground' = drain soil - loss ground; soil starts empty, ground at `start`.
    """
    generator = np.random.default_rng(2)
    truth = FORCING
    days = np.arange(0.0, 41.0)
    rain = np.where(generator.random(len(days)) < 0.35, generator.gamma(1.5, 5.0, len(days)), 0.0).round(1)

    def field(t, y, wet):
        drained = truth["drain"] * y[0]
        return [truth["inflow"] * wet - drained, drained - truth["loss"] * y[1]]

    levels, state = [truth["start"]], np.array([0.0, truth["start"]])
    for day, wet in zip(days[:-1], rain[:-1], strict=True):  # rain is constant within a day
        state = solve_ivp(field, (day, day + 1), state, args=(wet,), rtol=1e-10, atol=1e-10).y[:, -1]
        levels.append(state[1])
    lines = ["day;level [mm];rain [mm/d]"]
    for day, level, wet in zip(days, levels, rain, strict=True):
        told = f"{level + truth['noise'] * generator.normal():.3f}" if day and day % 2 == 0 else ""
        lines.append(f"{day:g};{told};{wet:g}".replace(".", ","))
    about = "rain into a soil store that drains into ground water; only the ground water is measured"
    return header("forcing.csv", about, truth) + "\n".join(lines) + "\n"


def replicates() -> str:
    """Logistic growth in three flasks; each row is the mean and standard deviation of n independent counts."""
    generator = np.random.default_rng(3)
    truth = REPLICATES
    lines = ["flask,hours,mean,sd,n"]
    for flask in "abc":
        for hour in (0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 14.0):
            n = int(generator.integers(1, 6))
            ratio = (truth["capacity"] - truth["start"]) / truth["start"]
            level = truth["capacity"] / (1 + ratio * np.exp(-truth["growth"] * hour))
            read = level + truth["noise"] * generator.normal(size=n)
            sd = f"{read.std(ddof=1):.4f}" if n > 1 else ""
            lines.append(f"{flask},{hour:g},{read.mean():.4f},{sd},{n}")
    about = "logistic growth in three flasks, the mean and sd of n counts with normal noise"
    return header("replicates.csv", about, truth) + "\n".join(lines) + "\n"


if __name__ == "__main__":
    for make in (ragged, forcing, replicates):
        (HERE / f"{make.__name__}.csv").write_text(make(), encoding="utf-8")
