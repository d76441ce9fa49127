"""The page is whole, needs nothing else, and shows what it is given as text."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from html_page import Page
from longrope_vllm.evaluation.records import Key, Record
from longrope_vllm.evaluation.report import About, Document, markdown, write_report
from made_records import WINDOW, made_records

HOSTILE = "<script>alert('x')</script>|`$\\frac$`"


def about(**changed: object) -> About:
    """What a run of made-up records was."""
    stated: dict[str, object] = {
        "title": "Five factor sets",
        "model": "tiny",
        "trained_window": WINDOW,
        "commands": ("longrope eval tiny",),
        "versions": {"torch": "2.13.0"},
        "documents": (Document(name="a.txt", kind="prose", tokens=32768, sha256="ab" * 32),),
        "settings": (("dtype", "bfloat16"),),
        "created": "24 November 2026",
        "planned": 10,
    }
    return About(**{**stated, **changed})  # type: ignore[arg-type]


def answered(method: str, sample: str, answer: str, *, task: str = "passkey") -> Record:
    """A wrong answer at 8k."""
    return Record(
        key=Key(task, method, 8192, task, sample), values={"score": 0.0, "depth": 0.5}, expected="42", answer=answer
    )


def loss(method: str, length: int, value: float) -> Record:
    """A document's loss."""
    return Record(key=Key("ppl", method, length, "prose", "1"), values={"loss": value, "tokens": length - 1.0})


def keyless(method: str, sample: str) -> Record:
    """A document in which LongPPL found no key token."""
    return Record(key=Key("longppl", method, 8192, "prose", sample), values={"loss": 0.0, "tokens": 0.0})


