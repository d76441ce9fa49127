"""How deeply JSON is nested, from its bytes as they come: no parsing, no recursion, nothing kept.

Inside of a string only its end is looked for, so a document of megabytes costs about what reading it costs. What is not
JSON gives some number as well; whether it is JSON is for the parser to say.
"""

import numpy as np

_STEP = np.zeros(256, dtype=np.int8)
_STEP[[ord("["), ord("{")]] = 1
_STEP[[ord("]"), ord("}")]] = -1
_QUOTE = ord('"')


class Nesting:
    """Feed it the body in chunks of any size."""

    def __init__(self) -> None:
        self.deepest = 0
        """Levels of arrays and objects so far."""
        self._depth = 0
        self._in_string = False
        self._escaping = False

    def feed(self, chunk: bytes) -> None:
        """Go on with ``chunk``."""
        if self._escaping:
            chunk = b"\\" + chunk
        trailing = len(chunk) - len(chunk.rstrip(b"\\"))
        self._escaping = trailing % 2 == 1
        if self._escaping:
            chunk = chunk[:-1]
        if self._in_string and b'"' not in chunk:
            return
        # Backslashes escape from left to right, which is the order in which ``replace`` finds pairs.
        codes = np.frombuffer(chunk.replace(b"\\\\", b"  ").replace(b'\\"', b"  "), dtype=np.uint8)
        if not codes.size:
            return
        inside = np.logical_xor.accumulate(codes == _QUOTE) ^ self._in_string
        depths = np.cumsum(np.where(inside, 0, _STEP[codes]), dtype=np.int64) + self._depth
        self.deepest = max(self.deepest, int(depths.max()))
        self._depth, self._in_string = int(depths[-1]), bool(inside[-1])
