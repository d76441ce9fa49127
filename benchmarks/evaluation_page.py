"""A results page from a folder of ``longrope eval``: its report, its figures, and where both back ends agree.

    longrope eval MODEL --methods none,pi,ntk,dynamic-ntk,yarn ... --out FOLDER
    longrope eval URL --label "yarn, served" ... --out FOLDER
    python benchmarks/evaluation_page.py FOLDER --pair yarn "yarn, served" \
        --out benchmarks/results/evaluation_cpu_DATE.md

The page is ``report.md`` of the folder with the figures of losses, and a table that compares two methods sample by
sample: the same factors in process and through a server.
"""

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path

from longrope_vllm.evaluation.records import Journal, Record
from longrope_vllm.lengths import format_length

FIGURES = ("perplexity", "loss_by_position")


def pairs(journal: Journal, one: str, other: str) -> Iterator[tuple[Record, Record]]:
    """Records of the same sample under both methods."""
    for key, record in journal.records.items():
        twin = key._replace(method=other)
        if key.method == one and twin in journal:
            yield record, journal.records[twin]


def agreement(journal: Journal, one: str, other: str) -> list[str]:
    """A table by task and length."""
    found = list(pairs(journal, one, other))
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
    return lines


def main() -> None:
    """Write the page and copy its figures beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pair", nargs=2, metavar=("METHOD", "METHOD"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    journal = Journal.open(asked.folder / "records.jsonl")
    images = []
    for figure in FIGURES:
        image = asked.out.with_name(f"{asked.out.stem}_{figure}.png")
        shutil.copyfile(asked.folder / "figures" / f"{figure}.png", image)
        images += [f"![{figure.replace('_', ' ')}]({image.name})", ""]
    report = (asked.folder / "report.md").read_text()
    findings, heading, rest = report.partition("\n## ")
    measured, last, how = rest.rpartition("\n## ")
    table = "\n".join(agreement(journal, *asked.pair))
    asked.out.write_text(f"{findings}\n{chr(10).join(images)}{heading}{measured}\n{table}\n{last}{how}")


if __name__ == "__main__":
    main()
