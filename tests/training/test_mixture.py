"""Oracle: the texts and the weights that were given; counts and shares are taken from the files alone."""

import math
from pathlib import Path

import numpy as np
import pytest
from made_text import WINDOW, documents_in, jsonl, prepared, recipe, tokens_of, words

from longrope_training.recipe import DataSource, Stage
from longrope_vllm.errors import TrainingError

LONGEST = 62
"""Tokens of the longest document that ``words`` makes."""

MANY = (Stage(length=256, steps=8),)


def shares(tokens: np.ndarray, letters: str) -> list[float]:
    """Of the tokens that are one of ``letters``, the share of each."""
    counts = [int((tokens == ord(letter)).sum()) for letter in letters]
    return [count / sum(counts) for count in counts]


@pytest.mark.parametrize("short_share", [0.0, 0.5])
def test_every_stream_has_its_sources_by_weight_to_within_a_document(tmp_path: Path, short_share: float) -> None:
    sources = [
        DataSource(source=jsonl(tmp_path / f"{letter}.jsonl", words(letter, 500)), weight=weight)
        for letter, weight in zip("abc", (1, 2, 5), strict=True)
    ]
    streams = prepared(recipe(tmp_path, *sources, stages=MANY, short_share=short_share))
    for stream in (streams.long, streams.short) if short_share else (streams.long,):
        lengths = stream.lengths()
        found = [int(lengths[stream.origins[:, 0] == source].sum()) for source in range(3)]
        for source, weight in enumerate((1, 2, 5)):
            assert abs(found[source] - weight / 8 * len(stream.tokens)) <= 2 * LONGEST
        # not only in the end: the same holds of the first half
        half = len(lengths) // 2
        found = [int(lengths[:half][stream.origins[:half, 0] == source].sum()) for source in range(3)]
        for source, weight in enumerate((1, 2, 5)):
            assert abs(found[source] - weight / 8 * sum(found)) <= 2 * LONGEST


def test_documents_of_one_length_do_not_sort_sources_by_stream(tmp_path: Path) -> None:
    sources = [DataSource(source=jsonl(tmp_path / f"{letter}.jsonl", [letter * 20] * 400)) for letter in "ab"]
    streams = prepared(recipe(tmp_path, *sources, stages=MANY, short_share=0.5))
    for stream in (streams.long, streams.short):
        assert shares(stream.tokens, "ab") == pytest.approx([0.5, 0.5], abs=0.01)


def test_sources_for_one_kind_of_rows_stay_out_of_the_other(tmp_path: Path) -> None:
    sources = [
        DataSource(source=jsonl(tmp_path / "a.jsonl", words("a", 500)), rows="long"),
        DataSource(source=jsonl(tmp_path / "b.jsonl", words("b", 500)), rows="short"),
    ]
    streams = prepared(recipe(tmp_path, *sources, stages=MANY, short_share=0.3))
    assert shares(streams.long.tokens, "ab") == [1, 0]
    assert shares(streams.short.tokens, "ab") == [0, 1]


def test_long_documents_come_into_long_rows_as_many_times_likelier_as_was_asked(tmp_path: Path) -> None:
    texts = [letter * size for _ in range(400) for letter, size in (("s", 10), ("s", 12), ("s", 14), ("l", 50))]
    source = jsonl(tmp_path / "texts.jsonl", texts)
    streams = prepared(recipe(tmp_path, DataSource(source=source, upsample=4, upsample_from=40), stages=MANY))
    long = sum(len(document) >= 40 for document in documents_in(streams.long))
    short = len(streams.long.starts) - long
    # one in four is long, short ones are taken once in four: 1 to 3/4; four standard deviations of a binomial draw
    share, expected = long / (long + short), 1 / (1 + 3 / 4)
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / (long + short))


def test_upsampling_keeps_the_mixture_of_sources_in_both_streams(tmp_path: Path) -> None:
    rare = [letter * size for letter, size in [("a", 10)] * 60 + [("a", 50)]]
    sources = [
        DataSource(source=jsonl(tmp_path / "a.jsonl", rare), upsample=50, upsample_from=40),
        DataSource(source=jsonl(tmp_path / "b.jsonl", words("b", 500))),
    ]
    streams = prepared(recipe(tmp_path, *sources, stages=MANY, short_share=0.5))
    for stream in (streams.long, streams.short):
        assert shares(stream.tokens, "ab") == pytest.approx([0.5, 0.5], abs=3 * LONGEST / len(stream.tokens))


def test_documents_that_are_not_upsampled_are_offered_to_short_rows(tmp_path: Path) -> None:
    texts = ["s" * 10, "l" * 50] * 200
    asked = DataSource(source=jsonl(tmp_path / "texts.jsonl", texts), upsample=1e9, upsample_from=40)
    streams = prepared(recipe(tmp_path, asked, short_share=0.5))
    assert all(document == tokens_of("l" * 50) for document in documents_in(streams.long)[:-1])
    assert tokens_of("s" * 10) in documents_in(streams.short)


def test_upsampling_without_a_long_document_is_refused_and_does_not_go_on_for_ever(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "texts.jsonl", ["short"] * 10)
    with pytest.raises(TrainingError, match=r"Expected documents of 100 tokens or more in .*texts\.jsonl, found none"):
        prepared(recipe(tmp_path, DataSource(source=source, upsample=1e12, upsample_from=100)))


def test_rows_that_no_source_is_for_are_refused(tmp_path: Path) -> None:
    source = DataSource(source=jsonl(tmp_path / "a.jsonl", ["text"]), rows="long")
    with pytest.raises(TrainingError, match="Expected a source of text for short rows, found none"):
        prepared(recipe(tmp_path, source, short_share=0.5))


def test_short_documents_are_pieces_of_at_most_the_trained_window(tmp_path: Path) -> None:
    text = "".join(chr(ord("a") + number % 26) for number in range(2 * WINDOW - 1))  # 2 windows and 1 token
    streams = prepared(recipe(tmp_path, DataSource(source=jsonl(tmp_path / "a.jsonl", [text] * 99)), short_share=0.5))
    whole = tokens_of(text)
    pieces = documents_in(streams.short)
    assert pieces[:4] == [whole[:WINDOW], whole[WINDOW : 2 * WINDOW]] * 2  # the single token is left out
    assert documents_in(streams.long)[0] == whole
