"""The page by its content: blocks in order, numbers that agree, lights with reasons, nothing that runs."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh
from bayeshybrid.faults import ModelError
from bayeshybrid.identifiability import Identifiability, Thresholds
from bayeshybrid.reporting.numbers import listing, number, percent, place, span, spelled
from bayeshybrid.reporting.pictures import darkened
from bayeshybrid.reporting.style import DARK, LIGHT
from bayeshybrid.verdict import FORECASTS, PARAMETERS, Check, Verdict
from tests.posteriors import from_draws

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--window-size=1300,900",
)
NASTY = "<script>alert(1)</script>"
TIMES = np.arange(8.0)
AHEAD = np.arange(12.0)
PASSED = Verdict((Check("R-hat", "pass", 1.001, 1.01, "slope"),), unchecked=("evidence",), blind=("a basin",))
FAILED = Verdict(
    (Check("R-hat", "fail", 1.3, 1.01, "slope", "chains disagree"),),
    (PARAMETERS, FORECASTS),
    blind=("a basin",),
)
TITLES = (
    "In five sentences",
    "Four lights",
    "Data and fit",
    "Unknown numbers before and after the data",
    "Forecast",
    "Where the doubt comes from",
    "Equation and networks",
    "Track record",
    "What to measure next",
    "What was not examined and what this page cannot see",
    "For statisticians",
)
# Stands for what `assess` finds, where a page is about something else.
SKIPPED = Identifiability((), np.zeros(0), (), (), {}, (), (), Thresholds(), 0)
JARGON = re.compile(
    r"posterior\b(?!\.predict)|R-hat|epistemic|aleatoric|\bESS\b|\bprior\b|credible|likelihood|Shapley|MCMC|contraction|"
    r"Fisher|\bPIT\b|CRPS",
    re.IGNORECASE,
)


def line(t, y=None):
    """A straight line through the origin with a name that would run if it were not escaped."""
    slope = bh.parameter("slope", dist.Normal(0.0, 2.0), unit="m/s")
    bh.observe("y", dist.Normal(slope * t, 0.5), obs=y, unit=NASTY)


def hybrid(t, y=None):
    """A line and a network of the time beside it."""
    slope = bh.parameter("slope", dist.Normal(0.0, 2.0), unit="1/s")
    extra = bh.network("extra", bh.MLP(1, 1, width=2), scale=0.3, center=3.0, spread=3.0, initial="zero")
    bh.observe("y", dist.Normal(slope * t + extra(t[:, None])[:, 0], 0.5), obs=y)


def several(t, a=None, b=None):
    """Two observed sites, one with labels."""
    level = bh.parameter("level", dist.Normal(0.0, 3.0), shape=(2,), labels=("oak", NASTY))
    bh.observe("a", dist.Normal(level[None, :] + 0.0 * t[:, None], 1.0), obs=a, labels=("oak", NASTY))
    bh.observe("b", dist.Poisson(jnp.exp(0.1 * level[0]) + 0.0 * t), obs=b)


def many(y=None):
    """Forty unknown numbers, each measured once."""
    rates = bh.parameter("rates", dist.Normal(0.0, 1.0), shape=(40,), unit="1/yr/kpelt")
    numpyro.sample("y", dist.Normal(rates, 0.1), obs=y)


def gaussian(model, data, mean, sd, verdict=PASSED, **more):
    """Draws of independent normal unknowns as a posterior."""
    mean = np.atleast_1d(mean)
    drawn = mean + sd * np.random.default_rng(0).standard_normal((4, 100, len(mean)))
    return from_draws(model, data, drawn, verdict=verdict, **more)


@pytest.fixture(scope="module")
def fitted():
    """The posterior of the line in closed form, its forecast and measurements that it has not seen."""
    y = 0.7 * TIMES + 0.3 * np.sin(3 * TIMES)
    precision = np.sum(TIMES**2) / 0.25 + 0.25
    posterior = gaussian(line, {"t": TIMES, "y": y}, np.sum(TIMES * y) / 0.25 / precision, precision**-0.5)
    return posterior, posterior.predict({"t": AHEAD}, key=1), {"t": AHEAD[8:], "y": 0.7 * AHEAD[8:] + 0.1}


@pytest.fixture(scope="module")
def page(fitted, tmp_path_factory):
    posterior, forecast, data = fitted
    return Page(
        bh.report(
            posterior, forecast, path=tmp_path_factory.mktemp("page") / "page.html", data=data, title=NASTY
        )
    )


class Page(HTMLParser):
    """What a browser would read: elements with attributes, and the text of each block."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict]] = []
        self.headings: list[tuple[int, str]] = []
        self.blocks: dict[str, str] = {}
        self.lights: list[dict] = []
        self.stack: list[str] = []
        self.block = ""
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attrs):
        told = dict(attrs)
        self.elements.append((tag, told))
        if tag not in ("meta", "path", "circle", "rect", "br"):
            self.stack.append(tag)
        if tag == "section":
            self.block = told["id"]
            self.blocks[self.block] = ""
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))
        if tag == "li" and told.get("class", "").startswith("light "):
            self.lights.append({"colour": told["class"].split()[1], "text": "", "shape": ""})
        if tag == "svg" and self.block == "block-2":
            self.lights[-1]["shape"] = told["aria-label"]

    def handle_endtag(self, tag):
        if self.stack and self.stack[-1] == tag:
            self.stack.pop()

    def handle_data(self, data):
        if self.stack and self.stack[-1] == "style":
            return
        if self.stack and re.fullmatch("h[1-6]", self.stack[-1]):
            level, told = self.headings[-1]
            self.headings[-1] = (level, told + data)
        if self.block:
            self.blocks[self.block] += f"{data} "
        if self.block == "block-2" and self.lights:
            self.lights[-1]["text"] += f"{data} "

    def text(self, number: int) -> str:
        """All words of a block, white space made one."""
        return re.sub(r"\s+", " ", self.blocks[f"block-{number}"])

    def light(self, name: str) -> dict:
        return next(light for light in self.lights if light["text"].strip().startswith(name))


