"""Which natural language a text is in."""

from functools import cache
from typing import Any

MIN_CHARACTERS = 80
"""The language of a shorter text is a guess."""
MIN_CHARACTERS_OF_FEW = 20
"""The same, where only a few languages are possible."""


def detect_language(text: str, allowed: tuple[str, ...] = ()) -> str:
    """Return the ISO 639-1 code of a text's language; ``und`` for one too short to tell.

    Args:
        allowed: the languages that it may be in; empty: any.
    """
    if len(text) < (MIN_CHARACTERS_OF_FEW if allowed else MIN_CHARACTERS):
        return "und"
    import py3langid

    classify = _identifier(allowed).classify if allowed else py3langid.classify
    language, _ = classify(text[:20_000])
    return str(language)


@cache
def _identifier(allowed: tuple[str, ...]) -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages(list(allowed))  # ValueError where one is not known
    return identifier
