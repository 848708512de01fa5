import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from llm_engineering.application.features.collect import STAGE, collect
from llm_engineering.application.features.collect_report import (
    COLUMNS,
    CollectionReport,
    LinkOutcome,
    LinkStatus,
)
from llm_engineering.application.features.links import Router
from llm_engineering.application.ports import (
    Discovered,
    EndOfSource,
    FetchedDocument,
    Link,
    NotModified,
    Rejected,
    StoredVersion,
)
from llm_engineering.domain.documents import DeadLetter, RawDocument
from llm_engineering.domain.errors import (
    ConfigurationError,
    FetchError,
    InvalidInputError,
    StoreUnavailableError,
    TooManyFailuresError,
)
from tests.fakes.sources import ScriptedReader
from tests.fakes.warehouse import FakeWarehouse

BASE = "https://example.org"


def document(path: str, text: str = "some text", **fields: Any) -> RawDocument:
    link = path if "://" in path else f"{BASE}/{path}"
    values: dict[str, Any] = {
        "category": "article",
        "text": text,
        "link": link,
        "origin": link,
        "platform": "example.org",
        "author": "Ada Byron",
    }
    return RawDocument(**{**values, **fields})


def found(path: str, text: str = "some text", **fields: Any) -> FetchedDocument:
    return FetchedDocument(document(path, text, **fields))


def link(path: str, author: str = "Ada Byron", **fields: Any) -> Link:
    return Link(url=path if "://" in path else f"{BASE}/{path}", author=author, **fields)


class Place:
    """A warehouse and readers to collect with, run after run."""

    def __init__(self, **readers: ScriptedReader) -> None:
        self.warehouse = FakeWarehouse()
        self.article = ScriptedReader()
        self.feed = ScriptedReader(name="feed")
        self.git = ScriptedReader(name="git")
        self.readers = {"article": self.article, "feed": self.feed, "git": self.git, **readers}

    async def run(self, *links: Link, **options: Any) -> CollectionReport:
        store = self.warehouse
        return await collect(links, self.readers, store.documents, store.users, store.dead_letters, **options)

    def stored(self) -> dict[str, str]:
        return {d.link.removeprefix(f"{BASE}/"): d.text for d in self.warehouse.documents.stream()}

    def letters(self) -> dict[str, str]:
        return {letter.source: letter.reason for letter in self.warehouse.dead_letters.stream(STAGE)}


@pytest.fixture
def place() -> Place:
    return Place()


def statuses(report: CollectionReport) -> dict[str, str]:
    return {o.url.removeprefix(f"{BASE}/"): o.status.value for o in report.outcomes}


async def test_a_link_is_saved_then_unchanged_then_updated(place: Place) -> None:
    place.article.queue(f"{BASE}/a", found("a"))
    first = await place.run(link("a"))
    second = await place.run(link("a"))
    place.article.queue(f"{BASE}/a", found("a", "other text"))
    third = await place.run(link("a"))
    assert [statuses(r)["a"] for r in (first, second, third)] == ["saved", "unchanged", "updated"]
    assert [
        (r.total("created"), r.total("unchanged"), r.total("updated")) for r in (first, second, third)
    ] == [
        (1, 0, 0),
        (0, 1, 0),
        (0, 0, 1),
    ]
    assert place.stored() == {"a": "other text"}


async def test_what_is_stored_is_handed_to_the_reader_and_a_304_counts_as_unchanged(place: Place) -> None:
    held = document("a", etag='"1"')
    place.warehouse.documents.upsert([held])
    place.article.queue(f"{BASE}/a", NotModified(held.link))
    report = await place.run(link("a"))
    assert place.article.known[f"{BASE}/a"] == {held.link: StoredVersion(held.content_hash, '"1"', None)}
    assert statuses(report) == {"a": "unchanged"}
    assert report.total("unchanged") == 1


async def test_new_validators_are_kept_though_the_content_is_the_same(place: Place) -> None:
    for etag in ('"1"', '"2"'):
        place.article.queue(f"{BASE}/a", found("a", etag=etag))
        await place.run(link("a"))
    assert next(place.warehouse.documents.stream()).etag == '"2"'


