"""Asking as a user does, on the command line, over a small index made from two articles of the sample site."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from llm_engineering.infrastructure.stores.mongo import MongoWarehouse
from tests.broken_runs import run_command
from tests.fakes.openai_server import Fault, OpenAIServer
from tests.services import free_port, mongo_server
from tools.sample_site import SampleSite
from tools.services import LocalMongo

__all__ = ["mongo_server"]

ROOT = Path(__file__).resolve().parents[2]
QUESTION = "Why does hybrid search combine BM25 with dense vectors?"
FOREIGN = "Which team won the football world cup in 1998?"
KEY = "sk-l0calTestKey"
WRONG_KEY = "sk-wr0ngTestKey"


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory, mongo_server: LocalMongo) -> dict[str, str]:
    """The environment of a project whose index holds two articles."""
    folder = tmp_path_factory.mktemp("asked")
    environment = {
        "DATABASE_URI": mongo_server.uri,
        "DATABASE_NAME": "asked",
        "VECTOR_INDEX_KIND": "qdrant_edge",
        "VECTOR_INDEX_PATH": str(folder / "index"),
        "EMBEDDER_KIND": "onnx",
        "MODELS_DIR": os.environ.get("MODELS_DIR", str(ROOT / "models")),
        "CRAWLER_PER_HOST_DELAY_SECONDS": "0",
    }
    with SampleSite() as site:
        links = [
            f"{site.base_url}/articles/{name}.html" for name in ("hybrid-search", "kv-cache-and-serving")
        ]
        arguments = [word for link in links for word in ("--link", link)]
        ended = run_command(
            "tools.run",
            "end-to-end-data",
            "--author",
            "Ada Winter",
            *arguments,
            output=folder / "output.txt",
            environment=environment,
        )
    assert ended.code == 0, ended.output
    return environment


def start(
    environment: Mapping[str, str], module: str, arguments: Sequence[str], *, piped: bool = False
) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment, "COLUMNS": "200"},
        stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def call(
    environment: Mapping[str, str], module: str, *arguments: str, typed: str | None = None
) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command. ``typed``: what is piped into it."""
    with start(environment, module, arguments, piped=typed is not None) as process:
        output, errors = process.communicate(typed, timeout=120)
    return process.returncode, output, errors


@pytest.fixture
def service() -> Iterator[OpenAIServer]:
    """A chat service that says what the first source says."""
    with OpenAIServer(api_key=KEY) as server:
        server.default_reply = lambda messages: " ".join(sentences(messages[-1]["content"])[:2])
        yield server


def sentences(prompt: str) -> list[str]:
    """Whole sentences of prose of the prompt's first source."""
    source = prompt.partition("<source>")[2].partition("</source>")[0]
    return [found.strip() for found in re.findall(r"[A-Z][\w ,'-]{40,200}\.(?=\s)", source)]


def served_by(environment: Mapping[str, str], base_url: str, key: str = KEY) -> dict[str, str]:
    return {
        **environment,
        "LLM_BASE_URL": base_url,
        "LLM_MODEL": "small",
        "LLM_API_KEY": key,
        "LLM_MAX_RETRIES": "0",
    }


def test_retrieval_shows_ranked_hits_with_scores_and_links(environment: dict[str, str]) -> None:
    code, output, errors = call(environment, "tools.retrieve", "--query", QUESTION, "--k", "3")
    assert code == 0, errors
    scores = [float(score) for score in re.findall(r"score (\d\.\d+)", output)]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert re.search(r"1 .*[Hh]ybrid", output.splitlines()[0])
    assert len(re.findall(r"cosine 0\.\d\d · \S.* · http://127\.0\.0\.1:\d+/articles/", output)) == 3
    assert re.search(r"3 hits, hybrid search, \d+ ms", output)


def test_it_is_said_how_each_passage_came_to_its_place(environment: dict[str, str]) -> None:
    code, output, errors = call(environment, "tools.retrieve", "--query", QUESTION, "--k", "2", "--explain")
    assert code == 0, errors
    way = r"meaning (?:#\d+ \(0\.\d+\)|–) · words (?:#\d+ \(\d+\.\d+\)|–) · fused #\d+ \(0\.\d+\) · reranker #\d+ \(\S+\)"
    assert len(re.findall(way, output)) == 7
    assert "Filter: none" in output
    confidence, floor = map(float, re.findall(r"Near enough\? (\S+), and answers begin at (\S+):", output)[0])
    assert confidence > floor
    _, output, _ = call(
        environment, "tools.retrieve", "--query", "Who won the football cup?", "--explain", "--author", "ada"
    )
    assert "authors Ada Winter" in output
    confidence, floor = map(float, re.findall(r"Near enough\? (\S+), and answers begin at (\S+):", output)[0])
    assert confidence < floor


