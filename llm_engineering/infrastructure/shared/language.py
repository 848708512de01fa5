"""Which natural language a text is in."""

MIN_CHARACTERS = 80
"""The language of a shorter text is a guess."""


def detect_language(text: str) -> str:
    """Return the ISO 639-1 code of a text's language; ``und`` for one too short to tell."""
    if len(text) < MIN_CHARACTERS:
        return "und"
    import py3langid

    language, _ = py3langid.classify(text[:20_000])
    return str(language)
