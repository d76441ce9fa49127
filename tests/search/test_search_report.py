"""The page of a search says what was found, finished or not, needs nothing else, and shows names as text."""

import base64
import io
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from scipy.stats import ttest_rel

from html_page import Page
from longrope_search.plan import Plan
from longrope_search.report import markdown, write_report
from longrope_search.report.gain import times, verdict
from longrope_search.result import Found, origin
from longrope_search.scoring.storage import without_password
from longrope_search.stage import AS_TUNED
from made_search import made_found, made_plan

COMMAND = "longrope search tiny --target 16k --out factors.json"
HOSTILE = "<b>tiny & co</b>|`$x_1$".replace("/", "\u2215")


def page_of(plan: Plan, found: list[Found], command: str = COMMAND) -> Page:
    """The page that is written beside the factors."""
    path = plan.request.out.with_suffix(".html")
    write_report(path, plan, found, command=command)
    assert [other.name for other in path.parent.iterdir()] == [path.name]
    return Page(path.read_text())


def all_found(plan: Plan, gain: float = 0.06) -> list[Found]:
    """Every length finished."""
    return [made_found(stage, gain=gain) for stage in plan.stages]


def images(page: Page) -> list[np.ndarray]:
    """The pixels of every figure, [height, width, channels]."""
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    return [imread(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in page.sources]


def test_a_finished_search_has_three_figures_a_length_and_needs_nothing_else(tmp_path: Path) -> None:
    plan = made_plan(tmp_path, lengths=(16384, 65536))
    page = page_of(plan, all_found(plan))
    figures = images(page)
    assert len(figures) == 6
    assert all(figure.shape[1] == 1600 and figure[..., :3].std() > 0.01 for figure in figures)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    content = re.sub(r"base64,[\w+/=]+", "", plan.request.out.with_suffix(".html").read_text())
    assert not re.search(r"https?://|url\(|@import", content)
    assert "prefers-color-scheme: dark" in content
    assert "Not finished" not in page.text


def test_the_verdict_is_the_paired_difference_on_held_out_documents(tmp_path: Path) -> None:
    plan = made_plan(tmp_path)
    (found,) = all_found(plan)
    paired = ttest_rel(found.best.losses, found.best_baseline.losses).confidence_interval(0.95)
    ratio = times(found.best, found.best_baseline)
    assert ratio.interval == pytest.approx((math.exp(paired.low), math.exp(paired.high)))
    assert ratio.value == pytest.approx(found.best.perplexity / found.best_baseline.perplexity)
    low, high = (f"−{100 * (1 - end):.1f} %" for end in ratio.interval or ())
    said = (
        f"perplexity 11.59 against 12.30 on 3 held-out documents, a difference of −5.8 % (95 % interval {low} to {high}"
    )
    assert f"The searched factors beat the best closed form, “yarn”: {said}, paired by document)." in verdict(found)
    assert verdict(found) in page_of(plan, [found]).text


@pytest.mark.parametrize(
    ("gain", "held_out", "begins"),
    [
        (0.002, 3, "The searched factors are ahead of the best closed form, “yarn”, but 3 documents are too few"),
        (0.06, 1, "The searched factors are ahead of the best closed form, “yarn”, but one document is too few"),
        (0.0, 3, "Nothing was gained over the best closed form, “yarn”: "),
        (-0.001, 1, "Nothing was gained over the best closed form, “yarn”: "),
        (-0.06, 3, "Nothing was gained, and the best closed form, “yarn”, is better: "),
    ],
)
def test_a_gain_is_claimed_only_where_the_documents_show_one(
    gain: float, held_out: int, begins: str, tmp_path: Path
) -> None:
    plan = made_plan(tmp_path, held_out=held_out)
    (found,) = all_found(plan, gain)
    assert verdict(found).startswith(begins)
    assert "beat" not in markdown(plan, [found], command=COMMAND)


@pytest.mark.parametrize(
    ("gain", "begins"),
    [
        (0.06, "The searched factors beat the factors in force: "),
        (0.0, "Nothing was gained over the factors in force, which were kept: "),
        (-0.06, "Nothing was gained, and the factors in force, which are better, were kept: "),
    ],
)
def test_factors_that_a_model_was_tuned_with_are_no_closed_form(gain: float, begins: str, tmp_path: Path) -> None:
    plan = made_plan(tmp_path)
    (found,) = all_found(plan, gain)
    rows = [replace(row, label=AS_TUNED) if row.label == "yarn" else row for row in found.baselines]
    found = replace(found, baselines=rows)
    assert verdict(found).startswith(begins)
    assert (found.tier == found.best_baseline.candidate.tier(found.length)) == (gain <= 0)
    stated = origin(plan.request, [found], model="tiny", revision="1", command=COMMAND, before=None)
    assert stated.note is None


def test_the_tables_hold_what_was_measured(tmp_path: Path) -> None:
    plan = made_plan(tmp_path)
    (found,) = all_found(plan)
    text = page_of(plan, [found]).text
    for row in found.baselines:
        shown = f"{row.perplexity:#.4g}" if row.perplexity < 1000 else f"{row.perplexity:,.0f}"
        assert re.search(
            rf"{row.label} {re.escape(shown)} [\d.,]+ to [\d.,]+ {row.perplexity / found.best.perplexity:#.4g} ", text
        )
        assert f" {row.candidate.attention_factor:.4f}".rstrip("0").rstrip(".") in text
    assert f" {math.exp(np.mean(found.best.last)):#.4g} " in text
    assert "1 2.2600 9.583 4 1.13 mutant 11.59" in text
    assert "2 2.2700 9.679 0 1.13 crossover 11.82" in text
    again = 3 * (2 + 5) * 16384
    assert f"evaluations {found.evaluations}" in text
    assert f"token-forwards on held-out documents {again:,}" in text


def test_the_page_says_how_the_search_was_made(tmp_path: Path) -> None:
    plan = made_plan(tmp_path, lengths=(16384, 65536), method="cma", seed=7)
    text = page_of(plan, all_found(plan)).text
    assert (
        "tiny, trained window 2k; factors for 16k and 64k tokens by cma, objective perplexity, space longrope" in text
    )
    assert "method cma (evaluations 100, knots 16, spread 0.1)" in text
    assert "16k: longrope, factors 1 to 10 in steps of 0.0001; 64k: longrope, factors 1 to 40 in steps of" in text
    assert "seed 7" in text
    assert COMMAND in text
    assert f"study factors in {tmp_path}/factors.study.log" in text
    for stage in plan.stages:
        for use, passages in (("search", stage.passages), ("held out", stage.held_out)):
            for passage in passages:
                row = (
                    f"{passage.name} {stage.space.length // 1024}k, {use} {stage.space.length:,} {passage.sha256[:16]}"
                )
                assert row in text


def test_a_search_that_runs_says_so_and_shows_what_there_is(tmp_path: Path) -> None:
    plan = made_plan(tmp_path, lengths=(16384, 32768, 65536))
    found = [made_found(plan.stages[0]), made_found(plan.stages[1], finished=False)]
    page = page_of(plan, found)
    assert "The search for 32k tokens is running, that for 64k tokens has not begun." in page.text
    assert "The search is running: the best so far has perplexity 9.583 on the documents of the search" in page.text
    assert "Best so far place loss" in page.text
    assert len(images(page)) == 3 + 2


@pytest.mark.parametrize("begun", [True, False])
def test_a_search_that_has_scored_nothing_yet_has_a_page(begun: bool, tmp_path: Path) -> None:
    plan = made_plan(tmp_path)
    nothing = replace(
        made_found(plan.stages[0], finished=False), search_losses={}, history=[], evaluations=0, token_forwards=0
    )
    page = page_of(plan, [nothing] if begun else [])
    assert not page.sources
    assert "Not finished" in page.text
    assert ("nothing has been scored on all of its documents yet" in page.text) == begun


def test_needles_have_no_loss_by_position_and_say_what_the_loss_is_of(tmp_path: Path) -> None:
    plan = made_plan(tmp_path, objective="needle", space="longrope2")
    page = page_of(plan, [made_found(plan.stages[0], curves=False)])
    assert len(images(page)) == 2
    assert "The loss is that of the answer alone" in page.text
    assert re.search(r"pi 25.79 [\d.]+ to [\d.]+ 2.226 [\d.]+ to [\d.]+ 1 ", page.text)
    assert "critical pair" in page.text


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_names_are_shown_as_text(form: str, tmp_path: Path) -> None:
    plan = made_plan(tmp_path, model=HOSTILE, documents=(HOSTILE,), name=HOSTILE)
    found = all_found(plan)
    if form == "html":
        page = page_of(plan, found, command=HOSTILE)
        assert "b" not in page.tags
        assert page.text.count(HOSTILE) >= 6
    else:
        content = markdown(plan, found, command=COMMAND)
        assert "<b>" not in content
        assert "&lt;b&gt;tiny &amp; co" in content


def test_markdown_has_the_numbers_of_the_page(tmp_path: Path) -> None:
    plan = made_plan(tmp_path, lengths=(16384, 65536))
    found = all_found(plan)
    text, content = page_of(plan, found).text, markdown(plan, found, command=COMMAND)
    cells = re.findall(r"([\d.,]+)\*{0,2} \(([\d.,]+ to [\d.,]+)\)", content)
    assert len(cells) == 2 * (3 * 6 - 1)
    assert all(f"{value} {interval}" in text for value, interval in cells)
    assert all(verdict(one) in content for one in found)
    assert "base64" not in content


def test_a_password_of_a_study_stays_off_the_page(tmp_path: Path) -> None:
    study = "postgresql://me:secret@db.example:5432/studies"
    plan = made_plan(tmp_path, study=study)
    text = page_of(plan, all_found(plan), command=f"{COMMAND} --study {study}").text
    assert "secret" not in text
    assert text.count("postgresql://me:***@db.example:5432/studies") == 2
    assert without_password("sqlite:///a:b@c.db") == "sqlite:///a:b@c.db"


def test_a_failed_write_leaves_the_page_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = made_plan(tmp_path)
    page_of(plan, [])
    before = plan.request.out.with_suffix(".html").read_bytes()

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        page_of(plan, all_found(plan))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]
