"""Oracle: lm-eval 0.4.13. From the same stream, words and size, our prompts are its prompts, letter by letter.

What lm-eval would download (essays, SQuAD, HotpotQA) is given to both; nltk's sentences, whose data would be downloaded
too, are cut by our rule in both.
"""

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any
from unittest.mock import patch

import lm_eval_ruler as oracle
import pytest

from longrope_vllm.evaluation.prompt import Prompt
from longrope_vllm.evaluation.ruler import NEEDLES
from longrope_vllm.evaluation.ruler.document_questions import read_hotpot, read_squad
from longrope_vllm.evaluation.ruler.niah import hide, split_sentences
from longrope_vllm.evaluation.ruler.qa import asked
from longrope_vllm.evaluation.ruler.variables import example_chain, tracked
from longrope_vllm.evaluation.ruler.words import Repeats, coded, listed

LENGTHS = [1024, 4096]
PROSE = topics["objects"] + topics["types"] + topics["formatstrings"]


@pytest.fixture
def given() -> Iterator[ExitStack]:
    """The stream of every lm-eval module at a known state, and a place for patches that end with the test."""
    with ExitStack() as stack:
        state = random.getstate()
        stack.callback(random.setstate, state)
        random.seed(20)
        yield stack


def written(name: str, where: Any, **kwargs: Any) -> list[Mapping[str, Any]]:
    """The documents of lm-eval's task function ``name``, as a list, which saves the library datasets its work."""
    with (
        patch.object(where, "get_tokenizer", lambda _: oracle.tokenizer),
        patch.object(where.datasets.Dataset, "from_list", lambda rows, split: rows),
    ):
        return getattr(where, name)(**{"max_seq_lengths": LENGTHS, **kwargs})["test"]


def assert_equal(found: Prompt, document: Mapping[str, Any], *, delimiter: str = " ") -> None:
    assert found.text == oracle.shown(document, delimiter=delimiter)
    assert list(found.expected) == document["outputs"]


@pytest.mark.parametrize("task", NEEDLES)
def test_needles_are_those_of_lm_eval(task: str, given: ExitStack) -> None:
    tasks, writer = oracle.module("niah_utils"), oracle.module("prepare_niah")
    lines = tasks.get_haystack
    given.enter_context(oracle.few_samples(tasks, "generate_samples"))
    given.enter_context(patch.object(writer, "cached_sent_tokenize", split_sentences))
    given.enter_context(
        patch.object(
            tasks,
            "get_haystack",
            lambda type_haystack: PROSE.split() if type_haystack == "essay" else lines(type_haystack=type_haystack),
        )
    )
    calls = given.enter_context(oracle.recorded(writer, "generate_input_output"))
    documents = written(task, tasks)
    assert len(documents) == 4 * len(LENGTHS)
    for document in documents:
        call = oracle.accepted(calls, document)
        found = hide(NEEDLES[task], call.args[0], rng=call.rng(), words=PROSE.split(), vocabulary=oracle.vocabulary())
        assert_equal(found, document)
        assert found.max_tokens == document["length"] - oracle.count(document["input"])


def test_variables_are_those_of_lm_eval(given: ExitStack) -> None:
    tasks = oracle.module("vt_utils")
    given.enter_context(oracle.few_samples(tasks, "sys_vartrack_w_noise_random"))
    given.enter_context(patch.object(tasks.np.random, "randint", random.randrange))
    calls = given.enter_context(oracle.recorded(tasks, "generate_input_output"))
    # At 1,024 tokens lm-eval does not return.
    for length in (2048, 4096):
        calls.clear()
        documents = written("get_vt_dataset", tasks, max_seq_lengths=[length])
        last = max(index for index, call in enumerate(calls) if len(call.result[1][0]) == 3)
        example = example_chain(calls[last].args[0], rng=calls[last].rng())
        assert len(documents) == 4
        for document in documents:
            call = oracle.accepted(calls, document)
            assert_equal(tracked(call.args[0], example, rng=call.rng()), document)


