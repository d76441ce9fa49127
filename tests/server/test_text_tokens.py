"""A text counted in pieces has as many tokens as in one go: the tokenizer itself is the oracle, of five kinds."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from longrope_vllm.server.text_tokens import TextCounter, _end_of_word

PROSE = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")
SIZE = 400


def byte_level() -> Tokenizer:
    """As of GPT-2, Llama 3 and SmolLM: words are split by a pattern, a space belongs to the next word."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trained(tokenizer, trainers.BpeTrainer(vocab_size=SIZE, initial_alphabet=alphabet, show_progress=False))


def with_line_ends() -> Tokenizer:
    """As of Qwen and GPT-4: punctuation and the line ends behind it are one word."""
    tokenizer = Tokenizer(models.BPE())
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trained(tokenizer, trainers.BpeTrainer(vocab_size=SIZE, initial_alphabet=alphabet, show_progress=False))


def unsplit() -> Tokenizer:
    """As of Llama 2 and Phi-3: no words, a mark before the text, and a token that begins every text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>"]
    trained(tokenizer, trainers.BpeTrainer(vocab_size=SIZE, special_tokens=special, show_progress=False))
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def unigram() -> Tokenizer:
    """As of T5: the likeliest of all ways to part a word."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(vocab_size=SIZE, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    return trained(tokenizer, trainer)


def word_pieces() -> Tokenizer:
    """As of BERT: lower case, accents dropped, two tokens around the text."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    trained(tokenizer, trainers.WordPieceTrainer(vocab_size=SIZE, special_tokens=special, show_progress=False))
    ids = [(name, tokenizer.token_to_id(name)) for name in special[1:]]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def trained(tokenizer: Tokenizer, trainer: Any) -> Tokenizer:
    tokenizer.train_from_iterator(PROSE.splitlines(keepends=True), trainer)
    return tokenizer


@pytest.fixture(
    scope="module", params=[byte_level, with_line_ends, unsplit, unigram, word_pieces], ids=lambda make: make.__name__
)
def fast(request: pytest.FixtureRequest) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=request.param())
    tokenizer.add_tokens(["<|end|>"], special_tokens=True)
    return tokenizer


def counted(tokenizer: Any, text: str, *, special_tokens: bool = True, **sizes: int) -> int:
    return asyncio.run(TextCounter(tokenizer, **sizes).count(text, special_tokens=special_tokens))


def in_one_go(tokenizer: Any, text: str, *, special_tokens: bool = True) -> int:
    return len(tokenizer(text, add_special_tokens=special_tokens)["input_ids"])


@pytest.mark.parametrize("special_tokens", [True, False])
def test_prose_in_pieces_has_as_many_tokens_as_in_one_go(fast: Any, special_tokens: bool) -> None:
    found = counted(fast, PROSE, special_tokens=special_tokens, piece=200, surroundings=64)
    assert found == in_one_go(fast, PROSE, special_tokens=special_tokens)


WORDS = st.one_of(
    st.sampled_from(
        ["a", "the", "word", "Zürich", "e\u0301", "東京", "😀", "1234567", "...", "!\n", "<|end|>", "x" * 40]
    ),
    st.text(max_size=12),
)
GAPS = st.sampled_from(["", " ", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", " \n "])


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.tuples(WORDS, GAPS), max_size=60))
def test_any_text_in_pieces_has_as_many_tokens_as_in_one_go(fast: Any, parts: list[tuple[str, str]]) -> None:
    text = "".join(word + gap for word, gap in parts)
    assert counted(fast, text, piece=100, surroundings=48) == in_one_go(fast, text)


@pytest.mark.parametrize("blank", [65_534, 65_535, 65_536, 65_537, 131_071, 200_000])
def test_the_next_word_is_found_wherever_it_begins(blank: int) -> None:
    text = "x" * blank + " y"
    assert _end_of_word(text, 100) == blank
    assert _end_of_word("x" * blank, 100) == blank


def test_a_request_that_truncates_does_not_change_the_count(fast: Any) -> None:
    counter = TextCounter(fast)
    fast(PROSE, truncation=True, max_length=10)
    assert asyncio.run(counter.count(PROSE, special_tokens=True)) == in_one_go(fast, PROSE)


def test_a_tokenizer_of_another_kind_counts_in_one_go() -> None:
    class Characters:
        def __call__(self, text: str, **options: bool) -> dict[str, list[int]]:
            return {"input_ids": [0] * (len(text) + options["add_special_tokens"])}

    assert counted(Characters(), "four") == 5


def test_no_text_has_no_tokens_but_those_around_it(fast: Any) -> None:
    assert counted(fast, "") == in_one_go(fast, "")
