"""``longrope eval`` from the command line to records and page: what is compared, and a folder that grows."""

import json
import shlex
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pytest

from eval_command import options, records
from longrope_vllm.cli.main import main
from longrope_vllm.evaluation.provenance import machine
from short_tasks import CHOICE, WRITE, write_tasks
from tiny_models import byte_tokenizer, stretched, tiny_llama


def test_several_sets_of_factors_are_compared_and_a_second_run_measures_only_what_is_new(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    first = ("--methods", "none,pi", "--factors", str(model.parent / "mine.json"), "--tasks", "ppl,passkey,needle")
    assert main(options(model, out, *first)) == 0
    before = records(out)
    assert {key[1] for key in before} == {"none", "pi", "mine"}
    assert len(before) == 3 * 2 * (2 + 2 + 2)
    page = (out / "report.html").read_text()
    assert "mine" in page
    assert {path.name for path in (out / "figures").iterdir()} >= {"perplexity.png", "loss_by_position.png"}
    capsys.readouterr()
    assert main(options(model, out, *first)) == 0
    assert "0 measurements to make" in capsys.readouterr().out
    more = ("--methods", "none", "--tiers", "stock=1k:ntk", "--long-for-all", "--tasks", "ppl")
    assert main(options(model, out, *more)) == 0
    after = records(out)
    assert {key: after[key] for key in before} == before
    assert {key[1] for key in after} == {"none", "pi", "mine", "stock", "stock, 1k for all"}


def test_a_folder_takes_more_lengths_and_samples_on_the_documents_it_has(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    tasks = ("--methods", "none,pi", "--tasks", "ppl,needle")
    assert main(options(model, out, *tasks, "--lengths", "512", "--document-tokens", "1k")) == 0
    first = records(out)
    assert main(options(model, out, *tasks, "--lengths", "1k", "--samples", "3", "--trials", "2")) == 0
    second = records(out)
    assert {key: second[key] for key in first} == first
    assert {key[2] for key in second} == {"512", "1024"}
    whole = tmp_path / "whole"
    assert main(options(model, whole, *tasks, "--lengths", "512,1k", "--samples", "3", "--trials", "2")) == 0
    assert {key: records(whole)[key] for key in second} == second
    capsys.readouterr()
    assert main(options(model, out, *tasks, "--lengths", "2k")) == 2
    assert "Expected lengths up to the 1,024 tokens of the documents" in capsys.readouterr().err


def test_a_model_that_gains_nothing_from_a_long_context_has_no_longppl(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    more = ("--methods", "yarn,pi", "--tasks", "longppl", "--lengths", "4160", "--samples", "1")
    assert main(options(model, out, *more)) == 0
    assert {values["tokens"] for values in records(out).values()} == {0.0}  # its weights are random
    said = capsys.readouterr().out
    assert "longppl: key tokens are chosen by yarn" in said
    assert said.count("no key token,") == 2
    assert "No document has a token that needs its long context" in (out / "report.md").read_text()


def test_a_folder_states_what_it_was_measured_with(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = options(model, out, "--methods", "pi", "--tasks", "ppl", "--lengths", "512")
    assert main(arguments) == 0
    stated = json.loads((out / "evaluation.json").read_text())
    for name in ("torch", "transformers", "longrope-vllm"):
        assert stated["versions"][name] == version(name)
    assert stated["machine"] == machine()
    assert date.fromisoformat(stated["created"]) <= date.today()
    assert [shlex.split(command) for command in stated["commands"]] == [["longrope", *arguments]]
    assert [document["tokens"] for document in stated["documents"]] == [512, 512]
    assert set(stated["methods"]) == {"pi"}
    page = (out / "report.md").read_text()
    assert f"torch {version('torch')}" in page
    assert machine() in page.replace("\\", "")


def test_a_longrope_checkpoint_is_evaluated_with_its_own_tiers(model: Path, tmp_path: Path) -> None:
    checkpoint = byte_tokenizer(stretched(tiny_llama(tmp_path / "stretched"), method="ntk"))
    out = tmp_path / "out"
    assert main(options(checkpoint, out, "--tasks", "ppl")) == 0
    assert main(options(model, tmp_path / "same", "--tiers", "checkpoint=1k:ntk", "--tasks", "ppl")) == 0
    assert records(out) == records(tmp_path / "same")


def test_a_model_before_and_after_is_compared_in_one_folder(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = byte_tokenizer(tiny_llama(tmp_path / "tuned", seed=1))
    out = tmp_path / "out"
    assert main(options(model, out, "--methods", "none,pi", "--tasks", "ppl")) == 0
    assert main(options(tuned, out, "--methods", "none,pi", "--label", "tuned", "--tasks", "ppl")) == 0
    assert main(options(tuned, out, "--methods", "yarn", "--label", "stretched", "--tasks", "ppl")) == 0
    found = records(out)
    assert {key[1] for key in found} == {"none", "pi", "tuned, none", "tuned, pi", "stretched"}
    assert all(found[key] != found[(key[0], "tuned, none", *key[2:])] for key in found if key[1] == "none")
    capsys.readouterr()
    assert main(options(tuned, out, "--methods", "pi", "--tasks", "ppl")) == 2
    assert "Expected the method 'pi'" in capsys.readouterr().err


def test_the_unextended_model_is_what_short_questions_are_held_against(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(options(model, out, "--methods", "yarn", "--tasks", "ppl")) == 0
    more = ("--benchmarks", CHOICE, "--benchmark-limit", "4", "--include-path", str(write_tasks(tmp_path)))
    assert main(options(model, out, "--methods", "yarn", "--tasks", "short", *more)) == 0
    assert "of “none”" in (out / "report.md").read_text()


def test_short_questions_are_asked_under_the_own_rope_once_and_under_the_long_one(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tasks = write_tasks(tmp_path)
    more = ("--benchmarks", f"{CHOICE},{WRITE}", "--benchmark-limit", "5", "--include-path", str(tasks))
    assert main(options(model, out, "--methods", "yarn", "--tasks", "short", *more)) == 0
    found = records(out)
    assert [key[1] for key in dict.fromkeys(key[:2] for key in found)] == ["none", "yarn", "yarn, 1k for all"]
    scores = {
        method: [values for key, values in found.items() if key[1] == method]
        for method in ("none", "yarn", "yarn, 1k for all")
    }
    assert len(scores["none"]) == 10
    assert scores["none"] == scores["yarn"]
    assert "yarn, 1k for all" in (out / "report.html").read_text()
