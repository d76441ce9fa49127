"""Windows over whole documents as pieces of work. Oracle: a plain loop over windows of a loss in closed form."""

from collections.abc import Hashable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from longrope_vllm.evaluation.asked import Asked
from longrope_vllm.evaluation.documents import Document
from longrope_vllm.evaluation.encoder import Encoder
from longrope_vllm.evaluation.losses import perplexity_work
from longrope_vllm.evaluation.protocols import Protocol
from longrope_vllm.evaluation.subject import Scored

WINDOW, LENGTHS, TOKENS, STRIDE, BOS = 16, (16, 32), 70, 5, 99


class Arithmetic:
    """A subject whose loss depends on all that it reads, and past ``WINDOW`` on its name; it notes what it is asked."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.asked: list[tuple[list[int], int]] = []

    def rope(self, length: int) -> Hashable:
        return "own" if length <= WINDOW else self.label

    def score(self, tokens: Tensor, *, length: int) -> Scored:
        self.asked.append((tokens.tolist(), length))
        own = 0.0 if length <= WINDOW else len(self.label)
        return Scored(losses=closed_form(tokens.tolist()) + own, tier=length)


def closed_form(tokens: list[int]) -> Tensor:
    read = torch.tensor(tokens, dtype=torch.float32)
    return (read.cumsum(0)[:-1] / torch.arange(1, len(tokens)) + read[1:]) / 100


def expected(document: list[int], length: int) -> list[Tensor]:
    """Losses that each window counts: a BOS, as many tokens as fit behind it, of which the new ones count."""
    found, counted = [], 0
    for begin in range(0, len(document), STRIDE):
        end = min(begin + length - 1, len(document))
        found.append(closed_form([BOS, *document[begin:end]])[counted - end :])
        counted = end
        if end == len(document):
            break
    return found


@pytest.fixture
def asked() -> Asked:
    draw = torch.Generator().manual_seed(0)
    documents = [
        Document(group="random", index=index, source="", sha256="", tokens=torch.randint(90, (TOKENS,), generator=draw))
        for index in range(2)
    ]
    return Asked(
        subjects=[Arithmetic("none"), Arithmetic("yarn 2")],  # type: ignore[list-item]
        lengths=LENGTHS,
        documents=documents,
        encoder=Encoder(SimpleNamespace(bos_token_id=BOS, chat_template=None)),
        depths=(),
        trials=0,
        seed=0,
        protocol=Protocol.named(f"sliding:{STRIDE}"),
    )


def test_windows_give_every_method_and_length_its_perplexity_over_the_whole_document(asked: Asked) -> None:
    records = {record.key[1:]: record for work in perplexity_work(asked) for record in work.measure()}
    assert len(records) == 2 * len(LENGTHS) * len(asked.documents)
    for (method, length, _, sample), record in records.items():
        own = 0.0 if length <= WINDOW else len(method)
        by_window = [losses + own for losses in expected(asked.documents[int(sample)].tokens.tolist(), length)]
        assert record.values["loss"] == pytest.approx(torch.cat(by_window).mean().item(), rel=1e-5)
        assert record.values["tokens"] == TOKENS  # the first one as well, after the BOS
        means = torch.stack([losses.mean() for losses in by_window])
        assert record.values["window_loss"] == pytest.approx(means.mean().item(), rel=1e-5)
        assert record.curve == ()
        assert record.tier == length


def test_each_window_is_read_once_for_all_that_share_a_rope(asked: Asked) -> None:
    none, yarn = asked.subjects
    for work in perplexity_work(asked):
        before = len(none.asked) + len(yarn.asked)  # type: ignore[attr-defined]
        work.measure()
        windows = len(none.asked) + len(yarn.asked) - before  # type: ignore[attr-defined]
        assert work.tokens == work.keys[0].length
        assert work.passes == pytest.approx(windows, abs=1)
    assert {length for _, length in none.asked} == set(LENGTHS)  # type: ignore[attr-defined]
    assert {length for _, length in yarn.asked} == {32}  # type: ignore[attr-defined]
    assert all(len(tokens) <= length for tokens, length in none.asked)  # type: ignore[attr-defined]


def test_pieces_are_named_and_come_by_length(asked: Asked) -> None:
    work = perplexity_work(asked)
    assert [piece.title for piece in work] == [
        "ppl none 16 random 0",
        "ppl none 16 random 1",
        "ppl none 32 random 0",
        "ppl none 32 random 1",
        "ppl yarn 2 32 random 0",
        "ppl yarn 2 32 random 1",
    ]
    assert [[key.method for key in piece.keys] for piece in work[:2]] == [["none", "yarn 2"]] * 2
