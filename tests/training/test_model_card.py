"""Results of an evaluation in the card of a tuned checkpoint."""

from pathlib import Path

import pytest

from longrope_vllm.cli.main import main
from longrope_vllm.errors import EXIT_CODE

CARD = "# tuned, up to 16k tokens\n\n## Data\n\nbooks\n\n## Evaluation\n\nNot evaluated yet.\n"


def put(model: Path, report: Path) -> int:
    return main(["train", "card", str(model), "--eval", str(report)])


def folder_of(path: Path, name: str, text: str | None) -> Path:
    path.mkdir()
    if text is not None:
        (path / name).write_text(text)
    return path


def test_the_last_evaluation_stands_below_what_the_card_said_before(tmp_path: Path) -> None:
    model = folder_of(tmp_path / "model", "README.md", CARD)
    for number in (1, 2):
        report = f"# Results {number}\n\n## Table\n"
        assert put(model, folder_of(tmp_path / f"results{number}", "report.md", report)) == 0
    assert (model / "README.md").read_text() == CARD.replace("Not evaluated yet.", "## Results 2\n\n### Table")


@pytest.mark.parametrize(
    ("card", "report", "said"),
    [
        (None, "# Results\n", "Expected a model card with a section on evaluation, found none at"),
        ("# of somebody else\n", "# Results\n", "Expected a model card with a section on evaluation, found none at"),
        (CARD, None, "Expected the results of longrope eval, found no report.md in"),
    ],
)
def test_without_a_card_or_a_report_nothing_is_changed(
    card: str | None, report: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = folder_of(tmp_path / "model", "README.md", card)
    assert put(model, folder_of(tmp_path / "results", "report.md", report)) == EXIT_CODE
    assert said in capsys.readouterr().err
    assert [path.read_text() for path in model.iterdir()] == ([] if card is None else [card])
