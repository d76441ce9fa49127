"""``recipes/steps.sh``: what is done is passed over, and a run can be listed, interrupted and continued."""

import os
import subprocess
from pathlib import Path

import pytest

STEPS = Path(__file__).parents[2] / "recipes" / "steps.sh"
RECIPE = f"""#!/usr/bin/env bash
# Two files.
#
#   two.sh SOURCE OUT

source {STEPS}
recipe "source out" "$@"
step "$out/copy" "a second" cp "$source" "$out/copy"
step "$out/late" "a minute" late
"""
LATE = 'late() { sleep ${SECONDS_NEEDED:-0} && touch "$out/late"; }\n'


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    place = tmp_path / "two.sh"
    place.write_text(RECIPE.replace("step ", LATE + "step ", 1))
    (tmp_path / "text").write_text("something")
    return place


def run(recipe: Path, *words: str, needed: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", recipe, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=recipe.parent,
        env={"PATH": "/usr/bin:/bin", "SECONDS_NEEDED": str(needed)},
    )


def test_each_step_says_its_cost_and_runs_once(recipe: Path) -> None:
    first = run(recipe, "text", ".")
    assert first.returncode == 0, first.stderr
    assert "== ./copy: a second" in first.stdout
    assert (recipe.parent / "copy").read_text() == "something"
    (recipe.parent / "text").unlink()
    again = run(recipe, "text", ".")
    assert (again.returncode, again.stdout) == (0, "")


def test_a_list_says_what_there_is_to_do_and_does_nothing(recipe: Path) -> None:
    (recipe.parent / "copy").touch()
    listed = run(recipe, "text", ".", "--list", "--budget", "20s")
    assert [line.split() for line in listed.stdout.splitlines()] == [
        ["done", "./copy", "a", "second"],
        ["to", "do", "./late", "a", "minute"],
    ]
    assert not (recipe.parent / "late").exists()


def test_a_spent_budget_ends_the_run_and_the_next_one_goes_on(recipe: Path) -> None:
    ended = run(recipe, "text", ".", "--budget", "1s", needed=30)
    assert ended.returncode == 124
    assert "The budget of 1s is spent: the same command goes on from here." in ended.stderr
    assert (recipe.parent / "copy").exists()
    assert not (recipe.parent / "late").exists()
    assert run(recipe, "text", ".", "--budget", "20s").returncode == 0
    assert (recipe.parent / "late").exists()


def test_a_step_that_fails_ends_the_run_with_its_exit_code(recipe: Path) -> None:
    failed = run(recipe, "absent", ".", "--budget", "20s")
    assert failed.returncode == 1
    assert not (recipe.parent / "late").exists()


@pytest.mark.parametrize(
    "words", [(), ("text",), ("text", ".", "more"), ("text", ".", "--fast"), ("text", ".", "--budget")]
)
def test_other_words_get_the_head_of_the_recipe(recipe: Path, words: tuple[str, ...]) -> None:
    refused = run(recipe, *words)
    assert refused.returncode == 2
    assert refused.stderr.startswith("usage: ")
    assert "SOURCE OUT [--list] [--budget TIME]\n\nTwo files." in refused.stderr


@pytest.mark.parametrize(("name", "far"), [("smollm2_cpu", ""), ("smollm2_cpu", "32k"), ("smollm2_gpu", "always")])
def test_the_recipes_of_the_real_model_list_every_step_with_its_cost(name: str, far: str, tmp_path: Path) -> None:
    command = [STEPS.with_name(f"{name}.sh"), tmp_path / "out", "--list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"FAR": far})
    rows = [line.split(maxsplit=3) for line in listed.stdout.splitlines()]
    made = [Path(row[2]).relative_to(tmp_path / "out") for row in rows]
    assert [str(path) for path in made[:2]] == ["smollm2-135m-instruct", "texts"]
    assert [str(path) for path in made[2:]] == [
        *("first.json", "evolution.json", "longrope2.json", "tuned/model", "short.json", "eval/near_complete"),
        *(("untuned.json", "far.json", "eval/far_complete") if far else ()),
        "answer.json",
    ]
    assert all(row[:2] == ["to", "do"] and len(row) == 4 for row in rows), "each says what it costs"
    assert not (tmp_path / "out").exists(), "a list makes nothing"


@pytest.mark.parametrize("name", ["smollm2_cpu", "smollm2_gpu", "tiny"])
def test_a_recipe_without_its_tools_is_refused_before_any_work(name: str, tmp_path: Path) -> None:
    words = ["bash", STEPS.with_name(f"{name}.sh"), *(["model", "text"] if name == "tiny" else []), tmp_path / "out"]
    refused = subprocess.run(words, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"})
    assert refused.returncode == 2
    assert "Expected longrope on the PATH, found none" in refused.stderr
    assert not (tmp_path / "out").exists()
