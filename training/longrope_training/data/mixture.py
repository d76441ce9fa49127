"""Which source the next document is read from, and which rows it is for.

Each of the two streams is a mixture by itself: its next document comes from the source that has given it the fewest
tokens for its weight, so every share is within a document of its weight all the way. Were sources mixed first and
documents dealt out to the streams afterwards, two sources could end up one in each. Within a source long documents are
taken more often: length upsampling per source, which keeps the mixture of sources (Fu et al., arXiv 2402.10171).
"""

import random
from collections.abc import Sequence

from longrope_training.data.schedule import Kind, Schedule
from longrope_training.data.sources import Document
from longrope_training.data.streams import KINDS
from longrope_training.recipe import DataSource
from longrope_vllm.errors import TrainingError


class Mixture:
    """Counts the tokens taken; the same counts and documents always lead to the same choices."""

    def __init__(
        self,
        sources: Sequence[DataSource],
        schedule: Schedule,
        *,
        seed: int,
        taken: dict[Kind, list[int]] | None = None,
    ) -> None:
        """``taken`` are the tokens of each kind by source so far, none when None.

        Raises ``TrainingError`` when the schedule has rows that no source is for.
        """
        self._sources, self._seed = sources, seed
        self.wanted = {kind: schedule.tokens(kind) for kind in KINDS}
        self.taken = taken or {kind: [0] * len(sources) for kind in KINDS}
        for kind in KINDS:
            if self.wanted[kind] and not any(self._allows(source, kind) for source in range(len(sources))):
                raise TrainingError(
                    f"Expected a source of text for {kind} rows, found none: give one rows = both, or train without "
                    f"{kind} rows."
                )

    def room(self, kind: Kind) -> int:
        """Tokens of ``kind`` that are still wanted."""
        return self.wanted[kind] - sum(self.taken[kind])

    def emptiest(self) -> Kind | None:
        """The stream that the next document is read for: the least filled one; None when both are full."""
        open_kinds = [kind for kind in KINDS if self.room(kind)]
        return min(open_kinds, key=lambda kind: sum(self.taken[kind]) / self.wanted[kind], default=None)

    def source_for(self, kind: Kind) -> int:
        """The source that has given the fewest tokens of ``kind`` for its weight; of equals the first."""
        allowed = [source for source in range(len(self._sources)) if self._allows(source, kind)]
        return min(allowed, key=lambda source: self.taken[kind][source] / self._sources[source].weight)

    def destination(self, document: Document, *, source: int, kind: Kind) -> Kind | None:
        """The stream for a document that was read for ``kind``; None when it is left out.

        A document that is not upsampled is offered to the short rows, but only where its source is next there too:
        otherwise the many short ones that are read for few long ones would upset the mixture.
        """
        if kind == "short" or self._drawn(document, source):
            return kind
        offered = self.room("short") and self._allows(source, "short") and self.source_for("short") == source
        return "short" if offered else None

    def _drawn(self, document: Document, source: int) -> bool:
        """Whether a document comes into a long row; a long one always does."""
        spec = self._sources[source]
        if spec.upsample == 1 or document.whole >= spec.upsample_from:
            return True
        # By the document's own number: a resumed run draws the same.
        return random.Random(f"upsample/{self._seed}/{source}/{document.number}").random() < 1 / spec.upsample

    def _allows(self, source: int, kind: Kind) -> bool:
        return self._sources[source].rows in (kind, "both")