def test_the_eleven_blocks_stand_in_their_order(page):
    assert list(page.blocks) == [f"block-{n}" for n in range(1, 12)]
    seconds = [told for level, told in page.headings if level == 2]
    assert seconds == [f"{n}. {title}" for n, title in enumerate(TITLES, 1)]


def test_headings_never_skip_a_level(page):
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_names_units_and_titles_are_inert(page):
    assert all(tag != "script" for tag, _ in page.elements)
    assert NASTY not in page.source
    assert page.headings[0] == (1, NASTY)  # it is shown, as text
    assert all(not name.startswith("on") for _, told in page.elements for name in told)


def test_nothing_is_fetched_from_elsewhere(page):
    fetching = ("src", "href", "xlink:href", "action", "data", "poster", "srcset")
    links = [told[name] for _, told in page.elements for name in told if name in fetching]
    assert links  # glyphs and marks of pictures refer to their own page
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"@import|url\((?!#)", page.source)
    assert not any(tag in ("link", "iframe", "object", "img", "base") for tag, _ in page.elements)


def test_ids_are_unique_and_every_reference_has_its_end(page):
    ids = [told["id"] for _, told in page.elements if "id" in told]
    assert len(ids) == len(set(ids))
    asked = set(re.findall(r"url\(#([^)]+)\)", page.source)) | {
        told["href"][1:] for _, told in page.elements if "href" in told
    }
    assert asked
    assert asked <= set(ids)


def test_every_colour_of_a_picture_follows_the_scheme(page):
    drawn = re.sub("(?s)<head>.*?</head>", "", page.source)
    assert not re.search(r"#[0-9a-f]{6}\b", drawn)
    used = set(re.findall(r"var\(--(c\w{6})\)", drawn))
    assert len(used) > 8
    for css in re.findall(r":root\{(--c[0-9a-f]{6}:[^}]*)\}", page.source):
        assert used <= set(re.findall(r"--(c\w{6}):", css))


