"""What ``longrope eval`` refuses, in one sentence and before anything is measured."""

import sys
from pathlib import Path

import pytest

from eval_command import options, records
from longrope_vllm.cli.eval import command_line
from longrope_vllm.cli.main import main
from longrope_vllm.evaluation.exclusive import exclusive


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tasks", "ppl,guess"], "Expected tasks out of ppl, passkey, needle, ruler, longppl, short, found 'guess'"),
        (["--methods", "magic"], "Expected methods out of none, checkpoint, pi, "),
        (["--methods", "checkpoint"], "Expected a checkpoint with a longrope block"),
        (["--factors", "no/such.json"], "no/such.json"),
        (["--preset", "nothing"], "Expected a preset out of smollm2-135m, found 'nothing'"),
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
        (
            ["--tasks", "longppl", "--methods", "none,pi", "--evaluator", "nobody"],
            "Expected the method that chooses the key tokens of longppl among none, pi, found 'nobody'",
        ),
        (["--tasks", "ruler", "--ruler-tasks", "niah"], "Expected RULER tasks out of niah_single_1"),
        (["--tasks", ","], "Expected at least one of --tasks, found none"),
        (["--tasks", "ruler", "--ruler-tasks", ","], "Expected at least one of --ruler-tasks, found none"),
        (["--tasks", "short"], "Expected --benchmarks together with the task short"),
        (["--tasks", "short", "--benchmarks", "arc_eazy"], "arc_easy"),
        (["--concurrency", "2"], "Expected --model and --concurrency only with the URL"),
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


def test_a_server_takes_no_factors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options("http://127.0.0.1:1", tmp_path / "out", "--methods", "yarn")) == 2
    assert "Expected no factors for a server" in capsys.readouterr().err


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


def test_one_evaluation_at_a_time_writes_to_a_folder(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with exclusive(tmp_path / "out"):
        assert main(options(model, tmp_path / "out")) == 2
    assert "found another process writing to it" in capsys.readouterr().err


def test_keys_and_passwords_do_not_stand_in_the_report() -> None:
    shown = command_line(["http://me:hidden@host:1/v1", "--api-key", "sk-1", "--api-key=sk-2", "--out", "x"])
    assert shown == "longrope eval http://host:1/v1 --api-key ... --api-key=... --out x"


@pytest.mark.parametrize("package", ["scipy", "jinja2"])
def test_a_package_that_only_the_report_needs_is_missed_before_anything_is_measured(
    package: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in {package, *(name for name in sys.modules if name.startswith(f"{package}."))}:
        monkeypatch.setitem(sys.modules, name, None)
    assert main(options(model, tmp_path / "out", "--tasks", "ppl")) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"longrope eval: {package}")
    assert 'is not installed: run pip install "longrope-vllm[eval]"' in said
    assert not list((tmp_path / "out").glob("*.json*"))
