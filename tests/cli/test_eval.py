"""``longrope eval`` as a user meets it: bad input, a run, a run that is cut off and goes on, a server that dies."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from completions_site import Site, serving
from longrope_vllm import Factors, Geometry, write_factors
from longrope_vllm.cli.eval import command_line
from longrope_vllm.cli.main import main
from longrope_vllm.evaluation.exclusive import exclusive
from short_tasks import CHOICE, WRITE, write_tasks
from tiny_models import LONG, byte_tokenizer, stretched, tiny_llama

LENGTHS = "512,1k"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = byte_tokenizer(tiny_llama(tmp_path_factory.mktemp("evaluated") / "tiny"))
    write_factors(folder.parent / "mine.json", Factors.from_baseline("yarn", Geometry.from_checkpoint(folder), LONG))
    return folder


def options(model: Path, out: Path, *more: str) -> list[str]:
    return [
        *(
            "eval",
            str(model),
            "--out",
            str(out),
            "--dtype",
            "float32",
            "--lengths",
            LENGTHS,
            "--documents",
            "synthetic",
        ),
        *("--samples", "2", "--depths", "2", "--trials", "1", *more),
    ]


def records(out: Path) -> dict[tuple[str, ...], dict[str, float]]:
    """Figures by key."""
    found = [json.loads(line) for line in (out / "records.jsonl").read_text().split("\n") if line]
    return {
        tuple(str(line[name]) for name in ("task", "method", "length", "group", "sample")): line["values"]
        for line in found
    }


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tasks", "ppl,guess"], "Expected tasks out of ppl, passkey, needle, ruler, longppl, short, found 'guess'"),
        (["--methods", "magic"], "Expected methods out of none, checkpoint, pi, "),
        (["--methods", "checkpoint"], "Expected a checkpoint with a longrope block"),
        (["--factors", "no/such.json"], "no/such.json"),
        (["--tiers", "yarn"], "Expected --tiers LENGTH:METHOD"),
        (["--tiers", "512:yarn"], "Expected at most 512 tokens for these factors, found 1024"),
        (["--methods", "none", "--tiers", "none=1k:pi"], "Expected methods by different names, found 'none' twice"),
        (["--lengths", "soon"], "Expected a length in tokens"),
        (["--lengths", "64"], "Expected a length with room for the question"),
        (["--lengths", "4M"], "documents of 4,194,304 tokens in pydoc"),
        (["--documents", "no/such/file"], "Expected documents at no/such/file, found no file"),
        (["--document-tokens", "512"], "Expected documents of at least the longest length, 1,024 tokens, found 512"),
        (["--samples", "0"], "Expected samples of 1 or more, found 0"),
        (["--protocol", "books"], "Expected a protocol out of"),
        (["--protocol", "sliding:600"], "Expected windows longer than the 600 tokens they move by"),
        (["--lengths", "1"], "Expected lengths of at least 16 tokens, found 1"),
        (["--device", "cuda:99"], "Expected a CUDA device for --device cuda:99, found none"),
        (["--squad", "no/such.json"], "Expected a file or folder for --squad, found none at no/such.json"),
        (["--dtype", "int8"], "Expected --dtype bfloat16, float16 or float32, found 'int8'"),
        (["--device", "abacus"], "Expected --device auto, cpu or cuda, found 'abacus'"),
        (["--tasks", "longppl"], "Expected a length above 4,096 tokens for longppl"),
        (["--tasks", "ruler", "--ruler-tasks", "niah"], "Expected RULER tasks out of niah_single_1"),
        (["--tasks", "short"], "Expected --benchmarks together with the task short"),
        (["--tasks", "short", "--benchmarks", "arc_eazy"], "arc_easy"),
        (["--concurrency", "2"], "Expected --label, --model and --concurrency only with the URL"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_measured(
    more: list[str], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = options(model, tmp_path / "out", *more)
    if "--documents" not in more and "4M" in more:
        arguments[arguments.index("synthetic")] = "pydoc"
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("longrope eval: Expected ") or "no/such.json" in said
    assert message in said
    assert not (tmp_path / "out" / "records.jsonl").exists()


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


def test_a_name_that_stands_for_something_else_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(options(model, out, "--tiers", "best=1k:ntk", "--tasks", "ppl")) == 0
    kept = records(out)
    for more, message in {
        ("--tiers", "best=1k:pi"): "Expected the method 'best' that ",
        ("--tiers", "best=1k:ntk", "--seed", "3"): "Expected the seed that ",
        ("--tiers", "best=1k:ntk", "--document-tokens", "2k"): "Expected the document synthetic 0 that ",
    }.items():
        assert main(options(model, out, *more, "--tasks", "ppl")) == 2
        assert message in capsys.readouterr().err
    assert records(out) == kept


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


def test_a_run_that_measured_nothing_binds_nobody(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with serving(Site(answers=0)) as site:
        given = options(model, out, "--tasks", "ppl", "--tokenizer", str(model))
        given[1] = site.url
        assert main(given) == 2
    assert main(options(model, out, "--tasks", "ppl", "--seed", "7")) == 0
    capsys.readouterr()


def test_one_evaluation_at_a_time_writes_to_a_folder(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with exclusive(tmp_path / "out"):
        assert main(options(model, tmp_path / "out")) == 2
    assert "found another evaluation writing to it" in capsys.readouterr().err


def test_keys_and_passwords_do_not_stand_in_the_report() -> None:
    shown = command_line(["http://me:hidden@host:1/v1", "--api-key", "sk-1", "--api-key=sk-2", "--out", "x"])
    assert shown == "longrope eval http://host:1/v1 --api-key ... --api-key=... --out x"


def test_the_unextended_model_is_what_short_questions_are_held_against(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(options(model, out, "--methods", "yarn", "--tasks", "ppl")) == 0
    more = ("--benchmarks", CHOICE, "--benchmark-limit", "4", "--include-path", str(write_tasks(tmp_path)))
    assert main(options(model, out, "--methods", "yarn", "--tasks", "short", *more)) == 0
    assert "of “none”" in (out / "report.md").read_text()


def test_a_full_disk_is_one_sentence_and_nothing_is_lost(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(options(model, out, "--methods", "none", "--tasks", "ppl")) == 0
    kept = (out / "records.jsonl").read_bytes()
    limit = max(len(kept) + 100, *(path.stat().st_size for path in out.rglob("*") if path.is_file()))
    (out / "records.jsonl").write_bytes(kept + b"\n" * (limit - len(kept)))
    command = [
        sys.executable,
        "-m",
        "longrope_vllm.cli.main",
        *options(model, out, "--methods", "pi", "--tasks", "ppl"),
    ]
    full = f"import resource, os, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit + 10}, {limit + 10})); "
    full += "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); os.execv(sys.executable, sys.argv[1:])"
    run = subprocess.run([sys.executable, "-c", full, *command], capture_output=True, text=True, timeout=300)
    assert run.returncode == 2
    assert "records.jsonl, found: File too large. What was measured before is kept" in run.stderr
    assert main(options(model, out, "--methods", "pi", "--tasks", "ppl")) == 0
    assert {key[1] for key in records(out)} == {"none", "pi"}


def test_a_longrope_checkpoint_is_evaluated_with_its_own_tiers(model: Path, tmp_path: Path) -> None:
    checkpoint = byte_tokenizer(stretched(tiny_llama(tmp_path / "stretched"), method="ntk"))
    out = tmp_path / "out"
    assert main(options(checkpoint, out, "--tasks", "ppl")) == 0
    assert main(options(model, tmp_path / "same", "--tiers", "checkpoint=1k:ntk", "--tasks", "ppl")) == 0
    assert records(out) == records(tmp_path / "same")


def test_a_run_that_was_killed_goes_on_and_ends_like_an_unbroken_one(model: Path, tmp_path: Path) -> None:
    more = ("--methods", "none,pi,yarn", "--tasks", "ppl,passkey")
    assert main(options(model, tmp_path / "unbroken", *more)) == 0
    out = tmp_path / "out"
    command = [sys.executable, "-m", "longrope_vllm.cli.main", *options(model, out, *more)]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 300
    while not (out / "records.jsonl").exists() or len((out / "records.jsonl").read_text().splitlines()) < 3:
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    some = len(records(out))
    assert main(options(model, out, *more)) == 0
    assert some < len(records(out))
    assert records(out) == records(tmp_path / "unbroken")


def test_a_server_that_dies_leaves_what_it_answered_and_another_goes_on(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def asked(url: str) -> list[str]:
        given = options(model, out, "--tasks", "ppl,passkey", "--tokenizer", str(model), "--concurrency", "2")
        given[1] = url
        return [word for word in given if word not in ("--dtype", "float32")]

    with serving(Site(answers=3)) as site:
        assert main(asked(site.url)) == 2
    assert "found none that answers" in capsys.readouterr().err
    kept = records(out)
    assert len(kept) == 3
    assert (out / "report.html").exists()
    with serving(Site()) as site:
        assert main(asked(site.url)) == 0
    assert len(site.bodies) == 8 - 3
    assert {key: records(out)[key] for key in kept} == kept
    assert {key[1] for key in records(out)} == {"tiny"}


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


def test_a_server_takes_no_factors(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = options(model, tmp_path / "out", "--methods", "yarn")
    given[1] = "http://127.0.0.1:1"
    assert main(given) == 2
    assert "Expected no factors for a server" in capsys.readouterr().err


def test_an_interrupt_ends_it_although_a_server_goes_on_thinking(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with serving(Site(seconds=60.0)) as site:
        given = options(model, out, "--tasks", "ppl", "--tokenizer", str(model), "--concurrency", "2")
        given[1] = site.url
        command = [
            sys.executable,
            "-m",
            "longrope_vllm.cli.main",
            *(w for w in given if w not in ("--dtype", "float32")),
        ]
        run = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # A test run in the background ignores SIGINT, and what it starts would inherit that.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 120
        while len(site.bodies) < 2:
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=20)
        assert run.returncode == 130
        assert said.endswith(b"longrope eval: interrupted\n")
