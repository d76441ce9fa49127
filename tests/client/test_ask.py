"""``longrope ask`` against a server that plays its part: what is sent, what is printed, what is deleted."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from documents_site import DIES, HANGS, PLAIN, Site, counted, piece, progress, serving
from longrope_vllm.cli.main import main


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    (tmp_path / "a.md").write_text("All about cats.")
    (tmp_path / "b.txt").write_text("All about dogs.")
    return tmp_path


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site()) as place:
        yield place


def ask(site: Site, *words: str) -> int:
    return main(["ask", *words, "--url", site.url])


def file_part(file_id: str) -> dict[str, Any]:
    return {"type": "file", "file": {"file_id": file_id}}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


# with files


def test_files_are_uploaded_once_stand_before_the_question_and_are_deleted(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(site, "a.md", "b.txt", "What changed?") == 0
    said = capsys.readouterr()
    assert said.out == "Forty-two.\n"
    assert site.uploads == ["a.md", "b.txt"]
    (body,) = site.bodies
    assert body["messages"] == [
        {"role": "user", "content": [file_part("file-0"), file_part("file-1"), text_part("What changed?")]}
    ]
    assert body["model"] == "tiny"
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert body["return_progress"] is True
    assert not {"max_tokens", "temperature"} & body.keys()
    assert site.deleted == ["file-0", "file-1"]


def test_what_is_uploaded_is_the_file_byte_for_byte(site: Site, folder: Path) -> None:
    content = bytes(range(256)) * 1000
    (folder / "data.bin").write_bytes(content)
    assert ask(site, "data.bin", "What is it?", "--keep") == 0
    assert site.stored == {"file-0": ("data.bin", content)}


def test_tokens_tier_cache_and_times_are_told_on_standard_error(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    told = {"tier": 1, "tier_max_length": 131072, "tokens": 1002, "crossings": 1, "reprefilled_tokens": 5}
    site.script = (piece("Yes", reason="length"), counted(12_345, 2, cached=12_000, longrope=told))
    assert ask(site, "a.md", "What changed?") == 0
    first, last = capsys.readouterr().err.splitlines()
    assert first == "a.md, 15 tokens, tier 128k"
    assert last.startswith(
        "prompt 12,345 tokens (12,000 from the cache) · answer 2 · tier 128k, outgrew 1 on the way · first token after "
    )
    assert last.endswith("s in all · cut off: it reached the limit of tokens")


def test_what_the_server_remarks_on_a_file_is_passed_on(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.remark = "This document has 15 tokens and this server reads 10."
    assert ask(site, "a.md", "What changed?") == 0
    assert f"a.md, 15 tokens, tier 128k: {site.remark}" in capsys.readouterr().err


def test_the_same_content_is_uploaded_once(site: Site, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "copy.md").write_text("All about cats.")
    assert ask(site, "a.md", "copy.md", "a.md", "What changed?") == 0
    assert site.uploads == ["a.md"]
    assert "copy.md is the same as a.md and is sent once" in capsys.readouterr().err


def test_kept_files_are_named_and_can_be_asked_about_again(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(site, "a.md", "What changed?", "--keep") == 0
    assert "kept file-0 (a.md)" in capsys.readouterr().err
    assert ask(site, "file-0", "b.txt", "And now?") == 0
    assert site.uploads == ["a.md", "b.txt"]
    assert site.bodies[1]["messages"][0]["content"][:2] == [file_part("file-0"), file_part("file-1")]
    assert site.deleted == ["file-1"]  # what others keep is theirs


def test_an_id_that_is_not_there_is_an_error_before_anything_is_asked(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.refusals["GET /v1/files/file-9"] = (404, {"error": {"message": "No file file-9.", "code": "not_found"}})
    assert ask(site, "a.md", "file-9", "What changed?") == 2
    assert capsys.readouterr().err.splitlines()[-1] == "longrope ask: No file file-9."
    assert not site.bodies
    assert site.deleted == ["file-0"]


def test_a_file_that_cannot_be_deleted_is_named_and_is_no_error(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.refusals["DELETE /v1/files/file-0"] = (500, {"error": {"message": "Disk is gone."}})
    assert ask(site, "a.md", "What changed?") == 0
    assert "file-0 (a.md) is still on the server: Disk is gone." in capsys.readouterr().err


def test_an_upload_that_is_refused_ends_it_with_the_servers_sentence_and_leaves_nothing(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.refusals["POST /v1/files"] = (413, {"error": {"message": "Expected at most 10 bytes.", "code": "too_large"}})
    assert ask(site, "a.md", "What changed?") == 2
    assert capsys.readouterr().err == "longrope ask: Expected at most 10 bytes.\n"
    assert site.seen.count("POST /v1/files") == 1
    assert not site.bodies


# without files


@pytest.mark.parametrize("status", [404, 405])
def test_a_server_without_files_gets_the_text_with_the_question(
    status: int, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.refusals["GET /v1/files?limit=1"] = (status, None)
    assert ask(site, "a.md", "b.txt", "What changed?") == 0
    assert site.bodies[0]["messages"] == [
        {
            "role": "user",
            "content": [
                text_part("Document a.md:\n\nAll about cats.\n"),
                text_part("Document b.txt:\n\nAll about dogs.\n"),
                text_part("What changed?"),
            ],
        }
    ]
    assert "keeps no files: their text is sent with the question" in capsys.readouterr().err
    assert not site.uploads


def test_no_files_sends_the_text_to_a_server_that_keeps_files(site: Site) -> None:
    assert ask(site, "a.md", "What changed?", "--no-files") == 0
    assert site.bodies[0]["messages"][0]["content"][0] == text_part("Document a.md:\n\nAll about cats.\n")
    assert not [path for path in site.seen if "files" in path]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"%PDF-1.7 ...", "found the PDF c.md: make it text first (pdftotext)"),
        (b"caf\xe9", "found the byte 0xe9 at 3: convert it first (iconv)"),
    ],
)
def test_without_files_only_utf8_text_can_be_sent(
    content: bytes, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "c.md").write_bytes(content)
    with serving(Site(files=False)) as site:
        assert ask(site, "a.md", "c.md", "What changed?") == 2
        assert not site.bodies
    assert said in capsys.readouterr().err


def test_an_id_means_nothing_to_a_server_without_files(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Site(files=False)) as site:
        assert ask(site, "file-0", "What changed?") == 2
    assert "name a path, not file-0" in capsys.readouterr().err


# what a server is asked


def test_a_missing_file_is_said_before_the_server_is_spoken_to(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(site, "a.md", "c.md", "What changed?") == 2
    assert "can be read at c.md, found: No such file or directory" in capsys.readouterr().err
    assert not site.seen


def test_options_are_sent(site: Site) -> None:
    options = ("--max-tokens", "7", "--temperature", "0", "--system", "Be brief.", "--model", "tiny", "--api-key", "k")
    site.key = "k"
    assert ask(site, "a.md", *options, "What changed?") == 0
    (body,) = site.bodies
    assert (body["max_tokens"], body["temperature"]) == (7, 0.0)
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(("tiers", "llama", "asks"), [(True, False, True), (False, True, True), (False, False, False)])
def test_progress_is_asked_of_servers_that_are_known_to_tell_it(tiers: bool, llama: bool, asks: bool) -> None:
    with serving(Site(tiers=tiers, llama=llama)) as site:
        assert ask(site, "a.md", "What changed?") == 0
    assert site.bodies[0].get("return_progress", False) is asks


@pytest.mark.parametrize("page", [b"<html>any path</html>", {"other": 1}])
def test_a_server_that_answers_any_path_is_not_taken_for_one_that_tells_progress(page: Any) -> None:
    with serving(Site(tiers=False)) as site:
        site.refusals |= {"GET /v1/longrope": (200, page), "GET /props": (200, page)}
        assert ask(site, "a.md", "What changed?") == 0
    assert "return_progress" not in site.bodies[0]


def test_names_of_one_checkpoint_are_one_model() -> None:
    models = [{"id": "tiny", "root": "/tiny"}, {"id": "tiny-128k", "root": "/tiny"}]
    with serving(Site(models=models)) as site:
        assert ask(site, "a.md", "What changed?") == 0
    assert site.bodies[0]["model"] == "tiny"


@pytest.mark.parametrize(
    ("options", "said"), [((), "found one, other: name one with --model"), (("--model", "third"), "found one, other.")]
)
def test_one_of_several_models_must_be_named(
    options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(Site(models=[{"id": "one"}, {"id": "other"}])) as site:
        assert ask(site, "a.md", "What changed?", *options) == 2
        assert ask(site, "a.md", "What changed?", "--model", "other") == 0
    assert said in capsys.readouterr().err


# follow-up questions


def test_a_conversation_keeps_its_history_and_uploads_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.scripts = [(piece("Blue."), piece("", reason="stop")), (piece("Green."), piece("", reason="stop"))]
    monkeypatch.setattr("sys.stdin", io.StringIO("Which colour?\n\n  Another?  \n/quit\nNever asked.\n"))
    assert ask(site, "a.md", "Hello?", "--follow-up") == 0
    first = {"role": "user", "content": [file_part("file-0"), text_part("Hello?")]}
    assert [body["messages"] for body in site.bodies] == [
        [first],
        [first, {"role": "assistant", "content": "Blue."}, {"role": "user", "content": "Which colour?"}],
        [
            first,
            {"role": "assistant", "content": "Blue."},
            {"role": "user", "content": "Which colour?"},
            {"role": "assistant", "content": "Green."},
            {"role": "user", "content": "Another?"},
        ],
    ]
    assert capsys.readouterr().out == "Blue.\nGreen.\nForty-two.\n"
    assert site.uploads == ["a.md"]
    assert site.deleted == ["file-0"]


def test_without_a_question_the_first_line_is_the_first(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Which colour?\n"))
    assert ask(site, "a.md", "--follow-up") == 0
    assert [body["messages"][-1]["content"][-1] for body in site.bodies] == [text_part("Which colour?")]


def test_without_a_question_and_a_terminal_there_is_nothing_to_ask(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(site, "a.md", "b.txt") == 2
    assert "Expected a question, found none" in capsys.readouterr().err
    assert not site.seen


def test_standard_input_is_a_document_or_questions(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(site, "-", "What changed?", "--follow-up") == 2
    assert "found a document (-): use a file" in capsys.readouterr().err


# json


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    told = {"tier": 0, "tier_max_length": 8192, "tokens": 1002, "crossings": 0, "reprefilled_tokens": 0}
    script = (
        progress(0, queue_position=2),
        0.05,
        progress(500, cache=500),
        progress(1000, cache=500, time_ms=5),
        *PLAIN[:-1],
        counted(1000, 2, cached=500, longrope=told),
    )
    with serving(Site(script=script, upload_seconds=0.05)) as site:
        assert ask(site, "a.md", "What changed?", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    timings = said.pop("timings")
    assert said == {
        "answer": "Forty-two.",
        "finish_reason": "stop",
        "model": "tiny",
        "usage": counted(1000, 2, cached=500)["usage"],
        "longrope": told,
        "files": [{"id": "file-0", "name": "a.md", "tokens": 15}],
    }
    assert timings["upload_s"] >= 0.05
    assert 0.05 <= timings["queue_s"] <= timings["first_token_s"] <= timings["total_s"]


def test_json_of_a_server_that_tells_little_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    script = (piece("Yes."), piece("", reason="stop"))
    with serving(Site(script=script, files=False, tiers=False)) as site:
        assert ask(site, "a.md", "What changed?", "--json") == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["usage"], found["longrope"], found["timings"]["queue_s"]) == (None, None, None)
    assert found["files"] == [{"id": None, "name": "a.md", "tokens": None}]
    assert json.loads(said.err)["note"].endswith("their text is sent with the question")


def test_json_of_a_conversation_is_a_line_an_answer(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("And now?\n"))
    assert ask(site, "a.md", "What changed?", "--json", "--follow-up") == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["timings"]["upload_s"] > 0
    assert second["timings"]["upload_s"] == 0


def test_errors_are_json_too(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.refusals["POST /v1/chat/completions"] = (400, TOO_LONG)
    assert ask(site, "a.md", "What changed?", "--json") == 2
    said = capsys.readouterr()
    assert said.out == ""
    error = json.loads(said.err.splitlines()[-1])["error"]
    assert {**error, "message": None} == {**TOO_LONG["error"], "message": None, "status": 400}
    assert ask(site, "c.md", "What changed?", "--json") == 2
    assert list(json.loads(capsys.readouterr().err)["error"]) == ["message"]


# errors

TOO_LONG: dict[str, Any] = {
    "error": {
        "message": "Expected a prompt that fits, found one that does not.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
        "prompt_tokens": 70000,
        "max_tokens": 512,
        "limit": 65536,
    }
}


def test_a_prompt_that_is_too_long_is_told_with_the_numbers_and_what_to_do(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.refusals["POST /v1/chat/completions"] = (400, TOO_LONG)
    assert ask(site, "a.md", "What changed?") == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "longrope ask: Expected a prompt that fits, found one that does not (prompt tokens 70,000, max tokens 512, "
        "limit 65,536). Ask about fewer or shorter files, lower --max-tokens, or serve with a larger --max-model-len."
    )
    assert site.deleted == ["file-0"]


def test_numbers_that_the_server_wrote_out_are_not_repeated(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    error = {**TOO_LONG["error"], "message": "Expected at most 65,536 tokens, found 70000 and 512 to answer."}
    site.refusals["POST /v1/chat/completions"] = (400, {"error": error})
    assert ask(site, "a.md", "What changed?") == 2
    assert "found 70000 and 512 to answer. Ask about fewer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, {"error": {"message": "No such tier here."}}, "longrope ask: No such tier here."),
        (500, b"<html>bad</html>", "found HTTP 500 without a reason: look at the server's log."),
        (422, {"detail": "No audio here."}, "longrope ask: No audio here."),
        (429, {"error": {"message": "One at a time."}}, "longrope ask: One at a time."),
    ],
)
def test_errors_of_the_server_are_its_own_sentence_and_nothing_is_asked_twice(
    status: int, body: Any, said: str, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.refusals["POST /v1/chat/completions"] = (status, body)
    assert ask(site, "a.md", "What changed?") == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(said)
    assert site.seen.count("POST /v1/chat/completions") == 1
    assert site.deleted == ["file-0"]


def test_a_wrong_key_is_one_sentence(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.key = "right"
    assert ask(site, "a.md", "What changed?", "--api-key", "wrong") == 2
    assert capsys.readouterr().err == (
        f"longrope ask: Expected a key that {site.url} accepts, found HTTP 401 (Unauthorized): give --api-key or "
        "OPENAI_API_KEY.\n"
    )


def test_the_key_comes_from_the_environment(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.key = "right"
    monkeypatch.setenv("OPENAI_API_KEY", "right")
    assert ask(site, "a.md", "What changed?") == 0


def test_nobody_there_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Site()) as site:
        pass
    assert ask(site, "a.md", "What changed?") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"longrope ask: Expected a server at {site.url}, found none that answers (")
    assert said.endswith("Connection refused): is it running?\n")


def test_a_url_without_a_scheme_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "a.md", "Why?", "--url", "localhost:8000"]) == 2
    assert "Expected a URL such as http://localhost:8000, found 'localhost:8000'" in capsys.readouterr().err


def test_another_kind_of_server_is_not_taken_for_one(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.refusals["GET /v1/models"] = (200, b"<html>hello</html>")
    assert ask(site, "a.md", "What changed?") == 2
    assert "Expected one model at" in capsys.readouterr().err


@pytest.mark.parametrize("ends", [(DIES,), ()])
def test_a_stream_that_ends_within_the_answer_is_an_error_after_what_came(
    ends: tuple[Any, ...], site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.script = (piece("Forty"), *ends)
    assert ask(site, "a.md", "What changed?") == 2
    said = capsys.readouterr()
    assert said.out == "Forty\n"
    assert said.err.splitlines()[-1].endswith("look at the server's log.")
    assert site.deleted == ["file-0"]


def test_an_error_told_in_the_stream_is_the_servers_sentence(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.script = (piece("Forty"), {"error": {"message": "The engine died.", "type": "server_error", "code": 500}})
    assert ask(site, "a.md", "What changed?") == 2
    assert capsys.readouterr().err.splitlines()[-1] == "longrope ask: The engine died."


def test_silence_ends_it_when_the_time_is_up(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.script = (progress(10), HANGS)
    assert ask(site, "a.md", "What changed?", "--timeout", "0.3") == 2
    said = capsys.readouterr().err
    assert "Expected a sign of life from" in said
    assert "within 0.3 s, found none: give a longer --timeout" in said
    assert site.left.wait(5)


def test_signs_of_life_of_any_kind_are_waited_for(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    life = (0.3, ": keep-alive\n\n", 0.3, progress(10), 0.3, progress(20), 0.3)
    site.script = (*life, *PLAIN)
    assert ask(site, "a.md", "What changed?", "--timeout", "1") == 0
    assert capsys.readouterr().out == "Forty-two.\n"


# other models


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_thoughts_are_not_printed(name: str, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.script = (piece("Hm, ", field_name=name), *PLAIN)
    assert ask(site, "a.md", "What changed?") == 0
    assert capsys.readouterr().out == "Forty-two.\n"


def test_progress_after_the_first_token_changes_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.script = (piece("Forty"), progress(900, cache=900), piece("-two.", reason="stop"), counted())
    assert ask(site, "a.md", "What changed?") == 0
    said = capsys.readouterr()
    assert said.out == "Forty-two.\n"
    assert "from the cache" not in said.err


def test_the_cache_is_told_by_progress_where_usage_does_not_tell(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.script = (progress(900, cache=900), progress(1000, cache=900, time_ms=3), *PLAIN)
    assert ask(site, "a.md", "What changed?") == 0
    assert "prompt 1,000 tokens (900 from the cache)" in capsys.readouterr().err
