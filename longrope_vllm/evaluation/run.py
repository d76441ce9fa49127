"""Do the work that is not in the journal yet: one piece after the other, or several at a time against a server."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import islice
from multiprocessing.pool import ThreadPool
from queue import SimpleQueue

from longrope_vllm.errors import EvaluationError, LongRopeError
from longrope_vllm.evaluation.records import Journal, Record
from longrope_vllm.evaluation.work import Work

Ended = tuple[Work, Sequence[Record] | BaseException]
"""A piece of work with what came of it."""


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
    if concurrency > 1:
        _side_by_side(pending(work, journal), journal, concurrency, told)
        return
    for piece in pending(work, journal):
        told.began(piece)
        _keep(piece, piece.measure(), journal, told)


def _side_by_side(work: Sequence[Work], journal: Journal, concurrency: int, told: Told) -> None:
    left = iter(work)
    ended: SimpleQueue[Ended] = SimpleQueue()
    running = 0
    failed: LongRopeError | None = None
    pool = ThreadPool(concurrency)  # its threads end with the process: after an interrupt nobody waits for answers
    try:
        while True:
            for piece in islice(left, concurrency - running if failed is None else 0):
                told.began(piece)
                running += 1
                tell = partial(_tell, ended, piece)
                pool.apply_async(piece.measure, callback=tell, error_callback=tell)
            if not running:
                break
            piece, found = ended.get()
            running -= 1
            try:
                _keep(piece, found, journal, told)
            except LongRopeError as error:  # the others are still finished
                failed = failed or error
    finally:
        pool.terminate()
    if failed is not None:
        raise failed


def _tell(ended: "SimpleQueue[Ended]", piece: Work, found: Sequence[Record] | BaseException) -> None:
    ended.put((piece, found))


def _keep(piece: Work, records: Sequence[Record] | BaseException, journal: Journal, told: Told) -> None:
    if isinstance(records, BaseException):
        raise records
    assert tuple(record.key for record in records) == piece.keys
    for record in records:
        for name, value in record.values.items():
            if not math.isfinite(value):
                raise EvaluationError(
                    f"Expected a finite {name}, found {value} in {record.key.title}: the numbers of "
                    "the model overflow, so try another dtype."
                )
    journal.add(record for record in records if record.key not in journal)
    told.ended(piece, records)
