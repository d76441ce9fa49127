"""What a person sees: bars on standard error while a server works, the answer on standard output as it is written.

On anything but a terminal there are no bars; the answer is the same.
"""

from types import TracebackType
from typing import IO, Self

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from longrope_vllm.client.documents import Document
from longrope_vllm.client.events import Progress
from longrope_vllm.client.pace import Pace
from longrope_vllm.client.server import Sent

_UNSHOWN = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""Control characters, which a document may have talked a model into: they would move the cursor of a terminal."""


class Screen:
    """The display of one run, a ``Told`` of uploads and a ``Listener`` of answers. Leaving it takes the bars away.

    ``out`` gets the answer; None for one that is printed in another form.
    """

    def __init__(self, console: Console, *, out: IO[str] | None) -> None:
        self._console = console
        self._out = out
        self._bars: Bars | None = None
        self._task = TaskID(0)
        self._pace = Pace()
        self._at_line_start = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end_answer()

    def uploading(self, document: Document) -> Sent:
        """A bar by bytes."""
        left = [document.size]

        def sent(count: int) -> None:
            left[0] -= count
            done = document.size - left[0]
            what = f"uploading {document.name}" if left[0] > 0 else f"{document.name}: the server reads it"
            self._show(what, document.size, done, f"{decimal(done)} of {decimal(document.size)}")

        self._hide()
        sent(0)
        return sent

    def uploaded(self) -> None:
        """The bar goes."""
        self._hide()

    def waiting(self) -> None:
        """A question was sent, and nothing has come yet."""
        self._hide()
        self._pace = Pace()
        self._show("waiting for the server", None, 0, "")

    def progress(self, progress: Progress) -> None:
        """The place in the queue, then a bar of tokens with the pace and the time that is left."""
        if progress.queue_position is not None:
            self._show("in the queue", None, 0, f"{progress.queue_position} before this one")
            return
        self._pace.add(progress)
        self._show("reading", progress.total, progress.processed, self._read(progress))

    def thinking(self, text: str) -> None:
        """The model writes to itself, which is not shown."""
        self._show("thinking", None, 0, "")

    def writing(self, text: str) -> None:
        """The answer grows."""
        self._hide()
        if self._out is None:
            return
        shown = text.translate(_UNSHOWN) if self._out.isatty() else text
        self._out.write(shown)
        self._out.flush()
        self._at_line_start = shown.endswith("\n") if shown else self._at_line_start

    def end_answer(self) -> None:
        """The bars go, and what is printed next begins a line."""
        self._hide()
        if self._out is not None and not self._at_line_start:
            self._out.write("\n")
            self._out.flush()
        self._at_line_start = True

    def refresh(self) -> None:
        """Draw the bars now; they are drawn ten times a second anyway."""
        if self._bars is not None:
            self._bars.refresh()

    def say(self, line: str) -> None:
        """A line on standard error, above the bars."""
        self._console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)

    def _read(self, progress: Progress) -> str:
        said = f"{progress.processed:,} of {progress.total:,} tokens"
        if progress.cache:
            said += f" ({progress.cache:,} cached)"
        rate, left = self._pace.rate, self._pace.left
        if rate is None or left is None:
            return said
        return f"{said}, {rate:,.0f} tokens/s, about {_clock(left)} left"

    def _show(self, what: str, total: int | None, done: int, note: str) -> None:
        if not self._console.is_terminal:
            return
        if self._bars is None:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[note]}", markup=False),
                TimeElapsedColumn(),
            )
            self._bars = Bars(*columns, console=self._console, transient=True, redirect_stdout=False)
            self._task = self._bars.add_task(what, total=total, note=note)
            self._bars.start()
        self._bars.update(self._task, description=what, total=total, completed=done, note=note)

    def _hide(self) -> None:
        bars, self._bars = self._bars, None
        if bars is not None:
            bars.stop()


def _clock(seconds: float) -> str:
    """``1:05``, or ``2:01:05`` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
