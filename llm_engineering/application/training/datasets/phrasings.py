"""Templates of instructions about a passage, by language, with placeholders like ``{topic}`` and ``{title}``."""

from typing import Literal

Kind = Literal[
    "question", "section", "sections", "section_terms", "title", "title_terms", "terms", "continue"
]

PHRASINGS: dict[str, dict[Kind, tuple[str, ...]]] = {
    "en": {
        "question": (
            "{topic}",
            "{topic} Explain it in the context of “{title}”.",
            "I am reading about “{title}”. {topic}",
        ),
        "section": (
            "Write the part on “{topic}” of an article called “{title}”.",
            "In the context of “{title}”: explain “{topic}”.",
            "What is there to know about “{topic}” when it comes to “{title}”?",
            "Explain “{topic}” to a reader of “{title}”.",
            "You are writing “{title}”. What do you say under the heading “{topic}”?",
        ),
        "sections": (
            "Write the part of an article called “{title}” that covers {topics}.",
            "For “{title}”: write about {topics}, in this order.",
            "What does one need to know about {topics} in the context of “{title}”?",
            "Explain {topics} to somebody who is interested in “{title}”.",
            "I have a few questions on “{title}”. Tell me about {topics}.",
        ),
        "section_terms": (
            "Write a passage on “{topic}” for “{title}” that goes into {terms}.",
            "In the context of “{title}”, explain what {terms} have to do with “{topic}”.",
            "Under the heading “{topic}” of “{title}”: what should a reader know about {terms}?",
            "Discuss {terms} as part of “{topic}”, from “{title}”.",
        ),
        "title": (
            "Write the opening of an article called “{title}”.",
            "How would you begin a text with the title “{title}”?",
            "Introduce the reader to “{title}”.",
        ),
        "title_terms": (
            "Write a passage of an article called “{title}” that goes into {terms}.",
            "In a text on “{title}”, what is there to say about {terms}?",
            "Explain {terms} to a reader of “{title}”.",
        ),
        "terms": (
            "Write a short text about {terms}.",
            "What do you think about {terms}? Write it as a post.",
            "Share what you know about {terms}.",
        ),
        "continue": (
            "A text on “{topic}” has come to this point: “{before}” Go on writing.",
            "Continue this passage of “{title}”: “{before}”",
            "What comes next in “{title}” after this sentence? “{before}”",
        ),
    },
    "de": {
        "question": ("{topic}", "Ich lese etwas über „{title}“. {topic}"),
        "section": (
            "Schreibe den Abschnitt „{topic}“ eines Artikels mit dem Titel „{title}“.",
            "Erkläre „{topic}“ im Zusammenhang von „{title}“.",
            "Was sollte man bei „{title}“ über „{topic}“ wissen?",
        ),
        "sections": (
            "Schreibe den Teil des Artikels „{title}“, in dem es um {topics} geht.",
            "Was sollte man bei „{title}“ über {topics} wissen?",
        ),
        "section_terms": (
            "Schreibe für „{title}“ eine Passage über „{topic}“, die auf {terms} eingeht.",
            "Was haben {terms} im Artikel „{title}“ mit „{topic}“ zu tun?",
        ),
        "title": (
            "Schreibe den Anfang eines Artikels mit dem Titel „{title}“.",
            "Führe den Leser in „{title}“ ein.",
        ),
        "title_terms": (
            "Schreibe eine Passage eines Artikels mit dem Titel „{title}“, die auf {terms} eingeht.",
            "Was ist in einem Text über „{title}“ zu {terms} zu sagen?",
        ),
        "terms": ("Schreibe einen kurzen Text über {terms}.", "Was denkst du über {terms}?"),
        "continue": (
            "Setze diese Passage aus „{title}“ fort: „{before}“",
            "Ein Text über „{topic}“ ist an dieser Stelle: „{before}“ Schreibe weiter.",
        ),
    },
}
QUOTES = {"en": ("“", "”"), "de": ("„", "“")}
AND = {"en": "and", "de": "und"}
QUESTION_WORDS = {
    "en": ("what", "why", "how", "when", "where", "who", "which", "is", "are", "do", "does", "can", "should"),
    "de": (
        "was",
        "warum",
        "wie",
        "wann",
        "wo",
        "wer",
        "welche",
        "welcher",
        "welches",
        "ist",
        "sind",
        "kann",
        "soll",
    ),
}
EMPTY_HEADINGS = frozenset(
    """introduction intro summary conclusion conclusions references notes overview contents outline example examples faq
    further reading see also credits acknowledgements appendix einleitung zusammenfassung fazit literatur quellen inhalt
    beispiel beispiele überblick""".split()
)
"""Headings that name a part of a text and no topic."""

DETERMINERS = {
    "en": frozenset(
        """a an the its their his her our your my this these those each every no any some two three four of in for with by
        from on between without into per""".split()
    ),
    "de": frozenset(),
}
"""Words that a noun, or an adjective and its noun, stands behind. German nouns are told by their capital."""
