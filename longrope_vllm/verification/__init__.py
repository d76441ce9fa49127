"""The proof behind ``longrope verify``: questions to a running server whose answers must agree if it is exact.

Read ``equality`` first (what "equal" means in the dtype of the server), then ``subject`` (what every check gets), the
checks themselves (``noise``, ``boundary``, ``crossing``, ``neighbours``, ``prefix_cache``, ``elsewhere``, ``needle``)
and ``schedule`` (which of them run on which server).
"""