def figures(folder: Path) -> set[str]:
    """Names of the figures that were written."""
    return {path.stem for path in (folder / "figures").iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a whole evaluation."""
    records = made_records()
    return write_report(tmp_path_factory.mktemp("whole"), records, about(planned=len(records)))


def test_the_page_is_well_formed_and_needs_nothing_else(whole: Path) -> None:
    content = whole.read_text()
    page = Page(content)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"https?://|url\(|@import", re.sub(r"base64,[\w+/=]+", "", content))


def test_a_whole_evaluation_has_every_figure_once_in_the_page(whole: Path) -> None:
    names = {"perplexity", "loss_by_position", "longppl", "passkey", "needle", "needle_map", "ruler", "short"}
    assert figures(whole.parent) == names
    assert len(Page(whole.read_text()).sources) == len(names)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (whole.parent / "figures").iterdir())


def test_the_page_begins_with_the_best_method_at_the_longest_length(whole: Path) -> None:
    text = Page(whole.read_text()).text
    assert "Perplexity. At 32k tokens “longrope2-32k.json” has the lowest perplexity" in text
    assert "it beats “none”, “pi”, “dynamic-ntk” and “yarn” beyond the 95\xa0% interval" in text.replace(" %", "\xa0%")
    assert "Not finished" not in text


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    records = [record for record in made_records() if record.key.task in ("ppl", "short")]
    pages = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        pages.append(write_report(tmp_path / name, records, about()).read_bytes())
    assert pages[0] == pages[1]


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([loss("none", 4096, 2.0)], {"perplexity"}),
        ([answered("none", "1", "7")], {"passkey"}),
        ([answered("none", "1", "7", task="needle")], {"needle", "needle_map"}),
        ([Record(key=Key("ruler", "none", 4096, "qa", "1"), values={"score": 0.5})], {"ruler"}),
        ([Record(key=Key("short", "own", 0, "arc", "1"), values={"acc": 1.0})], set()),
        ([keyless("none", "1")], set()),
        ([], set()),
    ],
)
def test_a_figure_is_there_only_if_its_task_is(records: list[Record], expected: set[str], tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, records, about()).read_text())
    assert figures(tmp_path) == expected
    assert len(page.sources) == len(expected)


def test_documents_without_key_tokens_are_left_out_and_told_where_there_are_no_others(tmp_path: Path) -> None:
    none = [keyless(method, sample) for method in ("none", "yarn") for sample in ("1", "2")]
    told = "LongPPL. No document has a token that needs its long context, so there is nothing to compare."
    text = Page(write_report(tmp_path, none, about()).read_text()).text
    assert told in text
    assert "1.00" not in text  # exp of a loss that is none
    assert told.removeprefix("LongPPL. ") in markdown(none, about())
    some = [replace(loss("none", 8192, 2.0), key=Key("longppl", "none", 8192, "prose", "3")), *none]
    text = Page(write_report(tmp_path, some, about()).read_text()).text
    assert "LongPPL. At 8k tokens “none” has the lowest perplexity, 7.39" in text
    assert told not in text


def test_a_method_that_lacks_samples_is_not_said_to_be_beaten_when_it_is_ahead(tmp_path: Path) -> None:
    samples = [(method, str(n), n) for method in ("none", "yarn") for n in range(4) if method == "none" or n < 3]
    records = [
        Record(
            key=Key("ppl", method, 8192, "prose", sample),
            values={"loss": 2.0 + 0.1 * n + (method == "none") * (1 + 0.01 * n), "tokens": 100.0},
        )
        for method, sample, n in samples
    ]
    text = Page(write_report(tmp_path, records, about()).read_text()).text
    assert "“none” has the lowest perplexity" in text
    assert "on the same documents it is behind “yarn”, of which samples are missing" in text
    assert "beats" not in text


def test_an_interrupted_run_says_so_and_shows_what_is_there(tmp_path: Path) -> None:
    records = [loss("none", 4096, 2.0), loss("none", 8192, 900.0), loss("yarn", 4096, 2.1)]
    text = Page(write_report(tmp_path, records, about()).read_text()).text
    assert "3 of 10 planned samples" in text
    assert "Not finished" in text
    assert "yarn 8.17 –" in text
    assert "none 7.39 ∞" in text
    assert "no other method has been measured there" in text


@pytest.mark.parametrize("render", ["html", "markdown"])
def test_names_and_answers_are_shown_as_text(render: str, tmp_path: Path) -> None:
    records = [loss(HOSTILE, 8192, 2.0), loss("other", 8192, 2.5), answered(HOSTILE, "1", HOSTILE + "\n\ud800")]
    hostile = about(
        title=HOSTILE,
        model=HOSTILE,
        commands=(HOSTILE + "```",),
        versions={HOSTILE: HOSTILE},
        settings=((HOSTILE, HOSTILE),),
        documents=(Document(name=HOSTILE, kind=HOSTILE, tokens=1, sha256="0"),),
        created=HOSTILE,
    )
    content = write_report(tmp_path, records, hostile).read_text() if render == "html" else markdown(records, hostile)
    if render == "html":
        page = Page(content)
        assert "script" not in page.tags
        assert page.text.count(HOSTILE) >= 12
    else:
        fence = "````\n" + HOSTILE + "```\n````"
        assert fence in content
        assert "<script" not in content.replace(fence, "")


def test_a_markdown_table_has_as_many_cells_in_each_row(tmp_path: Path) -> None:
    lines = markdown(made_records(), about()).splitlines()
    tables = "\n".join(line if line.startswith("|") else "" for line in lines).split("\n\n")
    found = [table.strip().splitlines() for table in tables if table.strip()]
    assert len(found) > 20
    for table in found:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert "| none | **8." in "\n".join(lines)


def test_markdown_has_the_numbers_of_the_page(whole: Path) -> None:
    records = made_records()
    text = Page(whole.read_text()).text
    cells = re.findall(r"([\d.]+)\*{0,2} \(([\d.]+ to [\d.]+)\)", markdown(records, about(planned=len(records))))
    assert len(cells) > 100
    assert all(f"{value} {interval}" in text for value, interval in cells)


def test_a_failed_write_leaves_the_page_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write_report(tmp_path, [loss("none", 4096, 2.0)], about())
    before = page.read_bytes()

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(tmp_path, [loss("none", 4096, 3.0)], about())
    assert page.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "figures"}


@pytest.mark.parametrize("count", [1, 10, 23])
def test_any_number_of_methods_has_a_figure(count: int, tmp_path: Path) -> None:
    spread: Callable[[int], float] = lambda place: 2.0 + 0.4 * place  # noqa: E731
    records = [
        loss(f"method {place}", length, spread(place)) for place in range(count) for length in (4096, 8192, 10000)
    ]
    write_report(tmp_path, records, about())
    assert figures(tmp_path) == {"perplexity"}