def test_pictures_say_what_they_show(page):
    pictures = [told for tag, told in page.elements if tag == "svg" and told.get("aria-hidden") != "true"]
    assert len(pictures) >= 8
    assert all(told["role"] == "img" and len(told["aria-label"]) > 5 for told in pictures)
    assert dict(page.elements)["html"]["lang"] == "en"


def test_the_same_input_gives_the_same_bytes(fitted, page, tmp_path):
    posterior, forecast, data = fitted
    again = bh.report(posterior, forecast, path=tmp_path / "again.html", data=data, title=NASTY)
    assert again.read_text(encoding="utf-8") == page.source


def test_numbers_of_the_sentences_are_those_of_the_summary(fitted, page):
    posterior, forecast, _ = fitted
    row = posterior.summary()["slope"]
    told = page.text(1)
    assert f"slope, {number(row.mean, row.high - row.low)} m/s (9 in 10: {span(row.low, row.high)})" in told
    assert span(row.low, row.high, "m/s") in page.text(4)
    low, high = forecast.observed["y"].interval(0.9)[:, -1]
    assert f"at t = 11 will fall, in 9 cases of 10, in these ranges: y {span(low, high)}" in told
    assert "8 measurements of y" in told
    assert "t from 0 to 7" in told
    assert page.text(1).count("4 of 4 new measurements of y fell inside") == 1


def test_doubt_is_shared_out_as_the_budget_says(fitted, page):
    _, forecast, _ = fitted
    budget = bh.uncertainty.budget(forecast)
    share = np.mean((budget.rows["noise"] / budget.total)[AHEAD > 7])
    assert f"Main source of doubt about y: noise ({percent(share)})" in page.text(6)


def test_how_far_ahead_the_forecast_says_more_than_the_record(fitted, page):
    posterior, forecast, _ = fitted
    record = np.quantile(posterior.target.data["y"], [0.05, 0.95])
    ratio = np.ptp(forecast.observed["y"].interval(0.9), axis=0) / np.ptp(record)
    assert np.all(ratio < 1)
    assert (
        f"all the way that was asked, to 11: its 9-in-10 range is {percent(ratio[8])} as wide" in page.text(5)
    )
    assert "Nothing was computed beyond t = 11" in page.text(5)


def test_above_the_fold_there_is_no_jargon(page):
    for n in range(1, 11):
        found = JARGON.search(page.text(n))
        assert not found, page.text(n)[max(0, found.start() - 60) : found.end() + 60]
    assert "R-hat" in page.text(11)


def test_the_fold_opens_without_a_script_and_holds_what_a_statistician_wants(fitted, page):
    assert sum(tag == "details" for tag, _ in page.elements) == 1
    told = page.text(11)
    for words in (
        "Verdict",
        "Posterior mean",
        "SHA-256",
        "Key",
        "Versions",
        "Wall time",
        "Jackknife",
        "CRPS",
        "Fisher",
    ):
        assert words in told
    row = fitted[0].summary()["slope"]
    assert span(row.prior_low, row.prior_high) in told


def test_every_light_has_a_word_a_shape_and_a_reason(page):
    assert len(page.lights) == 4
    assert [light["colour"] for light in page.lights] == ["good"] * 4
    assert {light["shape"] for light in page.lights} == {"circle with a tick"}
    assert all("No objection" in light["text"] and len(light["text"]) > 60 for light in page.lights)


def test_a_failing_verdict_is_red_with_its_remedy(fitted, tmp_path):
    posterior, forecast, _ = fitted
    failed = replace(posterior, verdict=FAILED)
    ahead = replace(forecast, origin=replace(forecast.origin, verdict=FAILED))
    page = Page(bh.report(failed, ahead, path=tmp_path / "page.html"))
    light = page.light("Computation")
    assert (light["colour"], light["shape"]) == ("bad", "octagon with a cross")
    assert "Do not rely on it" in light["text"]
    assert "separate runs do not agree" in light["text"].lower()
    assert "What to do: Run longer" in re.sub(r"\s+", " ", light["text"])
    assert "do not rely on it yet: computation did not pass" in page.text(1).lower()
    assert page.light("Support")["colour"] == "care"
    assert "chains disagree" in page.text(11)


