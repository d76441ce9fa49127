"""Oracles: what RULER says of its tasks (needles, answers, counts), and the scores of lm-eval."""

import json
import re
import time
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import lm_eval_ruler as oracle
import pytest

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.prompt import Prompt
from longrope_vllm.evaluation.ruler import NEEDLES, TASKS, Sources, ruler_prompt
from longrope_vllm.evaluation.ruler.questions import read_hotpot, read_squad
from longrope_vllm.evaluation.ruler.vocabulary import WordPairs, vocabulary

SOURCES = Sources(prose=" ".join(topics[name] for name in sorted(topics)))
LENGTHS = [1024, 4096, 32_768]
ONE_NEEDLE = [
    "niah_single_1",
    "niah_single_2",
    "niah_single_3",
    "niah_multikey_1",
    "niah_multikey_2",
    "niah_multikey_3",
]
NEEDLE = re.compile(r"One of the special magic (numbers|uuids) for (.+?) is: (\S+)\.")


def quarters(text: str) -> int:
    """A count that costs nothing: four characters a token, as in English prose."""
    return -(-len(text) // 4)


def prompt(task: str, length: int, **kwargs: Any) -> Prompt:
    return ruler_prompt(
        task, **{"length": length, "sample": 0, "seed": 1, "count": quarters, "sources": SOURCES, **kwargs}
    )


def context(found: Prompt) -> str:
    """A prompt without the lines that frame it."""
    return found.text.partition("\n")[2].rpartition("\n")[0]


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


@pytest.mark.parametrize("task", ["ruler_qa_squad", "ruler_qa_hotpot"])
def test_made_up_answers_stand_in_one_document_each(task: str) -> None:
    for sample in range(20):
        found = prompt(task, 4096, sample=sample)
        (answer,) = found.expected
        documents = re.split(r"Document \d+:\n", context(found))[1:]
        assert sum(answer in document for document in documents) == 1
        assert answer not in found.text.rpartition("Question:")[2]


def test_a_made_up_question_of_two_documents_needs_both() -> None:
    found = prompt("ruler_qa_hotpot", 4096)
    (person,) = re.findall(r"the guild that (\w+) is", found.text)
    documents = re.split(r"Document \d+:\n", context(found))[1:]
    (of_person,) = [document for document in documents if document.startswith(f"{person}\n")]
    (guild,) = re.findall(r"of the (\w+) Guild", of_person)
    (of_guild,) = [document for document in documents if document.startswith(f"{guild} Guild\n")]
    assert found.expected[0] in of_guild
    assert found.expected[0] not in of_person


def test_no_question_is_asked_twice_before_all_were_asked() -> None:
    questions = [prompt("ruler_qa_squad", 1024, sample=sample).text.rpartition("Question:")[2] for sample in range(64)]
    assert len(set(questions)) == 64


def test_files_with_questions_are_asked_instead_of_made_up_ones(tmp_path: Path) -> None:
    entry = {"question": "Where?", "is_impossible": False, "answers": [{"text": "Here"}, {"text": "There"}]}
    paragraphs = [{"context": f"Paragraph {number} is here.", "qas": [entry]} for number in range(3)]
    (tmp_path / "squad.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    hotpot = [{"question": "Who?", "answer": "We", "context": [["Us", ["We are. ", "It is us."]]]}]
    (tmp_path / "hotpot.json").write_text(json.dumps(hotpot))
    sources = Sources(squad=read_squad(tmp_path / "squad.json"), hotpot=read_hotpot(tmp_path / "hotpot.json"))
    squad = prompt("ruler_qa_squad", 2048, sources=sources)
    assert squad.expected == ("Here", "There")
    assert squad.match == "any"
    # Documents are repeated when there are too few.
    assert squad.text.count("Paragraph 2 is here.") > 20
    assert "Us\nWe are. It is us." in prompt("ruler_qa_hotpot", 2048, sources=sources).text


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"data": []}', '[{"question": "Who?"}]'])
def test_a_file_of_another_form_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "questions.json"
    path.write_text(content)
    for read in (read_squad, read_hotpot):
        with pytest.raises(EvaluationError, match="Expected"):
            read(path)


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


def test_pairs_of_words_with_hyphens_are_in_the_order_of_their_letters() -> None:
    adjectives = ["wide", "high", "wide-eyed", "wider", "ad hoc", "high-pitched", "wide"]
    nouns = ["zoo", "drum", "t-shirt", "fly"]
    expected = sorted({f"{adjective}-{noun}" for adjective in adjectives for noun in nouns})
    pairs = WordPairs(adjectives, nouns)
    assert [*pairs] == pairs[:] == expected
    assert pairs[-1] == expected[-1]


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
