"""Documents are cut from texts as stated: length, order, hash, no overlap; and texts that cannot serve are named."""

import hashlib
import json
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.documents import cut_documents
from longrope_vllm.evaluation.texts import default_group, read_texts
from tiny_models import byte_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(byte_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def test_pieces_come_from_every_text_before_a_second_one_comes_from_any(
    tmp_path: Path, tokenizer: AutoTokenizer
) -> None:
    texts = {"a.txt": "A" * 25, "b.txt": "B" * 9, "c.txt": "C" * 10}
    for name, content in texts.items():
        (tmp_path / name).write_text(content)
    found = cut_documents([f"mine={tmp_path}"], tokenizer, length=10, count=3)
    assert [tokenizer.decode(document.tokens) for document in found] == ["A" * 10, "C" * 10, "A" * 10]
    assert [document.source for document in found] == [
        "a.txt, from token 0",
        "c.txt, from token 0",
        "a.txt, from token 10",
    ]
    assert [document.index for document in found] == [0, 1, 2]
    assert found[0].sha256 == hashlib.sha256(texts["a.txt"].encode()).hexdigest()
    assert all(document.group == "mine" for document in found)


def test_too_little_text_is_told_with_what_was_found(tmp_path: Path, tokenizer: AutoTokenizer) -> None:
    (tmp_path / "a.txt").write_text("A" * 25)
    with pytest.raises(EvaluationError, match=r"Expected 3 documents of 10 tokens .*found 2 .*longest of 25 tokens"):
        cut_documents([str(tmp_path / "a.txt")], tokenizer, length=10, count=3)
    with pytest.raises(EvaluationError, match="found a twice"):
        cut_documents([str(tmp_path / "a.txt")] * 2, tokenizer, length=10, count=1)


def test_rows_of_jsonl_and_parquet_are_texts(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [f"text number {number}" for number in range(40)]
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps({"body": row}) + "\n" for row in rows))
    table = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"body": rows, "other": rows}), table)
    for path in (lines, table):
        assert [text.content for text in read_texts(f"{path}#body", characters=1)] == rows
        with pytest.raises(EvaluationError, match="'text'"):
            list(read_texts(str(path), characters=1))


def test_bad_sources_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "broken.jsonl").write_text("{\n")
    (tmp_path / "broken.parquet").write_text("{\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "\xe9"}\n')
    (tmp_path / "half.jsonl").write_text('{"text": "\\ud800"}\n')
    for source, message in {
        "no/such/file": "found no file",
        "synthetic:soon": "found the seed 'soon'",
        "stdlib:3": "Expected stdlib alone",
        f"{tmp_path}/bytes.txt": "Expected text in UTF-8, found other bytes at 0",
        f"{tmp_path}/broken.jsonl": "line 1 of",
        f"{tmp_path}/latin.jsonl": "line 1 of",
        f"{tmp_path}/half.jsonl": "half a character in line 1 of",
        f"{tmp_path}/broken.parquet": "Expected a parquet file",
        f"{tmp_path}/empty": "Expected files in the folder",
    }.items():
        with pytest.raises(EvaluationError, match=message):
            list(islice(read_texts(source, characters=1), 1))


def test_a_source_has_a_group_by_its_name() -> None:
    assert default_group("synthetic:7") == "synthetic"
    assert default_group("hub:emozilla/pg19:validation#text") == "pg19"
    assert default_group("books/war.jsonl#body") == "war"


def test_made_texts_are_as_long_as_asked_and_the_same_each_time() -> None:
    for source in ("stdlib", "pydoc", "synthetic:3"):
        first, again = (next(iter(read_texts(source, characters=50_000))) for _ in range(2))
        assert first == again
        assert len(first.content) >= 50_000
    one, two = islice(read_texts("synthetic", characters=1000), 2)
    assert one.content != two.content


def test_tokens_are_those_of_the_whole_text(tmp_path: Path, tokenizer: AutoTokenizer) -> None:
    """Only as much text is tokenized as the documents need; with a token a character the first guess is enough."""
    text = next(iter(read_texts("synthetic", characters=10_000))).content
    (tmp_path / "long.txt").write_text(text)
    (document,) = cut_documents([str(tmp_path / "long.txt")], tokenizer, length=64, count=1)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert torch.equal(document.tokens, torch.tensor(whole[:64]))
