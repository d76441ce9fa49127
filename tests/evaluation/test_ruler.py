"""What holds for every task of RULER: lengths, chance, refusals. Oracle: the scores of lm-eval."""

import re
import time

import lm_eval_ruler as oracle
import pytest
from ruler_prompts import LENGTHS, context, prompt, quarters

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.prompt import Prompt
from longrope_vllm.evaluation.ruler import NEEDLES, TASKS, Sources


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("task", TASKS)
def test_a_prompt_fills_its_length_and_no_more(task: str, length: int) -> None:
    for sample in range(3):
        found = prompt(task, length, sample=sample)
        share = (quarters(found.text) + found.max_tokens) / length
        # One document, or one needle of identifiers, may be missing: a tenth of 1,024 tokens.
        assert (0.9 if length == 1024 else 0.98) <= share <= 1


@pytest.mark.parametrize("task", TASKS)
def test_two_million_tokens_take_few_counts(task: str) -> None:
    counted = []

    def count(text: str) -> int:
        counted.append(len(text))
        return quarters(text)

    started = time.monotonic()
    found = prompt(task, 2**21, count=count)
    # Without a tokenizer it is seconds at the most; the limit is for a machine that does much else.
    assert time.monotonic() - started < 60
    assert sum(counted) < 6 * len(found.text)
    assert 0.99 <= (quarters(found.text) + found.max_tokens) / 2**21 <= 1


@pytest.mark.parametrize("task", TASKS)
def test_a_prompt_depends_on_its_seed_and_sample_alone(task: str) -> None:
    found = prompt(task, 4096, sample=1)
    prompt(task, 2048, sample=7, seed=3)
    assert prompt(task, 4096, sample=1) == found
    assert prompt(task, 4096, sample=2).text != found.text
    assert prompt(task, 4096, sample=1, seed=2).text != found.text


def test_an_unknown_task_is_named_with_those_there_are() -> None:
    with pytest.raises(EvaluationError, match=r"one of niah_single_1, .*, found 'niah_single_4'"):
        prompt("niah_single_4", 4096)


@pytest.mark.parametrize("task", TASKS)
def test_a_length_that_is_too_short_is_refused_with_one_that_is_not(task: str) -> None:
    with pytest.raises(EvaluationError, match=f"at least [0-9]+ tokens for {task}.* found 100:") as refused:
        prompt(task, 100)
    (enough,) = re.findall(r"at least (\d+) tokens", str(refused.value))
    assert prompt(task, int(enough)).expected


def test_a_tokenizer_without_a_vocabulary_is_refused() -> None:
    with pytest.raises(EvaluationError, match="Expected a count of tokens that grows with the text, found 0 tokens"):
        prompt("niah_single_1", 1024, count=lambda _: 0)


def test_prose_is_asked_for_where_it_is_needed() -> None:
    for task in TASKS:
        if task in NEEDLES and NEEDLES[task].haystack == "prose":
            with pytest.raises(EvaluationError, match="Expected prose"):
                prompt(task, 4096, sources=Sources())
        else:
            assert prompt(task, 4096, sources=Sources()).text


def test_short_prose_is_repeated() -> None:
    found = prompt("niah_single_2", 4096, sources=Sources(prose="It is late.\n Or is it?"))
    assert context(found).count("It is late. Or is it?") > 500


def scored(scorer: str, found: Prompt, answer: str) -> float:
    return oracle.module("common_utils").__dict__[scorer]([answer], [list(found.expected)])


@pytest.mark.parametrize("task", TASKS)
def test_scores_are_those_of_lm_eval(task: str) -> None:
    found = prompt(task, 4096)
    scorer = "string_match_part" if "qa" in task else "string_match_all"
    first, last = found.expected[0], found.expected[-1]
    for answer in ("", first, last.upper(), f" {first}. No: {last.lower()}!", ", ".join(found.expected), first[:-1]):
        assert found.score(answer) == scored(scorer, found, answer)


def test_one_of_several_answers_is_enough_as_in_ruler() -> None:
    # lm-eval 0.4.13 gives the share of the answers here; RULER's string_match_part takes the best of them.
    found = Prompt(text="", expected=("north", "the north", "south"), max_tokens=1, match="any")
    assert found.score("It is north.") == 1
    assert scored("string_match_part", found, "It is north.") == pytest.approx(1 / 3)
