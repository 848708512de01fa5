"""Preference data sets of too little, or of a model that replies badly: told, counted, and nothing else lost."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError

from llm_engineering.application.ports import Message
from llm_engineering.application.training.datasets.build import build_dataset
from llm_engineering.application.training.datasets.config import (
    LengthBounds,
    PreferenceDatasetRun,
    QualityConfig,
)
from llm_engineering.domain.errors import InvalidInputError, TooManyFailuresError
from tests.fakes.llm import ScriptedLanguageModel
from tests.fakes.warehouse import FakeWarehouse
from tests.unit.dataset_samples import document, origin
from tests.unit.dataset_samples import preference as pair
from tests.unit.dataset_samples import prose as words_of
from tests.unit.test_dataset_build import target, world
from tests.unit.test_dataset_generation import article, preference, prose, verbatim, warehouse


async def test_an_empty_warehouse_names_the_task_that_fills_it() -> None:
    with pytest.raises(InvalidInputError, match=r"holds no clean documents.*run-end-to-end-data-pipeline"):
        await preference(FakeWarehouse(), ScriptedLanguageModel(default=prose(210)))


async def test_one_document_cannot_be_split_and_what_to_do_is_told(tmp_path: Path) -> None:
    first, second = words_of(1), words_of(2)
    one = document(f"{first} {second}")
    store = FakeWarehouse()
    store.clean.upsert([one])
    pairs = [
        pair("What of the first?", first, words_of(3, 130), one).model_copy(
            update={"origin": origin(one, 0, len(first))}
        ),
        pair("What of the second?", second, words_of(4, 110), one).model_copy(
            update={"origin": origin(one, len(first) + 1)}
        ),
    ]
    with pytest.raises(InvalidInputError, match=r"cannot be split into.*Collect more documents"):
        await build_dataset(pairs, store.clean, QualityConfig(), target(tmp_path))
    assert not (tmp_path / "ada").exists()


async def test_where_no_prompt_can_be_asked_the_reasons_are_told() -> None:
    stores = FakeWarehouse()
    stores.clean.upsert([article(n).model_copy(update={"language": "fr"}) for n in range(5)])
    model = ScriptedLanguageModel(default=prose(210))
    with pytest.raises(InvalidInputError, match=r"No sample came of 5 passages.*language"):
        await preference(stores, model)
    assert model.calls == []


async def test_where_the_gates_drop_all_the_gate_is_named(tmp_path: Path) -> None:
    store, documents = world()
    pairs = [pair(f"What of {n}?", rejected=prose(210), of=one) for n, one in enumerate(documents)]
    strict = QualityConfig(lengths=LengthBounds(answer_characters=(7_000, 8_000)))
    with pytest.raises(InvalidInputError, match=r"No sample is left to train on: 24 were made.* length: "):
        await build_dataset(pairs, store.clean, strict, target(tmp_path))


async def test_of_30_percent_malformed_replies_nothing_else_is_lost_and_the_share_is_reported() -> None:
    """Each bad one is asked for twice; a reply of two words is none that an answer could be compared with."""
    stores = warehouse(20)

    def broken(messages: Sequence[Message]) -> str:
        number = int(next(word for word in messages[-1].content.split() if word.isdigit()))
        return "Yes, indeed." if number % 10 < 3 else prose(210)

    made, triples = await preference(
        stores, ScriptedLanguageModel(default=broken), requests={"attempts": 2}, max_failed_share=0.4
    )
    assert len(triples) == 14
    assert all(verbatim(stores, triple, triple.chosen) for triple in triples)
    told = made.to_metadata()
    assert told["given_up"] == stores.dead_letters.count() == 6
    assert told["malformed_replies"] == 12
    assert told["malformed_share"] == pytest.approx(12 / 26)
    assert told["reasons"] == {"a reply of another length": 12}


async def test_too_much_lost_fails_the_run_with_the_reasons() -> None:
    with pytest.raises(TooManyFailuresError, match=r"5 of 5 things .*another length"):
        await preference(warehouse(), ScriptedLanguageModel(default="No."))


def test_an_unknown_template_is_told() -> None:
    with pytest.raises(ValidationError, match="no chat template 'chatlm'"):
        PreferenceDatasetRun(chat_template="chatlm")
