"""What a folder was measured with is held to where figures could not be compared otherwise, and extended elsewhere."""

from dataclasses import replace
from pathlib import Path

import pytest

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.settings import (
    FILE,
    DocumentId,
    Settings,
    checkpoint_identity,
    file_hash,
    joined,
    read_settings,
    write_settings,
)


def document(index: int, *, sha256: str = "ab", tokens: int = 1024) -> DocumentId:
    return DocumentId(group="bible", index=index, source=f"from token {index}", tokens=tokens, sha256=sha256)


BEFORE = Settings(
    tokenizer="t",
    chat=False,
    protocol="prefix",
    seed=0,
    depths=(0.0, 0.5, 1.0),
    documents=(document(0),),
    methods={"none": "model, none", "yarn": "model, yarn"},
    evaluator="yarn",
    sources={"--squad": "cd"},
    commands=("first",),
)


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_settings(tmp_path) is None
    write_settings(tmp_path, BEFORE)
    assert read_settings(tmp_path) == BEFORE
    for content in ("{", "[]", '{"format": 9}', '{"format": 1, "color": 3}'):
        (tmp_path / FILE).write_text(content)
        with pytest.raises(EvaluationError, match="Expected the settings of an evaluation in"):
            read_settings(tmp_path)


def test_methods_documents_sources_and_commands_are_added() -> None:
    now = replace(
        BEFORE,
        documents=(document(0), document(1)),
        methods={"pi": "model, pi"},
        evaluator="",
        sources={"needle": "ef"},
        commands=("first", "second"),
    )
    found = joined(BEFORE, now, Path("out"))
    assert found.documents == (document(0), document(1))
    assert list(found.methods) == ["none", "yarn", "pi"]
    assert found.evaluator == "yarn"
    assert found.sources == {"--squad": "cd", "needle": "ef"}
    assert found.commands == ("first", "second")
    assert joined(BEFORE, replace(now, documents=()), Path("out")).documents == (document(0),)


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (replace(BEFORE, tokenizer="u"), "the tokenizer that out was measured with"),
        (replace(BEFORE, chat=True), "the chat that"),
        (
            replace(BEFORE, protocol="yarn"),
            r"the protocol that out was measured with \(prefix\), found another \(yarn\)",
        ),
        (replace(BEFORE, seed=1), "the seed that"),
        (replace(BEFORE, depths=(0.5,)), "the depths that"),
        (replace(BEFORE, evaluator="pi"), "the evaluator that"),
        (replace(BEFORE, methods={"yarn": "other model, yarn"}), "the method 'yarn' that"),
        (replace(BEFORE, sources={"--squad": "ce"}), "the source of '--squad' that"),
        (replace(BEFORE, documents=(document(0, sha256="ac"),)), "the document bible 0 that"),
        (replace(BEFORE, documents=(document(0, tokens=2048),)), "the document bible 0 that"),
    ],
)
def test_what_would_make_records_incomparable_is_refused(now: Settings, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        joined(BEFORE, now, Path("out"))


def test_a_checkpoint_is_known_by_its_configuration_and_both_ends_of_its_weights(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    weights = bytearray(3 << 20)
    seen = set()
    for change in (None, 0, len(weights) - 1):
        if change is not None:
            weights[change] ^= 1
        (folder / "model.safetensors").write_bytes(weights)
        seen.add(checkpoint_identity(folder))
    (folder / "config.json").write_text('{"a": 1}')
    seen.add(checkpoint_identity(folder))
    assert len(seen) == 4
    assert all(identity.startswith("model ") for identity in seen)


def test_a_folder_of_task_files_is_known_by_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a")
    first = file_hash(tmp_path)
    (tmp_path / "b.jsonl").write_text("b")
    assert file_hash(tmp_path) != first
    assert file_hash(tmp_path / "a.yaml") != file_hash(tmp_path / "b.jsonl")
