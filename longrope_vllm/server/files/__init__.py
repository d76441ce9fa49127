"""Documents once: OpenAI's Files API, and file parts in messages.

Read ``service`` first: it takes an upload from its first byte to its record. ``form`` parses the body as it comes,
``store`` keeps it in a directory with ``records`` beside it, ``text`` makes text of it (HTML and PDF in a process of
their own, ``extract``), ``tokens`` counts it. ``routes`` are the routes, ``file_object`` what they answer, and
``parts`` puts the text of a file into a message in the place of its part.

Nothing here imports vLLM.
"""