def test_members_that_are_no_draws_of_a_posterior_are_called_so(fitted, tmp_path):
    posterior, forecast, _ = fitted
    verdict = replace(PASSED, nature="not draws of a posterior")
    page = Page(bh.report(replace(posterior, verdict=verdict), forecast, path=tmp_path / "page.html"))
    for n in (1, 2, 4):
        assert "separately trained members" in page.text(n)
    assert "to be judged by their track record" in page.text(1)
    assert page.light("Computation")["colour"] == "care"
    assert page.light("Support")["colour"] == "care"


def test_a_bad_fit_and_a_broken_promise_are_red(tmp_path):
    wrong = gaussian(line, {"t": TIMES, "y": 5.0 - TIMES}, 0.7, 0.05)
    ahead = wrong.predict({"t": AHEAD}, key=1)
    page = Page(
        bh.report(wrong, ahead, path=tmp_path / "page.html", data={"t": AHEAD[8:], "y": 0.0 * AHEAD[8:]})
    )
    assert page.light("Fit")["colour"] == "bad"
    assert "look at the residuals" in page.light("Fit")["text"].lower()
    assert page.light("Support")["colour"] == "bad"
    assert "only 0 of 4 new measurements of y" in page.light("Support")["text"].lower()
    assert "are too narrow" in page.text(8)


def test_a_page_without_a_forecast_says_so(fitted, tmp_path):
    page = Page(bh.report(fitted[0], path=tmp_path / "page.html"))
    assert "No forecast was made" in page.text(1)
    for n in (5, 6, 8):
        assert "Not examined. No forecast was given." in page.text(n)
    light = page.light("Support")
    assert (light["colour"], light["shape"]) == ("none", "dashed ring")
    assert "Not examined" in light["text"]
    assert "any forecast: none was given" in page.text(10).lower()


def test_measurements_that_were_not_forecast_are_refused_on_the_page(fitted, tmp_path):
    posterior, forecast, _ = fitted
    page = Page(
        bh.report(
            posterior,
            forecast,
            path=tmp_path / "page.html",
            data={"t": np.array([11.5]), "y": np.array([3.0])},
        )
    )
    assert "stand at t 11.5, which was not forecast" in page.text(8)
    assert "calibration: The measurements" in page.text(
        10
    ) or "the measurements stand at t 11.5" in page.text(10)


@pytest.mark.slow
def test_a_network_is_told_from_the_equation(tmp_path):
    generator = np.random.default_rng(1)
    size = bh.Target(hybrid, {"t": TIMES, "y": 0.7 * TIMES}).layout.size
    drawn = 0.3 * generator.standard_normal((4, 50, size))
    drawn[..., 0] = 0.7 + 0.02 * drawn[..., 0]
    posterior = from_draws(hybrid, {"t": TIMES, "y": 0.7 * TIMES}, drawn, verdict=PASSED)
    page = Page(bh.report(posterior, posterior.predict({"t": AHEAD}, key=1), path=tmp_path / "page.html"))
    told = page.text(7)
    assert "The network “extra”" in told
    assert "Not to be trusted by itself" in told
    assert "Silenced, with all else as it is" in told
    assert "input 1: 0 to 7 in the fit, 0 to 11 in the forecast" in told
    assert "33 % of what the forecast asks it lies outside" in told  # four of twelve positions
    assert "taken this much of what the data tell about parameters: slope" in told
    support = page.light("Support")
    assert support["colour"] == "bad"
    assert "network “extra” is asked outside what it met" in support["text"]
    assert "a network extrapolates" in page.text(5)
    assert "with the network “extra” in it" in page.text(1)


def test_without_a_network_the_page_says_that_there_is_none(page):
    assert "This model holds no network" in page.text(7)


