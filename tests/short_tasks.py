"""Tasks for lm-eval in local files: choices, written answers, and choices with examples drawn at random."""

import json
import random
from pathlib import Path

CHOICE, WRITE, FEWSHOT = "tiny_choice", "tiny_write", "tiny_fewshot"

_DATA = """
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}, train: {data}}}
  cache_dir: {cache}
test_split: test
doc_to_text: "{{{{question}}}}"
metadata: {{version: 1}}
"""

_CHOICES = """
output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""

_WRITTEN = """
output_type: generate_until
doc_to_target: "{{gold}}"
generation_kwargs: {until: ["~"], max_gen_toks: 24, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


def write_tasks(folder: Path) -> Path:
    """Write the three tasks and their documents under ``folder``; the folder of the task files."""
    draw = random.Random(0)
    choices = [
        {
            "question": f"Question {number}: {_letters(draw, 20 if number != 1 else 60)}?",
            "choices": [_letters(draw, draw.randint(1, 6)) for _ in range(4)],
            "gold": draw.randrange(4),
        }
        for number in range(12)
    ]
    written = [
        {"question": _letters(draw, 12 if number != 1 else 60), "gold": _letters(draw, 3)} for number in range(6)
    ]
    tasks = folder / "tasks"
    tasks.mkdir()
    _write(tasks, CHOICE, choices, _CHOICES)
    _write(tasks, WRITE, written, _WRITTEN)
    _write(tasks, FEWSHOT, choices, _CHOICES + "num_fewshot: 2\nfewshot_split: train\n")
    return tasks


def write_task(tasks: Path, name: str, text: str) -> None:
    """Write the task file ``name`` with ``text``."""
    (tasks / f"{name}.yaml").write_text(f"task: {name}\n{text}")


def _write(tasks: Path, name: str, documents: list[dict[str, object]], text: str) -> None:
    data = tasks.parent / f"{name}.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    write_task(tasks, name, _DATA.format(data=data, cache=tasks.parent / "cache") + text)


def _letters(draw: random.Random, count: int) -> str:
    return "".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(count))
