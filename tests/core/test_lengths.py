"""Oracle: the spelling of windows in model names, where k is 1,024."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrope_vllm.errors import LongRopeError
from longrope_vllm.lengths import format_length, parse_length, parse_lengths


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("8192", 8192),
        ("8k", 8192),
        ("8K", 8192),
        (" 128 k ", 131072),
        ("1M", 1048576),
        ("2m", 2097152),
        ("10,000", 10000),
        ("1,048,576", 1048576),
        ("1", 1),
    ],
)
def test_lengths_are_read_as_people_write_them(text: str, tokens: int) -> None:
    assert parse_length(text) == tokens


@pytest.mark.parametrize(
    "text",
    [
        "",
        "k",
        "0",
        "0k",
        "-8k",
        "8.5k",
        "1,5k",
        "8,19",
        ",100",
        "8kb",
        "8g",
        "8 k k",
        "eight",
        "1e3",
        "٣",
        "8\nk8",
        "9" * 5000,
    ],
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(LongRopeError, match="such as 8192, 128k or 1M"):
        parse_length(text)


@pytest.mark.parametrize(
    ("tokens", "text"),
    [(8192, "8k"), (131072, "128k"), (1048576, "1M"), (1572864, "1536k"), (10000, "10,000"), (1, "1"), (0, "0")],
)
def test_lengths_are_written_in_the_shortest_exact_spelling(tokens: int, text: str) -> None:
    assert format_length(tokens) == text


@given(st.integers(1, 2**40))
def test_what_is_written_reads_back_equal(tokens: int) -> None:
    assert parse_length(format_length(tokens)) == tokens


@given(st.text(max_size=10))
def test_any_text_is_a_positive_length_or_refused(text: str) -> None:
    try:
        tokens = parse_length(text)
    except LongRopeError:
        return
    assert tokens > 0


def test_several_lengths_stand_between_commas() -> None:
    assert parse_lengths("8k, 4k,8192,") == (4096, 8192)
    assert parse_lengths("") == ()
    with pytest.raises(LongRopeError, match="found 'soon'"):
        parse_lengths("4k,soon")
