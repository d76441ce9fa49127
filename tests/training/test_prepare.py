"""Oracle: the texts themselves; for interrupted work, the files of work that was not interrupted."""

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from made_text import (
    VOCABULARY,
    Characters,
    checkpoint,
    documents_in,
    files_in,
    jsonl,
    mixed,
    prepared,
    recipe,
    tokens_of,
    words,
)

from longrope_training.data.prepare import Told
from longrope_training.data.streams import Streams
from longrope_training.recipe import DataSource, Stage
from longrope_vllm.errors import EvaluationError, TrainingError


class StoppedError(Exception):
    """Ends a preparation from within."""


def test_documents_are_the_texts_in_their_order_with_what_begins_and_ends_them(tmp_path: Path) -> None:
    texts = words("a", 10) + words("b", 10) + words("c", 10)
    made = recipe(tmp_path, DataSource(source=jsonl(tmp_path / "t.jsonl", texts)))
    found = documents_in(prepared(made).long)
    assert [1 + len(found[:-1]), *found[:-1]] == [len(found), *map(tokens_of, texts[: len(found) - 1])]
    assert sum(map(len, found)) == 2 * 4 * 64
    whole = tokens_of(texts[len(found) - 1])
    assert found[-1] == whole[: len(found[-1])]  # the last one is cut where there is no more room