def test_lists_are_those_of_lm_eval(given: ExitStack) -> None:
    tasks = oracle.module("cwe_utils")
    given.enter_context(oracle.few_samples(tasks, "sys_word_pair_random"))
    given.enter_context(patch.object(tasks, "RNG", random))
    calls = given.enter_context(oracle.recorded(tasks, "get_example"))
    documents = written("get_cw_dataset", tasks)
    assert len(documents) == 4 * len(LENGTHS)
    for document in documents:
        call = oracle.accepted(calls, document)
        size, common, uncommon, _ = call.args
        repeats = Repeats(common=common, uncommon=uncommon)
        assert repeats == Repeats.at(document["max_length"])
        found = listed(size, repeats, rng=call.rng(), vocabulary=oracle.vocabulary())
        assert_equal(found, document, delimiter="\n\n")


def test_coded_texts_are_those_of_lm_eval(given: ExitStack) -> None:
    tasks = oracle.module("fwe_utils")
    given.enter_context(oracle.few_samples(tasks, "sys_kwext"))
    calls = given.enter_context(oracle.recorded(tasks, "generate_input_output"))
    documents = written("fwe_download", tasks)
    assert len(documents) == 4 * len(LENGTHS)
    for document in documents:
        call = oracle.accepted(calls, document)
        assert_equal(coded(call.result[2], document["max_length"] // 50, rng=call.rng()), document)


def squad_file() -> Any:
    """Two articles of SQuAD 2.0, with a question that has no answer, and words of ours."""
    articles = []
    for name in ("north", "south"):
        paragraphs = []
        for number in range(40):
            answer = {"text": f"{name} gate {number}", "answer_start": 0}
            entry = {"question": f"Which is {name} {number}?", "answers": [answer, answer], "is_impossible": False}
            nothing = {"question": "Which is none?", "answers": [], "is_impossible": True}
            paragraphs.append({"context": f"It is {name} gate {number}." * 9, "qas": [nothing, entry]})
        articles.append({"title": name, "paragraphs": paragraphs})
    return {"version": "v2.0", "data": articles}


def hotpot_file() -> Any:
    """Questions of HotpotQA, each with three paragraphs of two sentences."""
    return [
        {
            "question": f"Where is {number}?",
            "answer": f"at {number}",
            "context": [[f"{part} of {number}", ["It is there. ", f"At {number}. "] * 5] for part in "cab"],
        }
        for number in range(40)
    ]


@pytest.mark.parametrize(
    ("task", "reader", "content", "read"),
    [
        ("get_squad", "read_squad", squad_file(), read_squad),
        ("get_hotpotqa", "read_hotpotqa", hotpot_file(), read_hotpot),
    ],
)
def test_questions_are_those_of_lm_eval(
    task: str, reader: str, content: Any, read: Any, given: ExitStack, tmp_path: Path
) -> None:
    (tmp_path / "questions.json").write_text(json.dumps(content))
    pool = read(tmp_path / "questions.json")
    tasks = oracle.module("qa_utils")
    getattr(tasks, reader).cache_clear()
    given.callback(getattr(tasks, reader).cache_clear)
    given.enter_context(patch.object(tasks, "download_json", lambda _: content))
    given.enter_context(oracle.few_samples(tasks, "generate_samples"))
    calls = given.enter_context(oracle.recorded(tasks, "generate_input_output"))
    # Longer prompts hold all documents, which lm-eval then shuffles for good, so that later answers are elsewhere.
    for length in (512, 1024):
        calls.clear()
        documents = written(task, tasks, max_seq_lengths=[length])
        assert len(documents) == 4
        for document in documents:
            call = oracle.accepted(calls, document)
            index, size = call.args
            assert_equal(asked(pool.questions[index], size, rng=call.rng(), documents=pool.documents), document)


def test_word_pairs_are_the_sorted_list_of_lm_eval() -> None:
    pairs = oracle.vocabulary().pairs
    expected = oracle.module("prepare_niah").WORDS
    assert len(pairs) == len(expected)
    assert all(found == wanted for found, wanted in zip(pairs, expected, strict=True))
