"""Protocols against plain loops over windows, as the published scripts have them."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.encoder import Encoder
from longrope_vllm.evaluation.perplexity import loss_by_position
from longrope_vllm.evaluation.protocols import Protocol, prefix_values, sliding_losses, sliding_values, windows


def position_losses(sequence: Tensor) -> Tensor:
    """A loss that depends on everything before it, so that a wrong window shows."""
    return sequence.double().cumsum(0)[:-1] / torch.arange(1, len(sequence)) + sequence[1:] * 0.01


@pytest.mark.parametrize("size", [7, 8, 40])
@pytest.mark.parametrize("stride", [1, 3, 5])
@pytest.mark.parametrize("bos", [[], [99]])
def test_sliding_windows_count_every_token_once_as_a_plain_loop_does(size: int, stride: int, bos: list[int]) -> None:
    document = torch.arange(1, 31)
    reach = size - len(bos)
    found = sliding_losses(position_losses, document, bos=bos, size=size, stride=stride)
    by_window, counted = [], 0
    for begin in range(0, len(document), stride):
        end = min(begin + reach, len(document))
        sequence = torch.tensor([*bos, *document[begin:end].tolist()])
        losses = position_losses(sequence)
        by_window.append(losses[-(end - counted) :] if end - counted <= len(losses) else losses)
        counted = end
        if end == len(document):
            break
    assert [part.tolist() for part in found] == [part.tolist() for part in by_window]
    assert sum(len(part) for part in found) == len(document) - (0 if bos else 1)
    values = sliding_values(found)
    every = torch.cat(by_window)
    assert values["loss"] == pytest.approx(every.mean().item())
    assert values["window_loss"] == pytest.approx(torch.stack([part.mean() for part in by_window]).mean().item())
    assert values["tokens"] == len(every)


def test_one_window_that_holds_the_document_is_one_pass() -> None:
    (window,) = windows(30, size=30, stride=7)
    assert (window.begin, window.end, window.counted) == (0, 30, 30)


def test_the_figures_of_one_pass() -> None:
    losses = torch.arange(2000, dtype=torch.float32)
    values, curve = prefix_values(losses)
    assert values == {"loss": 999.5, "tokens": 2000, "last_loss": (976 + 1999) / 2, "last_tokens": 1024}
    assert curve == ((0 + 511) / 2, (512 + 1023) / 2, (1024 + 1535) / 2, (1536 + 1999) / 2)
    assert loss_by_position(losses[:3], bucket=2) == (0.5, 2.0)


def test_published_protocols_begin_with_a_bos_that_the_tokenizer_only_knows() -> None:
    knows = Encoder(SimpleNamespace(bos_token_id=7, chat_template=None, __call__=None))
    knows.tokenizer = type("T", (), {"bos_token_id": 7, "__call__": lambda self, text: {"input_ids": [1]}})()
    adds = Encoder(type("T", (), {"bos_token_id": 7, "__call__": lambda self, text: {"input_ids": [7, 1]}})())
    has_none = Encoder(type("T", (), {"bos_token_id": None, "__call__": lambda self, text: {"input_ids": [1]}})())
    for name, expected in {"prefix": ([], [7], []), "yarn": ([7], [7], []), "longrope": ([7], [7], [])}.items():
        protocol = Protocol.named(name)
        assert tuple(protocol.bos(encoder) for encoder in (knows, adds, has_none)) == expected


def test_protocols_are_known_by_name() -> None:
    assert Protocol.named("sliding").stride == 256
    assert Protocol.named("sliding:64").stride == 64
    for name in ("sliding:0", "sliding:x", "prefix:3", "books"):
        with pytest.raises(EvaluationError, match="Expected a protocol out of prefix, yarn, longrope, sliding"):
            Protocol.named(name)
