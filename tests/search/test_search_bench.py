"""Scoring batches: the same scores whoever measures, nothing measured twice, the dead do not stop the living."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from longrope_search.candidate import Candidate
from longrope_search.methods.engine import Batch
from longrope_search.methods.evolution import EvolutionSettings, evolution
from longrope_search.methods.gradient import GradientSettings, gradient
from longrope_search.methods.seeds import seeds
from longrope_search.scoring import bench as bench_module
from longrope_search.scoring.bench import Bench
from longrope_search.scoring.storage import open_storage
from longrope_search.scoring.study import Study, UnmeasuredError
from longrope_search.space import Point, Space
from longrope_search.stage import run_engine
from measured_by_formula import BEST, GEOMETRY, Formula, footing, passages

SPACE = Space.of("longrope", GEOMETRY, footing(), length=32_768, step=1e-4, attention_factor=1.0)
SMALL = EvolutionSettings(population=8, iterations=2, parents=4, mutants=2, crossovers=2)


def bench_at(place: Path, measure: Formula | None, *, worker: str = "one", pruning: bool = True) -> Bench:
    """A bench over the study at ``place``."""
    study = Study.join(open_storage(str(place), make=True), "one", settings={"a": 1}, request={}, worker=worker)
    return Bench(study, passages(), measure, pruning=pruning)


def away(*distances: float) -> list[Candidate]:
    """Candidates whose loss grows with their distance from the best factors."""
    return [Candidate(factors=tuple(np.exp(BEST + distance).tolist())) for distance in distances]


def searched(place: Path, formula: Formula, worker: str = "one") -> tuple[Point, Bench]:
    """A small evolution search to its end."""
    bench = bench_at(place, formula, worker=worker)
    engine = evolution(SPACE, seeds(SPACE, GEOMETRY), SMALL, np.random.default_rng(3))
    return run_engine(engine, bench), bench


def test_scores_are_means_over_all_passages_in_the_order_asked_for(tmp_path: Path) -> None:
    formula = Formula()
    candidates = away(0.3, 0.0, 0.1)
    scores = bench_at(tmp_path / "s.log", formula, pruning=False).scores(Batch(candidates=candidates, keep=1))
    wanted = [np.mean([formula.loss(candidate, passage) for passage in passages()]) for candidate in candidates]
    assert [score.loss for score in scores] == pytest.approx(wanted, rel=1e-12)
    assert len(formula.passes) == 3 * 5


def test_passages_with_more_tokens_that_count_weigh_more(tmp_path: Path) -> None:
    formula = Formula()
    bench = bench_at(tmp_path / "s.log", formula)
    bench._weights = np.array([1.0, 1.0, 1.0, 1.0, 6.0])
    (score,) = bench.scores(Batch(candidates=away(0.2), keep=1))
    losses = [formula.loss(away(0.2)[0], passage) for passage in passages()]
    assert score.loss == pytest.approx((sum(losses[:4]) + 6 * losses[4]) / 10)


def test_one_that_is_clearly_worse_is_measured_on_two_passages_only(tmp_path: Path) -> None:
    formula = Formula()
    candidates = away(0.0, 0.01, 1.0)
    scores = bench_at(tmp_path / "s.log", formula).scores(Batch(candidates=candidates, keep=2))
    by_candidate = [sum(key == candidate.key for key, _, _ in formula.passes) for candidate in candidates]
    assert by_candidate == [5, 5, 2]
    assert [score.pruned for score in scores] == [False, False, True]
    assert scores[2].loss > max(scores[0].loss, scores[1].loss)


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    first, second = Formula(), Formula()
    one = searched(tmp_path / "s.log", first)[1]
    two = searched(tmp_path / "s.log", second, "two")[1]
    assert len(set(first.passes)) == len(first.passes)
    assert second.passes == []
    assert list(one.complete.items()) == list(two.complete.items())
    assert (one.history, one.token_forwards, one.evaluations) == (two.history, two.token_forwards, two.evaluations)


@pytest.mark.parametrize("after", [1, 17, 40])
def test_a_search_that_is_broken_off_ends_like_an_unbroken_one(tmp_path: Path, after: int) -> None:
    class Breaking(Formula):
        def __call__(self, *arguments: object, **options: object) -> object:  # type: ignore[override]
            if len(self.passes) == after:
                raise KeyboardInterrupt
            return super().__call__(*arguments, **options)  # type: ignore[arg-type]

    unbroken, bench = searched(tmp_path / "unbroken.log", whole := Formula())
    broken, rest = Breaking(), Formula()
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "broken.log", broken)
    found, resumed = searched(tmp_path / "broken.log", rest, "two")
    assert found.factors.tolist() == unbroken.factors.tolist()
    assert resumed.history == bench.history
    assert len(broken.passes) + len(rest.passes) == len(whole.passes)


def test_two_workers_share_the_passes_and_come_to_the_same(tmp_path: Path) -> None:
    alone, bench = searched(tmp_path / "alone.log", Formula())
    formulas = [Formula(seconds=0.1), Formula(seconds=0.1)]
    found: dict[int, tuple[Point, Bench]] = {}

    def work(number: int) -> None:
        found[number] = searched(tmp_path / "shared.log", formulas[number], f"worker {number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(2):
        assert found[number][0].factors.tolist() == alone.factors.tolist()
        assert found[number][1].history == bench.history
    made = [len(formula.passes) for formula in formulas]
    wanted = len({task for formula in formulas for task in formula.passes})
    assert min(made) > wanted / 8  # both have worked
    assert sum(made) < 1.3 * wanted  # and seldom on the same


def test_what_a_dead_worker_claimed_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "_LEAST_PATIENCE", 0.5)
    monkeypatch.setattr(bench_module, "_POLL", 0.05)
    (candidate,) = away(0.1)
    dead = Study.join(
        open_storage(str(tmp_path / "s.log"), make=True), "one", settings={"a": 1}, request={}, worker="dead"
    )
    for passage in range(5):
        dead.claim(candidate, passage)
    formula = Formula()
    (score,) = bench_at(tmp_path / "s.log", formula).scores(Batch(candidates=[candidate], keep=1))
    assert len(formula.passes) == 5
    assert not score.pruned


def test_steps_of_gradient_descent_are_kept_with_their_gradients(tmp_path: Path) -> None:
    def descended(formula: Formula) -> tuple[Point, Bench]:
        bench = bench_at(tmp_path / "s.log", formula, pruning=False)
        engine = gradient(SPACE, seeds(SPACE, GEOMETRY), GradientSettings(steps=8), passages=5)
        return run_engine(engine, bench), bench

    first, second = Formula(), Formula()
    (point, bench), (again, _) = descended(first), descended(second)
    assert again.factors.tolist() == point.factors.tolist()
    assert second.passes == []
    assert sum(with_gradient for _, _, with_gradient in first.passes) == 8
    assert bench.token_forwards == 16 * (3 * 5 + 8 * 4 + 3 * 5)  # seeds, steps at four passes each, and three ends


def test_a_reader_stops_at_what_is_missing_and_claims_nothing(tmp_path: Path) -> None:
    bench = bench_at(tmp_path / "s.log", None)
    content = (tmp_path / "s.log").read_bytes()
    with pytest.raises(UnmeasuredError):
        bench.scores(Batch(candidates=away(0.1), keep=1))
    assert (tmp_path / "s.log").read_bytes() == content


def test_a_batch_is_told_from_its_beginning_to_its_scores(tmp_path: Path) -> None:
    class Listening(bench_module.Told):
        def __init__(self) -> None:
            self.heard: list[str] = []

        def began(self, batch: Batch) -> None:
            self.heard.append(f"began {batch.title}")

        def measured(self, task: object, measured: object, *, here: bool) -> None:
            self.heard.append("measured here" if here else "known")

        def scored(self, candidate: Candidate, score: object, *, complete: bool) -> None:
            self.heard.append("scored")

    def heard(candidates: Sequence[Candidate]) -> list[str]:
        listening = Listening()
        study = Study.join(
            open_storage(str(tmp_path / "s.log"), make=True), "one", settings={}, request={}, worker="one"
        )
        Bench(study, passages(2), Formula(), pruning=True, told=listening).scores(
            Batch(candidates=candidates, keep=1, title="seeds")
        )
        return listening.heard

    assert heard(away(0.1)) == ["began seeds", "measured here", "measured here", "scored"]
    assert heard(away(0.1)) == ["began seeds", "known", "known", "scored"]


def test_one_that_was_pruned_can_be_scored_on_all_passages_later(tmp_path: Path) -> None:
    formula = Formula()
    bench = bench_at(tmp_path / "s.log", formula)
    best, worse = away(0.0, 1.0)
    assert bench.scores(Batch(candidates=[best, worse], keep=1))[1].pruned
    (score,) = bench.scores(Batch(candidates=[worse], keep=1))
    assert not score.pruned
    assert score.loss == pytest.approx(np.mean([formula.loss(worse, passage) for passage in passages()]))
    assert len(formula.passes) == 10
