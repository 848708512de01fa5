"""How authors write: the profiles, what they are made of, and the score of a text against them."""

from collections.abc import Sequence

import pytest

from llm_engineering.application.features.voices import build_voice_profiles, describe_voice, read_prose
from llm_engineering.application.inference.briefs import describe_style
from llm_engineering.application.text.style import score_voice, split_prose
from llm_engineering.domain.documents import CleanDocument, User
from llm_engineering.domain.voices import VoiceProfile
from tests.fakes.warehouse import FakeWarehouse

ADA = "I cut the text at headings. Then I look at it again, and again, and I never hurry. We write short notes; we keep them. "
BEN = "One should consider whether chunking suffices! Furthermore, is a benchmark required? Undoubtedly one measures latency. "


def document(author: str, text: str, number: int = 0, **more: object) -> CleanDocument:
    fields: dict[str, object] = {
        "id": f"{author}{number}",
        "category": "article",
        "title": f"Text {number}",
        "text": text,
        "link": f"https://example.org/{author}/{number}",
        "platform": "example.org",
        "author": author,
        "author_id": User(full_name=author).id,
        "language": "en",
        "source_hash": "s",
    }
    return CleanDocument.model_validate(fields | more)


def library(author: str, text: str, count: int = 4) -> list[CleanDocument]:
    return [document(author, (text * 12 + f"It ends with number {n}. ") * 2, n) for n in range(count)]


def profiles(documents: Sequence[CleanDocument]) -> dict[str, VoiceProfile]:
    warehouse = FakeWarehouse()
    warehouse.clean.upsert(documents)
    build_voice_profiles(warehouse.clean, warehouse.voices)
    return {voice.id: voice for voice in warehouse.voices.list_profiles()}


class TestProfile:
    def test_numbers_are_of_prose_alone(self) -> None:
        text = (
            "# A heading\n\nI am here, now. You are there?\n\n```python\nx = 1, 2, 3\n```\n\n"
            "| a | b |\n| --- | --- |\n| c, d | e |\n"
        )
        assert split_prose(text) == (("I am here, now.", "You are there?"),)
        voice = describe_voice("Ada", "en", [read_prose(document("Ada", text * 10))], [])
        assert voice is not None
        assert voice.sentence_words.median == 3.5
        assert voice.paragraph_sentences.median == 2
        per_thousand = 1_000 / 7
        for name in ("commas", "questions", "i", "you"):
            assert voice.rates[name] == pytest.approx(per_thousand, abs=0.01)
        assert voice.rates["we"] == 0
        assert voice.style is None  # too little to tell anybody from anybody

    def test_openers_closers_and_exemplars_are_the_authors_words(self) -> None:
        voice = profiles([*library("Ada", ADA), *library("Ben", BEN)])["ada:en"]
        assert set(voice.openers) == {"I cut the text at headings."}
        assert "It ends with number 3." in voice.closers
        assert {exemplar.category for exemplar in voice.exemplars} == {"article"}
        assert all(exemplar.text.removesuffix(" …") in document.text for exemplar in voice.exemplars
                   for document in library("Ada", ADA) if document.id == exemplar.document_id)  # fmt: skip

    def test_sentences_of_several_texts_are_noted(self) -> None:
        advert = "Subscribe to my letter, it is free!"
        texts = [
            f"{ADA.replace('text', f'text{n}')} One thing of number {n} is new here. {advert}"
            for n in range(3)
        ]
        own = [read_prose(document("Ada", text * 3, n)) for n, text in enumerate(texts)]
        voice = describe_voice("Ada", "en", own, [])
        assert voice is not None
        assert "subscribe to my letter it is free" in voice.repeated
        assert not any("number" in sentence for sentence in voice.repeated)
        two = describe_voice("Ada", "en", own[:2], [])
        assert two is not None
        assert two.repeated == ()

    def test_telling_words_are_those_that_others_do_not_use(self) -> None:
        found = profiles([*library("Ada", ADA), *library("Ben", BEN)])
        assert "headings" in found["ada:en"].terms
        assert "headings" not in found["ben:en"].terms
        assert "furthermore" in found["ben:en"].terms

    def test_an_order_to_a_writer_names_the_plainest_facts(self) -> None:
        voice = profiles(library("Ada", ADA))["ada:en"]
        told = describe_style(voice)
        assert "No emoji" in told
        assert "“you”" in told
        assert "“I”" not in told

    def test_too_few_words_make_no_profile(self) -> None:
        assert profiles([document("Ada", "Only this.")]) == {}


class TestScore:
    def test_own_words_score_higher_than_those_of_others(self) -> None:
        voice = profiles([*library("Ada", ADA), *library("Ben", BEN)])["ada:en"]
        own, other = score_voice(voice, ADA * 8), score_voice(voice, BEN * 8)
        assert own is not None
        assert other is not None
        assert own.score > other.score
        assert own.is_in_range
        assert not other.is_in_range

    def test_a_short_text_and_an_unknown_style_have_no_score(self) -> None:
        voice = profiles([*library("Ada", ADA), *library("Ben", BEN)])["ada:en"]
        assert score_voice(voice, "I cut.") is None
        assert score_voice(voice.model_copy(update={"style": None}), ADA * 8) is None


class TestBuilding:
    def test_what_has_not_changed_is_not_made_again_and_what_is_gone_is_forgotten(self) -> None:
        warehouse = FakeWarehouse()
        warehouse.clean.upsert([*library("Ada", ADA), *library("Ben", BEN)])
        first = build_voice_profiles(warehouse.clean, warehouse.voices)
        again = build_voice_profiles(warehouse.clean, warehouse.voices)
        assert (first.made, again.made, again.unchanged) == (2, 0, 2)
        warehouse.clean.delete([f"Ben{n}" for n in range(4)])
        last = build_voice_profiles(warehouse.clean, warehouse.voices)
        assert (last.deleted, last.made) == (1, 1)  # Ada is compared with nobody now
        assert [voice.author for voice in warehouse.voices.list_profiles()] == ["Ada"]

    def test_code_and_repeated_texts_do_not_count(self) -> None:
        texts = library("Ada", ADA)
        copies = [document("Ada", texts[0].text, 10 + n, duplicate_group="Ada10") for n in range(5)]
        code = document("Ada", "def f():\n    return 1\n" * 50, 20, category="repository", title="a.py")
        [voice] = profiles([*texts, *copies, code]).values()
        assert voice.documents == len(texts) + 1

    def test_languages_are_voices_of_their_own(self) -> None:
        german = [document("Ada", "Ich schneide Texte an Überschriften. " * 20, 30, language="de")]
        assert set(profiles([*library("Ada", ADA), *german])) == {"ada:en", "ada:de"}
