"""``LABEL=REST``: a name that a user gives to a file, a set of tiers or a kind of text on the command line."""


def split_label(spec: str) -> tuple[str, str]:
    """(label, rest); the label is empty where there is none. A path with ``=`` in it needs a label in front."""
    label, equals, rest = spec.partition("=")
    return (label, rest) if equals else ("", spec)
