"""The report, the card and the figures of a data set."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import yaml

from llm_engineering.application.llm.judges import JudgeRecord, JuryReport
from llm_engineering.application.ports import Message
from llm_engineering.application.reporting.charts import draw_bars, draw_histogram
from llm_engineering.application.training.datasets.config import LengthBias, QualityConfig
from llm_engineering.application.training.datasets.curate import Curated, curate, gates_of
from llm_engineering.application.training.datasets.data_card import data_card
from llm_engineering.application.training.datasets.judging import Judged
from llm_engineering.application.training.datasets.report import COLUMNS, html_report, table_rows
from llm_engineering.application.training.datasets.samples import Sample, kind_of
from llm_engineering.application.training.datasets.statistics import compute_statistics
from llm_engineering.application.training.datasets.store import manifest_of
from llm_engineering.domain.datasets import DatasetManifest, Split
from tests.unit.dataset_samples import document, instruct, preference, prose


def tokens(chats: object) -> list[int]:
    assert isinstance(chats, list)
    return [sum(len(m.content.split()) for m in chat if isinstance(m, Message)) for chat in chats]


def curated(kind: str = "instruct") -> Curated[Sample]:
    documents = {d.id: d for d in (document(prose(i), f"d <{i}> & co") for i in range(30))}
    samples: list[Sample] = []
    for i, d in enumerate(documents.values()):
        samples.append(
            instruct(f"What <b>of</b> {i}?", of=d)
            if kind == "instruct"
            else preference(f"What of {i}?", rejected=prose(100 + i), of=d)
        )
    samples.append(samples[0])
    config = QualityConfig(length_bias=LengthBias(on_exceed="report"))
    return curate(samples, gates_of(config, documents, count=tokens), config, groups={}, seed=0)


def manifest(of: Curated[Sample]) -> DatasetManifest:
    kind = kind_of(of.kept)
    assert kind is not None
    return manifest_of(
        kind,
        "ada-1",
        of.splits,
        template="chatml",
        template_hash="0" * 12,
        seed=0,
        config={"gates": ["format"]},
    )


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


def test_figures_count_what_is_there() -> None:
    of = curated()
    found = compute_statistics(of.splits, tokens)
    assert sum(found.samples.values()) == 30
    assert sum(found.documents.values()) == 30
    assert [item.name for item in found.characters] == ["prompt", "answer"]
    assert found.tokens is not None
    assert found.tokens.quantile(0) <= found.tokens.quantile(0.5) <= found.tokens.quantile(1)
    assert found.made_by == {"back translation": 30}
    assert len(found.topics) == 15
    empty = compute_statistics({})
    assert empty.samples == dict.fromkeys(Split, 0)
    assert not empty.characters


def test_the_report_stands_by_itself_and_escapes_the_texts() -> None:
    of = curated()
    record = JudgeRecord("tiny", requested=2, received=1, replies=2, unusable_replies=1, missing_share=0.5)
    judged = Judged(JuryReport((record,)), {of.kept[0].id: {"tiny": 4}}, {}, {})
    page = html_report(manifest(of), of, compute_statistics(of.splits, tokens), judged)
    parser = Page()
    parser.feed(page)
    assert not parser.addresses
    assert not {"script", "link", "img"} & set(parser.tags)
    assert "What <b>of" not in page
    assert "What &lt;b&gt;of" in page
    assert "prefers-color-scheme: dark" in page
    assert "1 × the same words as an earlier sample" in page
    assert "1 (50%)" in page
    for drawn in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(drawn)


def test_the_report_of_pairs_shows_the_length_figures() -> None:
    of = curated("preference")
    page = html_report(manifest(of), of, compute_statistics(of.splits))
    assert "Cliff’s delta" in page
    assert "as it came through the gates" in page


def test_the_table_has_a_line_for_each_gate() -> None:
    of = curated()
    lines = list(table_rows(of.counts))
    assert all(len(line) == len(COLUMNS) for line in lines)
    assert [line[0] for line in lines] == [*QualityConfig().gates, "split_overlap"]


def test_the_card_names_splits_counts_gates_lineage_and_licence() -> None:
    of = curated()
    made = manifest(of)
    first = of.kept[0].origin.document_id
    card = data_card(made, of, compute_statistics(of.splits), {first: "https://example.org/a|b"})
    _, header, body = card.split("---\n", 2)
    meta = yaml.safe_load(header)
    assert meta["language"] == ["en"]
    assert [part["split"] for part in meta["configs"][0]["data_files"]] == ["train", "validation", "test"]
    assert f"Version `{made.version}`" in body
    assert "31 samples were made; 30 are kept" in body
    assert "https://example.org/a\\|b" in body
    assert "## Licence" in body
    assert "| exact_duplicates | 31 | 1 | 30 |" in body
    assert '"gates"' in body


def test_the_card_names_documents_by_their_titles() -> None:
    of = curated()
    first = of.kept[0].origin.document_id
    titled = manifest(of).model_copy(update={"document_titles": {first: "Small models on boats"}})
    card = data_card(titled, of, compute_statistics(of.splits))
    assert "| Small models on boats |" in card
    assert f"`{first}`" not in card


def test_the_card_of_pairs_has_the_lint() -> None:
    of = curated("preference")
    assert "| Chosen is the longer one" in data_card(manifest(of), of, compute_statistics(of.splits))


def test_plots_of_nothing_and_of_one_value_are_whole() -> None:
    for drawn in (
        draw_bars("a & b", {}),
        draw_bars("x", {"<n>": 0}),
        draw_histogram("h", (), "u"),
        draw_histogram("h", (5, 5), "u"),
    ):
        ElementTree.fromstring(drawn)
