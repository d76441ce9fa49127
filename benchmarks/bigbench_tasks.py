"""Short benchmarks without a model hub: multiple-choice tasks of BIG-bench, from its PyPI package, as tasks of lm-eval.

    python benchmarks/bigbench_tasks.py --out TASKS social_iqa strategyqa winowhy
    longrope eval MODEL --methods none,yarn --lengths 16k --tasks short --include-path TASKS \
        --benchmarks bigbench_social_iqa,bigbench_strategyqa,bigbench_winowhy --out FOLDER

The package (bigbench 1.0.0, a source archive of 358 MB, Apache-2.0) is downloaded with pip, or named with
``--archive``; only the files of the named tasks are unpacked. Questions keep BIG-bench's wording (arXiv 2206.04615);
those with several best choices are left out. The data asks not to be trained on, so it is not kept in this repository.
"""

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

PACKAGE = "bigbench==1.0.0"
TASK = """task: bigbench_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""


def download(folder: Path) -> Path:
    """The source archive, in ``folder``."""
    options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, PACKAGE], check=True)
    (archive,) = folder.glob("bigbench-*.tar.gz")
    return archive


def task_files(archive: Path, names: list[str]) -> dict[str, Any]:
    """The ``task.json`` of each of ``names``."""
    wanted = {f"bigbench/benchmark_tasks/{name}/task.json": name for name in names}
    found: dict[str, Any] = {}
    with tarfile.open(archive) as packed:
        for member in packed:
            name = wanted.get(member.name.partition("/")[2])
            if name is not None and (content := packed.extractfile(member)) is not None:
                found[name] = json.load(content)
            if len(found) == len(names):
                break
    missing = [name for name in names if name not in found]
    if missing:
        raise SystemExit(f"Expected multiple-choice tasks of {PACKAGE}, found none called {', '.join(missing)}.")
    return found


def questions(task: Any) -> list[dict[str, Any]]:
    """Questions with one best choice, in BIG-bench's wording."""
    before, after = task.get("example_input_prefix", "\nQ: "), task.get("example_output_prefix", "\nA: ")
    found = []
    for example in task["examples"]:
        scores = example["target_scores"]
        best = [choice for choice, score in scores.items() if score == max(scores.values())]
        if len(best) == 1:
            text = (task.get("task_prefix", "") + before + example["input"] + after).strip()
            found.append({"question": text, "choices": list(scores), "gold": list(scores).index(best[0])})
    return found


def main() -> None:
    """Write the task files and their questions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", help="names of BIG-bench, such as social_iqa")
    parser.add_argument("--out", type=Path, required=True, help="folder for --include-path")
    parser.add_argument("--archive", type=Path, help="bigbench-1.0.0.tar.gz, where it is on disk")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        tasks = task_files(asked.archive or download(Path(scratch)), asked.tasks)
    for name, task in tasks.items():
        rows = questions(task)
        data = asked.out / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (asked.out / f"bigbench_{name}.yaml").write_text(TASK.format(name=name, data=data.resolve()))
        print(f"bigbench_{name}: {len(rows)} questions")


if __name__ == "__main__":
    main()
