"""Oracles: the round trip, the published JSON Schema checked by ``jsonschema``, and documents broken on purpose."""

import copy
import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from longrope_vllm import Factors, Origin, Tier, read_factors, write_factors
from longrope_vllm.errors import FactorsError
from longrope_vllm.factors_file import SCHEMA, document_from_factors, factors_from_document, json_schema

Document = dict[str, Any]

NUMBERS = st.floats(min_value=1e-6, max_value=1e6)
TEXTS = st.none() | st.text(min_size=1, max_size=20)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(-1e9, 1e9) | st.text(max_size=10),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)


@st.composite
def valid_factors(draw: st.DrawFn) -> Factors:
    pairs = draw(st.integers(1, 8))
    lengths = sorted(draw(st.lists(st.integers(1, 2**21), min_size=1, max_size=4, unique=True)))
    return Factors(
        rotary_dim=2 * pairs,
        base=draw(st.floats(min_value=1.5, max_value=1e9)),
        trained_window=draw(st.integers(1, 2**17)),
        tiers=tuple(
            Tier(
                max_length=length,
                factors=tuple(draw(st.lists(NUMBERS, min_size=pairs, max_size=pairs))),
                attention_factor=draw(NUMBERS),
                start_tokens=draw(st.integers(0, length)),
            )
            for length in lengths
        ),
        origin=Origin(
            method=draw(st.text(min_size=1, max_size=20)),
            model=draw(TEXTS),
            revision=draw(TEXTS),
            command=draw(TEXTS),
            note=draw(TEXTS),
            measurements=draw(st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=3)),
        ),
    )


SMALL = Factors(
    rotary_dim=4,
    base=10_000.0,
    trained_window=4096,
    tiers=(
        Tier(max_length=4096, factors=(1.0, 1.0)),
        Tier(max_length=131072, factors=(1.5, 32.0), attention_factor=1.190238, start_tokens=4),
    ),
    origin=Origin(method="search", model="some/model", measurements={"perplexity": 6.17}),
)


@pytest.fixture
def document() -> Document:
    return copy.deepcopy(document_from_factors(SMALL))


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "factors.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refusal(path: Path) -> str:
    """The sentence with which ``path`` is refused; anything but one line of ``FactorsError`` fails the test."""
    with pytest.raises(FactorsError) as caught:
        read_factors(path)
    message = str(caught.value)
    assert message.startswith("Expected")
    assert "\n" not in message
    assert str(path) in message
    assert len(message) < 500 + len(str(path))
    return message


@given(factors=valid_factors())
def test_what_is_written_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, factors: Factors) -> None:
    path = tmp_path_factory.mktemp("round") / "factors.json"
    write_factors(path, factors)
    assert read_factors(path) == factors


@given(factors=valid_factors())
def test_what_is_written_validates_against_the_published_schema(factors: Factors) -> None:
    Draft202012Validator(json_schema()).validate(json.loads(json.dumps(document_from_factors(factors))))


def test_the_published_schema_is_itself_valid() -> None:
    Draft202012Validator.check_schema(json_schema())
    assert json_schema()["properties"]["schema"]["const"] == SCHEMA


def test_the_file_has_one_value_a_line_and_ends_with_a_newline(tmp_path: Path) -> None:
    write_factors(tmp_path / "factors.json", SMALL)
    lines = (tmp_path / "factors.json").read_text().splitlines()
    assert lines[1] == '  "schema": "longrope-factors/1",'
    assert "        1.5," in lines
    assert "        32.0" in lines
    assert all(line.count(":") <= 1 for line in lines if "http" not in line)
    assert (tmp_path / "factors.json").read_text().endswith("}\n")


def test_defaults_need_not_be_stated(document: Document) -> None:
    for tier in document["tiers"]:
        tier.pop("attention_factor")
        tier.pop("start_tokens")
    tiers = factors_from_document(document).tiers
    assert [(tier.attention_factor, tier.start_tokens) for tier in tiers] == [(1.0, 0), (1.0, 0)]