def test_the_tokenizer_of_a_checkpoint_makes_the_same_data_as_letters_that_are_counted_out(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    expected = files_in(prepared(mixed(tmp_path, out="counted")).folder)
    made = mixed(tmp_path)
    assert files_in(prepared(made, tokenizer=AutoTokenizer.from_pretrained(made.model)).folder) == expected


def test_a_tokenizer_that_begins_or_ends_nothing_puts_nothing_there(tmp_path: Path) -> None:
    tokenizer = Characters()
    tokenizer.bos_token_id = tokenizer.eos_token_id = None
    texts = ["a" * 5, "b" * 6]
    made = recipe(tmp_path, DataSource(source=jsonl(tmp_path / "t.jsonl", texts)))
    found = documents_in(prepared(made, tokenizer=tokenizer).long)
    assert found[:2] == [[ord("a")] * 5, [ord("b")] * 6]


def test_a_source_that_ends_begins_again_and_its_passes_are_counted(tmp_path: Path) -> None:
    texts = ["one", "", "two and three"]
    streams = prepared(recipe(tmp_path, DataSource(source=jsonl(tmp_path / "t.jsonl", texts))))
    found = documents_in(streams.long)
    assert found[:4] == [tokens_of("one"), tokens_of("two and three")] * 2
    size = len(tokens_of("one")) + len(tokens_of("two and three"))
    (portion,) = streams.portions
    assert portion.passes == -(-len(streams.long.tokens) // size)
    assert streams.long.origins[:, 1].tolist() == [number // 2 for number in range(len(found))]


def test_what_a_source_gave_is_told(tmp_path: Path) -> None:
    streams = prepared(mixed(tmp_path))
    assert [(Path(portion.source).stem, portion.kind) for portion in streams.portions] == [
        ("a", "long"),
        ("a", "short"),
        ("b", "long"),
        ("b", "short"),
    ]
    for portion in streams.portions:
        stream = streams.of(portion.kind)
        source = {"a": 0, "b": 1}[Path(portion.source).stem]
        sizes = sorted(
            len(document)
            for document, origin in zip(documents_in(stream), stream.origins, strict=True)
            if origin[0] == source
        )
        middle = len(sizes) // 2
        median = sizes[middle] if len(sizes) % 2 else (sizes[middle - 1] + sizes[middle]) / 2
        assert (portion.documents, portion.tokens) == (len(sizes), sum(sizes))
        assert (portion.shortest, portion.median, portion.longest) == (sizes[0], median, sizes[-1])
        assert portion.share == sum(sizes) / len(stream.tokens)


@pytest.mark.parametrize("save_every", [0.0, 3600.0])
@pytest.mark.parametrize("stops", [(1,), (2, 3), (40, 1, 60), (75,)])
def test_work_that_was_stopped_anywhere_ends_with_the_same_bytes(
    tmp_path: Path, stops: tuple[int, ...], save_every: float
) -> None:
    expected = files_in(prepared(mixed(tmp_path, out="unbroken")).folder)
    made = mixed(tmp_path)
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            prepared(made, told=_interrupted_after(stop - 1), save_every=save_every)
    assert files_in(prepared(made).folder) == expected
    assert "progress.json" not in expected


@pytest.mark.parametrize("text", ["a" * 20, "a" * 150, "a" * 200])
def test_a_source_of_one_text_goes_on_from_any_of_its_documents(tmp_path: Path, text: str) -> None:
    source = DataSource(source=jsonl(tmp_path / "one.jsonl", [text]))
    expected = files_in(prepared(recipe(tmp_path, source, out="unbroken")).folder)
    documents = len(prepared(recipe(tmp_path, source, out="unbroken")).long.starts)
    for stop in range(1, documents):
        made = recipe(tmp_path, source, out=f"stopped {stop}")
        with pytest.raises(KeyboardInterrupt):
            prepared(made, told=_interrupted_after(stop - 1), save_every=0)
        assert files_in(prepared(made).folder) == expected


def test_progress_is_told_from_where_work_goes_on_to_its_end(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []

    def told(done: int, wanted: int) -> None:
        heard.append((done, wanted))
        if len(heard) == 30:
            raise StoppedError

    with pytest.raises(StoppedError):
        prepared(mixed(tmp_path), told=told, save_every=0)
    prepared(mixed(tmp_path), told=lambda done, wanted: heard.append((done, wanted)))
    amounts = [done for done, _ in heard]
    assert amounts == sorted(amounts)
    assert {wanted for _, wanted in heard} == {16 * 4 * 128}
    assert amounts[-1] == 16 * 4 * 128


CHILD = """
import sys, time
from pathlib import Path
from made_text import mixed, prepared
prepared(mixed(Path(sys.argv[1])), told=lambda *_: time.sleep(0.005), save_every=0)
"""


def test_a_process_that_was_killed_leaves_what_another_ends_with_the_same_bytes(tmp_path: Path) -> None:
    expected = files_in(prepared(mixed(tmp_path, out="unbroken")).folder)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], env=environment)
    tokens = tmp_path / "out" / "data" / "long.tokens"
    deadline = time.monotonic() + 300
    while not tokens.exists() or tokens.stat().st_size < 4_000:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tokens.parent / "data.json").exists()
    (tokens.parent / ".progress.json.killed").write_text("half of it")  # as a kill within the writing leaves it
    assert files_in(prepared(mixed(tmp_path)).folder) == expected


def test_a_full_disk_is_told_and_work_goes_on_when_there_is_room(tmp_path: Path) -> None:
    expected = files_in(prepared(mixed(tmp_path, out="unbroken")).folder)
    limit = 9_001  # bytes that a file may have: within a token of ``long.tokens``
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(TrainingError, match=r"Expected room for prepared text in .*found: File too large"):
            prepared(mixed(tmp_path), save_every=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "out" / "data" / "long.tokens").stat().st_size == limit
    assert files_in(prepared(mixed(tmp_path)).folder) == expected


def test_data_that_is_complete_is_not_read_again(tmp_path: Path) -> None:
    first = prepared(mixed(tmp_path))
    made = mixed(tmp_path)
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).unlink()
    again = prepared(made, told=lambda done, wanted: pytest.fail("nothing is left to do"))
    assert documents_in(again.long) == documents_in(first.long)
    assert again.identity == first.identity


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"short_share": 0.5}, "tokens of long rows, tokens of short rows"),
        ({"stages": (Stage(length=64, steps=32),)}, "length of rows"),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_data_of_another_recipe_is_refused_by_what_is_different(
    tmp_path: Path, other: dict[str, object], named: str, complete: bool
) -> None:
    def told(done: int, wanted: int) -> None:
        if not complete:
            raise StoppedError

    if complete:
        prepared(mixed(tmp_path), told=told)
    else:
        with pytest.raises(StoppedError):
            prepared(mixed(tmp_path), told=told, save_every=0)
    before = files_in(tmp_path / "out" / "data")
    with pytest.raises(TrainingError, match=f"found data of another {named}: name another out, or remove"):
        prepared(mixed(tmp_path, **other))
    assert files_in(tmp_path / "out" / "data") == before


def test_data_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    made = mixed(tmp_path)
    prepared(made)
    file = made.model / "tokenizer.json"
    file.write_text(file.read_text() + "\n")
    with pytest.raises(TrainingError, match="found data of another tokenizer"):
        prepared(made)


def test_files_that_are_shorter_than_they_were_are_refused(tmp_path: Path) -> None:
    folder = prepared(mixed(tmp_path)).folder
    os.truncate(folder / "short.starts", 8)
    with pytest.raises(TrainingError, match=r"Expected [\d,]+ bytes in .*short\.starts, found 8: remove"):
        prepared(mixed(tmp_path))
    with pytest.raises(TrainingError, match=r"Expected [\d,]+ bytes in .*short\.starts, found 8: remove"):
        Streams.at(folder)
    with pytest.raises(TrainingError, match="prepare it first"):
        Streams.at(tmp_path)


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_a_source_without_text_is_refused_by_name(tmp_path: Path, texts: list[str]) -> None:
    sources = (
        DataSource(source=jsonl(tmp_path / "full.jsonl", ["text"])),
        DataSource(source=jsonl(tmp_path / "empty.jsonl", texts)),
    )
    with pytest.raises(TrainingError, match=rf"found none in {len(texts)} texts: name another source") as refused:
        prepared(recipe(tmp_path, *sources))
    assert "empty.jsonl" in str(refused.value)


