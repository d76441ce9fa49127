"""What is wrong in the research code of LongRoPE, and is not wrong here: one test for each fault."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from optuna.storages import InMemoryStorage
from rich.console import Console

from longrope_search.methods.engine import Batch
from longrope_search.methods.evolution import EvolutionSettings, crossover, evolution
from longrope_search.methods.seeds import seeds
from longrope_search.methods.start_tokens import START_TOKENS
from longrope_search.model.passages import Passage
from longrope_search.model.scorer import Scorer
from longrope_search.progress import Watch
from longrope_search.scoring.bench import Bench
from longrope_search.scoring.study import Study
from longrope_search.space import Point
from longrope_search.stage import Stage, run_engine
from longrope_vllm import Geometry, read_factors
from longrope_vllm.cli.main import main
from measured_by_formula import Formula
from measured_by_formula import passages as made_passages
from tiny_models import WINDOW, byte_tokenizer, tiny_llama
from toy_search import SMOLLM, space_of

SMALL = ("--dtype", "float32", "--samples", "2", "--held-out", "1", "--method", "evolution")
TINY = (*SMALL, "--population", "4", "--iterations", "1")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A random one."""
    return byte_tokenizer(tiny_llama(tmp_path / "model"))


@pytest.fixture
def text(tmp_path: Path) -> str:
    """Documents for it."""
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{number} bottles of beer on the wall. " for number in range(150)))
    return str(path)


def searched(tmp_path: Path, model: Path, text: str, *words: str) -> Path:
    """The file of a small search."""
    out = tmp_path / "factors.json"
    assert main(["search", *words, str(model), "--out", str(out), "--documents", text, *TINY]) == 0
    return out


def bench(pruning: bool = False) -> Bench:
    """Over a formula."""
    study = Study.join(InMemoryStorage(), "one", settings={"a": 1}, request={}, worker="one")
    return Bench(study, made_passages(), Formula(), pruning=pruning)


def test_1_a_candidate_really_rotates_the_model_of_the_installed_transformers(model: Path) -> None:
    """There the rotary module is put where newer versions no longer look: every candidate scores alike."""
    geometry = Geometry.from_checkpoint(model)
    scorer = Scorer(model, geometry, dtype=torch.float32, device=torch.device("cpu"))
    space = space_of(rope=geometry)
    passage = Passage(name="one", tokens=torch.arange(4 * WINDOW) % 97, counted=4 * WINDOW - 1)
    losses = [scorer.measure(space.candidate(seed), passage, gradient=False).loss for seed in seeds(space, geometry)]
    assert min(abs(one - other) for at, one in enumerate(losses) for other in losses[:at]) > 1e-3


def test_2_the_seed_from_yarn_mixes_frequencies_not_factors() -> None:
    scale = 4.0
    (yarn,) = (seed for seed in seeds(space_of(scale=scale), SMOLLM) if seed.origin == "yarn")
    # 8,192 tokens, base 100,000: 32 turns at pair 10.3, one at 19.9; half-way between 10 and 20 lies pair 15
    assert yarn.factors[15] == pytest.approx(1 / (0.5 / scale + 0.5), abs=1e-4)
    assert abs(yarn.factors[15] - (0.5 * scale + 0.5)) > 0.5  # what mixing factors gives


def test_3_a_crossover_takes_half_of_each_parent() -> None:
    space = space_of()
    one = Point(factors=np.linspace(1.0, 2.0, 32))
    other = Point(factors=np.linspace(2.5, 4.0, 32))
    draw = np.random.default_rng(0)
    changed = [int((crossover(one, other, space, draw).factors > 2.2).sum()) for _ in range(100)]
    assert 12 < np.mean(changed) < 20  # there: about one


def test_4_a_search_that_goes_on_makes_what_is_left_with_the_same_random_numbers() -> None:
    storage = InMemoryStorage()
    settings = EvolutionSettings(population=8, iterations=3, parents=4, mutants=2, crossovers=2)
    measured, found = [], []
    for _ in range(2):
        formula = Formula()
        study = Study.join(storage, "one", settings={"a": 1}, request={}, worker="one")
        bench = Bench(study, made_passages(), formula, pruning=False)
        space = space_of()
        point = run_engine(evolution(space, seeds(space, SMOLLM), settings, np.random.default_rng(5)), bench)
        measured.append(len(formula.passes))
        found.append((point.factors.tolist(), bench.evaluations))
    assert measured == [(8 + 3 * 4) * 5, 0]  # there: as many iterations again
    assert found[0] == found[1]


