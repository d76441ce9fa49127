"""Oracle: torch's cross-entropy of whole logits, and autograd through it."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from core.tolerances import TOLERANCE
from largest_tensor import LargestTensor
from longrope_training.model import loss_head as module
from longrope_training.model.loss_head import IGNORED, LossHead, put_loss_head
from longrope_vllm.errors import TrainingError
from tiny_models import VOCABULARY
from training_models import gradients_of, tiny_model, tokens_of


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 16)


def followed_by(tokens: Tensor) -> Tensor:
    """Targets of ``tokens`` [1, T], of which a few are ignored."""
    targets = torch.cat([tokens[:, 1:], torch.full((1, 1), IGNORED)], dim=1)
    targets[:, 5:9] = IGNORED
    return targets


def plain_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits[0].float(), targets[0], ignore_index=IGNORED, reduction="sum")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("length", [1, 16, 37])
def test_loss_and_gradients_are_those_of_whole_logits(length: int, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(8, 50, bias=bias)
    hidden = torch.randn(1, length, 8, requires_grad=True)
    targets = torch.randint(50, (1, length))
    targets[:, 3:7] = IGNORED
    wanted = [hidden, *linear.parameters()]
    expected = plain_loss(linear(hidden), targets)
    expected_gradients = torch.autograd.grad(expected * 0.3, wanted)
    head = LossHead(linear)
    head.targets = targets
    found = head(hidden)
    assert found.dtype is torch.float32
    assert found.shape == ()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    for gradient, other in zip(torch.autograd.grad(found * 0.3, wanted), expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "tied", "qwen3", "phi3", "mistral"])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_model_answers_with_the_loss_in_place_of_logits(name: str, checkpointing: bool) -> None:
    model, tokens = tiny_model(name), tokens_of(37)
    targets = followed_by(tokens)
    expected = plain_loss(model(tokens, use_cache=False).logits, targets) / 30
    expected.backward()
    expected_gradients = gradients_of(model)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    put_loss_head(model).targets = targets
    found = model(tokens, use_cache=False).logits / 30
    found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    gradients = gradients_of(model)
    assert gradients.keys() == expected_gradients.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[key], rtol=1e-5, atol=1e-6)


def test_under_autocast_products_are_bfloat16_and_the_softmax_is_not() -> None:
    torch.manual_seed(0)
    linear, targets = nn.Linear(64, 200), torch.randint(200, (1, 50))
    hidden = torch.randn(1, 50, 64, requires_grad=True)
    wanted = [hidden, *linear.parameters()]
    with torch.autocast("cpu", torch.bfloat16):
        expected = plain_loss(linear(hidden), targets)
        head = LossHead(linear)
        head.targets = targets
        found = head(hidden)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.0)
    tolerance = TOLERANCE[torch.bfloat16]
    expected_gradients = torch.autograd.grad(expected, wanted)
    for gradient, other in zip(torch.autograd.grad(found, wanted), expected_gradients, strict=True):
        assert gradient.dtype is torch.float32
        assert float((gradient - other).norm() / other.norm()) < tolerance


def test_gradients_of_bfloat16_weights_are_summed_in_float32() -> None:
    torch.manual_seed(0)
    linear, targets = nn.Linear(16, 20, bias=False), torch.randint(20, (1, 4096))
    hidden = torch.randn(1, 4096, 16).bfloat16()
    exact = torch.autograd.grad(plain_loss(linear.bfloat16().float()(hidden.float()), targets), [linear.weight])[0]
    head = LossHead(linear.bfloat16())
    head.targets = targets
    found = torch.autograd.grad(head(hidden), [head.weight])[0]
    assert found.dtype is torch.bfloat16
    assert float((found - exact).norm() / exact.norm()) < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("frozen", ["weight", "hidden"])
def test_what_is_frozen_gets_no_gradient(frozen: str) -> None:
    linear, hidden = nn.Linear(8, 50, bias=False), torch.randn(1, 20, 8, requires_grad=frozen != "hidden")
    linear.weight.requires_grad_(frozen != "weight")
    head = LossHead(linear)
    head.targets = torch.randint(50, (1, 20))
    head(hidden).backward()
    assert (linear.weight.grad is None) == (frozen == "weight")
    assert (hidden.grad is None) == (frozen == "hidden")


def test_a_row_without_targets_has_no_loss_and_no_gradient() -> None:
    head, hidden = LossHead(nn.Linear(8, 50)), torch.randn(1, 20, 8, requires_grad=True)
    head.targets = torch.full((1, 20), IGNORED)
    loss = head(hidden)
    loss.backward()
    assert float(loss.detach()) == 0.0
    for tensor in (hidden, head.weight, head.bias):
        assert tensor.grad is not None
        assert not tensor.grad.any()


def test_no_tensor_holds_the_logits_of_a_row() -> None:
    linear, hidden = nn.Linear(8, 500, bias=False), torch.randn(1, 640, 8, requires_grad=True)
    head = LossHead(linear)
    head.targets = torch.randint(500, (1, 640))
    with LargestTensor() as whole:
        linear(hidden)
    with LargestTensor() as chunked:
        head(hidden).backward()
    assert whole.elements == 640 * 500  # the recorder sees what it is for
    assert chunked.elements == 16 * 500


def test_without_gradients_none_are_computed() -> None:
    head, hidden = LossHead(nn.Linear(8, 5000, bias=False)), torch.randn(1, 1, 8)
    head.targets = torch.ones(1, 1, dtype=torch.int64)
    with torch.no_grad(), LargestTensor() as largest:
        loss = head(hidden)
    assert not loss.requires_grad
    assert largest.elements == 5000  # and not 8 times as many, of the weight


@pytest.mark.parametrize("name", ["llama", "tied"])
def test_a_checkpoint_saved_with_a_loss_head_is_the_models_own(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = tiny_model(name)
    before = copy.deepcopy(model.state_dict())
    head = put_loss_head(model)
    assert model.get_output_embeddings() is head
    assert (head.weight is model.get_input_embeddings().weight) == (name == "tied")
    assert list(model.state_dict()) == list(before)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded.lm_head) is nn.Linear
    assert loaded.state_dict().keys() == before.keys()
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, before[key])
    tokens = tokens_of(20)
    assert torch.equal(model(tokens).logits, loaded(tokens).logits)  # no targets: logits
    assert model(tokens).logits.shape == (1, 20, VOCABULARY)


def test_a_loss_is_taken_back_once() -> None:
    head, hidden = LossHead(nn.Linear(8, 50)), torch.randn(1, 20, 8)
    head.targets = torch.randint(50, (1, 20))
    loss = head(hidden)
    loss.backward(retain_graph=True)
    with pytest.raises(AssertionError, match="once"):
        loss.backward()


def test_a_model_whose_logits_are_more_than_a_linear_layer_is_refused() -> None:
    model = tiny_model("llama")
    put_loss_head(model)
    with pytest.raises(TrainingError, match="linear lm_head, found LossHead"):
        put_loss_head(model)
    with pytest.raises(TrainingError, match="found NoneType in LlamaModel"):
        put_loss_head(tiny_model("llama").model)
    scaled = tiny_model("llama")
    scaled.config.logits_scaling = 8.0
    with pytest.raises(TrainingError, match="found logits_scaling in the config"):
        put_loss_head(scaled)