def test_whole_numbers_written_with_a_point_are_whole_numbers(document: Document) -> None:
    document["geometry"] |= {"rotary_dim": 4.0, "base": 10000, "trained_window": 4096.0}
    document["tiers"][0]["max_length"] = 4096.0
    factors = factors_from_document(document)
    assert factors == SMALL
    assert isinstance(factors.rotary_dim, int)
    assert isinstance(factors.tiers[0].max_length, int)
    assert isinstance(factors.base, float)


BREAKS: list[tuple[list[str | int], Any, str]] = [
    (["schema"], "longrope-factors/2", "longrope-factors/2"),
    (["schema"], None, "schema"),
    (["schema"], "x" * 100_000, "schema"),
    (["geometry"], [], "geometry"),
    (["geometry", "rotary_dim"], 5, "rotary_dim"),
    (["geometry", "rotary_dim"], 8, "4 factors"),
    (["geometry", "rotary_dim"], 0, "rotary_dim"),
    (["geometry", "rotary_dim"], True, "rotary_dim"),
    (["geometry", "base"], 1, "base"),
    (["geometry", "base"], "10000", "base"),
    (["geometry", "base"], False, "base"),
    (["geometry", "trained_window"], 0, "trained_window"),
    (["geometry", "trained_window"], 4096.5, "trained_window"),
    (["origin", "method"], "", "method"),
    (["origin", "model"], 7, "model"),
    (["origin", "measurements"], [], "measurements"),
    (["tiers"], [], "tiers"),
    (["tiers"], {}, "tiers"),
    (["tiers"], "x" * 100_000, "tiers"),
    (["tiers", 0], None, "tiers[0]"),
    (["tiers", 0, "max_length"], True, "max_length"),
    (["tiers", 0, "max_length"], -4096, "max_length"),
    (["tiers", 0, "max_length"], 262144, "131072 after 262144"),
    (["tiers", 1, "max_length"], 4096, "4096 after 4096"),
    (["tiers", 1, "attention_factor"], 0, "attention_factor"),
    (["tiers", 1, "attention_factor"], None, "attention_factor"),
    (["tiers", 1, "start_tokens"], -1, "start_tokens"),
    (["tiers", 1, "start_tokens"], 131073, "start_tokens"),
    (["tiers", 1, "factors"], [], "factors"),
    (["tiers", 1, "factors"], [1.0], "found 1"),
    (["tiers", 1, "factors"], [1.0, 2.0, 3.0], "found 3"),
    (["tiers", 1, "factors"], [1.0, 0.0], "factor 1"),
    (["tiers", 1, "factors"], [-1.0, 1.0], "factor 0"),
    (["tiers", 1, "factors"], [True, 1.0], "factors[0]"),
    (["tiers", 1, "factors"], ["1.0", 1.0], "factors[0]"),
    (["tiers", 1, "factors"], [math.nan, 1.0], "NaN"),
    (["tiers", 1, "factors"], [math.inf, 1.0], "Infinity"),
    (["tiers", 1, "factors"], [10**400, 1.0], "64 bits"),
    (["geometry", "base"], 10**400, "64 bits"),
]


@pytest.mark.parametrize(("place", "value", "named"), BREAKS)
def test_a_broken_value_is_refused_in_one_line_that_names_it(
    tmp_path: Path, document: Document, place: list[Any], value: Any, named: str
) -> None:
    inner: Any = document
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    assert named in refusal(written(tmp_path, json.dumps(document)))


@pytest.mark.parametrize(
    "place",
    [
        ["schema"],
        ["geometry"],
        ["origin"],
        ["tiers"],
        ["geometry", "base"],
        ["geometry", "rotary_dim"],
        ["geometry", "trained_window"],
        ["origin", "method"],
        ["tiers", 0, "max_length"],
        ["tiers", 0, "factors"],
    ],
)
def test_a_missing_key_is_refused_by_name(tmp_path: Path, document: Document, place: list[Any]) -> None:
    inner: Any = document
    for step in place[:-1]:
        inner = inner[step]
    del inner[place[-1]]
    assert place[-1] in refusal(written(tmp_path, json.dumps(document)))