async def test_a_failed_link_does_not_stop_the_others_and_is_forgotten_once_it_succeeds(place: Place) -> None:
    place.article.queue(f"{BASE}/good", found("good"))
    place.article.queue(f"{BASE}/bad", FetchError("it answered 500"))
    report = await place.run(link("good"), link("bad"))
    assert statuses(report) == {"good": "saved", "bad": "failed"}
    assert report.outcomes[1].reason == "it answered 500"
    assert place.letters() == {f"{BASE}/bad": "it answered 500"}

    place.article.queue(f"{BASE}/bad", found("bad"))
    await place.run(link("good"), link("bad"))
    assert place.letters() == {}
    assert set(place.stored()) == {"good", "bad"}


async def test_what_came_before_the_failure_of_a_link_is_kept(place: Place) -> None:
    place.git.queue(f"{BASE}/r.git", found("r#1"), found("r#2"), FetchError("the connection broke"))
    report = await place.run(link("r.git"))
    assert statuses(report) == {"r.git": "failed"}
    assert report.total("created") == 2
    assert set(place.stored()) == {"r#1", "r#2"}


async def test_a_reader_that_breaks_costs_its_link_only_and_is_named(place: Place) -> None:
    place.article.queue(f"{BASE}/good", found("good"))
    place.article.queue(f"{BASE}/bad", found("half"), KeyError("missing"))
    place.article.queue(f"{BASE}/odd", "not an item")  # type: ignore[arg-type]
    report = await place.run(link("bad"), link("good"), link("odd"))
    assert statuses(report) == {"bad": "failed", "good": "saved", "odd": "failed"}
    assert "KeyError" in report.outcomes[0].reason
    assert "'article'" in report.outcomes[0].reason
    assert "SourceItem" in report.outcomes[2].reason
    assert set(place.stored()) == {"good", "half"}


async def test_a_link_that_yields_nothing_has_failed(place: Place) -> None:
    place.article.queue(f"{BASE}/a")
    report = await place.run(link("a"))
    assert report.outcomes[0].status is LinkStatus.FAILED
    assert "nothing was found" in report.outcomes[0].reason


@pytest.mark.parametrize(
    ("bad", "reason"), [(Link("  ", "Ada"), "empty"), (Link(f"{BASE}/a", " "), "no author")]
)
async def test_a_link_without_address_or_author_fails_alone(place: Place, bad: Link, reason: str) -> None:
    place.article.queue(f"{BASE}/good", found("good"))
    report = await place.run(bad, link("good"))
    assert [o.status.value for o in report.outcomes] == ["failed", "saved"]
    assert reason in report.outcomes[0].reason


async def test_no_links_says_what_to_write(place: Place) -> None:
    with pytest.raises(InvalidInputError, match="links:"):
        await place.run()


async def test_a_link_may_name_its_reader_and_a_wrong_name_is_refused_before_anything_is_read(
    place: Place,
) -> None:
    place.feed.queue(f"{BASE}/blog", Discovered(link("a")))
    place.article.queue(f"{BASE}/a", found("a"))
    report = await place.run(link("blog", options={"reader": "feed"}))
    assert statuses(report) == {"blog": "saved", "a": "saved"}
    with pytest.raises(ConfigurationError, match="pigeon"):
        await place.run(link("a"), link("b", options={"reader": "pigeon"}))
    assert len(place.article.reads) == 1


async def test_a_reader_that_this_run_lacks_fails_its_links(place: Place) -> None:
    report = await place.run(Link("https://www.linkedin.com/in/ada", "Ada"))
    assert "'linkedin'" in report.outcomes[0].reason


async def test_configured_routes_are_followed(place: Place) -> None:
    place.git.queue(f"{BASE}/a", found("a"))
    report = await place.run(link("a"), router=Router([("example", "git")]))
    assert report.outcomes[0].reader == "git"


async def test_a_feed_expands_to_its_posts_once_each(place: Place) -> None:
    place.feed.queue(f"{BASE}/feed.xml", *[Discovered(link(p)) for p in ("a", "b", "a#comments", "c")])
    place.article.queue(f"{BASE}/a", found("a"))
    place.article.queue(f"{BASE}/b", found("b"))
    place.article.queue(f"{BASE}/c", FetchError("gone"))
    report = await place.run(link("feed.xml"), link("b"))
    assert statuses(report) == {"feed.xml": "saved", "b": "saved", "a": "saved", "c": "failed"}
    assert sorted(r.url.removeprefix(f"{BASE}/") for r in place.article.reads) == ["a", "b", "c"]
    through = {o.url: o.found_through for o in report.outcomes}
    assert through[f"{BASE}/a"] == f"{BASE}/feed.xml"
    assert through[f"{BASE}/b"] is None
    origins = {d.link: d.origin for d in place.warehouse.documents.stream()}
    assert origins == {f"{BASE}/a": f"{BASE}/feed.xml", f"{BASE}/b": f"{BASE}/b"}


