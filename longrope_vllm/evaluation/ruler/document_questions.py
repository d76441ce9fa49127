"""Documents and questions about them, and how they are read from the files of SQuAD 2.0 and HotpotQA.

In: ``dev-v2.0.json`` (arXiv 1806.03822) or ``hotpot_dev_distractor_v1.json`` (arXiv 1809.09600), as RULER takes them,
or files of the same form. Out: a ``QuestionSet`` with its documents sorted, as lm-eval 0.4.13 numbers them.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrope_vllm.errors import EvaluationError


@dataclass(frozen=True, kw_only=True)
class DocumentQuestion:
    """A question and where its answer stands, by the numbers of documents."""

    text: str
    answers: tuple[str, ...]
    """Ways to put the answer; one of them is enough."""
    gold: tuple[int, ...]
    """Documents without which it cannot be answered."""
    related: tuple[int, ...] = ()
    """Documents on the same subject, which are shown before any others."""


@dataclass(frozen=True, kw_only=True)
class QuestionSet:
    """Documents, and questions about them."""

    documents: tuple[str, ...]
    questions: tuple[DocumentQuestion, ...]

    def __post_init__(self) -> None:
        if not self.questions:
            raise EvaluationError("Expected questions with an answer, found none: give another file, or none.")


def read_squad(path: Path) -> QuestionSet:
    """The questions of a file in the form of SQuAD 2.0 that have an answer.

    Related are the other paragraphs of the same article. Raises ``EvaluationError`` for a file of another form.
    """
    return _read(path, _squad, "SQuAD 2.0")


def read_hotpot(path: Path) -> QuestionSet:
    """The questions of a file in the form of HotpotQA, each with its ten paragraphs.

    Raises ``EvaluationError`` for a file of another form.
    """
    return _read(path, _hotpot, "HotpotQA")


def _read(path: Path, parse: Callable[[Any], QuestionSet], form: str) -> QuestionSet:
    try:
        found = parse(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"Expected a JSON file in the form of {form}, found {error!r} in {path}: give the file as it is published, "
            "or none, for made-up questions."
        ) from None
    return found


def _squad(content: Any) -> QuestionSet:
    articles = [article["paragraphs"] for article in content["data"]]
    documents = sorted({paragraph["context"] for article in articles for paragraph in article})
    number = {document: index for index, document in enumerate(documents)}
    questions = []
    for article in articles:
        ours = [number[paragraph["context"]] for paragraph in article]
        for paragraph in article:
            gold = number[paragraph["context"]]
            related = tuple(other for other in ours if other != gold)
            for entry in paragraph["qas"]:
                if not entry["is_impossible"]:
                    answers = tuple(answer["text"] for answer in entry["answers"])
                    questions.append(
                        DocumentQuestion(text=entry["question"], answers=answers, gold=(gold,), related=related)
                    )
    return QuestionSet(documents=tuple(documents), questions=tuple(questions))


def _hotpot(content: Any) -> QuestionSet:
    shown = [[f"{title}\n{''.join(sentences)}" for title, sentences in entry["context"]] for entry in content]
    documents = sorted({document for entry in shown for document in entry})
    number = {document: index for index, document in enumerate(documents)}
    questions = [
        DocumentQuestion(
            text=entry["question"], answers=(entry["answer"],), gold=tuple(number[document] for document in own)
        )
        for entry, own in zip(content, shown, strict=True)
    ]
    return QuestionSet(documents=tuple(documents), questions=tuple(questions))