@pytest.mark.parametrize("place", [[], ["geometry"], ["origin"], ["tiers", 1]])
def test_an_extra_key_is_refused_by_name(tmp_path: Path, document: Document, place: list[Any]) -> None:
    inner: Any = document
    for step in place:
        inner = inner[step]
    inner["short_mscale"] = 1.0
    assert "short_mscale" in refusal(written(tmp_path, json.dumps(document)))


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity", "-Infinity", "9" * 5000])
@pytest.mark.parametrize("place", ['"base": 10000.0', "32.0", "6.17"])
def test_numbers_that_no_float_holds_are_refused_anywhere(tmp_path: Path, number: str, place: str) -> None:
    text = json.dumps(document_from_factors(SMALL))
    assert text.count(place) == 1
    broken = text.replace(place, f"{place.rpartition(' ')[0]} {number}")
    assert number[:8] in refusal(written(tmp_path, broken))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"null", b"[]", b"3", b'"text"', b"[" * 100_000, b'{"schema":' * 100_000]
)
def test_a_file_that_is_no_factors_document_is_one_line(tmp_path: Path, content: bytes) -> None:
    refusal(written(tmp_path, content))


def test_a_missing_file_and_a_folder_are_one_line(tmp_path: Path) -> None:
    assert "check the path" in refusal(tmp_path / "nowhere.json")
    refusal(tmp_path)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a document, itself included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, child in inner for found in places(child, (*path, key)))]


@given(data=st.data())
def test_a_mutated_document_is_read_or_refused_and_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    document = copy.deepcopy(document_from_factors(SMALL))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from([path for path in places(document) if path]))
        inner: Any = document
        for step in place[:-1]:
            inner = inner[step]
        inner[place[-1]] = data.draw(JUNK)
    path = written(tmp_path_factory.mktemp("mutated"), json.dumps(document))
    try:
        factors = read_factors(path)
    except FactorsError:
        refusal(path)
    else:
        Draft202012Validator(json_schema()).validate(document_from_factors(factors))


@given(junk=st.binary(max_size=200), at=st.integers(0, 300))
def test_mutated_bytes_are_read_or_refused_and_never_crash(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, at: int
) -> None:
    text = json.dumps(document_from_factors(SMALL)).encode()
    path = written(tmp_path_factory.mktemp("bytes"), text[:at] + junk + text[at + len(junk) :])
    try:
        read_factors(path)
    except FactorsError:
        refusal(path)
    else:
        Draft202012Validator(json_schema()).validate(json.loads(path.read_text()))


@pytest.mark.parametrize("bad", [math.nan, math.inf, {1, 2}])
def test_measurements_that_json_cannot_hold_are_refused_and_nothing_is_written(tmp_path: Path, bad: Any) -> None:
    origin = Origin(method="search", measurements={"perplexity": bad})
    factors = Factors(rotary_dim=4, base=1e4, trained_window=4096, tiers=SMALL.tiers, origin=origin)
    with pytest.raises(FactorsError, match="measurements"):
        write_factors(tmp_path / "factors.json", factors)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_factors(tmp_path / "nowhere" / "factors.json", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    path = tmp_path / "factors.json"
    path.write_text("old")
    with full_disk(64), pytest.raises(OSError, match="File too large"):
        write_factors(path, SMALL)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_schema_is_readable_as_a_resource_of_the_package() -> None:
    from importlib.resources import files

    assert json.loads(files("longrope_vllm").joinpath("factors.schema.json").read_text()) == json_schema()


def test_the_example_in_the_documentation_is_a_valid_file() -> None:
    page = (Path(__file__).parents[2] / "docs" / "factors.md").read_text()
    example = page.partition("```json\n")[2].partition("```")[0]
    assert factors_from_document(json.loads(example)).max_length == 32_768
