"""Messages of a conversation about documents.

The documents stand first and the question last, so that the next question begins with the same tokens and the server
finds them in its prefix cache.
"""

from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]
"""A message of OpenAI's chat completions."""
Part = dict[str, Any]
"""A part of its content."""


def file_part(file_id: str) -> Part:
    """A document that the server keeps."""
    return {"type": "file", "file": {"file_id": file_id}}


def text_part(text: str) -> Part:
    """A text."""
    return {"type": "text", "text": text}


def document_part(name: str, text: str) -> Part:
    """A document as text, in the words in which ``longrope serve`` gives the model a file part."""
    return text_part(f"Document {name}:\n\n{text}\n")


class Conversation:
    """Questions and answers so far, after the documents."""

    def __init__(self, documents: Sequence[Part], *, system: str | None = None) -> None:
        self._documents = list(documents)
        self._messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._begun = False

    def asking(self, question: str) -> list[Message]:
        """The messages that ask ``question``; nothing is remembered until it is answered."""
        return [*self._messages, self._asked(question)]

    def answered(self, question: str, answer: str) -> None:
        """Remember a question and its answer."""
        self._messages += [self._asked(question), {"role": "assistant", "content": answer}]
        self._begun = True

    def _asked(self, question: str) -> Message:
        content = question if self._begun else [*self._documents, text_part(question)]
        return {"role": "user", "content": content}
