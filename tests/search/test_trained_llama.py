"""The trained model is fit to prove a search on: past its window it breaks, and a stretched rope mends part of that."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from longrope_vllm import Factors, Geometry
from longrope_vllm.evaluation.documents import cut_documents
from longrope_vllm.evaluation.perplexity import mean_loss, token_losses
from longrope_vllm.hf import fixed_rope
from trained_llama import EXCERPTS, LONGEST, TRAINED_WINDOW, held_out_text, search_text, training_text

METHODS = ("none", "pi", "ntk", "yarn")
JUDGED = 24
"""Documents a loss is the mean of."""


def documents(text: Path, checkpoint: Path) -> list[Tensor]:
    """The first ``JUDGED`` documents of ``LONGEST`` tokens in a text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    cut = cut_documents([str(text)], tokenizer, length=LONGEST, count=JUDGED)
    return [document.tokens for document in cut]


def loss(model: Any, method: str, rows: list[Tensor]) -> float:
    """Mean loss in nats of rows of one length, rotated by ``method`` for that length."""
    length = len(rows[0])
    factors = Factors.from_baseline(method, Geometry.from_config(model.config.to_dict()), length)
    with fixed_rope(model, factors, length=length):
        return mean_loss(torch.cat([token_losses(model, row) for row in rows]))


def test_a_stretched_rope_costs_more_than_the_window_and_less_than_none(trained: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(trained).eval()
    rows = documents(held_out_text(tmp_path), trained)
    within = loss(model, "none", [part for row in rows for part in row.split(TRAINED_WINDOW)])
    at_4x = {method: loss(model, method, [row[: LONGEST // 2] for row in rows]) for method in METHODS}
    at_8x = {method: loss(model, method, rows) for method in METHODS}
    print(f"loss in nats: within the window {within:.3f}, at 4x {at_4x}, at 8x {at_8x}")
    assert within < 2.0, "a model that learned little has little to lose"
    for found, broken in ((at_4x, 0.3), (at_8x, 0.6)):
        assert found["none"] > within + broken
        assert within < found["yarn"] < found["ntk"] < found["none"]
        # PI turns the fast pairs 8 times slower too, and a model of characters lives on their order: worse than none.
        assert within < found["pi"]


def test_the_texts_are_whole_documents_and_share_none(tmp_path: Path) -> None:
    texts = [path.read_text(encoding="ascii") for path in (search_text(tmp_path), held_out_text(tmp_path))]
    assert [len(text) for text in texts] == [EXCERPTS * LONGEST] * 2
    search, held_out = ({text[first : first + LONGEST] for first in range(0, len(text), LONGEST)} for text in texts)
    assert len(search) == len(held_out) == EXCERPTS
    assert not search & held_out


@pytest.mark.parametrize("text", [search_text, held_out_text])
def test_no_document_was_trained_on(text: Callable[[Path], Path], tmp_path: Path) -> None:
    learned = training_text()
    found = text(tmp_path).read_text(encoding="ascii")
    assert not [first for first in range(0, len(found), LONGEST) if found[first : first + LONGEST] in learned]
