"""Ask about long documents: upload, wait with a progress bar, read the answer as it is written, ask on.

    longrope ask report.pdf notes.md "What changed?" [--url http://localhost:8000]
    pdftotext report.pdf - | longrope ask - "What changed?" --json

FILE is a path, - for standard input, or the id of a file that the server keeps (file-...). Any OpenAI-compatible
server will do. One that keeps files (longrope serve) gets each once and deletes it at the end; another one gets their
text with the question. At a terminal, questions can follow: /quit or Ctrl-D ends.

Exit code: 0 answered, 2 not answered, 130 interrupted; an interrupt also cancels the request on the server.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from longrope_vllm.client.answer import Answer
from longrope_vllm.client.documents import STDIN, Source, read_sources, split_question, without_repetitions
from longrope_vllm.client.failures import FailedRequestError
from longrope_vllm.client.interrupts import ending_well
from longrope_vllm.client.patience import Patience
from longrope_vllm.client.screen import Screen
from longrope_vllm.client.server import Sampling, Server
from longrope_vllm.client.session import Session, Settings, session
from longrope_vllm.errors import EXIT_CODE, LongRopeError

URL = "http://localhost:8000"
PROMPT = "> "
QUIT = "/quit"
_CLOSED_PIPE = 141
"""As a shell calls the end of a process by SIGPIPE."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``longrope ask``."""
    parser.usage = 'longrope ask FILE... "question" [options]'
    parser.add_argument("words", metavar="FILE... question", nargs="*", help="documents, then the question")
    parser.add_argument("--url", default=URL, help=f"the server ({URL})")
    parser.add_argument("--model", metavar="NAME", help="which model of the server, where it serves several")
    parser.add_argument("--api-key", metavar="KEY", help="default: OPENAI_API_KEY, if set")
    parser.add_argument("--system", metavar="TEXT", help="what the model is told before the documents")
    parser.add_argument("--max-tokens", metavar="N", type=int, help="length of an answer (the server's default)")
    parser.add_argument("--temperature", metavar="T", type=float, help="the server's default; 0 is greedy")
    parser.add_argument("--follow-up", action="store_true", help="more questions, a line of standard input each")
    parser.add_argument("--no-files", action="store_true", help="send the text, even to a server that keeps files")
    parser.add_argument("--keep", action="store_true", help="leave the files on the server and print their ids")
    parser.add_argument("--json", action="store_true", help="print one JSON object an answer instead of its text")
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=float, help="give up after this much silence (by the documents' length)"
    )


def run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Ask, print the answer, and go on while there are questions."""
    asked = parser.parse_intermixed_args(arguments)
    with ending_well():
        try:
            return _ask(asked)
        except BrokenPipeError:  # who reads the answer has enough of it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _CLOSED_PIPE
        except (LongRopeError, OSError) as error:
            if not asked.json:
                raise
            print(json.dumps(error_document(error)), file=sys.stderr)
            return EXIT_CODE


def _ask(asked: argparse.Namespace) -> int:
    names, question = split_question(asked.words)
    if asked.follow_up and STDIN in names:
        raise LongRopeError("Expected questions on standard input with --follow-up, found a document (-): use a file.")
    with TemporaryDirectory(prefix="longrope-ask-") as spool:
        sources, repeated = without_repetitions(read_sources(names, spool=Path(spool)))
        following = questions(question, goes_on=asked.follow_up or (_at_terminal() and not asked.json))
        first = next(following, None)
        if first is None:
            raise LongRopeError('Expected a question, found none: longrope ask FILE... "question".')
        with Screen(Console(stderr=True), out=None if asked.json else sys.stdout) as screen:
            say = _say_json if asked.json else screen.say
            for name, like in repeated:
                say(f"{name} is the same as {like} and is sent once")
            with _session(asked, sources, screen, say) as conversation:
                return _converse(conversation, chain([first], following), screen, json_form=asked.json)


@contextmanager
def _session(
    asked: argparse.Namespace, sources: Sequence[Source], screen: Screen, say: Callable[[str], None]
) -> Iterator[Session]:
    settings = Settings(
        model=asked.model,
        system=asked.system,
        sampling=Sampling(max_tokens=asked.max_tokens, temperature=asked.temperature),
        files=not asked.no_files,
        keep=asked.keep,
    )
    key = asked.api_key or os.environ.get("OPENAI_API_KEY")
    with (
        closing(Server(asked.url, api_key=key, patience=Patience(given=asked.timeout))) as server,
        session(server, sources, settings=settings, told=screen, say=say) as conversation,
    ):
        yield conversation


def _converse(conversation: Session, asked: Iterable[str], screen: Screen, *, json_form: bool) -> int:
    """Answer every question. At a terminal, the failure of a question that follows others does not end it."""
    status, answered = 0, False
    for question in asked:
        screen.waiting()
        try:
            answer = conversation.ask(question, screen)
        except FailedRequestError as failure:
            if not (answered and _at_terminal()):
                raise
            screen.say(str(failure))
            status = EXIT_CODE
            continue
        finally:
            screen.end_answer()
        status, answered = 0, True
        if json_form:
            print(json.dumps(answer_document(answer, conversation)), flush=True)
        else:
            screen.say(answer.summary())
    return status


def questions(first: str | None, *, goes_on: bool) -> Iterator[str]:
    """``first``, or one that a terminal is asked for, and while it ``goes_on`` the lines of standard input."""
    if first is not None:
        yield first
    elif sys.stdin.isatty() and not goes_on:
        yield from islice(_lines(), 1)
    if goes_on:
        yield from _lines()


def _lines() -> Iterator[str]:
    """Questions on standard input, until it ends or one is ``QUIT``."""
    while (line := _read_line()) is not None:
        question = line.strip()
        if question == QUIT:
            return
        if question:
            yield question


def _read_line() -> str | None:
    """A line of standard input, prompted for at a terminal; None at its end."""
    if _at_terminal():
        import readline  # noqa: F401  input() then edits its line and remembers those before

        try:
            return input(PROMPT)
        except EOFError:
            print()
            return None
    if sys.stdin.isatty():  # the answer goes elsewhere, and the prompt must not follow it
        print(PROMPT, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline() or None


def _at_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _say_json(line: str) -> None:
    print(json.dumps({"note": line}), file=sys.stderr)


def answer_document(answer: Answer, conversation: Session) -> dict[str, Any]:
    """What ``--json`` prints of an answer."""
    return {
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "model": conversation.model,
        "usage": answer.usage,
        "longrope": answer.longrope,
        "files": [{"id": a.id, "name": a.name, "tokens": a.tokens} for a in conversation.attachments],
        "timings": {name: None if s is None else round(s, 3) for name, s in asdict(answer.timings).items()},
    }


def error_document(error: Exception) -> dict[str, Any]:
    """What ``--json`` prints of an error: the sentence, and what else the server said of it."""
    if not isinstance(error, FailedRequestError):
        return {"error": {"message": str(error)}}
    return {"error": {**error.details, "status": error.status, "message": str(error)}}