def test_tokens_that_the_model_does_not_know_are_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path / "model", vocabulary=ord("z"))
    asked = recipe(tmp_path, DataSource(source=jsonl(tmp_path / "t.jsonl", ["abc", "xyz"])))
    with pytest.raises(TrainingError, match=rf"below the model's {ord('z')}, found token {ord('z')} in .*t\.jsonl"):
        prepared(asked)
    assert ord("z") < VOCABULARY


def test_a_source_that_cannot_be_read_is_told_as_by_an_evaluation(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="Expected documents at"):
        prepared(recipe(tmp_path, DataSource(source=str(tmp_path / "nowhere"))))


def test_a_source_that_lost_texts_is_not_gone_on_with(tmp_path: Path) -> None:
    made = recipe(tmp_path, DataSource(source=jsonl(tmp_path / "t.jsonl", words("a", 100))))

    def told(done: int, wanted: int) -> None:
        if done > wanted / 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        prepared(made, told=told, save_every=0)
    jsonl(tmp_path / "t.jsonl", ["only one"])
    with pytest.raises(TrainingError, match=r"texts or more in .*t\.jsonl, as when it was first read, found 1"):
        prepared(made)


def test_of_a_streamed_dataset_the_split_for_training_is_read_unless_another_is_named(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    folder = tmp_path / "books"  # as ``datasets`` takes it in place of a name on the hub
    folder.mkdir()
    for split in ("train", "test"):
        table = pyarrow.table({"text": [f"to {split} with"], "title": [f"title of {split}"]})
        parquet.write_table(table, folder / f"{split}.parquet")
    for number, (ending, text) in enumerate(
        [
            ("", "to train with"),
            (":test", "to test with"),
            ("#title", "title of train"),
            (":test#title", "title of test"),
        ]
    ):
        made = recipe(tmp_path, DataSource(source=f"hub:{folder}{ending}"), out=str(number))
        assert documents_in(prepared(made).long)[0] == tokens_of(text)


def test_made_up_text_fills_rows_of_any_length(tmp_path: Path) -> None:
    streams = prepared(recipe(tmp_path, DataSource(source="synthetic:3"), stages=(Stage(length=1024, steps=1),)))
    assert streams.portions[0].passes == 1
    assert streams.long.lengths()[0] >= 1024


def test_streams_are_sent_to_workers_by_the_name_of_their_folder(tmp_path: Path) -> None:
    streams = prepared(mixed(tmp_path))
    sent = pickle.dumps(streams)
    assert len(sent) < 1_000
    again = pickle.loads(sent)
    assert documents_in(again.short) == documents_in(streams.short)
    assert not again.long.tokens.flags.writeable
    assert json.loads((streams.folder / "data.json").read_text())["sizes"]["long"]["tokens"] == len(again.long.tokens)


def test_a_text_longer_than_any_row_leaves_room_for_the_other_sources(tmp_path: Path) -> None:
    books = [DataSource(source=jsonl(tmp_path / f"{letter}.jsonl", [letter * 5000])) for letter in "abc"]
    made = recipe(tmp_path, *books, stages=(Stage(length=64, steps=6),), short_share=0.5)
    streams = prepared(made)
    for stream in (streams.long, streams.short):
        shares = [np.count_nonzero(stream.tokens == ord(letter)) / len(stream.tokens) for letter in "abc"]
        assert shares == pytest.approx([1 / 3] * 3, abs=64 / len(stream.tokens) + 0.01)
    assert max(map(len, documents_in(streams.long))) == 64


def test_preparing_goes_on_in_the_middle_of_a_text(tmp_path: Path) -> None:
    book = DataSource(source=jsonl(tmp_path / "book.jsonl", ["".join(chr(97 + turn % 26) for turn in range(1500))]))
    whole = recipe(tmp_path, book, stages=(Stage(length=64, steps=4),), short_share=0.25, out="whole")
    broken = recipe(tmp_path, book, stages=(Stage(length=64, steps=4),), short_share=0.25, out="broken")
    prepared(whole)
    for after in (3, 9):
        with pytest.raises(KeyboardInterrupt):
            prepared(broken, told=_interrupted_after(after), save_every=0.0)
    prepared(broken)
    assert files_in(broken.out / "data") == files_in(whole.out / "data")


def _interrupted_after(calls: int) -> Told:
    left = iter(range(calls))

    def told(done: int, wanted: int) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    return told
