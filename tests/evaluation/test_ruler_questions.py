"""RULER's questions about documents, made up or from files. Oracle: what RULER says of their answers."""

import json
import re
from pathlib import Path

import pytest
from ruler_prompts import context, prompt

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.ruler import Sources
from longrope_vllm.evaluation.ruler.document_questions import read_hotpot, read_squad


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
