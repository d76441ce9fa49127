"""``longrope eval`` as a user meets it: bad input, a run, a run that is cut off and goes on, a server that dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from completions_site import Site, serving
from longrope_vllm import Factors, Geometry, write_factors
from longrope_vllm.cli.main import main
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
    found = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
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
    assert {key[1] for key in after} == {"none", "pi", "mine", "stock", "stock, long for all"}


def test_a_name_that_stands_for_something_else_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(options(model, out, "--tiers", "best=1k:ntk", "--tasks", "ppl")) == 0
    kept = records(out)
    for more, message in {
        ("--tiers", "best=1k:pi"): "Expected the method 'best' that ",
        ("--tiers", "best=1k:ntk", "--seed", "3"): "Expected the seed that ",
        ("--tiers", "best=1k:ntk", "--document-tokens", "2k"): "Expected the documents that ",
    }.items():
        assert main(options(model, out, *more, "--tasks", "ppl")) == 2
        assert message in capsys.readouterr().err
    assert records(out) == kept


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
    assert [key[1] for key in dict.fromkeys(key[:2] for key in found)] == ["none", "yarn", "yarn, long for all"]
    scores = {
        method: [values for key, values in found.items() if key[1] == method]
        for method in ("none", "yarn", "yarn, long for all")
    }
    assert len(scores["none"]) == 10
    assert scores["none"] == scores["yarn"]
    assert "yarn, long for all" in (out / "report.html").read_text()


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
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while len(site.bodies) < 2:
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        assert run.wait(20) == 130
        assert run.stderr is not None
        assert run.stderr.read().endswith("longrope eval: interrupted\n")
