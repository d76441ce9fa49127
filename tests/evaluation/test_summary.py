"""Oracle: numbers worked out by hand from a few records."""

import math

import pytest

from longrope_vllm.evaluation.records import Key, Record
from longrope_vllm.evaluation.report.summary import LossCurve, summarize
from made_records import LENGTHS, METHODS, made_records


def ppl(method: str, length: int, sample: str, loss: float, *, group: str = "prose", tokens: float = 100.0) -> Record:
    """A record of perplexity whose last ten tokens cost one nat more."""
    values = {"loss": loss, "tokens": tokens, "last_loss": loss + 1, "last_tokens": 10.0}
    return Record(key=Key("ppl", method, length, group, sample), values=values, curve=(loss + 0.5, loss - 0.5))


def asked(task: str, method: str, length: int, depth: float, trial: int, right: float) -> Record:
    """A record of an answer."""
    key = Key(task, method, length, task, f"{depth}/{trial}")
    return Record(key=key, values={"score": right, "depth": depth}, expected="42", answer="42" if right else "7")


def short(method: str, index: int, **metrics: float) -> Record:
    """A record of a short benchmark."""
    return Record(key=Key("short", method, 0, "arc", str(index)), values=metrics)


def test_perplexity_is_given_for_each_kind_and_for_all_of_them() -> None:
    records = [ppl("none", 8192, "1", 2.0), ppl("none", 8192, "1", 3.0, group="source", tokens=300.0)]
    grid = summarize(records, planned=2).perplexity
    assert grid is not None
    assert grid.panels == ("", "prose", "source")
    found = {group: grid.at("none", 8192, group) for group in grid.panels}
    assert {group: math.log(cell.value) for group, cell in found.items() if cell} == pytest.approx(
        {"": 2.75, "prose": 2.0, "source": 3.0}
    )


def test_the_end_of_the_documents_is_weighted_by_its_own_tokens() -> None:
    summary = summarize([ppl("none", 8192, "1", 2.0), ppl("none", 8192, "2", 3.0, tokens=900.0)], planned=2)
    assert summary.last_tokens == 10
    assert summary.last_perplexity is not None
    cell = summary.last_perplexity.at("none", 8192)
    assert cell is not None
    assert math.log(cell.value) == pytest.approx(3.5)


def test_methods_are_ordered_by_first_appearance_and_lengths_by_size() -> None:
    records = [ppl("yarn", 16384, "1", 2.0), ppl("none", 8192, "1", 2.0), ppl("yarn", 8192, "1", 2.0)]
    summary = summarize(records, planned=9)
    assert summary.methods == ("yarn", "none")
    assert summary.perplexity is not None
    assert summary.perplexity.lengths == (8192, 16384)
    assert (summary.samples, summary.planned) == (3, 9)


def test_a_cell_that_was_not_measured_is_missing_and_one_with_fewer_samples_is_partial() -> None:
    records = [ppl("none", 8192, "1", 2.0), ppl("none", 8192, "2", 2.1), ppl("yarn", 8192, "1", 2.0)]
    grid = summarize([*records, ppl("none", 16384, "1", 5.0)], planned=8).perplexity
    assert grid is not None
    assert grid.at("yarn", 16384) is None
    assert grid.is_partial("yarn", 8192)
    assert not grid.is_partial("none", 8192)
    drawn = grid.without_partial()
    assert drawn.methods == ("none",)
    assert drawn.lengths == grid.lengths
    assert {place.method for place in drawn.cells} == {"none"}


def test_curves_are_of_the_longest_documents_that_every_method_has() -> None:
    records = [ppl("none", 8192, "1", 9.0), ppl("none", 16384, "1", 2.0), ppl("none", 16384, "2", 4.0)]
    summary = summarize([*records, ppl("yarn", 16384, "1", 3.0)], planned=4)
    assert summary.curves == (
        LossCurve(method="none", losses=(2.5, 1.5), length=16384, documents=1),
        LossCurve(method="yarn", losses=(3.5, 2.5), length=16384, documents=1),
    )