def test_5_progress_shows_the_best_so_far() -> None:
    """There it shows nothing: a loss is looked at before it is there."""
    told = io.StringIO()
    with Watch(Console(file=told, force_terminal=True, width=200)) as watch:
        space = space_of()
        stage = Stage(
            space=space,
            geometry=SMOLLM,
            passages=made_passages(),
            held_out=made_passages(1),
            methods=(EvolutionSettings(),),
            seed=0,
            start_tokens=(),
            finalists=1,
        )
        watch.stage(stage, 1000)
        study = Study.join(InMemoryStorage(), "one", settings={"a": 1}, request={}, worker="one")
        bench = Bench(study, made_passages(), Formula(), pruning=False, told=watch)
        scores = bench.scores(Batch(candidates=[space.candidate(seed) for seed in seeds(space, SMOLLM)], keep=1))
    best = np.exp(min(score.loss for score in scores))
    assert f"best perplexity {best:.4g}" in told.getvalue()


def test_6_the_head_size_is_the_stated_one() -> None:
    config = {"hidden_size": 1024, "num_attention_heads": 16, "head_dim": 128, "max_position_embeddings": 40_960}
    assert Geometry.from_config(config).pairs == 64  # there: 1024 / 16 / 2


def test_7_a_mean_loss_is_over_tokens() -> None:
    passages = made_passages(2)
    passages[1] = Passage(name="long", tokens=passages[1].tokens, counted=45)
    formula = Formula()
    study = Study.join(InMemoryStorage(), "one", settings={"a": 1}, request={}, worker="one")
    candidate = space_of().candidate(seeds(space_of(), SMOLLM)[0])
    (score,) = Bench(study, passages, formula, pruning=False).scores(Batch(candidates=[candidate], keep=1))
    losses = [formula.loss(candidate, passage) for passage in passages]
    assert score.loss == pytest.approx((15 * losses[0] + 45 * losses[1]) / 60)


def test_8_the_number_of_start_tokens_is_searched(tmp_path: Path, model: Path, text: str) -> None:
    searched(tmp_path, model, text, "--target", "512")
    studied = (tmp_path / "factors.study.log").read_text()
    tried = {json.loads(line)["params"]["start_tokens"] for line in studied.splitlines() if '"params"' in line}
    assert tried == set(START_TOKENS)


def test_9_a_second_stage_multiplies_the_factors_of_the_first(tmp_path: Path, model: Path, text: str) -> None:
    first = searched(tmp_path, model, text, "--target", "512").rename(tmp_path / "first.json")
    (tmp_path / "factors.study.log").unlink()
    second = read_factors(searched(tmp_path, model, text, "--target", "1k", "--from", str(first)))
    known = read_factors(first).tiers[-1]
    ratios = np.array(second.tiers[-1].factors) / np.array(known.factors)
    assert second.tiers[:-1] == read_factors(first).tiers
    assert ratios.min() >= 1 - 1e-9
    assert ratios.max() <= 1.25 * 2 + 1e-9


def test_10_short_sequences_have_a_search_of_their_own(tmp_path: Path, model: Path, text: str) -> None:
    first = searched(tmp_path, model, text, "--target", "512").rename(tmp_path / "first.json")
    (tmp_path / "factors.study.log").unlink()
    found = read_factors(searched(tmp_path, model, text, "short", "--lengths", "128,256", "--from", str(first)))
    assert [tier.max_length for tier in found.tiers] == [128, 256, 512]
    assert max(found.tiers[0].factors) <= 1.25


def test_11_what_is_found_is_a_file_that_serves(tmp_path: Path, model: Path, text: str) -> None:
    out = searched(tmp_path, model, text, "--target", "512")
    assert main(["apply", str(model), "--factors", str(out)]) == 0
    written = json.loads((model / "config.json").read_text())
    assert written["max_position_embeddings"] == 512
    assert Geometry.from_checkpoint(model).rope_type == "longrope"
