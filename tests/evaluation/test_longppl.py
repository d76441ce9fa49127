"""LongPPL against its definition, token by token, on losses that are known."""

import math

import torch
from torch import Tensor

from longrope_vllm.evaluation.longppl import key_tokens
from longrope_vllm.evaluation.perplexity import perplexity

CONTEXT, STEP = 8, 3
LENGTH = 30


def toy_loss(tokens: list[int], position: int) -> float:
    """A model that knows a token when it stood before: the further back it may look, the more it knows."""
    return 0.5 if tokens[position] in tokens[:position] else 4.0


def toy_losses(tokens: Tensor) -> Tensor:
    ids = tokens.tolist()
    return torch.tensor([toy_loss(ids, position) for position in range(1, len(ids))])


def test_key_tokens_are_those_that_the_far_context_made_likely() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(12, (LENGTH,), generator=generator)
    losses = toy_losses(tokens)
    found = key_tokens(toy_losses, tokens, losses, context=CONTEXT, step=STEP)
    ids = tokens.tolist()
    expected = []
    for position in range(1, LENGTH):
        begin = (position - CONTEXT) // STEP * STEP  # of the piece that this token is the end of
        if position < CONTEXT:
            expected.append(False)
            continue
        short, long = toy_loss(ids[begin:], position - begin), toy_loss(ids, position)
        expected.append(short - long > 2 and long < 2)
    assert found.tolist() == expected
    assert 0 < sum(expected) < LENGTH - CONTEXT
    mean = sum(loss for loss, key in zip(losses.tolist(), expected, strict=True) if key) / sum(expected)
    assert math.isclose(perplexity(losses[found]), math.exp(mean))


def test_a_text_within_the_short_context_has_none() -> None:
    tokens = torch.arange(CONTEXT)
    assert not key_tokens(toy_losses, tokens, toy_losses(tokens), context=CONTEXT, step=STEP).any()


def test_a_last_loss_that_a_server_could_not_tell_is_left_out() -> None:
    tokens = torch.randint(12, (LENGTH,), generator=torch.Generator().manual_seed(0))
    whole = key_tokens(toy_losses, tokens, toy_losses(tokens), context=CONTEXT, step=STEP)
    cut = key_tokens(toy_losses, tokens, toy_losses(tokens)[:-1], context=CONTEXT, step=STEP)
    assert cut.tolist() == whole[:-1].tolist()
