"""Do the work that is not in the journal yet: one piece after the other, or several at a time against a server."""

import math
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.records import Journal, Record
from longrope_vllm.evaluation.work import Work


class Told:
    """Who is told what happens; this one says nothing."""

    def began(self, work: Work) -> None:
        """A piece of work began."""

    def ended(self, work: Work, records: Sequence[Record]) -> None:
        """Its records are written down."""


def pending(work: Sequence[Work], journal: Journal) -> list[Work]:
    """Those of which a record is missing."""
    return [piece for piece in work if not all(key in journal for key in piece.keys)]


def do_all(work: Sequence[Work], journal: Journal, *, concurrency: int = 1, told: Told | None = None) -> None:
    """Do what is pending and write it down as it comes.

    The first error ends it: what has begun is still finished and written down, the rest is left for the next time.
    """
    told = told or Told()
    if concurrency == 1:
        for piece in pending(work, journal):
            told.began(piece)
            _keep(piece, piece.measure(), journal, told)
        return
    with ThreadPoolExecutor(concurrency) as pool:
        running: dict[Future[Sequence[Record]], Work] = {}
        failed: BaseException | None = None
        left = iter(pending(work, journal))
        while True:
            free = concurrency - len(running) if failed is None else 0
            for piece in islice(left, free):
                told.began(piece)
                running[pool.submit(piece.measure)] = piece
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                piece = running.pop(future)
                error = future.exception()
                if error is None:
                    _keep(piece, future.result(), journal, told)
                failed = failed or error
        if failed is not None:
            raise failed


def _keep(piece: Work, records: Sequence[Record], journal: Journal, told: Told) -> None:
    assert tuple(record.key for record in records) == piece.keys
    for record in records:
        for name, value in record.values.items():
            if not math.isfinite(value):
                raise EvaluationError(
                    f"Expected a finite {name}, found {value} in {record.key.title}: its numbers overflow, "
                    "so try another --dtype."
                )
    journal.add(record for record in records if record.key not in journal)
    told.ended(piece, records)
