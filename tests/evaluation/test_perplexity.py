"""Oracle: the loss that transformers computes from the logits of the whole document at once."""

import math
from pathlib import Path

import pytest
import torch

from longrope_vllm.evaluation import perplexity as module
from longrope_vllm.evaluation.perplexity import perplexity, token_losses
from tiny_models import VOCABULARY, WINDOW, tiny_llama


@pytest.mark.parametrize("chunk", [7, WINDOW - 1, WINDOW, 1024])
def test_losses_in_chunks_equal_those_from_all_logits(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(tiny_llama(tmp_path)).eval()
    tokens = torch.randint(VOCABULARY, (WINDOW,), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(module, "CHUNK", chunk)
    found = token_losses(model, tokens)
    with torch.inference_mode():
        logits = model(tokens[None]).logits[0, :-1].log_softmax(-1)
        mean = model(tokens[None], labels=tokens[None]).loss.item()
    assert found.shape == (WINDOW - 1,)
    torch.testing.assert_close(found, -logits[torch.arange(WINDOW - 1), tokens[1:]], atol=1e-5, rtol=1e-5)
    assert perplexity(found) == pytest.approx(math.exp(mean), rel=1e-5)
