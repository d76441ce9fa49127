"""The client behind ``longrope ask``: long documents, any OpenAI-compatible server, and what comes back of them.

In the order in which a question travels: ``documents`` (what the user named), ``attachments`` (uploaded, or as text),
``conversation`` (messages), ``server`` (requests, with the limits of ``patience`` and the sentences of ``failures``),
``events`` (what a stream tells), ``answer`` (what came of it), ``screen`` and ``pace`` (what a person sees meanwhile).

Needs the ``openai`` SDK and rich; torch is not imported.
"""
