"""A conversation with one server about some documents, from the first byte of them to the last answer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

from longrope_vllm.client.answer import Answer, Listener, listen
from longrope_vllm.client.attachments import Attachment, Told, Uploads, inline
from longrope_vllm.client.conversation import Conversation
from longrope_vllm.client.documents import Source
from longrope_vllm.client.patience import tokens_at_most
from longrope_vllm.client.server import Sampling, Server


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a server is asked; None leaves it to the server."""

    model: str | None = None
    system: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    files: bool = True
    """Whether files are uploaded to a server that keeps them."""
    keep: bool = False
    """Whether they stay there."""


class Session:
    """Questions and answers about ``attachments``, into which ``upload_s`` seconds went."""

    def __init__(
        self, server: Server, attachments: Sequence[Attachment], *, model: str, settings: Settings, upload_s: float
    ) -> None:
        self.model = model
        self.attachments = tuple(attachments)
        self._server = server
        self._sampling = settings.sampling
        self._progress = server.tells_progress()
        self._conversation = Conversation([attachment.part for attachment in attachments], system=settings.system)
        self._tokens = sum(attachment.tokens_at_most for attachment in attachments)
        self._upload_s = upload_s

    def ask(self, question: str, listener: Listener) -> Answer:
        """Ask, tell ``listener`` what arrives, and remember both for the next question. Raises ``FailedRequestError``.

        Whatever ends it early, Ctrl-C included, closes the connection, by which the server knows that nobody waits.
        """
        tokens = self._tokens + tokens_at_most(len(question.encode()))
        asked = self._server.answer(
            self._conversation.asking(question),
            model=self.model,
            sampling=self._sampling,
            tokens=tokens,
            progress=self._progress,
        )
        with asked as events:
            answer = listen(events, listener, upload_s=self._upload_s)
        self._conversation.answered(question, answer.text)
        self._tokens = tokens + tokens_at_most(len(answer.text.encode()))
        self._upload_s = 0.0
        return answer


@contextmanager
def session(
    server: Server, sources: Sequence[Source], *, settings: Settings, told: Told, say: Callable[[str], None]
) -> Iterator[Session]:
    """A session about ``sources``; files uploaded for it are deleted at its end, unless they are to be kept.

    ``say`` is told in a line what a user should know. Raises ``LongRopeError``.
    """
    model = server.model(settings.model)
    keeps_files = settings.files and server.keeps_files()
    if settings.files and not keeps_files:
        say(f"{server.url} keeps no files: their text is sent with the question")
    with Uploads(server, told=told, say=say, keep=settings.keep) as uploads:
        started = monotonic()
        attachments = tuple(map(uploads.attach, sources)) if keeps_files else inline(sources, url=server.url)
        upload_s = monotonic() - started if keeps_files else 0.0
        for attachment in attachments:
            if attachment.tokens is not None or attachment.remark is not None:
                say(attachment.describe())
        yield Session(server, attachments, model=model, settings=settings, upload_s=upload_s)
