"""Oracle: the numbers of texts made for the purpose."""

from pathlib import Path

from made_text import jsonl, prepared, recipe
from rich.console import Console

from longrope_training.data import histogram
from longrope_training.recipe import DataSource, Stage


def printed(root: Path, **asked: object) -> str:
    """What is shown for texts of 16 and of 62 tokens in equal number."""
    source = DataSource(source=jsonl(root / "t.jsonl", ["a" * 14, "b" * 60] * 4))
    streams = prepared(recipe(root, source, **asked))
    console = Console(width=120, highlight=False)
    with console.capture() as captured:
        console.print(histogram.prepared(streams))
    return captured.get()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.replace("┃", "│").split("│")[1:-1]]


def test_the_table_says_what_each_source_gave(tmp_path: Path) -> None:
    said = printed(tmp_path, stages=(Stage(length=78, steps=4),), batch=2)  # 8 rows of two texts: two passes
    (line,) = [line for line in said.splitlines() if "│ long" in line]
    assert cells(line)[1:] == ["long", "16", "624", "100.0%", "2", "39", "62"]


def test_lengths_are_counted_by_powers_of_two(tmp_path: Path) -> None:
    said = printed(tmp_path, stages=(Stage(length=78, steps=4),), batch=2)
    rows = [cells(line) for line in said.partition("Documents for long rows")[2].splitlines() if "│" in line]
    assert [row[:3] for row in rows] == [["16", "8", f"{16 / 78:.1%}"], ["32", "8", f"{62 / 78:.1%}"]]
    assert [len(row[3]) for row in rows] == [round(40 * 16 / 62), 40]
    assert "Documents for short rows" not in said


def test_short_rows_have_a_table_of_their_own(tmp_path: Path) -> None:
    assert "Documents for short rows" in printed(tmp_path, short_share=0.5)
