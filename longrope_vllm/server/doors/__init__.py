"""Who may come in, and with how much: keys and their limits, bodies, headers, and when to come back.

Read ``doors.py`` first: one ASGI middleware around vLLM's whole app, outside of every other. ``keys_file`` and
``keyring`` know the keys, ``access`` which path needs which, ``bodies`` and ``nesting`` look at what is sent.
``account``, ``bucket`` and ``admission`` hold the limits of a key, ``queue_estimate`` says when a full server has room.
"""
