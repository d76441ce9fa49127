"""``longrope verify URL`` against the fake server behind HTTP: what is sent, understood, refused and said."""

import json
from pathlib import Path
from typing import Any

import pytest
from fake_http import site
from fake_server import FakeServer, of_the_longest_tier

from longrope_vllm.cli.main import main

TIERS = (200, 400, 800)


@pytest.fixture(autouse=True)
def without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def statuses(path: Path) -> dict[str, str]:
    return {check["name"]: check["status"] for check in json.loads(path.read_text())["checks"]}


def test_a_right_server_passes_and_what_a_url_cannot_show_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    with site(FakeServer(*TIERS)) as place:
        assert main(["verify", f"{place.url}/v1/", "--json", str(path), "--prompts-seed", "3"]) == 0
    printed = capsys.readouterr().out
    assert "NOT CHECKED: chunk size, short answers." in printed
    assert "Exact in all 13 checks made." in printed
    assert "found (answer 'the code is 48213')" in printed
    found = statuses(path)
    assert {name for name, status in found.items() if status == "skipped"} == {"chunk size", "short answers"}
    assert {"crossing under load 200", "crossing under load 400"} <= set(found)
    assert json.loads(path.read_text())["seed"] == 3


@pytest.mark.parametrize(("wrong", "code", "status"), [(False, 0, "passed"), (True, 1, "failed")])
def test_short_answers_are_compared_with_a_reference(wrong: bool, code: int, status: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    reference = FakeServer(*TIERS)  # of which only the first tier is asked
    if wrong:
        reference.rope = of_the_longest_tier
    with site(FakeServer(*TIERS)) as place, site(reference, has_tiers=False) as other:
        assert main(["verify", place.url, "--reference", other.url, "--json", str(path)]) == code
        assert max(len(body["prompt"]) + body["max_tokens"] for body in other.bodies) == TIERS[0]
    assert statuses(path)["short answers"] == status


def test_a_server_without_tiers_fails_and_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with site(FakeServer(*TIERS), has_tiers=False) as place:
        assert main(["verify", place.url]) == 1
        assert not place.bodies
    printed = capsys.readouterr().out
    assert "is served without tiers" in printed
    assert "Failed: tiers." in printed


def test_a_server_of_one_tier_has_no_boundary_to_check(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with site(FakeServer(200)) as place:
        assert main(["verify", place.url, "--json", str(path)]) == 0
    assert statuses(path)["boundaries"] == "skipped"


def test_nothing_longer_is_asked_than_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    with site(FakeServer(*TIERS)) as place:
        assert main(["verify", place.url, "--long", "390", "--json", str(path)]) == 0
        assert max(len(body["prompt"]) + body["max_tokens"] for body in place.bodies) <= 390
    found = statuses(path)
    assert (found["boundary 200"], found["boundary 400"]) == ("passed", "skipped")
    assert "beyond --long 390" in capsys.readouterr().out


def asked_fields(policy: str) -> tuple[int, list[dict[str, Any]]]:
    with site(FakeServer(200, 400), policy=policy) as place:
        return main(["verify", place.url]), place.bodies


def test_requests_start_by_their_prompt_under_another_policy_of_the_server() -> None:
    code, bodies = asked_fields("prompt+max_tokens")
    assert code == 0
    assert {body.get("longrope_policy") for body in bodies if "longrope_tier" not in body} == {"prompt"}


def test_requests_name_the_tier_of_their_prompt_where_the_server_wants_a_name() -> None:
    code, bodies = asked_fields("explicit")
    assert code == 0
    assert {body["longrope_tier"] for body in bodies} == {200, 400}


def test_a_second_server_is_asked_by_its_own_policy() -> None:
    with site(FakeServer(200, 400)) as place, site(FakeServer(200, 400), policy="explicit") as reference:
        assert main(["verify", place.url, "--reference", reference.url]) == 0
        assert {body["longrope_tier"] for body in reference.bodies} == {200}


def test_a_request_that_is_refused_fails_its_check_with_the_words_of_the_server(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with site(FakeServer(*TIERS)) as place:
        place.server.lengths, place.policy = TIERS, "prompt"
        place.post = lambda path, body: None if path == "/v1/completions" else {"tokens": [5] * 1000}  # type: ignore[method-assign]
        assert main(["verify", place.url]) == 1
    printed = capsys.readouterr().out
    assert "found HTTP 400: refused here" in printed
    assert "Failed: noise." in printed


def test_sampling_is_greedy_whatever_the_checkpoint_recommends_and_the_key_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
    with site(FakeServer(200)) as place:
        assert main(["verify", place.url]) == 0
        assert place.keys == {"Bearer from-the-environment"}
        assert main(["verify", place.url, "--api-key", "given"]) == 0
        assert "Bearer given" in place.keys
        (temperature,) = {body["temperature"] for body in place.bodies}
        (penalty,) = {body["repetition_penalty"] for body in place.bodies}
        assert (temperature, penalty) == (0, 1)


def test_one_of_several_models_has_to_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with site(FakeServer(200), models=("one", "two")) as place:
        assert main(["verify", place.url]) == 2
        assert "found one, two: name one with --model" in capsys.readouterr().err
        assert main(["verify", place.url, "--model", "three"]) == 2
        assert "Expected the model 'three'" in capsys.readouterr().err
        assert main(["verify", place.url, "--model", "two"]) == 0
        assert {body["model"] for body in place.bodies} == {"two"}
