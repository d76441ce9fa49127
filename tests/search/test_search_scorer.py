"""Oracles: the forward pass of transformers, and the search's own forward pass for the one on the way to a gradient."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from longrope_search.model.passages import Passage
from longrope_vllm import Factors, Geometry
from longrope_vllm.errors import SearchError
from longrope_vllm.factors import Origin
from longrope_vllm.hf import put_tier, take_out
from tiny_models import VOCABULARY, plain_phi3
from tiny_scorer import MAKERS, candidate_for, checkpoints_in, passage_of, scorer


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return checkpoints_in(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two of them lose more time than they gain on models this small, where other tests run beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("start_tokens", [0, 7])
def test_the_loss_on_the_way_to_a_gradient_is_that_of_a_forward_pass(
    name: str, start_tokens: int, checkpoints: dict[str, Path]
) -> None:
    passage = passage_of(200, counted=60)
    with_gradient = scorer(checkpoints[name])
    candidate = candidate_for(Geometry.from_checkpoint(checkpoints[name]), start_tokens=start_tokens)
    expected = scorer(checkpoints[name]).measure(candidate, passage, gradient=False).loss
    assert with_gradient.measure(candidate, passage, gradient=True).loss == pytest.approx(expected, rel=1e-5)
    again = with_gradient.measure(candidate, passage, gradient=False)  # a model that was prepared for gradients
    assert again.loss == pytest.approx(expected, rel=1e-6)


def test_layers_are_computed_again_on_the_way_back_and_weights_get_no_gradients(checkpoints: dict[str, Path]) -> None:
    under_test = scorer(checkpoints["llama"])
    runs: list[int] = []
    model = under_test.model.module
    for layer in model.model.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    candidate = candidate_for(Geometry.from_checkpoint(checkpoints["llama"]))
    under_test.measure(candidate, passage_of(64), gradient=True)
    assert len(runs) == 2 * len(model.model.layers)
    assert all(weight.grad is None for weight in model.parameters())


def test_dropout_stays_off(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(plain_phi3(tmp_path))
    model.config.update({"attention_dropout": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5})
    model.save_pretrained(tmp_path)
    under_test = scorer(tmp_path)
    assert under_test.model.module.model.layers[0].resid_attn_dropout.p == 0.5
    candidate, passage = candidate_for(Geometry.from_checkpoint(tmp_path)), passage_of(100)
    expected = scorer(tmp_path).measure(candidate, passage, gradient=False).loss
    for _ in range(2):
        assert under_test.measure(candidate, passage, gradient=True).loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gradient", [False, True])
def test_the_models_own_rotary_is_back_after_a_pass_and_after_an_exception(
    gradient: bool, checkpoints: dict[str, Path]
) -> None:
    under_test = scorer(checkpoints["llama"])
    own = under_test.model.module.model.rotary_emb
    candidate = candidate_for(Geometry.from_checkpoint(checkpoints["llama"]))
    under_test.measure(candidate, passage_of(32), gradient=gradient)
    assert under_test.model.module.model.rotary_emb is own
    unknown = Passage(name="a token that is none", tokens=torch.full((32,), VOCABULARY + 1), counted=31)
    with pytest.raises(IndexError):
        under_test.measure(candidate, unknown, gradient=gradient)
    assert under_test.model.module.model.rotary_emb is own


@pytest.mark.parametrize("gradient", [False, True])
def test_a_loss_that_is_no_number_is_refused_with_the_name_of_its_passage(
    gradient: bool, checkpoints: dict[str, Path]
) -> None:
    under_test = scorer(checkpoints["llama"])
    with torch.no_grad():
        under_test.model.module.lm_head.weight.fill_(torch.nan)
    candidate = candidate_for(Geometry.from_checkpoint(checkpoints["llama"]))
    with pytest.raises(SearchError, match=r"a loss of nan. on random: .*--dtype"):
        under_test.measure(candidate, passage_of(32), gradient=gradient)


def test_different_factors_have_different_losses_by_the_same_loaded_model(checkpoints: dict[str, Path]) -> None:
    """The public code's swap is ignored by newer transformers, so that every candidate scores alike."""
    under_test, geometry = scorer(checkpoints["llama"]), Geometry.from_checkpoint(checkpoints["llama"])
    passage, one = passage_of(400), candidate_for(geometry)
    others = [replace(one, factors=(1.0,) * 16), replace(one, attention_factor=1.0), replace(one, start_tokens=100)]
    losses = [under_test.measure(candidate, passage, gradient=False).loss for candidate in [one, *others, one]]
    assert losses[0] == losses[-1]
    assert len({round(loss, 4) for loss in losses}) == 4
    tier = one.tier(400)
    factors = Factors(rotary_dim=32, base=1e4, trained_window=256, tiers=(tier,), origin=Origin(method="test"))
    model = under_test.model.module
    replaced = put_tier(model, factors, tier)
    with torch.inference_mode():
        expected = model(passage.tokens[None], labels=passage.tokens[None], use_cache=False).loss.item()
    take_out(replaced)
    assert losses[0] == pytest.approx(expected, rel=1e-5)
