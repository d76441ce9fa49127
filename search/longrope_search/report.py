from collections.abc import Sequence
from pathlib import Path

from longrope_search.result import Found
from longrope_search.search import Plan


def write_report(path: Path, plan: Plan, found: Sequence[Found], *, command: str) -> None:
    path.write_text("")