@pytest.mark.slow
def test_several_observed_sites_each_have_their_part(tmp_path):
    t = np.arange(6.0)
    data = {"t": t, "a": np.tile([1.0, 2.0], (6, 1)), "b": np.array([1, 0, 2, 1, 1, 3])}
    posterior = gaussian(several, data, [1.0, 2.0], 0.4)
    page = Page(
        bh.report(posterior, posterior.predict(key=1), path=tmp_path / "page.html", identifiability=SKIPPED)
    )
    assert "6 measurements of b" in page.text(1)
    assert "12 measurements of a (oak and <script>alert(1)</script>)" in page.text(1)
    for n in (3, 5, 6):
        assert "a oak" in page.text(n) or "of a" in page.text(n)
        assert re.search(r"\bb\b", page.text(n))
    assert NASTY not in page.source
    assert all(tag != "script" for tag, _ in page.elements)
    assert "the forecast does not lead beyond the data" in page.text(5)


def test_forty_parameters_are_all_in_the_table(tmp_path):
    posterior = gaussian(many, {"y": np.linspace(-1, 1, 40)}, np.linspace(-1, 1, 40), 0.1)
    page = Page(bh.report(posterior, path=tmp_path / "page.html", identifiability=SKIPPED))
    assert all(f"rates[{i}]" in page.text(4) for i in range(40))
    assert "per yr per kpelt" in page.text(4)
    assert len(page.text(1)) < 1500


def test_a_forecast_of_another_model_is_refused(fitted, tmp_path):
    other = replace(fitted[1], target=bh.Target(many, {"y": np.zeros(40)}))
    with pytest.raises(ModelError, match="the forecast was made from another model"):
        bh.report(fitted[0], other, path=tmp_path / "page.html")


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (number(0.123456), "0.123"),
        (number(1234567.0), "1,234,567"),
        (number(3.0e-9), "3.00e-9"),
        (number(float("nan")), "not a number"),
        (number(37.03, 8.4), "37.0"),
        (span(0.3435, 0.5514), "0.34 to 0.55"),
        (span(3.1, 77.2, "kpelt"), "3 to 77 kpelt"),
        (spelled("1/yr/kpelt"), "per yr per kpelt"),
        (spelled("1"), ""),
        (spelled("kpelt/yr"), "kpelt/yr"),
        (percent(0.001), "less than 1 %"),
        (percent(0.9999), "more than 99 %"),
        (place(1914.25), "1914.25"),
        (listing(list("abcdefgh")), "a, b, c, d, e and 3 more"),
        (listing([]), ""),
    ],
)
def test_numbers_have_the_digits_that_are_known(told, expected):
    assert told == expected


def luminance(colour: str) -> float:
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_text_can_be_read_on_its_ground(scheme):
    colours = dict(re.findall(r"--(\w+):(#\w{6})", scheme))
    for ground in ("ground", "card"):
        for ink in ("ink", "quiet", "strong", "good", "care", "bad", "none"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    ink = dict(re.findall(r"--(\w+):(#\w{6})", DARK))["ground"]
    assert contrast(darkened("#222222"), ink) >= 4.5


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium to open the page with")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_page_without_sideways_scrolling(page, tmp_path, width):
    probe = page.source.replace(
        "</body>",
        "<script>document.title='W'+document.documentElement.scrollWidth+'/'+innerWidth+'H'+"
        "[...document.querySelectorAll('svg')].filter(s=>s.getBoundingClientRect().width<1).length</script></body>",
    )
    path = tmp_path / "probe.html"
    path.write_text(
        f'<!DOCTYPE html><html><body style="margin:0"><iframe style="border:0;width:{width}px;height:900px" '
        f'srcdoc="{probe.replace("&", "&amp;").replace(chr(34), "&quot;")}"></iframe><script>addEventListener("load",'
        "()=>{document.title=document.querySelector('iframe').contentDocument.title})</script></body></html>"
    )
    done = subprocess.run(
        ["chromium", *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r"<title>W(\d+)/(\d+)H(\d+)</title>", done.stdout)
    assert found, done.stdout[:300]
    scrolled, inner, unseen = map(int, found.groups())
    assert inner == width
    assert scrolled <= inner
    assert unseen == 0
