"""``longrope ask`` as a process: pipes, a terminal, signals, and what they leave on the server."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from documents_site import HANGS, PLAIN, Site, piece, progress, serving

COMMAND = [sys.executable, "-m", "longrope_vllm.cli.main", "ask"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.md").write_text("All about cats.")
    return tmp_path


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site()) as place:
        yield place


def _hear_signals() -> None:
    """A test run in the background ignores SIGINT, one under nohup SIGHUP, and what it starts would inherit that."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start(site: Site, *words: str) -> subprocess.Popen[str]:
    """The command with pipes."""
    return subprocess.Popen(
        [*COMMAND, *words, "--url", site.url],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_hear_signals,
    )


def test_a_document_comes_from_standard_input_and_one_from_a_pipe(site: Site) -> None:
    command = f'cat a.md | "$0" -m longrope_vllm.cli.main ask - <(echo dogs) "What?" --json --url {site.url}'
    done = subprocess.run(["bash", "-c", command, sys.executable], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    names = [file["name"] for file in json.loads(done.stdout)["files"]]
    assert names[0] == "stdin.txt"
    assert re.fullmatch(r"\d+\.txt", names[1])


def test_ctrl_c_closes_the_connection_deletes_the_files_and_ends_with_130(site: Site) -> None:
    site.script = (progress(10), piece("Forty"), HANGS)
    run = start(site, "a.md", "What changed?")
    assert run.stdout is not None
    assert run.stdout.read(5) == "Forty"
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=30)
    assert run.returncode == 130
    assert said.endswith("longrope ask: interrupted\n")
    assert "Traceback" not in said
    assert site.left.wait(10)
    assert site.deleted == ["file-0"]


def test_ctrl_c_while_the_server_has_said_nothing_yet_does_the_same(site: Site) -> None:
    site.script = (HANGS,)
    run = start(site, "a.md", "What changed?", "--json")
    assert site.asked.wait(60)
    run.send_signal(signal.SIGINT)
    out, said = run.communicate(timeout=30)
    assert (run.returncode, out) == (130, "")
    assert "Traceback" not in said
    assert site.left.wait(10)
    assert site.deleted == ["file-0"]


def test_a_second_ctrl_c_quits_at_once(site: Site) -> None:
    site.script = (HANGS,)
    site.delete_seconds = 600.0
    run = start(site, "a.md", "What changed?")
    assert site.asked.wait(60)
    run.send_signal(signal.SIGINT)
    assert site.deleting.wait(60)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=30)
    assert run.returncode == -signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_end_of_its_time_or_of_its_terminal_deletes_the_files_too(number: signal.Signals, site: Site) -> None:
    site.script = (HANGS,)
    run = start(site, "a.md", "What changed?")
    assert site.asked.wait(60)
    run.send_signal(number)
    _, said = run.communicate(timeout=30)
    assert run.returncode == 128 + number
    assert "Traceback" not in said
    assert site.deleted == ["file-0"]


def test_a_reader_that_has_enough_ends_it_quietly(site: Site) -> None:
    site.script = (piece("Forty\n"), *(piece("x" * 1000) for _ in range(500)), HANGS)
    command = f'"$0" -m longrope_vllm.cli.main ask a.md "What?" --url {site.url} | head -n 1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command, sys.executable], capture_output=True, text=True, timeout=60)
    assert done.stdout == "Forty\n"
    assert done.returncode == 141
    assert "Broken pipe" not in done.stderr
    assert site.deleted == ["file-0"]


def test_it_starts_without_torch_and_without_an_engine() -> None:
    script = "import sys, longrope_vllm.cli.main, longrope_vllm.cli.ask; "
    script += "print(sorted({'torch', 'vllm', 'transformers', 'openai'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# a terminal