@pytest.mark.slow
def test_retrieval_is_narrowed_by_filters(environment: dict[str, str]) -> None:
    narrow = ("--author", "Ada Winter", "--category", "article", "--language", "en", "--mode", "sparse")
    code, output, _ = call(environment, "tools.retrieve", "--query", "KV cache", "--k", "2", *narrow)
    assert code == 0
    assert "2 hits, sparse search" in output
    code, _, errors = call(environment, "tools.retrieve", "--query", "KV cache", "--author", "Ada Wintr")
    assert code == 1
    assert "Closest: Ada Winter." in errors


@pytest.mark.slow
def test_the_bundled_model_answers_with_numbered_sources_and_is_silent_where_they_are(
    environment: dict[str, str],
) -> None:
    bundled = {**environment, "LLM_KIND": "llama_cpp", "LLM_MODEL": "SmolLM2-135M-Instruct"}
    code, output, errors = call(bundled, "tools.ask", QUESTION)
    assert code == 0, errors
    answer, _, sources = output.partition("Quoted from the sources.")
    cited = {int(number) for number in re.findall(r"\[(\d+)\]", answer)}
    listed = {int(number) for number in re.findall(r"^\[(\d+)\]", sources, re.MULTILINE)}
    assert cited
    assert cited <= listed == set(range(1, len(listed) + 1))
    links = re.findall(r"http://127\.0\.0\.1:\S+", sources)
    assert links, "each text's address is shown"
    assert len(links) == len(set(links)) <= len(listed), "once, above the passages that come from it"
    code, output, _ = call(bundled, "tools.ask", FOREIGN)
    assert code == 0
    assert output.startswith("The sources do not say.\n")
    assert output.count("http://127.0.0.1:") == 3, "the nearest sources are shown"
    assert "✓" not in output


@pytest.mark.slow
@pytest.mark.parametrize(
    "question", ["为什么要结合BM25和向量搜索？", "Почему поиск бывает гибридным?", "🔍" * 50]
)
def test_a_question_in_another_script_ends_well(environment: dict[str, str], question: str) -> None:
    code, output, errors = call(
        {**environment, "LLM_KIND": "llama_cpp", "LLM_MODEL": "SmolLM2-135M-Instruct"}, "tools.ask", question
    )
    assert code == 0, errors
    assert output.strip()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("question", "said"),
    [("", "The question is empty"), ("x" * 100_000, "has 100,000 characters; at most 4,000")],
)
def test_a_question_that_cannot_be_used_is_refused(
    environment: dict[str, str], question: str, said: str
) -> None:
    code, output, errors = call(environment, "tools.ask", question)
    assert (code, output) == (1, "")
    assert said in errors
    assert "Traceback" not in errors


def test_format_and_length_of_a_draft_are_options(environment: dict[str, str], service: OpenAIServer) -> None:
    service.default_reply = lambda _: "In hybrid search, words and meanings belong together."
    served = served_by(environment, service.base_url)
    order = ("hybrid search", "--format", "email", "--length", "90", "--author", "Ada Winter")
    code, output, errors = call(served, "tools.ask", *order)
    assert code == 0, errors
    assert "words and meanings belong together" in output
    asked = service.requests[-1].body["messages"][-1]["content"]
    assert "e-mail" in asked
    assert "90 words" in asked
    with closing(MongoWarehouse(environment["DATABASE_URI"], environment["DATABASE_NAME"])) as warehouse:
        draft = warehouse.drafts.read_page(1)[0]
    assert (draft.brief.format, draft.brief.words, draft.brief.author) == ("email", 90, "Ada Winter")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--format", "sonnet"), "invalid choice: 'sonnet'"),
        (("--length", "5"), "at least 20 words, got 5"),
        (("--length", "90", "--intent", "summarise"), "are for drafts"),
    ],
)
def test_a_draft_that_cannot_be_ordered_is_refused(
    environment: dict[str, str], options: tuple[str, ...], said: str
) -> None:
    code, output, errors = call(environment, "tools.ask", "hybrid search", *options)
    assert code != 0
    assert output == ""
    assert said in errors
    assert "Traceback" not in errors


