"""Bad input to ``longrope search``: one sentence before any work is done, and nothing is lost."""

import shutil
from pathlib import Path

import pytest

from longrope_vllm.cli.main import main
from longrope_vllm.errors import EXIT_CODE
from tiny_models import WINDOW, byte_tokenizer, stretched, tiny_llama

SMALL = ("--method", "gradient", "--steps", "2", "--samples", "2", "--held-out", "1", "--start-tokens", "0")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A random one: nothing here asks for quality."""
    return byte_tokenizer(tiny_llama(tmp_path / "model"))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Three documents of 512 tokens, a token a character."""
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{number} bottles of beer on the wall. " for number in range(100)))
    return path


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one sentence of a command that is refused."""
    assert main(["search", *map(str, words)]) == EXIT_CODE
    said = capsys.readouterr().err.strip()
    assert "Traceback" not in said
    last = said.splitlines()[-1]  # weights may have been loaded before, with a bar of transformers' own
    assert last.startswith("longrope search: ")
    return last


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--target", WINDOW), "Expected targets above the 256 tokens that this model knows, found 256"),
        (("--target", "8"), "Expected target lengths of at least 16 tokens, found 8"),
        (("--target", "zero"), "Expected a length in tokens"),
        (("--target", "512", "--samples", "0"), "Expected --samples of 1 or more, found 0"),
        (("--target", "512", "--held-out", "0"), "Expected --held-out of 1 or more, found 0"),
        (("--target", "512", "--population", "1"), "Expected --population of 4 or more, found 1"),
        (("--target", "512", "--step", "0"), "Expected a --step from 1e-9 to 1, found 0.0"),
        (("--target", "512", "--largest", "0.5"), "Expected --largest from 1 to a million, found 0.5"),
        (("--target", "512", "--largest", "inf"), "Expected --largest from 1 to a million, found inf"),
        (("--target", "512", "--seed", "-1"), "Expected a --seed from 0 to 4294967295, found -1"),
        (("--target", "512", "--start-tokens", "512"), "Expected --start-tokens below the shortest target"),
        (("--target", "512", "--start-tokens", "few"), "Expected --start-tokens search or a number, found 'few'"),
        (("--target", "512", "--attention-factor", "-1"), "Expected --attention-factor longrope, yarn, search or"),
        (
            ("--target", "512", "--attention-factor", "search", "--method", "cma"),
            "Expected gradient as a method for --attention-factor search",
        ),
        (("--target", "512", "--dtype", "int8"), "Expected --dtype bfloat16, float16 or float32, found 'int8'"),
        (("--target", "512", "--from", "none.json"), "Expected factors for --from, found no file at none.json"),
        (("--target", "512", "--documents", "none.txt"), "Expected documents at none.txt, found no file"),
    ],
)
def test_an_option_that_cannot_be_is_refused(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[object, ...], said: str
) -> None:
    sources = () if "--documents" in words else ("--documents", text)
    assert said in refused(capsys, model, "--out", tmp_path / "f.json", *SMALL, *sources, *words)
    assert not list(tmp_path.glob("f.*"))


def test_too_little_text_is_told_with_what_there_is(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, model, "--target", "2k", "--out", tmp_path / "f.json", "--documents", text, *SMALL)
    assert "Expected 3 documents of 2,048 tokens" in said
    assert "found 1" in said


@pytest.mark.parametrize("content", [b"", b"   \n", b"\xff\xfe broken"])
def test_an_empty_or_broken_corpus_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / "corpus.txt").write_bytes(content)
    said = refused(
        capsys, model, "--target", "512", "--out", tmp_path / "f.json", "--documents", tmp_path / "corpus.txt", *SMALL
    )
    assert "corpus.txt" in said


def test_a_checkpoint_without_a_tokenizer_is_refused(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_llama(tmp_path / "bare")
    said = refused(capsys, model, "--target", "512", "--out", tmp_path / "f.json", "--documents", text, *SMALL)
    assert "Expected a tokenizer in" in said


def test_a_tokenizer_with_tokens_that_the_model_does_not_have_is_refused(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    model = byte_tokenizer(tiny_llama(tmp_path / "model"))
    state = json.loads((model / "tokenizer.json").read_text())
    state["model"]["vocab"] = {word: 100 + at for at, word in enumerate(state["model"]["vocab"])}
    (model / "tokenizer.json").write_text(json.dumps(state))
    said = refused(capsys, model, "--target", "512", "--out", tmp_path / "f.json", "--documents", text, *SMALL)
    assert "tokenizer" in said
    assert not list(tmp_path.glob("f.*"))


def test_a_study_of_another_model_is_refused(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--target", "512", "--out", tmp_path / "f.json", "--documents", text, "--dtype", "float32", *SMALL)
    assert main(["search", *map(str, (model, *words))]) == 0
    (tmp_path / "f.json").unlink()
    other = byte_tokenizer(tiny_llama(tmp_path / "other", seed=1))
    said = refused(capsys, other, *words)
    assert "Expected a study of the same search, found model" in said
    said = refused(capsys, model, *words, "--seed", 7)
    assert "found seed 0" in said
    assert main(["search", *map(str, (model, *words))]) == 0  # the study is as good as before


def test_short_needs_a_model_that_was_tuned_and_longer_needs_more_than_it_knows(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--out", tmp_path / "f.json", "--documents", text, *SMALL)
    assert "Expected a model that was fine-tuned" in refused(capsys, "short", model, "--lengths", "128", *words)
    tuned = stretched(Path(shutil.copytree(model, tmp_path / "tuned")))
    said = refused(capsys, tuned, "--target", "512", *words)
    assert "Expected targets above the 1,024 tokens" in said
    assert "longrope search short" in said
    said = refused(capsys, "short", tuned, "--lengths", "1k", *words)
    assert "Expected short lengths below the 1,024 tokens" in said


def test_a_worker_without_a_study_is_told_to_start_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "found none: start longrope search first" in refused(capsys, "worker", "--study", tmp_path / "none.log")


def test_too_little_memory_is_told_before_weights_are_loaded(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longrope_search.model.memory_plan.available", lambda device: 1_000_000)
    said = refused(capsys, model, "--target", "512", "--out", tmp_path / "f.json", "--documents", text, *SMALL)
    assert "of memory for a pass over 512 tokens, found 0.0 GB available: use --method evolution or cma" in said
    assert not (tmp_path / "f.json").exists()


def test_a_full_disk_ends_the_search_and_what_was_measured_stays(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import resource

    words = ("--target", "512", "--out", tmp_path / "f.json", "--documents", text, "--dtype", "float32", *SMALL)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # a write beyond it fails as on a full disk
    try:
        said = refused(capsys, model, *words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large" in said
    kept = (tmp_path / "f.study.log").read_bytes()
    assert main(["search", *map(str, (model, *words))]) == 0
    assert (tmp_path / "f.study.log").read_bytes().startswith(kept.rpartition(b"\n")[0])


def test_files_that_would_overwrite_each_other_are_refused(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (model, "--target", "512", "--documents", text, *SMALL)
    wanted = "Expected different files for factors, report and study"
    assert wanted in refused(capsys, *words, "--out", tmp_path / "f.html")
    assert wanted in refused(capsys, *words, "--out", tmp_path / "f.json", "--study", tmp_path / "f.json")
    assert wanted in refused(capsys, *words, "--out", tmp_path / "f.json", "--study", tmp_path / "f.html")
    assert not list(tmp_path.glob("f.*"))


def test_a_file_of_another_kind_is_not_taken_for_a_study(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "precious.json"
    precious.write_text('{"no": "newline"}')
    words = ("--target", "512", "--out", tmp_path / "f.json", "--documents", text, "--study", precious, *SMALL)
    assert "Expected a journal of Optuna" in refused(capsys, model, *words)
    assert precious.read_text() == '{"no": "newline"}'


def test_a_config_without_its_vocabulary_is_refused(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    config = json.loads((model / "config.json").read_text())
    del config["vocab_size"]
    (model / "config.json").write_text(json.dumps(config))
    said = refused(capsys, model, "--target", "512", "--out", tmp_path / "f.json", "--documents", text, *SMALL)
    assert "Expected a positive whole number as vocab_size in config.json" in said