class Terminal:
    """The command at a terminal of its own, and what has been shown there."""

    def __init__(self, site: Site, *words: str) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *words, "--url", site.url],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "150"},
            start_new_session=True,
            preexec_fn=_own_terminal,
        )
        os.close(slave)
        self._shown = ""

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def wait_for(self, text: str) -> None:
        """Read until ``text`` is shown; what was before it is forgotten."""
        deadline = time.monotonic() + 60
        while text not in self._shown:
            assert time.monotonic() < deadline, self._shown
            self._read()
        self._shown = self._shown.partition(text)[2]

    def end(self) -> int:
        """The exit status."""
        deadline = time.monotonic() + 60
        with suppress(OSError):  # as Linux says that nobody holds the other end
            while self._read():
                assert time.monotonic() < deadline, self._shown
        os.close(self._master)
        return self.process.wait(30)

    def _read(self) -> bool:
        """What is shown within a tenth of a second; False at the end."""
        if not select.select([self._master], [], [], 0.1)[0]:
            return True
        shown = os.read(self._master, 65536).decode()
        self._shown += re.sub(r"\x1b\[[\d;?]*\w", "", shown)
        return bool(shown)


def _own_terminal() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_at_a_terminal_questions_follow_until_quit(site: Site) -> None:
    terminal = Terminal(site, "a.md", "What changed?")
    terminal.wait_for("a.md, 15 tokens, tier 128k")
    terminal.wait_for("Forty-two.")
    terminal.wait_for("s in all")
    terminal.wait_for("> ")
    terminal.type("And why?\r")
    terminal.wait_for("Forty-two.")
    terminal.wait_for("> ")
    terminal.type("/quit\r")
    assert terminal.end() == 0
    assert site.bodies[1]["messages"][-1] == {"role": "user", "content": "And why?"}
    assert site.deleted == ["file-0"]


def test_at_a_terminal_the_question_is_asked_for_and_ctrl_d_ends(site: Site) -> None:
    terminal = Terminal(site, "a.md")
    terminal.wait_for("> ")
    assert not site.seen
    terminal.type("What changed?\r")
    terminal.wait_for("Forty-two.")
    terminal.wait_for("> ")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_at_a_terminal_the_failure_of_a_following_question_is_said_and_the_conversation_goes_on(site: Site) -> None:
    terminal = Terminal(site, "a.md", "What changed?")
    terminal.wait_for("> ")
    site.refusals["POST /v1/chat/completions"] = (400, {"error": {"message": "Too much of it."}})
    terminal.type("Everything?\r")
    terminal.wait_for("Too much of it.")
    terminal.wait_for("> ")
    site.refusals.clear()
    terminal.type("Less?\r")
    terminal.wait_for("Forty-two.")
    terminal.wait_for("> ")
    terminal.type("\x04")
    assert terminal.end() == 0
    assert [message["role"] for message in site.bodies[-1]["messages"]] == ["user", "assistant", "user"]


def test_queue_and_prefill_are_shown_and_ctrl_c_of_a_terminal_cancels(site: Site) -> None:
    site.script = (
        progress(0, queue_position=4),
        0.3,
        progress(250, time_ms=100),
        progress(500, time_ms=200),
        HANGS,
    )
    terminal = Terminal(site, "a.md", "What changed?")
    terminal.wait_for("4 before this one")
    terminal.wait_for("500 of 1,000 tokens, 2,500 tokens/s, about 0:00 left")
    terminal.type("\x03")
    terminal.wait_for("longrope ask: interrupted")
    assert terminal.end() == 130
    assert site.left.wait(10)
    assert site.deleted == ["file-0"]


def test_thinking_is_shown_until_the_answer_comes(site: Site) -> None:
    site.script = (piece("Hm", field_name="reasoning"), 0.3, *PLAIN)
    terminal = Terminal(site, "a.md", "What changed?")
    terminal.wait_for("thinking")
    terminal.wait_for("Forty-two.")
    terminal.type("/quit\r")
    assert terminal.end() == 0