async def test_posts_of_a_feed_are_known_from_one_round_trip(place: Place) -> None:
    names = [f"post-{n}" for n in range(20)]
    place.feed.queue(f"{BASE}/feed.xml", *[Discovered(link(name)) for name in names])
    for name in names:
        place.article.queue(f"{BASE}/{name}", found(name, etag=name))
    await place.run(link("feed.xml"))
    place.warehouse.calls.clear()
    report = await place.run(link("feed.xml"))
    assert place.article.known[f"{BASE}/post-3"][f"{BASE}/post-3"].etag == "post-3"
    assert place.warehouse.calls["documents.known"] == 1
    assert place.warehouse.calls["documents.write"] == 0
    assert set(statuses(report).values()) == {"unchanged"}


async def test_a_feed_whose_posts_all_fail_has_failed(place: Place) -> None:
    place.feed.queue(f"{BASE}/feed.xml", Discovered(link("a")), Discovered(link("b")))
    report = await place.run(link("feed.xml"))
    assert set(statuses(report).values()) == {"failed"}
    assert "none of the 2 links" in report.outcomes[0].reason


async def test_feeds_that_lead_to_each_other_end(place: Place) -> None:
    place.feed.queue(f"{BASE}/1.rss", Discovered(link("2.rss")), Discovered(link("1.rss")))
    place.feed.queue(f"{BASE}/2.rss", Discovered(link("1.rss")), Discovered(link("a")))
    place.article.queue(f"{BASE}/a", found("a"))
    report = await place.run(link("1.rss"))
    assert statuses(report) == {"1.rss": "saved", "2.rss": "saved", "a": "saved"}


async def test_an_endless_chain_of_feeds_is_cut(place: Place) -> None:
    for n in range(20):
        place.feed.queue(f"{BASE}/{n}.rss", Discovered(link(f"{n + 1}.rss")))
    report = await place.run(link("0.rss"))
    assert len(report.outcomes) == 5
    assert "more than 3 feeds" in report.outcomes[-1].reason


async def test_documents_gone_from_a_source_read_in_full_are_deleted(place: Place) -> None:
    url = f"{BASE}/r.git"
    place.git.queue(url, found("r#a"), found("r#b"), found("r#c"), EndOfSource())
    await place.run(link("r.git"))
    place.git.queue(url, NotModified(f"{BASE}/r#a"), found("r#b", "changed"), EndOfSource())
    report = await place.run(link("r.git"))
    assert place.stored() == {"r#a": "some text", "r#b": "changed"}
    assert report.total("removed") == 1
    assert statuses(report) == {"r.git": "updated"}


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param((), id="not read in full"),
        pytest.param((Rejected("x", "broken"), EndOfSource()), id="a record was rejected"),
        pytest.param((EndOfSource(), FetchError("late failure")), id="the link failed"),
    ],
)
async def test_nothing_is_deleted_from_a_source_that_was_not_read_well(
    place: Place, rest: tuple[Any, ...]
) -> None:
    place.git.queue(f"{BASE}/r.git", found("r#a"), found("r#b"), EndOfSource())
    await place.run(link("r.git"))
    place.git.queue(f"{BASE}/r.git", found("r#a"), *rest)
    report = await place.run(link("r.git"))
    assert set(place.stored()) == {"r#a", "r#b"}
    assert report.total("removed") == 0


async def test_a_repository_found_through_a_feed_takes_away_only_its_own_files(place: Place) -> None:
    place.feed.queue(f"{BASE}/feed.xml", Discovered(link("a")), Discovered(link("r.git")))
    place.article.queue(f"{BASE}/a", found("a"))
    place.git.queue(f"{BASE}/r.git", found("r.git#1"), found("r.git#2"), EndOfSource())
    await place.run(link("feed.xml"))
    place.git.queue(f"{BASE}/r.git", found("r.git#1"), EndOfSource())
    await place.run(link("feed.xml"))
    assert set(place.stored()) == {"a", "r.git#1"}


