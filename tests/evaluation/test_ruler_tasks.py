"""Oracle: what RULER says of its needles, chains and words."""

import re
from collections import Counter

import pytest
from ruler_prompts import LENGTHS, context, prompt, quarters

from longrope_vllm.evaluation.ruler import TASKS
from longrope_vllm.evaluation.ruler.vocabulary import WordPairs, vocabulary

ONE_NEEDLE = [
    "niah_single_1",
    "niah_single_2",
    "niah_single_3",
    "niah_multikey_1",
    "niah_multikey_2",
    "niah_multikey_3",
]
NEEDLE = re.compile(r"One of the special magic (numbers|uuids) for (.+?) is: (\S+)\.")


@pytest.mark.parametrize(
    ("task", "keys", "values", "asked"),
    [
        ("niah_single_1", 1, 1, 1),
        ("niah_single_2", 1, 1, 1),
        ("niah_single_3", 1, 1, 1),
        ("niah_multikey_1", 4, 1, 1),
        ("niah_multivalue", 1, 4, 1),
        ("niah_multiquery", 4, 1, 4),
    ],
)
def test_as_many_needles_are_hidden_as_the_task_says(task: str, keys: int, values: int, asked: int) -> None:
    for sample in range(5):
        found = prompt(task, 4096, sample=sample)
        needles = NEEDLE.findall(context(found))
        assert sorted(Counter(key for _, key, _ in needles).values()) == [values] * keys
        question = found.text.rpartition("\n")[2]
        wanted = {key for _, key, _ in needles if key in question}
        assert len(wanted) == asked
        assert sorted(found.expected) == sorted(value for _, key, value in needles if key in wanted)


@pytest.mark.parametrize("task", ["niah_multikey_2", "niah_multikey_3"])
def test_a_haystack_of_needles_has_one_that_is_asked_for(task: str) -> None:
    found = prompt(task, 4096)
    needles = NEEDLE.findall(context(found))
    assert len(needles) == len(context(found).splitlines())
    question = found.text.rpartition("\n")[2]
    assert [value for _, key, value in needles if key in question] == list(found.expected)


@pytest.mark.parametrize("task", ONE_NEEDLE)
def test_the_depth_is_where_the_needle_stands(task: str) -> None:
    depths = []
    for sample in range(12):
        found = prompt(task, 4096, sample=sample)
        body = context(found)
        assert body.count(found.expected[0]) == 1
        assert found.depth == pytest.approx(body.index(found.expected[0]) / len(body), abs=0.02)
        depths.append(found.depth)
    assert min(depths) < 0.35
    assert max(depths) > 0.65


@pytest.mark.parametrize("task", [task for task in TASKS if task not in ONE_NEEDLE])
def test_a_prompt_without_one_needle_has_no_depth(task: str) -> None:
    assert prompt(task, 4096).depth is None


def test_a_chain_leads_to_every_variable_that_is_expected() -> None:
    for sample in range(5):
        found = prompt("ruler_vt", 4096, sample=sample)
        asked_for = found.text.rpartition("Memorize and track")[2]
        (value,) = re.findall(r"assigned the value (\d{5}) in", asked_for)
        ((name, stated),) = re.findall(r"VAR (\w{5}) = (\d+)", asked_for)
        assert stated == value
        chain = [name]
        for target, source in re.findall(r"VAR (\w{5}) = VAR (\w{5}) ", asked_for):
            assert source == chain[-1]
            chain.append(target)
        assert tuple(chain) == found.expected
        assert len(chain) == 5


def test_the_example_of_a_chain_is_solved() -> None:
    example = prompt("ruler_vt", 1024).text.rpartition("Memorize and track")[0]
    names = re.findall(r"VAR (\w{3}) =", example)
    assert len(names) == 5
    assert example.endswith(f"they are:  {' '.join(names)}\n\n\n\n")


@pytest.mark.parametrize(("length", "common", "uncommon"), [(2048, 6, 1), (4096, 30, 3), (2**20, 30, 3)])
def test_ten_words_are_more_common_than_the_others(length: int, common: int, uncommon: int) -> None:
    found = prompt("ruler_cwe", length)
    entries = re.findall(r"(\d+)\. (.+?)(?= \d+\. |\n)", context(found) + "\n")
    assert [int(number) for number, _ in entries] == list(range(1, len(entries) + 1))
    times = Counter(word for _, word in entries)
    assert {word for word, count in times.items() if count == common} == set(found.expected)
    assert len(found.expected) == 10
    assert {count for word, count in times.items() if word not in found.expected} == {uncommon}


def test_a_list_of_more_words_than_there_are_goes_on_with_pairs() -> None:
    words = len(vocabulary().listed)
    for length in range(2**17, 2**18, 2**14):
        found = prompt("ruler_cwe", length)
        assert 0.99 <= (quarters(found.text) + found.max_tokens) / length <= 1
        entries = re.findall(r"\d+\. (.+?)(?= \d+\. |\n)", context(found) + "\n")
        different = set(entries)
        assert len(different - set(vocabulary().listed)) == max(0, len(different) - words)


@pytest.mark.parametrize("length", LENGTHS)
def test_three_coded_words_are_the_most_frequent_but_for_the_dots(length: int) -> None:
    found = prompt("ruler_fwe", length)
    body = found.text.partition("coded words. ")[2].partition("\n")[0]
    ranked = Counter(body.split()).most_common(5)
    assert tuple(word for word, _ in ranked[:4]) == ("...", *found.expected)
    assert len({count for _, count in ranked}) == 5


def test_pairs_of_words_with_hyphens_are_in_the_order_of_their_letters() -> None:
    adjectives = ["wide", "high", "wide-eyed", "wider", "ad hoc", "high-pitched", "wide"]
    nouns = ["zoo", "drum", "t-shirt", "fly"]
    expected = sorted({f"{adjective}-{noun}" for adjective in adjectives for noun in nouns})
    pairs = WordPairs(adjectives, nouns)
    assert [*pairs] == pairs[:] == expected
    assert pairs[-1] == expected[-1]