def test_the_best_method_is_compared_on_the_samples_that_both_have() -> None:
    records = [ppl("none", 8192, str(n), 3.0 + 0.5 * n) for n in range(4)]
    records += [ppl("yarn", 8192, str(n), 2.0 + 0.5 * n + 0.01 * (n % 2)) for n in range(4)]
    records += [ppl("pi", 8192, "0", 1.0)]
    verdict = summarize(records, planned=12).verdicts["ppl"]
    assert verdict.best == "yarn"  # pi has one document only
    none, pi = verdict.others
    assert (none.method, none.apart, none.estimate.samples) == ("none", True, 4)
    assert math.log(none.estimate.value) == pytest.approx(0.995)
    assert (pi.method, pi.apart, pi.estimate.samples) == ("pi", False, 1)
    assert math.log(pi.estimate.value) == pytest.approx(-1.0)


def test_answers_are_counted_by_length_and_depth() -> None:
    records = [
        asked("needle", "none", 8192, depth, trial, float(depth == 0.5 or trial == 0))
        for depth in (1, 0.5)
        for trial in (0, 1)
    ]
    summary = summarize(records, planned=4)
    (found,) = summary.needle_maps
    assert found.depths == ("50 %", "100 %")
    assert {place: (cell.score, cell.samples) for place, cell in found.cells.items()} == {
        (8192, "50 %"): (2.0, 2),
        (8192, "100 %"): (1.0, 2),
    }
    assert [record.key.sample for record in summary.wrong_answers["needle"]] == ["1/1"]
    assert summary.needle is not None
    cell = summary.needle.at("none", 8192)
    assert cell is not None
    assert cell.value == 0.75


def test_many_depths_are_counted_in_tenths() -> None:
    records = [asked("needle", "none", 8192, depth / 20, 0, 1.0) for depth in range(21)]
    (found,) = summarize(records, planned=21).needle_maps
    assert len(found.depths) == 10
    assert found.cells[8192, "90 to 100 %"].samples == 3
    assert found.cells[8192, "0 to 10 %"].samples == 2


def test_the_average_of_ruler_weighs_tasks_alike() -> None:
    values = {"niah": (1.0, 1.0, 1.0), "qa": (0.0,)}
    records = [
        Record(key=Key("ruler", "none", 8192, task, str(index)), values={"score": value})
        for task, scores in values.items()
        for index, value in enumerate(scores)
    ]
    grid = summarize(records, planned=4).ruler
    assert grid is not None
    cell = grid.at("none", 8192)
    assert cell is not None
    assert cell.value == 0.5


def test_longppl_leaves_out_documents_without_key_tokens() -> None:
    records = [
        Record(key=Key("longppl", "none", 8192, "prose", sample), values={"loss": loss, "tokens": tokens})
        for sample, loss, tokens in (("1", 3.0, 50.0), ("2", 0.0, 0.0))
    ]
    grid = summarize(records, planned=2).longppl
    assert grid is not None
    cell = grid.at("none", 8192)
    assert cell is not None
    assert (math.log(cell.value), cell.samples) == (pytest.approx(3.0), 1)


def test_short_benchmarks_keep_a_share_of_the_first_methods_score() -> None:
    records = [short("own", index, acc=float(index < 8), norm=1.0) for index in range(10)]
    records += [short("long for all", index, acc=float(index < 6), norm=1.0) for index in range(10)]
    found = summarize(records, planned=20).short
    assert found is not None
    assert found.baseline == "own"
    assert found.retention.methods == ("long for all",)
    assert found.scores.groups == ("arc acc", "arc norm")
    kept = {group: found.retention.at("long for all", 0, group) for group in found.scores.groups}
    assert {group: cell.value for group, cell in kept.items() if cell} == pytest.approx(
        {"arc acc": 0.75, "arc norm": 1.0}
    )
    assert kept["arc norm"] is not None
    assert kept["arc norm"].interval is None


def test_a_whole_evaluation_has_every_table() -> None:
    summary = summarize(made_records(), planned=1)
    assert summary.methods[:5] == METHODS
    assert summary.perplexity is not None
    assert summary.perplexity.lengths == LENGTHS
    assert set(summary.verdicts) == {"ppl", "longppl", "passkey", "needle", "ruler"}
    assert summary.verdicts["ppl"].best == "longrope2-32k.json"
    assert summary.short is not None


def test_no_records_are_an_empty_summary() -> None:
    summary = summarize([], planned=3)
    assert (summary.methods, summary.perplexity, summary.curves, summary.short) == ((), None, (), None)