def test_an_answer_of_a_service_is_streamed(environment: dict[str, str], service: OpenAIServer) -> None:
    service.seconds_per_piece = 0.15
    process = start(served_by(environment, service.base_url), "tools.ask", [QUESTION])
    assert process.stdout is not None
    shown = ""
    while not shown.endswith("]"):
        shown += process.stdout.read(1)
    assert process.poll() is None, "the first sentence is shown while the second is still on its way"
    assert re.fullmatch(r"[A-Z].*\. ?\[\d\]|[A-Z].* \[\d\]", shown)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert re.search(r"\[\d\]\n\n", shown + output)
    assert "/articles/hybrid-search.html" in output
    [request] = service.requests
    assert request.authorization == f"Bearer {KEY}"
    assert QUESTION in request.body["messages"][-1]["content"]


@pytest.mark.slow
def test_a_wrong_key_is_told_without_showing_it(environment: dict[str, str], service: OpenAIServer) -> None:
    code, _, errors = call(served_by(environment, service.base_url, WRONG_KEY), "tools.ask", QUESTION)
    assert code == 1
    assert "LLM_API_KEY" in errors
    assert WRONG_KEY not in errors
    assert "Traceback" not in errors


def test_a_service_that_is_down_is_told_with_its_address(environment: dict[str, str]) -> None:
    address = f"http://127.0.0.1:{free_port()}/v1"
    code, _, errors = call(served_by(environment, address), "tools.ask", QUESTION)
    assert code == 1
    assert address in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_service_that_breaks_off_in_the_middle_is_told(
    environment: dict[str, str], service: OpenAIServer
) -> None:
    service.faults.append(Fault("cut", pieces=5))
    code, _, errors = call(served_by(environment, service.base_url), "tools.ask", QUESTION)
    assert code == 1
    assert service.base_url in errors
    assert "Traceback" not in errors


def test_a_foreign_question_costs_no_call(environment: dict[str, str], service: OpenAIServer) -> None:
    code, output, errors = call(served_by(environment, service.base_url), "tools.ask", FOREIGN)
    assert code == 0, errors
    assert output.startswith("The sources do not say.\n")
    assert service.requests == []


def test_the_text_of_a_pipe_is_the_question(environment: dict[str, str], service: OpenAIServer) -> None:
    served = served_by(environment, service.base_url)
    code, output, errors = call(served, "tools.ask", "--author", "ada", typed=f"{QUESTION}\n")
    assert code == 0, errors
    assert "/articles/hybrid-search.html" in output
    assert QUESTION in service.requests[0].body["messages"][-1]["content"]
    code, output, errors = call(served, "tools.ask", typed="")
    assert (code, output) == (1, "")
    assert "question is empty" in errors


def test_a_conversation_on_a_terminal_knows_what_was_said(
    environment: dict[str, str], service: OpenAIServer, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    own = {**served_by(environment, service.base_url), "LOCAL_DATA_DIR": str(tmp_path), "LLM_KEEP_WARM": "0"}
    with subprocess.Popen(
        [sys.executable, "-m", "tools.ask"],
        cwd=ROOT,
        env={**os.environ, **own},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        os.write(ours, f"{QUESTION}\nAnd what does it cost?\n/sources\n/vote up\n/quit\n".encode())
        output, _ = process.communicate(timeout=120)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 0, output
    assert "/articles/hybrid-search.html" in output
    assert "Voted up" in output
    assert QUESTION in str(service.requests[-1].body["messages"])
    assert (tmp_path / "ask_history").exists()


def test_what_is_logged_stands_behind_the_answer(environment: dict[str, str], service: OpenAIServer) -> None:
    silent = {
        **served_by(environment, service.base_url),
        "DATABASE_URI": f"mongodb://127.0.0.1:{free_port()}",
        "DATABASE_TIMEOUT_SECONDS": "0.5",
    }
    code, output, errors = call(silent, "tools.ask", *QUESTION.split())  # as typed without quotes
    assert code == 0, errors
    assert QUESTION in service.requests[-1].body["messages"][-1]["content"]
    assert "WARNING" not in output
    assert "could not be kept" in errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("generate-instruct-datasets", "--author", "Ada Wintr"), "Closest: Ada Winter."),
        (
            ("end-to-end-data", "--author", "Ada", "--link", "http://127.0.0.1:{free}/feed.xml"),
            "nothing listens at",
        ),
        (("end-to-end-data", "--link", "http://127.0.0.1:{free}/feed.xml"), "TWIN_AUTHOR"),
        (("end-to-end-data",), "--link"),
    ],
    ids=["author", "link", "whose", "nothing named"],
)
def test_wrong_input_is_told_before_zenml_starts(
    environment: dict[str, str], arguments: tuple[str, ...], said: str
) -> None:
    given = [word.format(free=free_port()) for word in arguments]
    code, output, errors = call(environment, "tools.run", *given)
    assert (code, output) == (1, "")
    assert said in errors
    assert "Starting ZenML" not in errors
    assert "Traceback" not in errors
