"""What the pipeline does with each kind of request: lists, small talk, summaries, comparisons, drafts, by words and by fakes."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from llm_engineering.application.features.voices import build_voice_profiles
from llm_engineering.application.inference.answer import AnsweringConfig
from llm_engineering.application.inference.briefs import extract_subject, read_brief
from llm_engineering.application.inference.collection import Collection
from llm_engineering.application.inference.composing import renumber
from llm_engineering.application.inference.pipeline import (
    NOTHING_COLLECTED,
    Checked,
    Event,
    Finished,
    InferenceConfig,
    InferencePipeline,
    Piece,
    RagRequest,
    Sources,
)
from llm_engineering.application.inference.retriever import Retriever
from llm_engineering.application.llm.prompts import prompt_hash
from llm_engineering.application.ports import CleanStore, Message, VoiceStore
from llm_engineering.application.text.markdown import strip_markdown
from llm_engineering.domain.documents import Chunk, CleanDocument, User
from llm_engineering.domain.drafts import DraftBrief
from llm_engineering.domain.errors import StoreUnavailableError, UnknownFilterValueError
from llm_engineering.domain.inference import Grounding, Intent, LlmProfile, RagResult
from llm_engineering.domain.retrieval import MetadataFilter, Query
from tests.fakes.embedder import HashEmbedder
from tests.fakes.llm import ScriptedLanguageModel
from tests.fakes.warehouse import FakeWarehouse
from tests.unit.test_retrieval import filled_index, make_chunk

NOW = datetime(2026, 11, 29, tzinfo=UTC)
TEXTS = (
    ("d1", "Chunking by headings", "Ada Winter", "article", "Chunking by headings keeps what belongs together in one chunk."),
    ("d2", "Chunking and overlap", "Ben Okafor", "article", "Chunking without overlap loses what stands across a cut."),
    ("d3", "", "Ada Winter", "post", "Chunking is cutting, so cut where the author has cut already, at the headings."),
    ("d4", "Bananas", "Ben Okafor", "article", "Bananas are rich in potassium and grow in bunches that ripen together."),
)  # fmt: skip


def chunk(identifier: str, title: str, author: str, category: str, text: str) -> Chunk:
    user = User(full_name=author)
    return make_chunk(
        text, document=identifier, title=title, author=author, author_id=user.id, category=category
    )


def document(identifier: str, title: str, author: str, category: str, text: str) -> CleanDocument:
    return CleanDocument(
        id=identifier,
        category=category,
        title=title,
        text=text,
        link=f"https://example.org/{identifier}",
        platform="example.org",
        author=author,
        author_id=User(full_name=author).id,
        language="en",
        published_at=NOW,
        source_hash="s",
    )


class Twin:
    """A twin over four texts."""

    def __init__(
        self,
        reply: str = "Chunking by headings keeps what belongs together in one chunk.",
        *,
        grounding: Grounding = "annotate",
        store: CleanStore | None = None,
        owner: str | None = "Ada Winter",
        leave_out: bool = False,
        voices: VoiceStore | None = None,
        lowest: float = 0.9,
    ) -> None:
        self.model = ScriptedLanguageModel(default=reply)
        embedder = HashEmbedder()
        index = filled_index([chunk(*text) for text in TEXTS], embedder)
        self.warehouse = warehouse = FakeWarehouse()
        warehouse.clean.upsert([document(*text) for text in TEXTS])
        self.pipeline = InferencePipeline(
            Retriever(index, embedder),
            self.model,
            index,
            embedder,
            config=InferenceConfig(answering=AnsweringConfig(min_similarity=lowest)),
            profile=LlmProfile(grounding=grounding, leave_out_unsupported=leave_out),
            collection=Collection(
                store or warehouse.clean,
                index,
                embedder,
                min_similarity=0.99,
                voices=voices,
            ),
            drafts=warehouse.drafts,
            owner=owner,
            now=lambda: NOW,
        )

    async def events(
        self, message: str, intent: Intent | None = None, history: Sequence[Message] = ()
    ) -> list[Event]:
        request = RagRequest(Query.ask(message), tuple(history), intent=intent)
        return [event async for event in self.pipeline.answer(request)]

    async def reply(
        self, message: str, intent: Intent | None = None, history: Sequence[Message] = ()
    ) -> RagResult:
        last = (await self.events(message, intent, history))[-1]
        assert isinstance(last, Finished)
        return last.result


class Down:
    """A warehouse that cannot be reached."""

    def __getattr__(self, name: str) -> object:
        def fail(*_: object) -> object:
            raise StoreUnavailableError("no server answers")

        return fail


async def test_a_list_comes_from_the_catalogue_and_no_model_is_asked() -> None:
    twin = Twin()
    result = await twin.reply("How many articles are there?")
    assert result.provenance.intent is Intent.CATALOGUE
    assert result.answer.text.startswith("There are 3 articles")
    assert twin.model.calls == []
    assert result.answer.citations == ()


async def test_the_opening_of_a_text_stands_for_its_missing_title() -> None:
    result = await Twin().reply("List my posts")
    assert "[Chunking is cutting, so cut where" in result.answer.text


async def test_the_callers_filter_holds_for_lists_and_summaries() -> None:
    twin = Twin(grounding="extractive")
    only_ben = MetadataFilter(authors=("Ben Okafor",))
    for message, intent in (
        ("List all articles", None),
        ("Summarise everything about chunking", Intent.SUMMARISE),
    ):
        request = RagRequest(Query.ask(message, filter=only_ben), intent=intent)
        events = [event async for event in twin.pipeline.answer(request)]
        assert isinstance(events[-1], Finished)
        text = events[-1].result.answer.text
        assert "Ben Okafor" in text
        assert "Ada Winter" not in text


async def test_an_empty_collection_is_told_with_the_task_that_fills_it() -> None:
    result = await Twin(store=FakeWarehouse().clean).reply("How many articles are there?")
    assert result.answer.text == NOTHING_COLLECTED


async def test_who_asks_in_german_for_english_texts_is_told_how_to_find_them() -> None:
    message = "Fasse zusammen, was Ada Winter über Quantisierung schreibt"
    told = (await Twin().reply(message, Intent.SUMMARISE)).answer
    untold = (await Twin(store=Down()).reply(message, Intent.SUMMARISE)).answer  # type: ignore[arg-type]
    assert told.abstained
    assert untold.abstained
    assert len(told.text) > len(untold.text)


async def test_where_nothing_was_written_the_nearest_texts_are_named() -> None:
    answer = (await Twin().reply("Draft a post on quantum physics", Intent.WRITE)).answer
    assert answer.abstained
    assert answer.text.count("](https://example.org/") in (1, 2, 3)


@pytest.mark.parametrize(
    ("message", "author"),
    [
        ("What did I write about chunking?", "Ada Winter"),
        ("My name is Ben Okafor. What did I write about bananas?", "Ben Okafor"),
    ],
)
async def test_i_and_my_narrow_an_answer_to_the_owner_or_whoever_says_their_name(
    message: str, author: str
) -> None:
    result = await Twin().reply(message, Intent.ANSWER)
    assert result.provenance.filter.authors == (author,)


async def test_small_talk_needs_no_model() -> None:
    twin = Twin()
    result = await twin.reply("Who are you?")
    assert result.provenance.intent is Intent.CONVERSE
    assert "twin of Ada Winter" in result.answer.text
    assert twin.model.calls == []


async def test_without_the_warehouse_the_catalogue_says_why_not_and_small_talk_goes_on() -> None:
    twin = Twin(store=Down())  # type: ignore[arg-type]
    listed = await twin.reply("How many articles are there?")
    assert listed.provenance.degraded
    assert "no server answers" in listed.answer.text
    assert "AI twin" in (await twin.reply("Who are you?")).answer.text
    summary = await twin.reply("Summarise what was written about chunking")
    assert summary.answer.supports


async def test_a_summary_covers_every_document_on_the_subject_and_no_other() -> None:
    twin = Twin(grounding="extractive")
    result = await twin.reply("Summarise everything about chunking", Intent.SUMMARISE)
    assert {citation.passage.document_id for citation in result.answer.citations} == {"d1", "d2", "d3"}
    assert "potassium" not in result.answer.text
    assert result.answer.quoted


@pytest.mark.parametrize("grounding", ["extractive", "annotate"])
async def test_verdicts_stand_at_their_sentences_and_sources_are_numbered_through(
    grounding: Grounding,
) -> None:
    twin = Twin(grounding=grounding)
    events = await twin.events("Compare what Ada and Ben say about chunking", Intent.COMPARE)
    assert isinstance(events[0], Sources)
    assert isinstance(events[-1], Finished)
    answer = events[-1].result.answer
    assert "".join(event.text for event in events if isinstance(event, Piece)) == answer.text
    assert tuple(event.support for event in events if isinstance(event, Checked)) == answer.supports
    assert [citation.number for citation in answer.citations] == list(range(1, len(answer.citations) + 1))
    assert answer.supports
    for support in answer.supports:
        said = answer.text[support.span.start : support.span.end]
        assert "hunking" in said
        assert not said.startswith((" ", "-"))
        assert set(support.cited) <= {citation.number for citation in answer.citations}


async def test_an_author_who_wrote_nothing_on_it_is_said_to() -> None:
    result = await Twin().reply("Compare what Ada and Ben say about bananas", Intent.COMPARE)
    assert "**Ada Winter**: does not write about it." in result.answer.text


async def test_a_draft_is_in_the_models_words_with_a_verdict_on_each_sentence_and_no_marks_in_it() -> None:
    twin = Twin("Chunking by headings keeps what belongs together in one chunk. Whales sing at night.")
    result = await twin.reply("Draft a post about chunking")
    assert result.provenance.intent is Intent.WRITE
    assert "[1]" not in result.answer.text
    assert [support.verdict.value for support in result.answer.supports] == ["supported", "unsupported"]
    prompt = " ".join(message.content for message in twin.model.calls[0].messages)
    assert "Ada Winter" in prompt
    assert "potassium" not in prompt


async def test_a_small_model_composes_the_authors_own_sentences_word_for_word() -> None:
    twin = Twin(grounding="extractive")
    result = await twin.reply("Draft a post about chunking")
    assert twin.model.calls == []
    assert (
        "Chunking is cutting, so cut where the author has cut already, at the headings." in result.answer.text
    )
    assert "Ben Okafor" not in result.answer.text


async def test_of_a_reader_who_leaves_what_came_is_kept_by_the_time_the_pipeline_is_closed() -> None:
    twin = Twin("Chunking by headings keeps what belongs together in one chunk. Whales sing at night.")
    events = twin.pipeline.answer(RagRequest(Query.ask("Draft a post about chunking")))
    async for event in events:
        if isinstance(event, Checked):
            break
    await events.aclose()
    await twin.pipeline.close()
    [draft] = twin.warehouse.drafts.read_page(10)
    assert draft.unfinished
    assert draft.answer.text.startswith("Chunking by headings")
    assert "at night." not in draft.answer.text


async def test_small_models_drafts_are_kept_as_the_quotations_they_are() -> None:
    twin = Twin(grounding="extractive")
    result = await twin.reply("Draft a post about chunking")
    kept = twin.warehouse.drafts.find(str(result.draft_id))
    assert kept is not None
    assert kept.answer.quoted
    assert kept.brief == DraftBrief(subject="chunking", format="post", words=130, author="Ada Winter")


async def test_what_is_no_draft_is_not_kept() -> None:
    twin = Twin()
    for message in ("Who are you?", "Summarise everything about chunking", "Draft a post about submarines"):
        assert (await twin.reply(message)).draft_id is None
    assert twin.warehouse.drafts.read_page(10) == []


async def test_a_difference_between_things_is_told_thing_by_thing() -> None:
    twin = Twin(grounding="extractive")
    result = await twin.reply("What is the difference between chunking and zeppelins?")
    assert result.provenance.intent is Intent.COMPARE
    first, second = result.answer.text.splitlines()
    assert first.startswith("- **chunking**: “")
    assert second == "- **zeppelins**: is not written about."
    assert twin.model.calls == []


async def test_only_what_is_quoted_is_shown_as_a_source() -> None:
    result = await Twin(grounding="extractive").reply("Draft a LinkedIn post about chunking")
    used = {support.source for support in result.answer.supports}
    assert used == {citation.number for citation in result.answer.citations}
    assert used == set(range(1, len(used) + 1))


async def test_a_model_that_may_speak_answers_a_difference_itself() -> None:
    result = await Twin().reply("What is the difference between chunking and zeppelins?")
    assert result.provenance.intent is Intent.ANSWER


async def test_what_a_model_says_before_the_text_is_left_out() -> None:
    twin = Twin("Here is a shorter version:\n\nChunking is good.")
    result = await twin.reply('Rewrite this: "Chunking is cool and everyone should."', Intent.WRITE)
    assert result.answer.text == "Chunking is good."


async def test_a_subject_nobody_wrote_on_is_refused_with_its_name() -> None:
    twin = Twin()
    result = await twin.reply("Draft a post about submarines")
    assert result.answer.abstained
    assert "submarines" in result.answer.text
    assert twin.model.calls == []


async def test_an_author_nobody_knows_is_told_who_there_is() -> None:
    twin = Twin()
    result = await twin.reply("My name is Zoe Quill. Could you draft a post about chunking?")
    assert result.answer.abstained
    assert "Ada Winter, Ben Okafor" in result.answer.text
    assert twin.model.calls == []


async def test_who_introduces_themselves_writes_in_their_own_voice() -> None:
    twin = Twin(owner="Ada Winter")
    await twin.reply("My name is Ben Okafor. Could you draft a post about chunking?")
    assert "Ben Okafor" in twin.model.calls[0].messages[0].content


async def test_a_draft_names_its_own_prompt_and_says_that_it_was_shortened() -> None:
    result = await Twin().reply("write 50,000 words about chunking", Intent.WRITE)
    assert result.provenance.prompt_hash == prompt_hash("write", 1)
    assert result.provenance.notes == ("shortened",)


async def test_an_author_who_does_not_exist_is_refused_whatever_is_asked_for() -> None:
    for message in ("List all articles", "Draft a post about chunking", "Who are you?"):
        request = RagRequest(Query.ask(message, filter=MetadataFilter(authors=("Ada Wintr",))))
        with pytest.raises(UnknownFilterValueError):
            _ = [event async for event in Twin().pipeline.answer(request)]


async def test_wishes_of_the_application_reach_the_prompt_of_a_draft() -> None:
    twin = Twin()
    request = RagRequest(Query.ask("Draft a post about chunking"), instructions="Use British spelling.")
    _ = [event async for event in twin.pipeline.answer(request)]
    assert "British spelling" in " ".join(message.content for message in twin.model.calls[0].messages)


async def test_a_given_text_is_rewritten_and_held_against_itself() -> None:
    twin = Twin("Everyone should use chunking.")
    result = await twin.reply(
        'Rewrite this in my style: "Chunking is cool and everyone should use it."', Intent.WRITE
    )
    assert "Chunking is cool" in " ".join(m.content for m in twin.model.calls[0].messages)
    assert [citation.passage.document_id for citation in result.answer.citations] == ["given"]


async def test_a_short_order_rewrites_the_reply_before_it() -> None:
    twin = Twin("Cut at headings.")
    history = (
        Message("user", "Draft a post"),
        Message("assistant", "Chunking is cutting at headings, always."),
    )
    await twin.reply("Write it shorter", history=history)
    assert "cutting at headings, always" in " ".join(m.content for m in twin.model.calls[0].messages)


def after(request: str, answer: str = "Chunking keeps what belongs together. [1]") -> tuple[Message, ...]:
    """The conversation so far: one request and its reply."""
    return (Message("user", request), Message("assistant", answer))


async def test_whoever_asks_for_the_source_of_a_reply_is_told_text_author_and_date() -> None:
    twin = Twin(lowest=-1.0)
    result = await twin.reply("Who wrote that?", history=after("Why does chunking by headings help?"))
    assert "https://example.org/d1" in result.answer.text
    assert "Ada Winter" in result.answer.text
    drafted = await twin.reply("Who wrote that?", history=after("Compare Ada and Ben on chunking", "…"))
    assert "https://example.org/d2" in drafted.answer.text
    assert twin.model.calls == []


async def test_a_list_is_asked_for_again_with_another_author() -> None:
    result = await Twin().reply("and Ben's?", history=after("List Ada's articles", "- [x](https://e.org)"))
    assert result.provenance.intent is Intent.CATALOGUE
    assert "example.org/d2" in result.answer.text
    assert "example.org/d1" not in result.answer.text
    assert any("follow_up" in note for note in result.provenance.notes)


async def test_a_question_is_asked_again_of_another_author_and_its_reading_is_told() -> None:
    result = await Twin(lowest=-1.0).reply("And Ben?", history=after("What does Ada say about chunking?"))
    assert result.provenance.intent is Intent.ANSWER
    assert result.provenance.filter.authors == ("Ben Okafor",)
    assert sum("follow_up" in note for note in result.provenance.notes) == 1


async def test_authors_own_sentences_are_laid_out_anew_rather_than_rewritten() -> None:
    twin = Twin(grounding="extractive")
    history = after("Draft a post about chunking in Ada's voice", "Chunking is cutting.")
    result = await twin.reply("as a thread", history=history)
    assert result.provenance.intent is Intent.WRITE
    assert "1/" in result.answer.text
    assert all(citation.passage.author == "Ada Winter" for citation in result.answer.citations)
    answered = await twin.reply("as a thread", history=after("What does Ada say about chunking?"))
    assert "1/" in answered.answer.text
    assert twin.model.calls == []


async def test_a_question_on_the_last_reply_is_answered_from_the_texts() -> None:
    result = await Twin(lowest=-1.0).reply(
        "How many of them do I need?", history=after("Why does chunking by headings help?")
    )
    assert result.provenance.intent is Intent.ANSWER


async def test_what_is_asked_for_explicitly_is_no_follow_up() -> None:
    history = after("List Ada's articles", "- [x](https://e.org)")
    result = await Twin().reply("and Ben's?", Intent.CONVERSE, history=history)
    assert result.provenance.intent is Intent.CONVERSE


async def test_a_small_model_says_that_it_cannot_rewrite() -> None:
    result = await Twin(grounding="extractive").reply(
        'Rewrite this: "Chunking is cool and everyone should."', Intent.WRITE
    )
    assert result.answer.abstained


async def test_more_words_than_any_model_here_can_hold_are_cut() -> None:
    brief = read_brief("write 50,000 words about chunking", ["Ada Winter"], me=None, german=False)
    assert brief.shortened
    assert brief.words <= 800


@pytest.mark.parametrize(
    ("request_", "subject"),
    [
        ("draft a LinkedIn post discussing RAG systems?", "RAG systems"),
        ("Write a blog article outline about chunking in my style", "chunking"),
        ("Summarise what I wrote about LoRA", "LoRA"),
        ("tl;dr of the hybrid search article", "hybrid search"),
        ("Compare what Ada and Ben say on evaluation", "evaluation"),
        ("Where do Ada and Ben disagree about chunk sizes?", "chunk sizes"),
        ("Fasse zusammen, was Ada über LoRA geschrieben hat", "LoRA"),
        ("Vergleiche, was Ada und Ben über Evaluation schreiben", "Evaluation"),
        ("Schreib einen LinkedIn-Beitrag über Reranking", "Reranking"),
        ("Write an email to my team that explains what LoRA is and why we use it", "LoRA"),
        (
            "Draft a post on why teams split training, serving and monitoring",
            "why teams split training, serving and monitoring",
        ),
        ("A post about caching, in my voice", "caching"),
    ],
)
def test_the_subject_is_what_is_left_of_the_order(request_: str, subject: str) -> None:
    assert extract_subject(request_, ["Ada Winter", "Ben Okafor"]) == subject


@pytest.mark.parametrize(
    ("request_", "things"),
    [
        ("What are the differences between GPTQ and GGML according to the articles?", ("GPTQ", "GGML")),
        ("BM25 vs. dense retrieval", ("BM25", "dense retrieval")),
        ("Vergleiche LoRA mit QLoRA", ("LoRA", "QLoRA")),
        ("Compare what Ada and Ben say on tests", ()),
        ("Compare my article on caching with Ben's", ()),
        ("Compare their views on tests", ()),
    ],
)
def test_things_are_compared_as_authors_are(request_: str, things: tuple[str, ...]) -> None:
    brief = read_brief(request_, ["Ada Winter", "Ben Okafor"], intent=Intent.COMPARE, me=None, german=False)
    assert brief.things == things


@pytest.mark.parametrize(
    ("request_", "intent", "given"),
    [
        (
            "Rewrite in Ada's style: The cache failed. We mend it.",
            Intent.WRITE,
            "The cache failed. We mend it.",
        ),
        ('Rewrite this: "The cache failed last night."', Intent.WRITE, "The cache failed last night."),
        ('Summarise "Hybrid search: words and meanings"', Intent.SUMMARISE, ""),
    ],
)
def test_a_title_in_quotation_marks_is_no_text_to_rewrite(request_: str, intent: Intent, given: str) -> None:
    brief = read_brief(request_, ["Ada Winter"], intent=intent, me=None, german=False)
    assert brief.given == given
    assert bool(brief.subject) is (intent is Intent.SUMMARISE)


def test_few_points_are_read_from_the_order() -> None:
    points = [
        read_brief(order, [], intent=Intent.SUMMARISE, me=None, german=False).points
        for order in (
            "tl;dr of the chunking article",
            "Summarise chunking in five points",
            "Summarise chunking",
        )
    ]
    assert points == [3, 5, None]


@pytest.mark.parametrize(
    ("text", "moved"),
    [("As [1] says [2].", "As [4] says [5]."), ("a[i] = b [x]", "a[i] = b [x]"), ("", ""), ("[", "[")],
)
def test_only_citations_are_renumbered(text: str, moved: str) -> None:
    assert renumber(text, range(4, 20)) == moved


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("x > 3 and a < b", "x > 3 and a < b"),
        ("Set `num_experts_per_tok` to 2.", "Set num_experts_per_tok to 2."),
        ("num_experts_per_tok is 2", "num_experts_per_tok is 2"),
        ("2 * 3 * 4 = 24", "2 * 3 * 4 = 24"),
        ("A **bold** and an *italic* and a _low_ word.", "A bold and an italic and a low word."),
        ("> quoted\n> twice", "quoted twice"),
        ("- an item with [a link](https://x.example/y) in it", "an item with a link in it"),
        ("## A heading", "A heading"),
        ("`a | b` and C# and #1", "a | b and C# and #1"),
    ],
)
def test_a_quotation_loses_marks_and_no_meaning(text: str, plain: str) -> None:
    assert strip_markdown(text) == plain


@pytest.mark.parametrize(
    ("request_", "form", "told"),
    [
        ("Give me five tweets about drift", "tweet", "5 separate"),
        ("three tweet-length takes on drift", "tweet", "3 separate"),
        ("Suggest 7 titles for an article on drift", "title", "7 titles"),
        ("Write a newsletter about drift", "newsletter", "newsletter"),
        ("Schreib einen Thread über Drift", "thread", "3 short"),
        ("write something about drift", "post", "LinkedIn"),
    ],
)
def test_form_and_number_of_pieces_are_read(request_: str, form: str, told: str) -> None:
    brief = read_brief(request_, ["Ada Winter"], me=None, german=False)
    assert brief.form == form
    assert told in brief.description


@pytest.mark.parametrize(
    ("request_", "subject", "given"),
    [
        ("Draft a post about Chunking: cutting text so that it is found", "Chunking: cutting text so that it is found", ""),
        ('Draft a post about "grounded answers with citations"', "grounded answers with citations", ""),
        ("Rewrite this in my style: Guys, chunking is super cool!!!", "", "Guys, chunking is super cool!!!"),
        ('Schreibe um: "Chunking ist toll und alle sollten es tun."', "", "Chunking ist toll und alle sollten es tun."),
    ],
)  # fmt: skip
def test_a_title_is_no_text_to_be_rewritten(request_: str, subject: str, given: str) -> None:
    brief = read_brief(request_, ["Ada Winter"], me=None, german=False)
    assert brief.given == given
    if not given:
        assert brief.subject == subject


async def test_an_email_is_framed_and_a_thread_numbered_whoever_writes() -> None:
    for message, start in (
        ("Write an email about chunking", "Subject: Chunking"),
        ("Write a thread about chunking", "1/"),
    ):
        twin = Twin()
        result = await twin.reply(message, Intent.WRITE)
        assert result.answer.text.startswith(start)


async def test_where_nothing_of_a_draft_may_stand_the_authors_own_sentences_do() -> None:
    twin = Twin("Whales invented submarines in the year 1850 near Atlantis.", leave_out=True)
    result = await twin.reply("Draft a post about chunking")
    assert "Whales" not in result.answer.text
    assert "Chunking is cutting, so cut where the author has cut already" in result.answer.text
    assert result.answer.unsupported == 1
    assert {support.verdict.value for support in result.answer.supports} == {"supported"}


async def test_a_draft_is_held_against_its_authors_voice() -> None:
    twin = Twin(("Chunking by headings keeps what belongs together in one chunk. " * 8).strip())
    result = await twin.reply("Draft a post about chunking")
    assert result.answer.voice is None  # too little is known of the author
    warehouse = FakeWarehouse()
    texts = [(f"own{n}", "T", "Ada Winter", "article", f"{TEXTS[0][4]} " * 30) for n in range(3)]
    warehouse.clean.upsert([document(*text) for text in texts])
    build_voice_profiles(warehouse.clean, warehouse.voices)
    twin = Twin(
        " ".join(f"Chunking by headings keeps part {n} together in one chunk." for n in range(9)),
        voices=warehouse.voices,
    )
    voice = (await twin.reply("Draft a post about chunking")).answer.voice
    assert voice is not None
    assert voice.author == "Ada Winter"
    assert voice.low <= voice.high
    prompt = " ".join(message.content for message in twin.model.calls[0].messages)
    assert "Sentences of about" in prompt


async def test_others_are_never_passed_off_as_the_author_and_are_offered_instead() -> None:
    for message, intent in (
        ("Draft a post about bananas in the style of Ada Winter", Intent.WRITE),
        ("Draft a post about bananas", Intent.WRITE),
        ("Summarise what Ada wrote about bananas", Intent.SUMMARISE),
    ):
        result = await Twin(grounding="quote").reply(message, intent)
        assert result.answer.abstained
        assert "potassium" not in result.answer.text
        assert "[Bananas](https://example.org/d4) (Ben Okafor)" in result.answer.text


async def test_a_subject_in_other_words_is_found_before_a_draft_is_refused() -> None:
    twin = Twin(grounding="extractive", lowest=-1.0)
    result = await twin.reply("Draft a post about dividing documents")
    assert not result.answer.abstained


def test_the_style_that_is_asked_for_is_no_part_of_the_subject() -> None:
    for request in (
        "Schreib einen Beitrag über Chunking in Marias Stil",
        "Draft a post about chunking in Maria's style",
    ):
        assert extract_subject(request, []).casefold() == "chunking"
