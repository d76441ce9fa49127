"""Passkey and needle: the published words, the exact length, the depth that was asked for."""

import random
import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.asked import Asked
from longrope_vllm.evaluation.encoder import Encoder, fit
from longrope_vllm.evaluation.needle import needle_prompt
from longrope_vllm.evaluation.passkey import passkey_prompt, passkey_text
from longrope_vllm.evaluation.prompt import Prompt
from longrope_vllm.evaluation.questions import needles
from longrope_vllm.evaluation.texts import synthetic_text
from tiny_models import byte_tokenizer


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(AutoTokenizer.from_pretrained(byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))))


def words(text: str) -> int:
    """A tokenizer of whole words, under which many lengths cannot be reached exactly."""
    return len(text.split()) + text.count(".")


def test_the_passkey_prompt_is_the_published_one() -> None:
    """Oracle: the prompt of the passkey test of YaRN's and LongRoPE's public evaluations, written out."""
    garbage = " ".join(
        ["The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."] * 99
    )
    published = (
        "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I will quiz you "
        f"about the important information there.\n{garbage[:123]}\nThe pass key is 4711. Remember it. 4711 is the pass "
        f"key.\n{garbage[:1000]}\nWhat is the pass key? The pass key is"
    )
    assert passkey_text(4711, before=123, after=1000) == published


@pytest.mark.parametrize("length", [400, 1000, 10_000])
@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
def test_a_passkey_prompt_has_its_length_and_its_depth(length: int, depth: float, encoder: Encoder) -> None:
    prompt = passkey_prompt(encoder.count, length=length, depth=depth, draw=random.Random(1))
    assert encoder.count(prompt.text) + prompt.max_tokens == length
    (key,) = prompt.expected
    before = prompt.text.index(f"\nThe pass key is {key}. Remember it.") - prompt.text.index("\n") - 1
    after = (
        prompt.text.rindex("\nWhat is")
        - prompt.text.index(f"{key} is the pass key.\n")
        - len(f"{key} is the pass key.\n")
    )
    assert before / (before + after) == pytest.approx(depth, abs=0.01)


@pytest.mark.parametrize("budget", range(60, 140, 7))
def test_a_text_is_fitted_as_closely_as_a_tokenizer_allows(budget: int) -> None:
    """Oracle: every filling, tried one by one."""
    filling = "one two. three " * 100
    found = fit(lambda size: "head " + filling[:size], words, budget=budget)
    best = max(words("head " + filling[:size]) for size in range(1500) if words("head " + filling[:size]) <= budget)
    assert words(found) == best


def test_two_million_tokens_are_fitted_in_a_handful_of_steps() -> None:
    asked = []

    def count(text: str) -> int:
        asked.append(text)
        return len(text) // 4

    prompt = passkey_prompt(count, length=2_097_152, depth=0.5, draw=random.Random(1))
    assert len(prompt.text) // 4 + prompt.max_tokens == 2_097_152
    assert len(asked) < 8


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("lines", [True, False])
def test_a_needle_stands_between_lines_or_words_at_its_depth(depth: float, lines: bool, encoder: Encoder) -> None:
    haystack = synthetic_text(20_000, random.Random(0))
    haystack = haystack.replace(". ", ".\n") if lines else haystack
    prompt = needle_prompt(encoder.count, length=8000, depth=depth, haystack=haystack, draw=random.Random(1))
    assert encoder.count(prompt.text) + prompt.max_tokens == 8000
    found = re.search(r"The special number of \w+ is (\d{7})\.\n", prompt.text)
    assert found is not None
    assert prompt.expected == (found[1],)
    assert prompt.text.count(found[1]) == 1
    assert found.start() / len(prompt.text) == pytest.approx(depth, abs=0.06)
    around = prompt.text[: found.start()].rpartition("\n\n")[2] + prompt.text[found.end() :].partition("\n\n")[0]
    assert haystack.startswith(around)


def test_a_needle_keeps_its_depth_in_a_script_without_spaces(encoder: Encoder) -> None:
    haystack = "甲乙丙丁" * 3000
    for depth in (0.25, 0.5, 0.75):
        prompt = needle_prompt(len, length=8000, depth=depth, haystack=haystack, draw=random.Random(1))
        assert prompt.text.index("The special number of") / len(prompt.text) == pytest.approx(depth, abs=0.02)


def test_a_needle_question_does_not_depend_on_what_else_is_asked(encoder: Encoder) -> None:
    haystacks = [synthetic_text(9000, random.Random(seed)) for seed in range(3)]

    def texts(lengths: tuple[int, ...], trials: int) -> dict[tuple[int, str], str]:
        asked = Asked(
            subjects=[], lengths=lengths, documents=[], encoder=encoder, depths=(0.0, 0.5), trials=trials, seed=0
        )
        return {(q.length, q.sample): q.prompt(0).text for q in needles(asked, haystacks=haystacks)}

    alone, among = texts((2000,), 1), texts((1000, 2000, 3000), 3)
    assert {key: among[key] for key in alone} == alone
    assert len(among) == 18


def test_questions_that_have_no_room_or_no_haystack_are_refused(encoder: Encoder) -> None:
    with pytest.raises(EvaluationError, match="room for the question, found a budget of 90 tokens"):
        passkey_prompt(encoder.count, length=100, depth=0.5, draw=random.Random(1))
    with pytest.raises(EvaluationError, match="Expected a haystack of 2,000 tokens"):
        needle_prompt(encoder.count, length=2000, depth=0.5, haystack="short", draw=random.Random(1))


def test_the_first_number_of_an_answer_is_its_passkey() -> None:
    prompt = Prompt(text="", expected=("481",), max_tokens=10, match="number")
    assert [prompt.score(answer) for answer in (" 481.", "4811", "I say 12, then 481", "none", "481\n7")] == [
        1,
        0,
        0,
        0,
        1,
    ]


def test_a_chat_template_is_counted(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(byte_tokenizer(tmp_path))
    tokenizer.chat_template = "<{% for message in messages %}{{ message['content'] }}{% endfor %}>"
    chat = Encoder(tokenizer, chat=True)
    assert tokenizer.decode(chat.encode("abc")) == "<abc>"
    prompt = passkey_prompt(chat.count, length=1000, depth=0.5, draw=random.Random(1))
    assert len(chat.encode(prompt.text)) + prompt.max_tokens == 1000
    tokenizer.chat_template = None
    with pytest.raises(EvaluationError, match="chat template for --chat, found none"):
        Encoder(tokenizer, chat=True)
