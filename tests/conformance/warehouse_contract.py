"""What every warehouse must do. A class per store; ``test_warehouse.py`` runs them on the fake and on the real one."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from math import isnan
from typing import Any, Protocol, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from llm_engineering.application import ports
from llm_engineering.application.ports import (
    Generation,
    StoredVersion,
    UpsertCounts,
)
from llm_engineering.domain.analyses import Analysis, Evidence, Finding
from llm_engineering.domain.documents import CleanDocument, DeadLetter, RawDocument, Span
from llm_engineering.domain.drafts import KEPT_EDITS, DraftBrief, StoredDraft
from llm_engineering.domain.errors import ForeignVoteError, InvalidInputError
from llm_engineering.domain.inference import Feedback, Intent, Interaction, ResponseProvenance, Subject
from llm_engineering.domain.notices import Notice, StoredNotice
from llm_engineering.domain.retrieval import (
    Answer,
    Citation,
    MetadataFilter,
    Passage,
    RrfFusion,
    SearchMode,
    Support,
    Usage,
    Verdict,
)
from llm_engineering.domain.reviews import (
    Distribution,
    Drift,
    KeyPoint,
    Polarity,
    ProductSummary,
    ReviewCheck,
    StoredSummary,
    SummarySentence,
    SummaryStatus,
    SupportShare,
    derive_summary_id,
)
from llm_engineering.domain.voices import Spread, StyleFit, VoiceProfile

T = TypeVar("T")
NOW = datetime(2026, 5, 4, 3, 2, 1, 987_000, tzinfo=UTC)


class Warehouse(ports.Warehouse, Protocol):
    """The stores together, as the real warehouse and the fake have them."""

    @property
    def display_uri(self) -> str: ...

    def ping(self) -> None: ...

    def close(self) -> None: ...


def raw(number: int = 0, **fields: Any) -> RawDocument:
    defaults: dict[str, Any] = {
        "category": "article",
        "title": f"Title {number}",
        "text": f"Text of document {number}.",
        "link": f"https://example.org/{number}",
        "origin": "https://example.org/feed",
        "platform": "example.org",
        "author": "Ann Lee",
        "published_at": NOW,
        "metadata": {"words": 4, "score": 0.5, "draft": False},
        "etag": '"1"',
    }
    return RawDocument(**{**defaults, **fields})


def clean(number: int = 0, **fields: Any) -> CleanDocument:
    source = raw(number)
    defaults = {
        **source.model_dump(exclude={"origin", "etag", "last_modified", "collected_at"}),
        "id": source.id,
        "author_id": source.author_id,
        "source_hash": source.content_hash,
        "signature": bytes(range(256)),
    }
    return CleanDocument(**{**defaults, **fields})


def letter(number: int = 0, **fields: Any) -> DeadLetter:
    defaults: dict[str, Any] = {"stage": "collect", "source": f"s{number}", "reason": "404", "failed_at": NOW}
    return DeadLetter(**{**defaults, **fields})


def answered(trace: str = "t0", **fields: Any) -> Interaction:
    defaults: dict[str, Any] = {
        "trace_id": trace,
        "question": "Why is the sky blue?",
        "answer": f"Because of scattering [1]. ({trace})",
        "sources": ("d1", "d2"),
        "model": "m",
        "prompt_hash": "abc",
        "created_at": datetime.now(UTC),
    }
    return Interaction(**{**defaults, **fields})


def said(trace: str = "t0", rating: str = "up", **fields: Any) -> Feedback:
    return Feedback(**{"trace_id": trace, "rating": rating, "created_at": NOW, **fields})


def drafted(identifier: str = "d0", text: str = "A draft. It ends.", **fields: Any) -> StoredDraft:
    passage = Passage(
        document_id=clean(0).id,
        span=Span(start=0, end=8),
        text="A draft.",
        title="Title 0",
        link="https://example.org/0",
        author="Ann Lee",
        platform="example.org",
        published_at=NOW,
        headings=("One", "Two"),
        score=0.5,
    )
    defaults: dict[str, Any] = {
        "id": identifier,
        "brief": DraftBrief(subject="drafts", format="post", words=130, author="Ann Lee"),
        "answer": Answer(
            question="Write about drafts",
            text=text,
            citations=(Citation(number=1, passage=passage),),
            cited=(1,),
            supports=(
                Support(
                    span=Span(start=0, end=8),
                    verdict=Verdict.SUPPORTED,
                    source=1,
                    source_span=Span(start=0, end=8),
                    lexical=1.0,
                    similarity=0.9,
                    cited=(1,),
                ),
            ),
            model="m",
            prompt_hash="abc",
            usage=Usage(prompt_tokens=9, completion_tokens=4, cost_usd=0.5),
        ),
        "provenance": ResponseProvenance(
            intent=Intent.WRITE,
            mode=SearchMode.HYBRID,
            fusion=RrfFusion(),
            model="m",
            prompt_hash="abc",
            filter=MetadataFilter(authors=("Ann Lee",), published_from=NOW),
        ),
        "created_at": datetime.now(UTC),
    }
    return StoredDraft(**{**defaults, **fields})


def at_once(threads: int, action: Callable[[int], T]) -> list[T]:
    """Results of ``action`` run by so many threads, all released at the same moment."""
    barrier = threading.Barrier(threads)

    def run(number: int) -> T:
        barrier.wait(10)
        return action(number)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, range(threads)))


# Everything UTF-8 can hold, with what stores stumble over made likely: NUL, dots, dollars, beyond the basic plane.
texts = st.text(
    st.one_of(st.sampled_from("\x00.$%\ufeff\U0001f600\u2028"), st.characters(exclude_categories=["Cs"])),
    max_size=30,
)
some_text = texts.filter(lambda text: bool(text))
names = texts.filter(lambda text: bool(text.split()))
scalars = st.one_of(
    texts,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
)
moments = st.none() | st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
metadata = st.dictionaries(texts, scalars, max_size=4)
raw_documents = st.builds(
    RawDocument,
    category=st.sampled_from(["article", "post", "repository", "movie"]),
    title=texts,
    text=some_text,
    link=some_text,
    origin=some_text,
    platform=texts,
    author=names,
    language=texts,
    published_at=moments,
    metadata=metadata,
    etag=st.none() | texts,
    last_modified=st.none() | texts,
)
round_trips = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class UserContract:
    def test_a_user_is_found_whatever_the_spacing_and_case_of_the_name(self, warehouse: Warehouse) -> None:
        assert warehouse.users.find("Ann Lee") is None
        made = warehouse.users.get_or_create("Ann  Lee")
        assert made.full_name == "Ann Lee"
        assert warehouse.users.get_or_create("ANN LEE") == made
        assert warehouse.users.find(" ann lee ") == made
        assert list(warehouse.users.all()) == [made]

    def test_finding_never_creates(self, warehouse: Warehouse) -> None:
        warehouse.users.find("Nobody")
        assert list(warehouse.users.all()) == []

    def test_a_blank_name_is_refused(self, warehouse: Warehouse) -> None:
        with pytest.raises(ValidationError, match="blank"):
            warehouse.users.get_or_create("  ")

    def test_many_threads_make_one_user(self, warehouse: Warehouse) -> None:
        made = at_once(
            16, lambda number: warehouse.users.get_or_create("ann lee" if number % 2 else "Ann Lee")
        )
        assert len({user.id for user in made}) == 1
        assert len({user.full_name for user in made}) == 1, "all must get the one that was stored"
        assert len(list(warehouse.users.all())) == 1

    def test_a_deleted_user_is_gone(self, warehouse: Warehouse) -> None:
        made = warehouse.users.get_or_create("Ann Lee")
        assert warehouse.users.delete([made.id, "unknown"]) == 1
        assert warehouse.users.find("Ann Lee") is None

    def test_users_come_in_order_of_their_ids(self, warehouse: Warehouse) -> None:
        made = [warehouse.users.get_or_create(f"User {number}") for number in range(20)]
        assert [user.id for user in warehouse.users.all()] == sorted(user.id for user in made)


class DocumentContract:
    def test_writing_twice_changes_nothing(self, warehouse: Warehouse) -> None:
        documents = [raw(number) for number in range(5)]
        assert warehouse.documents.upsert(documents) == UpsertCounts(created=5)
        before = list(warehouse.documents.stream())
        assert warehouse.documents.upsert(documents) == UpsertCounts(unchanged=5)
        assert list(warehouse.documents.stream()) == before == sorted(documents, key=lambda d: d.id)

    def test_a_write_tells_created_updated_and_unchanged_apart(self, warehouse: Warehouse) -> None:
        warehouse.documents.upsert([raw(0), raw(1)])
        counts = warehouse.documents.upsert([raw(0), raw(1, text="New."), raw(2)])
        assert counts == UpsertCounts(created=1, updated=1, unchanged=1)
        assert warehouse.documents.get([raw(1).id]) == [raw(1, text="New.")]

    def test_of_several_with_one_id_the_last_is_kept(self, warehouse: Warehouse) -> None:
        assert warehouse.documents.upsert([raw(0, text="a"), raw(0, text="b")]) == UpsertCounts(created=1)
        assert [d.text for d in warehouse.documents.stream()] == ["b"]

    def test_new_validators_of_the_same_content_are_kept_and_the_document_counts_as_unchanged(
        self, warehouse: Warehouse
    ) -> None:
        warehouse.documents.upsert([raw(0)])
        newer = raw(0, etag='"2"', last_modified="Mon, 04 May 2026 03:02:01 GMT")
        assert warehouse.documents.upsert([newer]) == UpsertCounts(unchanged=1)
        assert warehouse.documents.get([newer.id]) == [newer]

    def test_nothing_is_a_valid_amount(self, warehouse: Warehouse) -> None:
        assert warehouse.documents.upsert([]) == UpsertCounts()
        assert warehouse.documents.get([]) == []
        assert warehouse.documents.delete([]) == 0
        assert list(warehouse.documents.stream()) == []
        assert list(warehouse.documents.list_hashes()) == []
        assert warehouse.documents.find_stored("nowhere") == {}
        assert warehouse.documents.count_documents() == {}

    @pytest.mark.parametrize("batch_size", [1, 3, 7, 8, 100])
    def test_a_stream_yields_everything_once_in_order_of_ids(
        self, warehouse: Warehouse, batch_size: int
    ) -> None:
        documents = [raw(number) for number in range(7)]
        warehouse.documents.upsert(documents)
        assert list(warehouse.documents.stream(batch_size=batch_size)) == sorted(
            documents, key=lambda d: d.id
        )

    def test_streams_are_narrowed_by_category_and_author(self, warehouse: Warehouse) -> None:
        ann, bob = raw(0), raw(1, author="Bob")
        post = raw(2, category="post")
        warehouse.documents.upsert([ann, bob, post])
        stream = warehouse.documents.stream
        assert {d.id for d in stream(author=" ann  LEE")} == {ann.id, post.id}
        assert [d.id for d in stream(category="post")] == [post.id]
        assert [d.id for d in stream(category="article", author="Bob")] == [bob.id]
        assert list(stream(author="Nobody")) == []

    def test_what_was_read_may_be_deleted_while_the_stream_goes_on(self, warehouse: Warehouse) -> None:
        documents = [raw(number) for number in range(10)]
        warehouse.documents.upsert(documents)
        seen = []
        for document in warehouse.documents.stream(batch_size=3):
            seen.append(document.id)
            warehouse.documents.delete([document.id])
        assert seen == sorted(d.id for d in documents)
        assert warehouse.documents.count_documents() == {}

    def test_hashes_name_every_document_with_its_content_hash(self, warehouse: Warehouse) -> None:
        documents = [raw(number) for number in range(7)]
        warehouse.documents.upsert(documents)
        assert list(warehouse.documents.list_hashes()) == sorted((d.id, d.content_hash) for d in documents)

    def test_get_returns_those_that_exist_once_in_order_of_ids(self, warehouse: Warehouse) -> None:
        documents = [raw(number) for number in range(3)]
        warehouse.documents.upsert(documents)
        ids = [documents[2].id, "unknown", documents[0].id, documents[2].id]
        assert warehouse.documents.get(ids) == sorted([documents[0], documents[2]], key=lambda d: d.id)

    def test_known_tells_what_is_stored_from_an_origin(self, warehouse: Warehouse) -> None:
        first, second = raw(0), raw(1, etag=None, last_modified="Mon")
        warehouse.documents.upsert([first, second, raw(2, origin="elsewhere")])
        assert warehouse.documents.find_stored(first.origin) == {
            first.link: StoredVersion(first.content_hash, '"1"', None),
            second.link: StoredVersion(second.content_hash, None, "Mon"),
        }

    def test_counts_are_by_category_and_author(self, warehouse: Warehouse) -> None:
        warehouse.documents.upsert([raw(0), raw(1), raw(2, author="Bob"), raw(3, category="post")])
        assert warehouse.documents.count_documents() == {
            ("article", "Ann Lee"): 2,
            ("article", "Bob"): 1,
            ("post", "Ann Lee"): 1,
        }

    def test_sources_are_counted_by_origin_and_author(self, warehouse: Warehouse) -> None:
        first = raw(0)
        warehouse.documents.upsert([first, raw(1), raw(2, author="Bob"), raw(3, origin="elsewhere")])
        assert warehouse.documents.count_sources() == {
            (first.origin, "Ann Lee"): 2,
            (first.origin, "Bob"): 1,
            ("elsewhere", "Ann Lee"): 1,
        }

    def test_deleting_says_how_many_there_were(self, warehouse: Warehouse) -> None:
        warehouse.documents.upsert([raw(0), raw(1)])
        assert warehouse.documents.delete([raw(0).id, raw(0).id, "unknown"]) == 1
        assert list(warehouse.documents.stream()) == [raw(1)]

    def test_racing_writers_create_each_document_once(self, warehouse: Warehouse) -> None:
        documents = [raw(number) for number in range(200)]
        counts = at_once(
            6, lambda number: warehouse.documents.upsert(documents[::-1] if number % 2 else documents)
        )
        assert sum(count.created for count in counts) == 200
        assert all(count.created + count.updated + count.unchanged == 200 for count in counts)
        assert list(warehouse.documents.stream()) == sorted(documents, key=lambda d: d.id)

    @round_trips
    @given(document=raw_documents)
    def test_a_document_comes_back_as_it_went_in(self, warehouse: Warehouse, document: RawDocument) -> None:
        warehouse.documents.upsert([document])
        (back,) = warehouse.documents.get([document.id])
        assert back == document
        assert {key: type(value) for key, value in back.metadata.items()} == {
            key: type(value) for key, value in document.metadata.items()
        }
        assert (
            back.content_hash == document.content_hash == dict(warehouse.documents.list_hashes())[document.id]
        )
        warehouse.documents.delete([document.id])

    def test_not_a_number_comes_back_as_such(self, warehouse: Warehouse) -> None:
        warehouse.documents.upsert([raw(0, metadata={"x": float("nan")})])
        (back,) = warehouse.documents.get([raw(0).id])
        assert isnan(float(back.metadata["x"]))


class CleanContract:
    def test_writing_twice_changes_nothing(self, warehouse: Warehouse) -> None:
        documents = [clean(number) for number in range(5)]
        warehouse.clean.upsert(documents)
        warehouse.clean.upsert(documents)
        expected = sorted(documents, key=lambda d: d.id)
        assert list(warehouse.clean.stream(batch_size=2)) == expected
        assert warehouse.clean.get([d.id for d in documents]) == expected

    def test_rows_for_comparison_name_every_document(self, warehouse: Warehouse) -> None:
        documents = [clean(0), clean(1, duplicate_group=clean(0).id), clean(2, signature=b"")]
        warehouse.clean.upsert(documents)
        assert list(warehouse.clean.source_hashes()) == sorted((d.id, d.source_hash) for d in documents)
        assert list(warehouse.clean.list_versions()) == sorted((d.id, d.content_hash) for d in documents)
        assert list(warehouse.clean.list_signatures()) == sorted(
            ((d.id, d.signature, d.duplicate_group) for d in documents), key=lambda row: row[0]
        )

    def test_cards_say_all_but_the_text(self, warehouse: Warehouse) -> None:
        documents = sorted([clean(0), clean(1, published_at=None)], key=lambda d: d.id)
        warehouse.clean.upsert(documents)
        assert [
            (c.id, c.category, c.title, c.link, c.platform, c.author, c.language, c.published_at)
            for c in warehouse.clean.list_cards()
        ] == [
            (d.id, d.category, d.title, d.link, d.platform, d.author, d.language, d.published_at)
            for d in documents
        ]

    def test_streams_are_narrowed_by_category_and_author(self, warehouse: Warehouse) -> None:
        warehouse.clean.upsert([clean(0), clean(1, category="post")])
        assert [d.id for d in warehouse.clean.stream(category="post")] == [clean(1).id]
        assert len(list(warehouse.clean.stream(author="ANN LEE"))) == 2
        assert list(warehouse.clean.stream(author="Bob")) == []

    def test_a_group_changes_the_content_hash_of_those_it_changes(self, warehouse: Warehouse) -> None:
        documents = [clean(number) for number in range(4)]
        warehouse.clean.upsert(documents)
        group = documents[0].id
        grouped = {documents[0].id: group, documents[1].id: group, documents[2].id: None, "unknown": group}
        warehouse.clean.set_groups(grouped)
        warehouse.clean.set_groups(grouped)
        expected = {d.id: clean(n, duplicate_group=grouped.get(d.id)) for n, d in enumerate(documents)}
        assert {d.id: d for d in warehouse.clean.stream()} == expected
        assert dict(warehouse.clean.list_versions()) == {key: d.content_hash for key, d in expected.items()}
        assert expected[documents[1].id].content_hash != documents[1].content_hash
        warehouse.clean.set_groups(dict.fromkeys(grouped, None))
        assert dict(warehouse.clean.list_versions()) == {d.id: d.content_hash for d in documents}

    def test_groups_set_while_documents_are_written_never_leave_a_wrong_hash(
        self, warehouse: Warehouse
    ) -> None:
        documents = [clean(number) for number in range(50)]
        warehouse.clean.upsert(documents)

        def disturb(number: int) -> None:
            if number == 0:
                warehouse.clean.set_groups({d.id: "group" for d in documents})
            else:
                warehouse.clean.upsert([clean(n, text=f"Changed by {number}") for n in range(50)])

        at_once(3, disturb)
        stored = {d.id: d.content_hash for d in warehouse.clean.stream()}
        assert dict(warehouse.clean.list_versions()) == stored

    def test_deleting_says_how_many_there_were(self, warehouse: Warehouse) -> None:
        warehouse.clean.upsert([clean(0), clean(1)])
        assert warehouse.clean.delete([clean(0).id, "unknown"]) == 1
        assert [d.id for d in warehouse.clean.stream()] == [clean(1).id]

    @round_trips
    @given(source=raw_documents, signature=st.binary(max_size=64), group=st.none() | texts)
    def test_a_document_comes_back_as_it_went_in(
        self, warehouse: Warehouse, source: RawDocument, signature: bytes, group: str | None
    ) -> None:
        document = CleanDocument(
            **source.model_dump(exclude={"origin", "etag", "last_modified", "collected_at"}),
            id=source.id,
            author_id=source.author_id,
            source_hash=source.content_hash,
            signature=signature,
            duplicate_group=group,
        )
        warehouse.clean.upsert([document])
        assert warehouse.clean.get([document.id]) == [document]
        warehouse.clean.delete([document.id])


class DeadLetterContract:
    def test_a_repeated_failure_replaces_the_earlier_one(self, warehouse: Warehouse) -> None:
        warehouse.dead_letters.put([letter(0), letter(1)])
        warehouse.dead_letters.put([letter(0, reason="500", payload="\x00{broken")])
        assert warehouse.dead_letters.count() == 2
        assert letter(0, reason="500", payload="\x00{broken") in list(warehouse.dead_letters.stream())

    def test_letters_are_streamed_by_stage(self, warehouse: Warehouse) -> None:
        warehouse.dead_letters.put([letter(0), letter(0, stage="clean")])
        assert list(warehouse.dead_letters.stream("clean")) == [letter(0, stage="clean")]
        assert len(list(warehouse.dead_letters.stream())) == 2

    def test_sources_that_succeed_are_resolved_in_their_stage_only(self, warehouse: Warehouse) -> None:
        warehouse.dead_letters.put([letter(0), letter(1), letter(0, stage="clean")])
        assert warehouse.dead_letters.resolve("collect", ["s0", "s0", "never failed"]) == 1
        assert warehouse.dead_letters.count() == 2
        assert warehouse.dead_letters.resolve("collect", []) == 0


class EmbeddingContract:
    def test_vectors_come_back_bit_by_bit_and_unknown_ones_are_left_out(self, warehouse: Warehouse) -> None:
        vectors = {
            f"{n:064x}": np.random.default_rng(n).normal(size=384).astype(np.float32) for n in range(5)
        }
        warehouse.embeddings.put_many("fingerprint", vectors)
        warehouse.embeddings.put_many("fingerprint", vectors)
        found = warehouse.embeddings.get_many("fingerprint", [*vectors, *vectors, "unknown"])
        assert found.keys() == vectors.keys()
        assert all(
            found[key].dtype == np.float32 and np.array_equal(found[key], vectors[key]) for key in vectors
        )

    def test_another_embedder_s_vectors_are_not_found(self, warehouse: Warehouse) -> None:
        warehouse.embeddings.put_many("one", {"a": np.ones(3, np.float32)})
        assert warehouse.embeddings.get_many("other", ["a"]) == {}
        assert warehouse.embeddings.get_many("one", []) == {}


class FeedbackContract:
    def test_an_analysis_has_a_vote_for_each_voter_and_version(self, warehouse: Warehouse) -> None:
        def corrected(identifier: str, voter: str, mood: str, minute: int, task: str = "tickets") -> Feedback:
            return Feedback(
                subject=Subject(kind="analysis", id=identifier),
                correction={"mood": mood, "things": ("lamp",), "price": 2.5},
                task=task,
                document_ids=("d1",),
                voter=voter,
                created_at=NOW + timedelta(minutes=minute),
            )

        first, second = corrected("a1", "ann", "calm", 2), corrected("a1", "ben", "cross", 1)
        replaced, other = corrected("a2", "ann", "calm", 0), corrected("a3", "ann", "calm", 3, task="other")
        for vote in (replaced, first, second, other, newest := corrected("a2", "ann", "cross", 4)):
            warehouse.feedback.vote(vote)
        assert list(warehouse.feedback.read_corrections("tickets")) == [second, first, newest]
        assert list(warehouse.feedback.read_corrections()) == [second, first, other, newest]
        assert list(warehouse.feedback.read_votes()) == []

    def test_a_summary_has_a_vote_for_each_voter_and_version(self, warehouse: Warehouse) -> None:
        for voter, version, rating in (
            *((f"v{number}", "s1", "down") for number in range(300)),
            *((f"v{number}", "s1", "up") for number in range(100)),
            ("v1", "s2", "up"),
        ):
            vote = {"subject": {"kind": "summary", "id": version}, "rating": rating, "voter": voter}
            warehouse.feedback.vote(Feedback.model_validate({**vote, "task": "told", "created_at": NOW}))
        assert warehouse.feedback.count_votes("told") == {"s1": (100, 200), "s2": (1, 0)}
        assert warehouse.feedback.count_votes("other") == {}

    def test_an_answer_is_remembered_and_recalled(self, warehouse: Warehouse) -> None:
        warehouse.feedback.remember(answered())
        recalled = warehouse.feedback.find_interaction("t0")
        assert recalled is not None
        assert recalled.model_dump(exclude={"created_at"}) == answered().model_dump(exclude={"created_at"})
        assert warehouse.feedback.find_interaction("unknown") is None

    def test_what_is_remembered_again_replaces_what_nobody_voted_on(self, warehouse: Warehouse) -> None:
        warehouse.feedback.remember(answered())
        newer = answered(answer="Newer.")
        warehouse.feedback.remember(newer)
        assert warehouse.feedback.find_interaction("t0") == newer

    def test_a_vote_stays_with_the_text_it_was_given_on(self, warehouse: Warehouse) -> None:
        first = answered()
        warehouse.feedback.remember(first)
        warehouse.feedback.vote(said())
        warehouse.feedback.remember(answered(answer="Another text under the same id."))
        assert list(warehouse.feedback.read_votes()) == [(first, said())]

    def test_a_second_vote_replaces_the_first(self, warehouse: Warehouse) -> None:
        answer = answered()
        warehouse.feedback.remember(answer)
        warehouse.feedback.vote(said(comment="Nice.\x00😀"))
        warehouse.feedback.vote(said(rating="down", comment="Wrong."))
        assert list(warehouse.feedback.read_votes()) == [(answer, said(rating="down", comment="Wrong."))]

    def test_another_voter_changes_nothing(self, warehouse: Warehouse) -> None:
        store = warehouse.feedback
        store.remember(answered())
        store.vote(said(voter="ada"))
        for stranger in ("eve", ""):
            with pytest.raises(ForeignVoteError):
                store.vote(said(rating="down", voter=stranger))
        store.vote(said(comment="again", voter="ada"))
        assert [(vote.rating, vote.comment) for _, vote in store.read_votes()] == [("up", "again")]

    def test_a_vote_on_an_unknown_answer_is_refused_and_leaves_nothing(self, warehouse: Warehouse) -> None:
        with pytest.raises(InvalidInputError, match="t0"):
            warehouse.feedback.vote(said())
        assert list(warehouse.feedback.read_votes()) == []
        assert warehouse.feedback.find_interaction("t0") is None

    def test_an_answer_is_gone_after_thirty_days_unless_somebody_voted(self, warehouse: Warehouse) -> None:
        old = answered("old", created_at=datetime.now(UTC) - timedelta(days=30, seconds=1))
        recent = answered("recent", created_at=datetime.now(UTC) - timedelta(days=29))
        warehouse.feedback.remember(old)
        warehouse.feedback.remember(recent)
        assert warehouse.feedback.find_interaction("old") is None
        with pytest.raises(InvalidInputError):
            warehouse.feedback.vote(said("old"))
        assert warehouse.feedback.find_interaction("recent") == recent
        warehouse.feedback.restore([(old, said("old"))])
        assert warehouse.feedback.find_interaction("old") == old, "with a vote, it is kept for good"

    @pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
    def test_votes_come_oldest_first_whatever_the_batch(self, warehouse: Warehouse, batch_size: int) -> None:
        pairs = [
            (answered(f"t{number}"), said(f"t{number}", created_at=NOW + timedelta(seconds=number // 3)))
            for number in (3, 1, 4, 0, 2, 6, 5)
        ]
        for answer, vote in pairs:
            warehouse.feedback.remember(answer)
            warehouse.feedback.vote(vote)
        warehouse.feedback.remember(answered("nobody voted"))
        expected = sorted(pairs, key=lambda pair: pair[1].trace_id)
        assert list(warehouse.feedback.read_votes(batch_size=batch_size)) == expected

    def test_restoring_twice_changes_nothing(self, warehouse: Warehouse) -> None:
        pairs = [(answered(f"t{number}", created_at=NOW), said(f"t{number}")) for number in range(5)]
        warehouse.feedback.restore(pairs)
        warehouse.feedback.restore(pairs)
        warehouse.feedback.restore([])
        assert list(warehouse.feedback.read_votes()) == pairs

    def test_racing_voters_leave_one_vote(self, warehouse: Warehouse) -> None:
        warehouse.feedback.remember(answered())
        at_once(8, lambda number: warehouse.feedback.vote(said(comment=str(number))))
        assert len(list(warehouse.feedback.read_votes())) == 1

    @round_trips
    @given(question=texts, answer=texts, sources=st.lists(texts, max_size=3), comment=texts)
    def test_a_vote_comes_back_as_it_went_in(
        self, warehouse: Warehouse, question: str, answer: str, sources: list[str], comment: str
    ) -> None:
        kept = answered("t", question=question, answer=answer, sources=tuple(sources), created_at=NOW)
        vote = said("t", comment=comment)
        warehouse.feedback.restore([(kept, vote)])
        assert list(warehouse.feedback.read_votes()) == [(kept, vote)]


class DraftContract:
    def test_a_draft_comes_back_as_it_went_in(self, warehouse: Warehouse) -> None:
        whole, broken = drafted(), drafted("d1", unfinished=True)
        warehouse.drafts.save(whole)
        warehouse.drafts.save(broken)
        assert warehouse.drafts.find("d0") == whole
        assert warehouse.drafts.find("d1") == broken
        assert warehouse.drafts.find("unknown") is None

    def test_what_is_saved_again_replaces_what_nobody_edited(self, warehouse: Warehouse) -> None:
        warehouse.drafts.save(drafted())
        newer = drafted(text="Newer.")
        warehouse.drafts.save(newer)
        assert warehouse.drafts.find("d0") == newer
        edited = newer.revise("Mine.", NOW)
        assert warehouse.drafts.replace(edited, 0)
        warehouse.drafts.save(drafted(text="Newest."))
        assert warehouse.drafts.find("d0") == edited

    def test_an_edit_names_the_revision_that_it_replaces(self, warehouse: Warehouse) -> None:
        draft = drafted()
        assert not warehouse.drafts.replace(draft.revise("Mine.", NOW), 0), "there is none yet"
        assert warehouse.drafts.find("d0") is None
        warehouse.drafts.save(draft)
        first = draft.revise("Mine.", NOW)
        assert warehouse.drafts.replace(first, 0)
        assert not warehouse.drafts.replace(draft.revise("Theirs.", NOW), 0)
        assert warehouse.drafts.find("d0") == first
        second = first.revise("Ours.", NOW)
        assert warehouse.drafts.replace(second, 1)
        found = warehouse.drafts.find("d0")
        assert found == second
        assert found is not None
        assert [found.find_version(number) for number in (0, 1, 2, 3)] == [
            draft.answer.text,
            "Mine.",
            "Ours.",
            None,
        ]

    def test_of_edits_at_once_one_is_kept_and_the_others_are_told(self, warehouse: Warehouse) -> None:
        draft = drafted()
        warehouse.drafts.save(draft)
        kept = at_once(8, lambda n: warehouse.drafts.replace(draft.revise(f"By {n}.", NOW), 0))
        assert kept.count(True) == 1
        found = warehouse.drafts.find("d0")
        assert found is not None
        assert found.text == f"By {kept.index(True)}."
        assert found.revision == 1

    def test_old_versions_go_and_the_draft_itself_stays(self, warehouse: Warehouse) -> None:
        draft = drafted()
        warehouse.drafts.save(draft)
        for number in range(KEPT_EDITS + 2):
            revised = draft.revise(f"Version {number + 1}.", NOW)
            assert warehouse.drafts.replace(revised, draft.revision)
            draft = revised
        found = warehouse.drafts.find("d0")
        assert found == draft
        assert found is not None
        assert found.revision == KEPT_EDITS + 2
        assert found.find_version(0) == drafted().answer.text
        assert found.find_version(2) is None
        assert found.find_version(3) == "Version 3."

    def test_a_draft_is_gone_after_thirty_days_unless_somebody_edited_it(self, warehouse: Warehouse) -> None:
        long_ago = datetime.now(UTC) - timedelta(days=30, seconds=1)
        old = drafted("old", created_at=long_ago)
        recent = drafted("recent", created_at=datetime.now(UTC) - timedelta(days=29))
        warehouse.drafts.save(old)
        warehouse.drafts.save(recent)
        assert warehouse.drafts.find("old") is None
        assert warehouse.drafts.read_page(10) == [recent]
        edited = old.revise("Mine.", NOW)
        warehouse.drafts.restore([edited])
        assert warehouse.drafts.find("old") == edited, "edited, it is kept for good"

    @pytest.mark.parametrize("count", [1, 2, 3, 10])
    def test_pages_come_newest_first_and_hold_every_draft_once(
        self, warehouse: Warehouse, count: int
    ) -> None:
        now = datetime.now(UTC)
        drafts = [drafted(f"d{n}", created_at=now - timedelta(seconds=n // 2)) for n in (3, 1, 4, 0, 2, 6, 5)]
        for draft in drafts:
            warehouse.drafts.save(draft)
        found: list[StoredDraft] = []
        while page := warehouse.drafts.read_page(
            count, before=(found[-1].created_at, found[-1].id) if found else None
        ):
            assert len(page) <= count
            found += page
        assert found == sorted(drafts, key=lambda draft: (draft.created_at, draft.id), reverse=True)

    def test_what_is_deleted_is_gone_with_its_versions(self, warehouse: Warehouse) -> None:
        draft = drafted()
        warehouse.drafts.save(draft)
        warehouse.drafts.replace(draft.revise("Mine.", NOW), 0)
        assert warehouse.drafts.delete("d0")
        assert not warehouse.drafts.delete("d0")
        assert warehouse.drafts.find("d0") is None
        assert list(warehouse.drafts.read_edited()) == []

    @pytest.mark.parametrize("batch_size", [1, 2, 100])
    def test_edited_drafts_come_once_in_order_of_ids(self, warehouse: Warehouse, batch_size: int) -> None:
        edited = [drafted(f"d{number}").revise("Mine.", NOW) for number in range(5)]
        warehouse.drafts.restore(edited)
        warehouse.drafts.restore(edited)
        warehouse.drafts.restore([])
        warehouse.drafts.save(drafted("nobody edited"))
        assert list(warehouse.drafts.read_edited(batch_size=batch_size)) == edited

    @round_trips
    @given(text=some_text, question=texts)
    def test_any_text_comes_back_as_it_went_in(self, warehouse: Warehouse, text: str, question: str) -> None:
        draft = drafted(text=text)
        answer = draft.answer.model_copy(update={"question": question})
        kept = draft.model_copy(update={"answer": answer}).revise(text, NOW)
        warehouse.drafts.restore([kept])
        assert warehouse.drafts.find("d0") == kept


class GenerationContract:
    def test_replies_come_back_with_their_usage_and_unknown_ones_are_left_out(
        self, warehouse: Warehouse
    ) -> None:
        priced = Usage(prompt_tokens=12, completion_tokens=3, cost_usd=0.000_012_5)
        replies = {
            "a": Generation("Said.", priced),
            "b": Generation("No price.", Usage(prompt_tokens=1)),
            "c": Generation("", None),
        }
        warehouse.generations.put_many(replies)
        assert warehouse.generations.get_many([*replies, "a", "unknown"]) == replies
        assert warehouse.generations.get_many([]) == {}

    def test_writing_twice_changes_nothing_and_a_newer_reply_replaces(self, warehouse: Warehouse) -> None:
        warehouse.generations.put_many({"a": Generation("One.")})
        warehouse.generations.put_many({"a": Generation("One.")})
        warehouse.generations.put_many({"a": Generation("Two."), "b": Generation("New.")})
        warehouse.generations.put_many({})
        assert warehouse.generations.get_many(["a", "b"]) == {
            "a": Generation("Two."),
            "b": Generation("New."),
        }

    def test_racing_writers_leave_every_reply(self, warehouse: Warehouse) -> None:
        replies = {f"{number:064x}": Generation(f"Reply {number}") for number in range(100)}
        at_once(4, lambda _: warehouse.generations.put_many(replies))
        assert warehouse.generations.get_many(list(replies)) == replies

    @round_trips
    @given(text=texts, key=some_text)
    def test_a_reply_comes_back_as_it_went_in(self, warehouse: Warehouse, text: str, key: str) -> None:
        warehouse.generations.put_many({key: Generation(text)})
        assert warehouse.generations.get_many([key]) == {key: Generation(text)}


def voice(
    author: str, language: str = "en", words: int = 100, grams: tuple[str, ...] = ("ab",)
) -> VoiceProfile:
    spread = Spread(low=1, median=2, high=3)
    return VoiceProfile(
        author=author,
        language=language,
        documents=1,
        words=words,
        sentence_words=spread,
        paragraph_sentences=spread,
        rates={"commas": 1.5},
        style=StyleFit(
            grams=grams,
            gram_frequencies=(0.5,) * len(grams),
            words=("the",),
            means=(0.1,),
            deviations=(0.2,),
            author=(1.0,),
            weights=None,
            same=((0.1, 0.2),),
            piece=500,
            low=0.2,
            high=0.8,
        ),
    )


def notice(rule: str = "run_failed", subject: str = "run 1", **fields: Any) -> Notice:
    return Notice(
        **{
            "subject": subject,
            "rule": rule,
            "day": NOW.date(),
            "title": "A run failed",
            "text": "Why",
            "created_at": NOW,
            **fields,
        }
    )


class NoticeContract:
    def test_a_notice_is_kept_once_and_stays_open_until_it_is_done(self, warehouse: Warehouse) -> None:
        store = warehouse.notices
        assert store.put([notice(), notice(title="Again"), notice("run_succeeded")]) == 2
        assert store.put([notice(title="The same")]) == 0
        assert {kept.notice.title for kept in store.read_open()} == {"A run failed"}
        [one] = store.get([notice().id])
        assert one == StoredNotice(id=notice().id, notice=notice())
        done = one.model_copy(update={"done": True, "delivered": ("a",), "attempts": 2, "problem": "x"})
        store.replace(done)
        assert [kept.id for kept in store.read_open()] == [notice("run_succeeded").id]
        assert store.put([notice()]) == 0
        assert store.get([notice().id]) == [done]
        assert len(list(store.stream())) == 2
        assert store.delete([notice().id, "unknown"]) == 1
        assert len(list(store.stream())) == 1

    def test_of_two_that_put_the_same_at_once_one_is_new(self, warehouse: Warehouse) -> None:
        assert sum(at_once(8, lambda _: warehouse.notices.put([notice()]))) == 1


class VoiceContract:
    def test_profiles_come_back_by_author_those_with_most_words_first(self, warehouse: Warehouse) -> None:
        german, english = voice("Ada Winter", "de", 10), voice("Ada Winter", "en", 1_000)
        warehouse.voices.put([german, english, voice("Ada Winters"), voice("Ada")])
        assert warehouse.voices.find("  ada   WINTER ") == [english, german]
        assert warehouse.voices.find("Nobody") == []
        assert [one.id for one in warehouse.voices.list_profiles()] == [
            "ada winter:de",
            "ada winter:en",
            "ada winters:en",
            "ada:en",
        ]

    def test_a_newer_profile_replaces_and_deleting_counts_what_was_there(self, warehouse: Warehouse) -> None:
        warehouse.voices.put([voice("Ada", words=1)])
        warehouse.voices.put([voice("Ada", words=2)])
        warehouse.voices.put([])
        assert [one.words for one in warehouse.voices.find("Ada")] == [2]
        assert warehouse.voices.delete(["ada:en", "ada:de"]) == 1
        assert list(warehouse.voices.list_profiles()) == []

    def test_letters_of_any_kind_come_back(self, warehouse: Warehouse) -> None:
        odd = voice("Zoë :; O’Neil", grams=("$a", ".b", "\n ", "日本", "x.y"))
        warehouse.voices.put([odd])
        assert warehouse.voices.find("zoë :; o’neil") == [odd]


def analysed(number: int = 0, **fields: Any) -> Analysis:
    evidence = Evidence(document_id=clean(0).id, span=Span(start=0, end=4), quote="Text")
    defaults: dict[str, Any] = {
        "id": f"a{number}",
        "task": "tickets",
        "spec": "s1",
        "key": clean(number).id,
        "document_ids": (clean(number).id,),
        "input_hash": "h",
        "findings": (
            Finding(field="mood", value="calm", confidence=0.5, made_by="head"),
            Finding(field="price", value=2.5, evidence=(evidence,), made_by="llm"),
        ),
        "dropped": 1,
        "unsure": ("topic",),
        "model": "m",
        "created_at": NOW,
    }
    return Analysis(**{**defaults, **fields})


class AnalysisContract:
    def test_results_come_back_as_they_were_written(self, warehouse: Warehouse) -> None:
        warehouse.analyses.upsert([analysed(1), analysed(0, key="a.b$c", findings=())])
        assert warehouse.analyses.get(["a1", "a0", "none"]) == [
            analysed(0, key="a.b$c", findings=()),
            analysed(1),
        ]

    def test_a_second_write_replaces(self, warehouse: Warehouse) -> None:
        warehouse.analyses.upsert([analysed(0)])
        warehouse.analyses.upsert([analysed(0, dropped=7)])
        assert [one.dropped for one in warehouse.analyses.stream()] == [7]

    def test_versions_are_of_a_task_and_ordered_by_id(self, warehouse: Warehouse) -> None:
        warehouse.analyses.upsert([analysed(3), analysed(1), analysed(2, task="other")])
        assert list(warehouse.analyses.list_versions("tickets")) == [
            ("a1", clean(1).id),
            ("a3", clean(3).id),
        ]
        assert [one.id for one in warehouse.analyses.stream(task="other")] == ["a2"]
        assert [one.id for one in warehouse.analyses.stream(batch_size=1)] == ["a1", "a2", "a3"]

    def test_results_are_counted_and_deleted(self, warehouse: Warehouse) -> None:
        warehouse.analyses.upsert([analysed(0), analysed(1), analysed(2, task="other")])
        assert warehouse.analyses.count_by_task() == {"other": 1, "tickets": 2}
        assert warehouse.analyses.delete(["a0", "a0", "none"]) == 1
        assert warehouse.analyses.count_by_task() == {"other": 1, "tickets": 1}


def summarised(product: str = "Kettle", **fields: Any) -> ProductSummary:
    evidence = Evidence(document_id=clean(0).id, span=Span(start=0, end=4), quote="Text")
    point = KeyPoint(
        id="p1",
        name="the handle",
        polarity=Polarity.POSITIVE,
        support=2,
        document_ids=(clean(0).id,),
        evidence=(evidence,),
    )
    defaults: dict[str, Any] = {
        "product": product,
        "status": SummaryStatus.READY,
        "sentences": (
            SummarySentence(
                text="Two like the handle.", section="pros", key_points=("p1",), evidence=(evidence,)
            ),
        ),
        "key_points": (point,),
        "distribution": Distribution(reviews=3, stars={"5": 2, "1": 1}, languages={"en": 3}),
        "document_ids": (clean(0).id,),
        "supported_share": 0.5,
        "made_with": {"model": "m"},
        "created_at": NOW,
    }
    return ProductSummary(**{**defaults, **fields})


class SummaryContract:
    def test_the_newest_checks_come_first(self, warehouse: Warehouse) -> None:
        checks = [
            ReviewCheck(
                at=NOW + timedelta(days=day),
                since=NOW,
                drifts=(Drift(feature="stars", items=day, reference_items=9),),
                outputs={"statuses": {"ready": 3}},
                support={"champion": SupportShare(mean=0.9, low=0.8, high=1, summaries=3)},
                paused={"a.b": "too little held"},
            )
            for day in range(3)
        ]
        for one in checks:
            warehouse.summaries.put_check(one)
        warehouse.summaries.put_check(checks[2])
        assert warehouse.summaries.list_checks(2) == [checks[2], checks[1]]

    def test_summaries_come_back_as_they_were_written(self, warehouse: Warehouse) -> None:
        kept = StoredSummary(
            current=summarised("a.b$c"),
            previous=summarised("a.b$c", stale=True),
            waiting=summarised("a.b$c", status=SummaryStatus.HELD, approval="waiting"),
        )
        warehouse.summaries.put_many([kept, StoredSummary(current=summarised("Lamp"))])
        assert warehouse.summaries.get([derive_summary_id("a.b$c"), "none"]) == [kept]

    def test_a_second_write_replaces(self, warehouse: Warehouse) -> None:
        first = StoredSummary(current=summarised())
        newer = first.supersede(summarised(notes=("newer",)))
        warehouse.summaries.put_many([first])
        warehouse.summaries.put_many([newer])
        assert list(warehouse.summaries.stream()) == [newer]
        assert newer.previous == first.current

    def test_all_of_a_product_are_found(self, warehouse: Warehouse) -> None:
        kept = [StoredSummary(current=summarised(language=language)) for language in ("all", "de")]
        warehouse.summaries.put_many([*kept, StoredSummary(current=summarised("Lamp"))])
        found = warehouse.summaries.list_of_product("Kettle")
        assert sorted(one.newest.language for one in found) == ["all", "de"]
        assert warehouse.summaries.list_of_product("none") == []

    def test_those_that_wait_are_found(self, warehouse: Warehouse) -> None:
        held = StoredSummary(waiting=summarised("Lamp", status=SummaryStatus.HELD, approval="waiting"))
        warehouse.summaries.put_many([StoredSummary(current=summarised()), held])
        assert list(warehouse.summaries.stream(waiting=True)) == [held]
        assert len(list(warehouse.summaries.stream(batch_size=1))) == 2

    def test_they_are_deleted(self, warehouse: Warehouse) -> None:
        one = StoredSummary(current=summarised())
        warehouse.summaries.put_many([one])
        assert warehouse.summaries.delete([one.id, one.id, "none"]) == 1
        assert list(warehouse.summaries.stream()) == []
