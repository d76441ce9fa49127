"""Oracle: the texts that passages decode to, with a tokenizer of characters and with one that merges them."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from longrope_search.model.passages import Passage, passages_of
from longrope_vllm.errors import SearchError
from longrope_vllm.evaluation.documents import Document, cut_documents
from longrope_vllm.evaluation.encoder import Encoder
from tiny_models import byte_tokenizer

BOS = "<" + "s>"  # documents are cut from this file, which shall not hold it


@pytest.fixture(scope="module")
def characters(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """One token a character, none in front."""
    return Encoder(AutoTokenizer.from_pretrained(byte_tokenizer(tmp_path_factory.mktemp("characters"))))


@pytest.fixture(scope="module")
def merges() -> Encoder:
    """Byte pairs learned from this file, and a token in front of every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    learned = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[BOS], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([Path(__file__).read_text()], learned)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return Encoder(PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS))


@pytest.fixture(params=["characters", "merges"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    found: Encoder = request.getfixturevalue(request.param)
    return found


def documents(encoder: Encoder, *, length: int = 700, count: int = 3) -> list[Document]:
    return cut_documents([f"mine={__file__}"], encoder.tokenizer, length=length, count=count)


def needles(encoder: Encoder, *, length: int = 700, seed: int = 0) -> list[Passage]:
    return passages_of("needle", documents(encoder), encoder, length=length, seed=seed)


def number_in(passage: Passage, encoder: Encoder) -> str:
    """What is asked for."""
    answer: str = encoder.tokenizer.decode(passage.tokens[-passage.counted :])
    return answer.strip(" .")


def test_a_needle_passage_has_exactly_its_length(encoder: Encoder) -> None:
    for length in (400, 513, 700):
        for passage in needles(encoder, length=length):
            assert passage.tokens.shape == (length,)
            assert passage.tokens.dtype is torch.int64


def test_the_number_is_hidden_at_the_beginning_and_asked_for_at_the_end(encoder: Encoder) -> None:
    for passage, document in zip(needles(encoder), documents(encoder), strict=True):
        text = encoder.tokenizer.decode(passage.tokens).removeprefix(BOS)
        number = number_in(passage, encoder)
        assert text.count(number) == 2
        assert text.index(number) < 150
        assert text.endswith(f" is {number}.")
        assert "special magic number" in text[:150]
        assert "What is the special magic number" in text[-200:]
        middle = text[250:-250]
        assert middle in encoder.tokenizer.decode(document.tokens)


def test_only_the_tokens_of_the_answer_count(encoder: Encoder) -> None:
    for passage in needles(encoder):
        counted = encoder.tokenizer.decode(passage.tokens[-passage.counted :])
        assert counted.strip() == f"{number_in(passage, encoder)}."
        assert number_in(passage, encoder).isdecimal()
        assert len(number_in(passage, encoder)) == 7
        before = encoder.tokenizer.decode(passage.tokens[: -passage.counted])
        assert before.endswith(" is")


def test_the_city_that_is_asked_for_is_the_one_of_the_hidden_number(encoder: Encoder) -> None:
    for seed in range(5):
        for passage in needles(encoder, seed=seed):
            text = encoder.tokenizer.decode(passage.tokens)
            city = text.split("special magic number of ")[1].split(" is ")[0]
            assert text.count(f"special magic number of {city}") == 3


def test_other_documents_and_other_seeds_hide_other_numbers_and_the_same_ones_the_same(encoder: Encoder) -> None:
    one, same, other = (needles(encoder, seed=seed) for seed in (0, 0, 1))
    numbers = [number_in(passage, encoder) for passage in [*one, *other]]
    assert len(set(numbers)) == 6
    assert [passage.sha256 for passage in one] == [passage.sha256 for passage in same]
    assert not {passage.sha256 for passage in one} & {passage.sha256 for passage in other}


def test_every_length_asks_for_the_same_number_of_a_document(encoder: Encoder) -> None:
    short, long = needles(encoder, length=400), needles(encoder, length=700)
    assert [number_in(passage, encoder) for passage in short] == [number_in(passage, encoder) for passage in long]


def test_a_target_without_room_for_the_question_is_refused(encoder: Encoder) -> None:
    with pytest.raises(
        SearchError, match=r"room for the needle and its question, found 64 tokens: search for a longer"
    ):
        needles(encoder, length=64)


def test_a_perplexity_passage_is_the_beginning_of_its_document_and_all_but_its_first_token_count(
    characters: Encoder,
) -> None:
    found = passages_of("perplexity", documents(characters), characters, length=500, seed=0)
    for passage, document in zip(found, documents(characters), strict=True):
        assert torch.equal(passage.tokens, document.tokens[:500])
        assert passage.counted == 499
        assert passage.name == document.source


def test_a_passage_begins_with_the_token_that_the_tokenizer_puts_in_front_of_every_text(merges: Encoder) -> None:
    for objective in ("perplexity", "needle"):
        for passage in passages_of(objective, documents(merges), merges, length=500, seed=0):
            assert passage.tokens[0] == merges.tokenizer.bos_token_id
            assert passage.tokens.shape == (500,)
            assert (passage.tokens == merges.tokenizer.bos_token_id).sum() == 1
    whole = passages_of("perplexity", documents(merges), merges, length=500, seed=0)[0]
    assert torch.equal(whole.tokens[1:], documents(merges)[0].tokens[:499])


def test_what_counts_and_every_token_are_part_of_a_passages_hash() -> None:
    tokens = torch.arange(10)
    hashes = {
        Passage(name="one", tokens=tokens, counted=9).sha256,
        Passage(name="one", tokens=tokens, counted=8).sha256,
        Passage(name="one", tokens=tokens.flip(0), counted=9).sha256,
        Passage(name="one", tokens=tokens[:9], counted=9).sha256,
    }
    assert len(hashes) == 4
    assert Passage(name="other", tokens=tokens, counted=9).sha256 in hashes
