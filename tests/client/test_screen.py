"""What a person sees: bars on a terminal that the test plays, with the server's own clock."""

import io
import re
from pathlib import Path

from rich.console import Console

from longrope_vllm.client.documents import Document
from longrope_vllm.client.events import Progress
from longrope_vllm.client.screen import Screen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(written: str) -> str:
    return re.sub(r"\x1b\[[\d;?]*\w", "", written)


def screen(*, terminal: bool = True) -> tuple[Screen, io.StringIO, io.StringIO]:
    """A screen, standard error and standard output."""
    error, out = Terminal(), Terminal() if terminal else io.StringIO()
    console = Console(file=error, force_terminal=terminal, width=160, legacy_windows=False)
    return Screen(console, out=out), error, out


def read(processed: int, seconds: float, cache: int = 0) -> Progress:
    return Progress(total=100_000, cache=cache, processed=processed, seconds=seconds)


def test_queue_then_tokens_pace_and_time_left_then_the_answer() -> None:
    view, error, out = screen()
    with view:
        view.waiting()
        view.progress(Progress(total=100_000, cache=0, processed=0, seconds=0.0, queue_position=3))
        view.refresh()
        assert "in the queue" in shown(error.getvalue())
        assert "3 before this one" in shown(error.getvalue())
        view.progress(read(20_000, 0.0, cache=20_000))
        view.progress(read(40_000, 8.0, cache=20_000))
        view.refresh()
        told = "40,000 of 100,000 tokens (20,000 cached), 2,500 tokens/s, about 0:24 left"
        assert told in shown(error.getvalue())
        view.writing("Forty-")
        view.writing("two.")
    assert out.getvalue() == "Forty-two.\n"
    assert error.getvalue().endswith("\x1b[?25h\r\x1b[1A\x1b[2K")  # the cursor is back, and the bar is gone


def test_hours_are_hours() -> None:
    view, error, _ = screen()
    with view:
        view.progress(read(1_000, 0.0))
        view.progress(read(2_000, 75.0))
        view.refresh()
    assert "13 tokens/s, about 2:02:30 left" in shown(error.getvalue())


def test_an_upload_is_shown_by_bytes_until_the_server_has_them_all(tmp_path: Path) -> None:
    view, error, _ = screen()
    document = Document(name="report.pdf", path=tmp_path, size=2_000_000, digest="")
    with view:
        sent = view.uploading(document)
        sent(500_000)
        view.refresh()
        assert "uploading report.pdf" in shown(error.getvalue())
        assert "500.0 kB of 2.0 MB" in shown(error.getvalue())
        sent(1_500_000)
        view.refresh()
        assert "report.pdf: the server reads it" in shown(error.getvalue())
        view.uploaded()


def test_names_of_files_are_no_markup(tmp_path: Path) -> None:
    view, error, _ = screen()
    with view:
        view.uploading(Document(name="[bold]x[/nonsense].md", path=tmp_path, size=2, digest=""))
        view.refresh()
        view.say("[red]kept")
    assert "[bold]x[/nonsense].md" in shown(error.getvalue())
    assert "[red]kept" in shown(error.getvalue())


def test_without_a_terminal_there_are_no_bars() -> None:
    view, error, out = screen(terminal=False)
    with view:
        view.waiting()
        view.progress(read(1_000, 1.0))
        view.thinking("hm")
        view.writing("yes\n")
        view.say("prompt 3 tokens")
    assert error.getvalue() == "prompt 3 tokens\n"
    assert out.getvalue() == "yes\n"


def test_an_answer_cannot_move_the_cursor_of_a_terminal() -> None:
    view, _, out = screen()
    with view:
        view.writing("a\x1b[2Jb\r\x9bc\n\td\n")
    assert out.getvalue() == "a[2Jbc\n\td\n"
    piped = io.StringIO()
    with Screen(Console(file=io.StringIO()), out=piped) as view:
        view.writing("a\x1b[2Jb\n")
    assert piped.getvalue() == "a\x1b[2Jb\n"