async def test_rejected_records_become_dead_letters_and_go_when_the_source_is_well_again(
    place: Place,
) -> None:
    url = f"{BASE}/t.git"
    place.git.queue(
        url, found("t#1"), Rejected(f"{url}:2", "no title", "x" * 50_000), Rejected(f"{url}:3", "bad")
    )
    report = await place.run(link("t.git"))
    assert statuses(report) == {"t.git": "saved"}
    assert report.total("rejected") == 2
    assert place.letters() == {f"{url}:2": "no title", f"{url}:3": "bad"}
    assert max(len(letter.payload) for letter in place.warehouse.dead_letters.stream()) == 10_000

    place.git.queue(url, found("t#1"), found("t#2"), Rejected(f"{url}:3", "still bad"), EndOfSource())
    await place.run(link("t.git"))
    assert place.letters() == {f"{url}:3": "still bad"}


async def test_letters_of_other_links_below_a_source_stay(place: Place) -> None:
    other = DeadLetter(stage=STAGE, source=f"{BASE}/t.git/page", reason="r", failed_at="2026-01-01T00:00:00Z")
    place.warehouse.dead_letters.put([other])
    place.git.queue(f"{BASE}/t.git", found("t#1"), EndOfSource())
    await place.run(link("t.git"))
    assert list(place.letters()) == [f"{BASE}/t.git/page"]


async def test_a_source_whose_records_are_all_rejected_has_failed(place: Place) -> None:
    place.git.queue(f"{BASE}/t.git", Rejected("t:1", "bad"), Rejected("t:2", "bad"), EndOfSource())
    report = await place.run(link("t.git"))
    assert report.outcomes[0].status is LinkStatus.FAILED
    assert "all of its 2 records" in report.outcomes[0].reason


async def test_links_share_bulk_writes(place: Place) -> None:
    for n in range(100):
        place.article.queue(f"{BASE}/{n}", found(str(n)))
    report = await place.run(*[link(str(n)) for n in range(100)], batch_size=32)
    assert report.total("created") == 100
    assert place.warehouse.calls["documents.write"] == 4
    assert place.warehouse.calls["documents.find"] == 4
    assert place.warehouse.calls["users.get_or_create"] == 1


async def test_one_document_reached_through_two_links_is_written_once_and_counted_once_as_new(
    place: Place,
) -> None:
    place.article.queue(f"{BASE}/a", found("same"))
    place.article.queue(f"{BASE}/b", found("same"))
    report = await place.run(link("a"), link("b"))
    assert (report.total("created"), report.total("unchanged")) == (1, 1)
    assert set(place.stored()) == {"same"}


async def test_links_run_concurrently_within_the_limit(place: Place) -> None:
    gate = asyncio.Event()

    def open_for_three() -> None:
        if place.article.running.total() == 3:
            gate.set()

    for n in range(6):
        place.article.queue(f"{BASE}/{n}", open_for_three, gate, found(str(n)))
    async with asyncio.timeout(5):
        await place.run(*[link(str(n)) for n in range(6)], max_concurrency=3)
    assert place.article.peak == 3


async def test_a_link_listed_twice_is_collected_once(place: Place) -> None:
    place.article.queue(f"{BASE}/a", found("a"))
    report = await place.run(link("a"), link("a#top"), link("a?utm_source=mail"))
    assert len(place.article.reads) == 1
    assert report.duplicates == 2
    assert len(report.outcomes) == 1


async def test_authors_of_documents_become_users(place: Place) -> None:
    place.git.queue(f"{BASE}/t.git", found("1", author="Ada Byron"), found("2", author="Grace Hopper"))
    await place.run(link("t.git"))
    assert {user.full_name for user in place.warehouse.users.all()} == {"Ada Byron", "Grace Hopper"}


async def test_credentials_of_a_link_reach_the_reader_and_nothing_else(place: Place) -> None:
    url = "https://me:secret@example.org/r.git"
    place.git.queue(url, FetchError("refused"))
    report = await place.run(Link(url, "Ada"))
    assert place.git.reads[0].url == url
    assert "secret" not in str(report.rows()) + str(report.to_metadata()) + str(place.letters())
    place.git.queue(url, found("r#1"))
    await place.run(Link(url, "Ada"))
    assert next(place.warehouse.documents.stream()).origin == "https://example.org/r.git"


async def test_a_store_that_fails_stops_the_run_with_its_own_error(place: Place) -> None:
    def stop() -> None:
        place.warehouse.down = True

    place.article.queue(f"{BASE}/a", stop, found("a"))
    place.article.queue(f"{BASE}/b", asyncio.Event(), found("b"))
    async with asyncio.timeout(5):
        with pytest.raises(StoreUnavailableError):
            await place.run(link("a"), link("b"), batch_size=1)
    assert place.article.running.total() == 0


