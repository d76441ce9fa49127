"""What ``longrope eval`` asks a server: questions through the chat template, and those of a file for RULER."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from completions_site import Site, serving
from eval_command import options, records
from longrope_vllm.cli.main import main


@pytest.fixture
def tokenizer(model: Path, tmp_path: Path) -> Path:
    """A folder with a tokenizer whose chat template puts every message between angle brackets."""
    folder = tmp_path / "tokenizer"
    loaded = AutoTokenizer.from_pretrained(model)
    loaded.chat_template = "{% for message in messages %}<{{ message['role'] }}:{{ message['content'] }}>{% endfor %}"
    loaded.save_pretrained(folder)
    return folder


def asked(site: Site) -> list[str]:
    """Prompts that the server was sent, one character a token."""
    return ["".join(map(chr, body["prompt"])) for body in site.bodies]


def test_questions_go_through_the_chat_template_and_fill_their_length_with_it(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    more = ("--tasks", "passkey", "--tokenizer", str(tokenizer))
    with serving(Site()) as site:
        assert main(options(site.url, out, *more, "--chat")) == 0
        prompts = asked(site)
        assert len(prompts) == len(records(out)) == 4
        assert all(prompt.startswith("<user:") and prompt.endswith(">") for prompt in prompts)
        room = site.bodies[0]["max_tokens"]
        assert sorted(len(prompt) + room for prompt in prompts) == [512, 512, 1024, 1024]
        assert "through the chat template" in (out / "report.md").read_text()
        assert main(options(site.url, out, *more)) == 2
        assert "Expected the chat that " in capsys.readouterr().err
        assert main(options(site.url, tmp_path / "plain", *more)) == 0
        assert not any("<user:" in prompt for prompt in asked(site)[4:])
    assert "as plain text" in (tmp_path / "plain" / "report.md").read_text()


def test_a_tokenizer_without_a_chat_template_is_told(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tokenizer / "chat_template.jinja").unlink()
    with serving(Site()) as site:
        assert main(options(site.url, tmp_path / "out", "--chat", "--tokenizer", str(tokenizer))) == 2
    assert "Expected a tokenizer with a chat template for --chat, found none" in capsys.readouterr().err


def write_squad(path: Path, answer: str) -> Path:
    """A file in the form of SQuAD 2.0 with one question."""
    question = {"question": "Where is it?", "is_impossible": False, "answers": [{"text": answer}]}
    paragraphs = [{"context": f"It is {answer}.", "qas": [question]}, {"context": "It is not elsewhere.", "qas": []}]
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return path


def test_rulers_questions_come_from_the_file_that_is_named(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    squad = write_squad(tmp_path / "squad.json", "here")
    more = ("--tasks", "ruler", "--ruler-tasks", "ruler_qa_squad,niah_single_1", "--ruler-samples", "2")
    more += ("--tokenizer", str(tokenizer), "--lengths", "1k", "--squad", str(squad))
    with serving(Site(completion=lambda body: completion(body, " It is Here."))) as site:
        assert main(options(site.url, out, *more)) == 0
        questions = [prompt for prompt in asked(site) if "Question: Where is it?" in prompt]
        assert len(questions) == 2
        assert all("It is here." in prompt and len(prompt) <= 1024 for prompt in questions)
        scores = {key[3:]: values["score"] for key, values in records(out).items()}
        assert scores == {
            **{("ruler_qa_squad", str(sample)): 1.0 for sample in range(2)},
            **{("niah_single_1", str(sample)): 0.0 for sample in range(2)},
        }
        write_squad(squad, "there")
        assert main(options(site.url, out, *more)) == 2
    assert "Expected the source of '--squad' that " in capsys.readouterr().err


def completion(body: dict[str, list[int]], text: str) -> dict[str, object]:
    return {"choices": [{"text": text}], "usage": {"prompt_tokens": len(body["prompt"])}}
