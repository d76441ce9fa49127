"""``deploy/smoke.py``: passes on a server that is right, and names what is wrong with one that is not."""

import ast
import sys

import pytest
from fake_longrope import FakeLongRope, Fault, running_fake

from smoke_run import SCRIPT, smoke


def test_a_sound_server_passes_and_each_check_says_what_it_saw() -> None:
    fake = FakeLongRope()
    with running_fake(fake) as url:
        run = smoke(url)
    assert run.code == 0, run.output
    assert run.lines["tiers"] == "ok 256 | 1,024"
    assert run.lines["short"].startswith("ok tier 0 (256): 16 prompt tokens, 8 generated")
    assert run.lines["long"].startswith("ok tier 1 (1,024): 320 prompt tokens")
    assert run.lines["crossing"].startswith("ok tier 1 (1,024): 248 prompt tokens, 40 generated, 248 tokens computed")
    assert run.lines["metrics"] == "ok 3 requests and 1 crossing were counted by tier"
    assert all(body["longrope_policy"] == "prompt" and body["ignore_eos"] for body in fake.bodies)


def test_two_runs_send_different_prompts() -> None:
    fake = FakeLongRope()
    with running_fake(fake) as url:
        assert smoke(url).code == smoke(url).code == 0
    assert fake.bodies[0]["prompt"] != fake.bodies[3]["prompt"]


@pytest.mark.parametrize(
    ("fault", "check", "said"),
    [
        ("unhealthy", "health", "'/health': 503"),
        ("not ready", "health", "'/health/ready': 503"),
        ("open", "key", "Expected 401 without the key, found 200"),
        ("stock", "tiers", "found HTTP 404"),
        ("wrong tier", "short", "Expected tier 0 and 0 crossings"),
        ("no crossing", "crossing", "Expected tier 1 and 1 crossings"),
        ("not counted", "metrics", "Expected 1 more requests in the tier of 256, found 0"),
        ("broken stream", "long", "Expected a stream up to [DONE]"),
        ("no metrics", "counters", "found 404: pass --metrics none"),
    ],
)
def test_a_fault_fails_its_own_check_by_name(fault: Fault, check: str, said: str) -> None:
    with running_fake(FakeLongRope(key="secret", fault=fault)) as url:
        run = smoke(url, key="secret")
    assert run.code == 1
    assert run.lines[check].startswith("FAILED Expected")
    assert said in run.lines[check]
    assert run.output.endswith("failed\n")


def test_the_key_is_sent_from_the_option_or_the_environment_and_never_printed() -> None:
    with running_fake(FakeLongRope(key="secret")) as url:
        runs = smoke(url, key="secret"), smoke(url, "--api-key", "secret"), smoke(url, key="wrong")
    assert [run.code for run in runs] == [0, 0, 1]
    assert not any("secret" in run.output for run in runs)


@pytest.mark.parametrize("lengths", [(), (512,)])
def test_a_server_of_fewer_than_two_tiers_passes_only_if_that_is_expected(lengths: tuple[int, ...]) -> None:
    with running_fake(FakeLongRope(lengths=lengths)) as url:
        unexpected, expected = smoke(url), smoke(url, "--expect-tiers", str(len(lengths)))
    assert (unexpected.code, expected.code) == (1, 0), expected.output
    assert f"--expect-tiers {len(lengths)}" in unexpected.lines["tiers"]
    assert "crossing" not in expected.lines


@pytest.mark.parametrize(("asked", "tokens", "tier"), [("600", 600, 1), ("2k", 2048, 2), ("200", 200, 0)])
def test_the_long_request_has_the_length_that_is_asked_for(asked: str, tokens: int, tier: int) -> None:
    fake = FakeLongRope(lengths=(256, 1024, 4096))
    with running_fake(fake) as url:
        run = smoke(url, "--long", asked)
    assert run.code == 0, run.output
    assert len(fake.bodies[1]["prompt"]) == tokens
    assert run.lines["long"].startswith(f"ok tier {tier} ")


def test_the_longest_request_leaves_room_for_an_answer_and_none_is_longer() -> None:
    fake = FakeLongRope(lengths=(256, 1024, 4096))
    with running_fake(fake) as url:
        longest, longer = smoke(url, "--long", "4k"), smoke(url, "--long", "4097")
    assert longest.code == 0, longest.output
    assert len(fake.bodies[1]["prompt"]) == 4096 - 8
    assert longer.lines["long"].startswith("FAILED Expected --long of at most 4,096 tokens")


def test_several_servers_behind_one_url_and_hidden_metrics_are_allowed_for() -> None:
    with running_fake(FakeLongRope(fault="not counted")) as url:
        assert [smoke(url, "--metrics", which).code for which in ("one", "several", "none")] == [1, 0, 0]


def test_nobody_listening_is_a_failed_check_and_a_wrong_option_another_code() -> None:
    run = smoke("http://127.0.0.1:9", "--wait", "0.1")
    assert (run.code, run.lines["health"].split(":")[0]) == (1, "FAILED Expected an answer, found none")
    assert smoke("http://127.0.0.1:9", "--long", "many").code == 2


def test_the_script_needs_nothing_but_python() -> None:
    imported: set[str | None] = set()
    for file in SCRIPT.parent.glob("smoke*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module and node.module.split(".")[0])
    assert {"urllib", "smoke_checks", "smoke_server"} <= imported
    assert imported - {"smoke_checks", "smoke_server"} <= sys.stdlib_module_names
