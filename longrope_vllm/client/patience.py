"""How long a silent server is waited for, by the length of what it reads. Seconds, tokens, bytes.

A server that keeps its stream alive (progress, or keep-alive comments) is given up after ``SILENCE`` seconds without a
byte. Any other one is silent for the whole prefill, so it gets

    SILENCE + tokens / SLOWEST,  tokens = bytes / 2 where they are not known,

on the assumption that a prefill slower than 50 tokens a second is not worth waiting for, and that a token of a text is
at least two bytes (about four in English, three in code and in most other languages). An upload is answered once the
server has read and counted it: ``SILENCE + bytes / 100 kB/s``, which is slower than PDF readers and tokenizers are.
"""

from dataclasses import dataclass

CONNECT = 10.0
SILENCE = 120.0
SLOWEST = 50.0
BYTES_PER_TOKEN = 2
COUNTING = 100_000.0
"""Bytes a second in which a server reads a file."""
SHORT = 30.0
"""For small questions: models, routes, a deletion."""


def tokens_at_most(size: int) -> int:
    """Tokens of a text of ``size`` bytes, rather too many than too few."""
    return -(-size // BYTES_PER_TOKEN)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """The time-outs of one run; ``given`` is the user's own, and stands for every estimate."""

    given: float | None = None

    def for_answer(self, tokens: int, *, alive: bool) -> float:
        """Between two bytes of an answer to ``tokens`` of prompt; ``alive`` is a server that is never silent."""
        if self.given is not None:
            return self.given
        return SILENCE if alive else SILENCE + tokens / SLOWEST

    def for_upload(self, size: int) -> float:
        """Until the upload of ``size`` bytes is answered, from its last byte on."""
        return SILENCE + size / COUNTING if self.given is None else self.given
