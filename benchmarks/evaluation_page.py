"""A results page from a folder of ``longrope eval``: its report, its figures, and where both back ends agree.

    longrope eval MODEL --methods none,pi,ntk,dynamic-ntk,yarn ... --out FOLDER
    longrope eval URL --label served ... --out SERVED
    python benchmarks/evaluation_page.py FOLDER --served SERVED --pair yarn served \
        --server "longrope serve MODEL --tiers 16k:yarn" --out benchmarks/results/evaluation_cpu_DATE.md

The page is ``report.md`` of the folder with the figures of losses, and a table that compares two methods sample by
sample: the same factors in process and through a server.
"""

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path

from longrope_vllm.evaluation.records import Journal, Record
from longrope_vllm.evaluation.settings import read_settings
from longrope_vllm.lengths import format_length

FIGURES = ("perplexity", "loss_by_position")


def pairs(folder: Path, served: Path, one: str, other: str) -> Iterator[tuple[Record, Record]]:
    """Records of the same sample, of method ``one`` in ``folder`` and of ``other`` in ``served``."""
    twins = Journal.open(served / "records.jsonl").records
    for key, record in Journal.open(folder / "records.jsonl").records.items():
        twin = twins.get(key._replace(method=other))
        if key.method == one and twin is not None:
            yield record, twin


def agreement(folder: Path, served: Path, one: str, other: str, *, server: str) -> list[str]:
    """A table by task and length, and the commands behind it."""
    found = list(pairs(folder, served, one, other))
    settings = read_settings(served)
    assert settings is not None, f"{served} is no folder of results"
    lines = [
        "## Both back ends",
        "",
        f"“{one}” in process against “{other}”: the largest difference of the mean loss of a document in nats, and "
        "of the questions those with the same score and with the same answer, token for token. Two engines in bfloat16 "
        "round differently, so that where two tokens are nearly equal the answers may part.",
        "",
        "| task | tokens | samples | largest difference of a loss | same score | same answer |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for task in dict.fromkeys(record.key.task for record, _ in found):
        for length in sorted({record.key.length for record, _ in found if record.key.task == task}):
            cell = [(a, b) for a, b in found if (a.key.task, a.key.length) == (task, length)]
            if task == "ppl":
                figures = [f"{max(abs(a.values['loss'] - b.values['loss']) for a, b in cell):.4f}", "–", "–"]
            else:
                same = sum(a.values["score"] == b.values["score"] for a, b in cell)
                figures = [
                    "–",
                    f"{same} of {len(cell)}",
                    f"{sum(a.answer == b.answer for a, b in cell)} of {len(cell)}",
                ]
            lines.append("| " + " | ".join([task, format_length(length), str(len(cell)), *figures]) + " |")
    return [*lines, "", f"{other}: {settings.methods[other]}", "", "```", server, *settings.commands, "```"]


def main() -> None:
    """Write the page and copy its figures beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--served", type=Path, required=True)
    parser.add_argument("--server", metavar="COMMAND", required=True, help="the command that started the server")
    parser.add_argument("--pair", nargs=2, metavar=("METHOD", "METHOD"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    images = []
    for figure in FIGURES:
        image = asked.out.with_name(f"{asked.out.stem}_{figure}.png")
        shutil.copyfile(asked.folder / "figures" / f"{figure}.png", image)
        images += [f"![{figure.replace('_', ' ')}]({image.name})", ""]
    report = (asked.folder / "report.md").read_text()
    findings, heading, rest = report.partition("\n## ")
    measured, last, how = rest.rpartition("\n## ")
    table = "\n".join(agreement(asked.folder, asked.served, *asked.pair, server=asked.server))
    asked.out.write_text(f"{findings}\n{chr(10).join(images)}{heading}{measured}\n{table}\n{last}{how}")


if __name__ == "__main__":
    main()
