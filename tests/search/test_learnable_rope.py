"""Oracles: the fixed table that is served, a closed form, central differences, autograd without checkpointing."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.tolerances import assert_close
from longrope_search.candidate import Candidate
from longrope_search.model import learnable_rope as module
from longrope_search.model.learnable_rope import LearnableRope
from longrope_search.model.passages import Passage
from longrope_search.model.scorer import Scorer
from longrope_vllm import Geometry
from longrope_vllm.hf import FixedRotaryEmbedding, put_rotary, take_out
from longrope_vllm.tier_table import tier_table
from tiny_models import tiny_llama
from tiny_scorer import CPU, MAKERS, candidate_for, checkpoints_in, passage_of, scorer

LINEAR: dict[str, object] = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return checkpoints_in(folder) | {"linear": tiny_llama(folder / "linear", rope=LINEAR)}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two of them lose more time than they gain on models this small, where other tests run beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["llama", "qwen3", "phi3", "linear"])
@pytest.mark.parametrize("start_tokens", [0, 5, 1000])
def test_cos_and_sin_equal_those_of_the_fixed_table(
    name: str, start_tokens: int, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 300)
    geometry, length = Geometry.from_checkpoint(checkpoints[name]), 1024
    candidate = candidate_for(geometry, start_tokens=start_tokens)
    positions = torch.arange(length)[None]
    x = torch.zeros(1, length, 1)
    fixed = FixedRotaryEmbedding(tier_table(geometry, candidate.tier(length)), length)
    for found, expected in zip(LearnableRope(geometry, candidate, CPU)(x, positions), fixed(x, positions), strict=True):
        assert found.shape == expected.shape == (1, length, geometry.rotary_dim)
        assert found.dtype is torch.float32
        assert_close(found, expected, computed_in=torch.float32)


def test_angles_far_out_are_those_of_float64() -> None:
    geometry = Geometry(
        head_size=64, rotary_dim=64, base=1e4, trained_window=4096, max_positions=4096, rope_type="default"
    )
    candidate = candidate_for(geometry)
    positions = torch.tensor([[0, 1, 524_287, 2_097_151]])
    found, _ = LearnableRope(geometry, candidate, CPU)(torch.zeros(1), positions)
    frequencies = 1e4 ** (-np.arange(32) / 32) / np.asarray(candidate.factors)
    expected = torch.tensor(1.2 * np.cos(positions[0].numpy()[:, None] * frequencies)).repeat(1, 2)[None]
    assert_close(found, expected, computed_in=torch.float32)


def test_derivatives_of_cos_and_sin_equal_finite_differences() -> None:
    draw = torch.Generator().manual_seed(0)
    logs = torch.rand(6, dtype=torch.float64, generator=draw, requires_grad=True)
    magnitude = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    plain = torch.rand(6, dtype=torch.float64, generator=draw)
    positions = torch.tensor([0, 1, 2, 5, 30])

    def rows(logs: Tensor, magnitude: Tensor) -> Tensor:
        return module._CosSin.apply(logs, magnitude, plain, positions, torch.float64)

    assert torch.autograd.gradcheck(rows, (logs, magnitude))


class PlainRope(nn.Module):
    """The formula of equation 3 in float64, the first tokens with the plain rope."""

    def __init__(self, geometry: Geometry, candidate: Candidate) -> None:
        super().__init__()
        self.frequencies = geometry.base ** (-torch.arange(geometry.pairs, dtype=torch.float64) / geometry.pairs)
        self.candidate = candidate

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        positions = position_ids[0].double()[:, None]
        kept = positions < self.candidate.start_tokens
        factors = torch.tensor(self.candidate.factors, dtype=torch.float64)
        angles = positions * torch.where(kept, self.frequencies, self.frequencies / factors)
        magnitude = torch.where(kept, 1.0, torch.tensor(self.candidate.attention_factor, dtype=torch.float64))
        return tuple((turn * magnitude).repeat(1, 2)[None].to(x) for turn in (angles.cos(), angles.sin()))


def loss_of(model: nn.Module, rope: nn.Module, passage: Passage) -> Tensor:
    """From all logits at once, in the model's own number format."""
    replaced = put_rotary(model, rope)
    try:
        logits = model(passage.tokens[None], use_cache=False).logits[0, :-1]
    finally:
        take_out(replaced)
    return nn.functional.cross_entropy(logits[-passage.counted :], passage.tokens[1:][-passage.counted :])


def in_float64(folder: Path) -> Scorer:
    """All of it: the norms of transformers compute in float32 whatever they are given."""
    found = scorer(folder, torch.float64)
    model = found.model.module
    norms = {name: norm for name, norm in model.named_modules() if type(norm).__name__.endswith("RMSNorm")}
    for name, norm in norms.items():
        precise = nn.RMSNorm(norm.weight.shape, eps=norm.variance_epsilon, dtype=torch.float64)
        precise.load_state_dict(norm.state_dict())
        model.set_submodule(name, precise)
    assert norms
    return found


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("start_tokens", [0, 7])
def test_gradients_equal_central_differences_of_the_loss_in_float64(
    name: str, start_tokens: int, checkpoints: dict[str, Path]
) -> None:
    geometry, passage = Geometry.from_checkpoint(checkpoints[name]), passage_of(64, counted=40)
    candidate, small = candidate_for(geometry, start_tokens=start_tokens), 1e-6
    precise = in_float64(checkpoints[name])
    model = precise.model.module
    slope = precise.measure(candidate, passage, gradient=True).gradient
    assert slope is not None

    def loss(off: np.ndarray) -> float:
        moved = replace(
            candidate,
            factors=tuple(np.asarray(candidate.factors) * np.exp(off[:-1])),
            attention_factor=candidate.attention_factor * np.exp(off[-1]),
        )
        with torch.inference_mode():
            return loss_of(model, PlainRope(geometry, moved), passage).item()

    unknowns = np.eye(geometry.pairs + 1)
    expected = np.array([(loss(small * one) - loss(-small * one)) / (2 * small) for one in unknowns])
    found = np.append(slope.log_factors, slope.log_attention_factor)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", MAKERS)
def test_checkpointing_gives_the_gradient_of_autograd_without_it(name: str, checkpoints: dict[str, Path]) -> None:
    geometry, passage = Geometry.from_checkpoint(checkpoints[name]), passage_of(200)
    rope = LearnableRope(geometry, candidate_for(geometry, start_tokens=3), CPU)
    model = scorer(checkpoints[name]).model.module
    loss_of(model, rope, passage).backward()
    found = scorer(checkpoints[name]).measure(candidate_for(geometry, start_tokens=3), passage, gradient=True).gradient
    assert found is not None
    largest = np.abs(rope.gradient(of_mean_over=1).log_factors).max()
    np.testing.assert_allclose(
        found.log_factors, rope.gradient(of_mean_over=1).log_factors, rtol=0, atol=1e-4 * largest
    )
    assert found.log_attention_factor == pytest.approx(
        rope.gradient(of_mean_over=1).log_attention_factor, abs=1e-4 * largest
    )
