"""Personal data: what the rules find and leave, the three things that a policy does, and a person who is forgotten."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.features.clean import clean, source_hash
from llm_engineering.application.features.manage import find_person, forget_person
from llm_engineering.application.features.pipeline import clean_documents
from llm_engineering.application.text.privacy import PrivacyPolicy
from llm_engineering.domain.analyses import Finding
from llm_engineering.domain.documents import DeadLetter, RawDocument
from llm_engineering.domain.inference import Feedback, Subject
from llm_engineering.domain.reviews import StoredSummary
from llm_engineering.infrastructure.personal_data import RulesFinder
from tests.conformance.warehouse_contract import NOW, analysed, drafted, notice, summarised
from tests.fakes.index import FakeVectorIndex
from tests.fakes.warehouse import FakeWarehouse
from tools.collection import find_in_files

FINDER = RulesFinder(["Ada Winter", "Krzysztof", "José García Márquez"])
KEY = b"0123456789abcdef"
PLANTED = {
    "e-mail": ["ada@example.com", "j.oneil+x@mail.example.co.uk", "ada_w@xn--bcher-kva.example"],
    "phone": ["+1 (415) 555-0132", "0171/2345678", "415-555-0132", "+49 171 2345678"],
    "card": ["4111 1111 1111 1111", "5500-0000-0000-0004", "340000000000009"],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB29NWBK60161331926819", "FR14 2004 1010 0505 0001 3M02 606"],
    "ssn": ["078-05-1120", "123-45-6789"],
    "ip": ["192.168.10.24", "2001:db8::ff00:42:8329"],
    "name": ["Ada Winter", "ADA WINTER", "Krzysztof", "José García Márquez"],
}
AROUND = ("My number is {}, please call.", "({})", "Write to {} today", "{}", "Von {} kam nichts.", "x: {};")
LEFT = (
    "Order 12345678 of 2026-05-04 at 10:45:12, version 1.2.3.4, build 10.0.19041.1, item 4111-22.",
    "ISBN 978-3-16-148410-0 costs 1,299.00 EUR; tracking 1Z999AA10123456784; ratio 3:2:1; 00:11:22.",
    "Invoice INV-2024-000123, ticket #4512345, error 0x80070057, pages 12-45-78, room 101-22.",
    "The release v10.20.30.40 has 1234567890123456 rows; price 45.99; 12/31/2025; GPS 52.5200, 13.4050.",
)


@pytest.mark.parametrize(
    ("kind", "value"), [(kind, value) for kind, values in PLANTED.items() for value in values]
)
@pytest.mark.parametrize("around", AROUND)
def test_what_is_planted_is_found_whole(kind: str, value: str, around: str) -> None:
    text = around.format(value)
    [span] = FINDER.find(text)
    assert (span.kind, text[span.start : span.end]) == (kind, value)


def test_tokens_in_addresses_are_found_and_the_addresses_stay() -> None:
    text = "See https://shop.example/reset?user=7&token=9f8e7d6c5b4a&lang=de now"
    assert (
        PrivacyPolicy(FINDER).apply(text) == "See https://shop.example/reset?user=7&token=[token]&lang=de now"
    )


@pytest.mark.parametrize("text", LEFT)
def test_what_is_nobodys_stays(text: str) -> None:
    assert FINDER.find(text) == []


def test_at_most_one_in_a_hundred_lines_of_numbers_is_taken_for_somebodys() -> None:
    random.seed(7)
    number = random.randint
    made = [
        f"Order {number(10**6, 10**9)}, {number(1, 28):02d}.{number(1, 12):02d}.2025, "
        f"v{number(0, 20)}.{number(0, 30)}.{number(0, 99)}, {number(1, 9999)}.{number(0, 99):02d} EUR"
        for _ in range(5_000)
    ]
    assert sum(bool(FINDER.find(line)) for line in made) <= 50


@given(st.text(max_size=200))
def test_whatever_comes_spans_lie_in_the_text_in_order_and_apart(text: str) -> None:
    end = 0
    for span in FINDER.find(text):
        assert end <= span.start < span.end <= len(text)
        end = span.end
    assert PrivacyPolicy(FINDER, "keep").apply(text) == text


def test_a_pseudonym_is_the_same_for_the_same_person_and_another_with_another_key() -> None:
    policy = PrivacyPolicy(FINDER, "pseudonymise", KEY)
    first, second = (
        policy.apply("Mail ada@example.com"),
        policy.apply("ADA@example.com wrote; +49 171 2345678"),
    )
    assert (
        first.removeprefix("Mail ")
        == second.partition(" wrote")[0]
        == policy.replace("e-mail", "ada@example.com")
    )
    assert policy.apply("0049 x") == "0049 x"
    assert policy.replace("phone", "+49 171 2345678") == policy.replace("phone", "+49-171-2345678")
    other = PrivacyPolicy(FINDER, "pseudonymise", KEY[::-1])
    assert other.apply("Mail ada@example.com") != first
    assert other.version != policy.version
    assert "ada" not in first
    with pytest.raises(ValueError, match="16 bytes"):
        PrivacyPolicy(FINDER, "pseudonymise", b"short")


def ticket(number: int, text: str) -> RawDocument:
    metadata = {"product": "Ada Winter's chair"}
    return RawDocument(
        category="ticket", text=text, link=f"t.csv#{number}", origin="t.csv", platform="t", metadata=metadata
    )


def test_cleaning_treats_text_title_and_fields_and_another_policy_cleans_again() -> None:
    policy = PrivacyPolicy(FINDER, "pseudonymise", KEY)
    done = clean(ticket(1, "I am Ada Winter, IBAN DE89370400440532013000."), policy)
    assert (
        done.text
        == f"I am {policy.replace('name', 'Ada Winter')}, IBAN {policy.replace('iban', 'DE89370400440532013000')}."
    )
    assert "Ada" not in str(done.metadata)
    store = FakeWarehouse()
    store.documents.upsert([ticket(1, "Call 415-555-0132."), ticket(2, "Nothing personal.")])
    for privacy, cleaned in ((None, 2), (None, 0), (policy, 2), (policy, 0), (PrivacyPolicy(FINDER), 2)):
        report = clean_documents(store.documents, store.clean, store.dead_letters, privacy=privacy)
        assert report.cleaned == cleaned
    assert source_hash("x") != source_hash("x", policy)


def test_a_person_is_forgotten_in_every_store(tmp_path: Path) -> None:
    place, index = FakeWarehouse(), FakeVectorIndex()
    place.documents.upsert([ticket(1, "I am Jo\nDoe, jo@doe.example."), ticket(2, "Somebody else.")])
    clean_documents(place.documents, place.clean, place.dead_letters)
    place.dead_letters.put(
        [DeadLetter(stage="collect", source="t.csv:9", reason="no", payload="JO DOE", failed_at=NOW)]
    )
    place.notices.put([notice(text="jo@doe.example is interested"), notice("other")])
    found = Finding(field="name", value="Jo Doe", made_by="rule")
    place.analyses.upsert(
        [analysed(1, findings=(found,)), analysed(2, document_ids=(ticket(1, "x").id,)), analysed(3)]
    )
    quoting = StoredSummary(current=summarised("Lamp", document_ids=(ticket(1, "x").id,)))
    place.summaries.put_many([quoting, StoredSummary(current=summarised("Kettle"))])
    for draft in (drafted("d1", "About Jo Doe."), drafted("d2")):
        place.drafts.save(draft)
    for name in ("Jo Doe", "Jo Doering"):
        place.users.get_or_create(name)
    correction = Feedback(
        subject=Subject(kind="analysis", id="a1"), correction={"name": "Jo Doe"}, task="t", created_at=NOW
    )
    place.feedback.vote(correction)
    traces = find_person(place, ["Jo Doe", "jo@doe.example"])
    assert list(traces.counts.values()) == [1, 1, 1, 2, 1, 1, 1, 0, 0, 1]
    forget_person(traces, place, index)
    left = find_person(place, ["Jo Doe", "jo@doe.example"])
    assert (left.count, left.corrections) == (1, 1)
    assert len(list(place.documents.stream())) == len(list(place.clean.stream())) == 1
    assert [one.id for one in place.analyses.stream()] == ["a3"]
    assert [one.id for one in place.drafts.read_page(9)] == ["d2"]
    assert [one.current.product for one in place.summaries.stream() if one.current] == ["Kettle"]
    assert [one.full_name for one in place.users.all()] == ["Jo Doering"]


def test_a_name_is_found_as_a_whole_word_only() -> None:
    place = FakeWarehouse()
    place.documents.upsert([ticket(1, "Major job."), ticket(2, "This is JO."), ticket(3, "x\nJo")])
    found = find_person(place, ["jo"]).selection.documents
    assert sorted(document.link for document in found) == ["t.csv#2", "t.csv#3"]


def test_files_are_searched_for_whole_words_and_binary_ones_for_parts_too(tmp_path: Path) -> None:
    for name, content in {
        "a": b"x " * (1 << 20) + b"JO DOE",
        "b": b"Jo\n Doe",
        "c": b"Jo Doering and xJo Doe",
        "d": b"\0\0fJo Doeg",
        "e": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in find_in_files(files, ["Jo Doe"])] == ["a", "b", "d"]
    assert list(find_in_files(files, [" "])) == []