async def test_a_run_that_broke_off_ends_like_an_unbroken_one_when_repeated(place: Place) -> None:
    unbroken = Place()
    for one in (place, unbroken):
        for n in range(10):
            one.article.queue(f"{BASE}/{n}", found(str(n)))
        one.git.queue(f"{BASE}/r.git", *[found(f"r.git#{n}") for n in range(10)], EndOfSource())
    links = [*[link(str(n)) for n in range(10)], link("r.git")]
    await unbroken.run(*links, batch_size=3)

    def stop() -> None:
        place.warehouse.down = True

    place.article.queue(f"{BASE}/7", stop, found("7"))
    with pytest.raises(StoreUnavailableError):
        await place.run(*links, batch_size=3)
    place.warehouse.down = False
    place.article.queue(f"{BASE}/7", found("7"))
    assert len(place.stored()) < 20
    await place.run(*links, batch_size=3)
    both = [
        [document.model_copy(update={"collected_at": None}) for document in one.warehouse.documents.stream()]
        for one in (place, unbroken)
    ]
    assert both[0] == both[1]
    assert place.letters() == {}


async def test_cancelling_closes_what_was_being_read_and_leaves_no_task(place: Place) -> None:
    place.article.queue(f"{BASE}/a", found("a"))
    place.article.queue(f"{BASE}/c", (reached := asyncio.Event()).set, asyncio.Event(), found("c"))
    before = asyncio.all_tasks()
    run = asyncio.create_task(place.run(link("a"), link("c"), batch_size=1, max_concurrency=1))
    await reached.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert place.article.running.total() == 0
    assert asyncio.all_tasks() == before
    assert place.stored() == {"a": "some text"}


async def test_progress_counts_links_with_those_discovered(place: Place) -> None:
    class Bars:
        def __init__(self) -> None:
            self.done = 0
            self.total: int | None = None

        def advance(self, description: str, amount: int = 1, *, total: int | None = None) -> None:
            assert description == "Collect links"
            self.done += amount
            self.total = total

    place.feed.queue(f"{BASE}/feed.xml", Discovered(link("a")), Discovered(link("b")))
    bars = Bars()
    await place.run(link("feed.xml"), progress=bars)
    assert (bars.done, bars.total) == (3, 3)


def outcome(n: int, status: LinkStatus, **fields: Any) -> LinkOutcome:
    return LinkOutcome(f"{BASE}/{n}", "Ada", "article", status, **fields)


def test_a_run_is_refused_only_past_the_allowed_share() -> None:
    outcomes = [
        outcome(n, LinkStatus.FAILED if n < 2 else LinkStatus.SAVED, reason="it is gone") for n in range(8)
    ]
    report = CollectionReport(outcomes, 1.0, max_failed_share=0.25)
    report.check()
    with pytest.raises(TooManyFailuresError, match=r"2 of 8 links .*25%") as caught:
        report.check(0.2)
    assert f"{BASE}/0: it is gone" in str(caught.value)


def test_a_run_that_rejects_too_many_records_is_refused_too() -> None:
    report = CollectionReport([outcome(0, LinkStatus.SAVED, created=1, rejected=9)], 1.0)
    with pytest.raises(TooManyFailuresError, match=r"9 records were rejected \(90%"):
        report.check(0.5)


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    return type(value) in (str, int, float, bool)


def test_a_report_speaks_in_plain_values() -> None:
    outcomes = [outcome(n, LinkStatus.SAVED, created=n) for n in range(600)]
    outcomes += [outcome(999, LinkStatus.FAILED, reason="it is gone")]
    report = CollectionReport(outcomes, 1.25)
    metadata = report.to_metadata()
    assert _is_plain(metadata)
    assert metadata["links_by_status"] == {"saved": 600, "updated": 0, "unchanged": 0, "failed": 1}
    assert metadata["failures"] == {f"{BASE}/999": "it is gone"}
    assert len(metadata["outcomes"]) == 500  # type: ignore[arg-type]
    assert all(len(row) == len(COLUMNS) for row in report.rows())


def test_a_feed_counts_all_documents_it_led_to_though_few_links_are_listed() -> None:
    feed = outcome(0, LinkStatus.SAVED, discovered=900)
    led_to = [outcome(n, LinkStatus.SAVED, created=1, found_through=feed.url) for n in range(1, 901)]
    listed = CollectionReport([feed, *led_to], 1.0).to_metadata()["outcomes"]
    assert len(listed) == 500
    assert listed[feed.url]["documents"] == 900
