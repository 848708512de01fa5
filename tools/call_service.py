"""Asks the running inference service: ``./poe call-inference-ml-service --query "…" [--author … --k …]``."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx
from rich.markup import escape

from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError, TwinError
from llm_engineering.domain.hints import POE
from llm_engineering.settings import Settings, load_settings
from tools.ask import NEAREST, group_passages, name_passage
from tools.console import WordStream, console, make_parser, run
from tools.search_options import add_search_options
from tools.vote import note_answer

_SECONDS = httpx.Timeout(10.0, read=60.0)
"""For reading: a stream that is alive sends something every quarter of a minute."""
_WHOLE_ANSWER_SECONDS = 600.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("call-inference-ml-service", __doc__)
    parser.add_argument("--query", required=True, help="the question")
    add_search_options(parser)
    parser.add_argument("--no-stream", action="store_true", help="wait for the whole answer")
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON")
    parser.add_argument("--url", help="where the service is (SERVICE_URL)")
    parser.set_defaults(k=None, mode=None)  # as the service is configured
    options = parser.parse_args(arguments)
    settings = load_settings()
    start_logging(settings)
    body = body_of(options)
    with Caller(address_of(settings, options.url), read_key(settings)) as caller:
        if options.json:
            print(json.dumps(caller.answer(body), ensure_ascii=False, indent=2))
            return 0
        if options.no_stream:
            result = caller.answer(body)
            console.print(result["answer"]["text"], markup=False)
        else:
            result = show_stream(caller.stream(body))
        show_result(result)
        if caller.takes_votes():
            note_answer(settings, result["trace_id"], url=caller.url)
            console.print(f"[dim]Did it help? {POE} vote up, or: {POE} vote down[/]")
    return 0


def address_of(settings: Settings, url: str | None = None) -> str:
    """Return where the service is found, without a slash at the end."""
    service = settings.service
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(service.host, service.host)
    return (url or service.url or f"http://{host}:{service.port}").rstrip("/")


def read_key(settings: Settings) -> str | None:
    """Return the key to show to the service."""
    return settings.service.api_key.get_secret_value() if settings.service.api_key else None


def body_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the request that the options ask for, in the service's own filter grammar; what was not given is left out."""
    wanted = {
        "authors": options.author,
        "categories": options.category,
        "platforms": options.platform,
        "languages": options.language,
        "published_from": options.published_from,
        "published_to": options.published_to,
    }
    fusion = None if options.alpha is None else {"kind": "weighted", "alpha": options.alpha}
    body = {
        "query": options.query,
        "k": options.k,
        "mode": options.mode and str(options.mode),
        "fusion": fusion,
        "filter": {name: value for name, value in wanted.items() if value} or None,
    }
    return {name: value for name, value in body.items() if value is not None}


class Caller:
    """Speaks to the service, and turns its refusals into errors that say what to do."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # trust_env: a proxy that is set for the internet must not get what stays on this machine.
        self._client = httpx.Client(base_url=url, headers=headers, timeout=_SECONDS, trust_env=False)

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the whole answer.

        Raises:
            TwinError: see :meth:`stream`.
        """
        try:
            response = self._client.post("/rag", json=body, timeout=_WHOLE_ANSWER_SECONDS)
        except httpx.HTTPError as error:
            raise self._silent(error) from None
        if not response.is_success:
            raise self._refused(response)
        result: dict[str, Any] = response.json()
        return result

    def stream(self, body: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the answer's events as they come: (name, data).

        Raises:
            ConfigurationError: the key is missing or not known.
            InvalidInputError: the question or its filter cannot be used.
            TwinError: the service is not there, is busy, or failed; says which, and what to do.
        """
        try:
            with self._client.stream("POST", "/rag/stream", json=body) as response:
                if not response.is_success:
                    response.read()
                    raise self._refused(response)
                for name, data in parse_events(response.iter_lines()):
                    if name == "error":
                        raise TwinError(f"The answer broke off: {data['error']['message']}")
                    yield name, data
        except httpx.HTTPError as error:
            raise self._silent(error) from None

    def vote(self, trace_id: str, rating: str, comment: str) -> None:
        """Vote on an answer.

        Raises:
            TwinError: see :meth:`stream`.
        """
        body = {"trace_id": trace_id, "rating": rating, "comment": comment}
        try:
            response = self._client.post("/feedback", json=body)
        except httpx.HTTPError as error:
            raise self._silent(error) from None
        if not response.is_success:
            raise self._refused(response)

    def takes_votes(self) -> bool:
        """Return whether answers are kept, so that they can be voted on."""
        try:
            response = self._client.get("/info")
        except httpx.HTTPError:
            return False  # the answer has been shown; a hint is not worth an error
        return response.is_success and bool(response.json().get("feedback"))

    def _silent(self, error: httpx.HTTPError) -> TwinError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return TwinError(
                f"No service answers at {self.url}. Start it with {POE} run-inference-ml-service, or say where it runs "
                "with --url or SERVICE_URL."
            )
        return TwinError(f"The connection to {self.url} broke off ({type(error).__name__}). Ask again.")

    def _refused(self, response: httpx.Response) -> TwinError:
        try:
            told = str(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return TwinError(
                f"What answers at {self.url} is not the inference service (status {response.status_code}). "
                "Check --url and SERVICE_URL."
            )
        wait = response.headers.get("Retry-After")
        match response.status_code:
            case 401:
                return ConfigurationError(
                    f"{told} Set SERVICE_API_KEY to a key made with: {POE} create-api-key NAME"
                )
            case 422:
                return InvalidInputError(told)
            case 429 | 503 if wait and f"{wait} s" not in told:
                return TwinError(f"{told} (Retry-After: {wait} s)")
            case _:
                return TwinError(told)


def parse_events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, data) of each Server-Sent Event; comments and unknown fields are passed over."""
    name, data = "message", ""
    for line in lines:
        field, _, value = line.partition(":")
        if field == "event":
            name = value.strip()
        elif field == "data":
            data += value.strip()
        elif not line and data:
            yield name, json.loads(data)
            name, data = "message", ""


def show_stream(stream: Iterator[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Print text as it comes; returns the finished result.

    Raises:
        TwinError: the stream ended without one.
    """
    words = WordStream()
    try:
        for name, data in stream:
            if name == "delta":
                words.write(data["text"])
                sys.stdout.flush()
            elif name == "done":
                return data
    finally:
        words.close()
    raise TwinError("The service ended its answer in the middle. Its log says why; ask again.")


def show_result(result: Mapping[str, Any]) -> None:
    """Print the sources, and what the answer was made with."""
    answer, provenance, timings = result["answer"], result["provenance"], result["timings"]
    _show_verdict(answer)
    _show_sources(answer)
    for sentence in provenance["degradations"]:
        console.print(f"[yellow]![/] {escape(sentence)}")
    usage = answer["usage"]
    parts = [
        answer["model"] or "no model",
        f"{provenance['mode']} search",
        f"reranked by {provenance['reranker']}" if provenance["reranker"] else "not reranked",
        f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens",
        *([f"${usage['cost_usd']:.5f}"] if usage["cost_usd"] is not None else []),
        f"{timings['total']:.1f} s",
    ]
    console.print(f"\n[dim]{escape(' · '.join(parts))}[/]")


def _show_verdict(answer: Mapping[str, Any]) -> None:
    if answer["abstained"]:
        if answer["citations"]:
            console.print("[dim]Nothing that was collected is close enough. Nearest:[/]")
    elif answer["quoted"]:
        console.print("[dim]Quoted from the sources.[/]")
    elif answer["unsupported"] and not answer["cited"]:
        console.print("[yellow]No source backs this answer.[/]")
    if answer["finish_reason"] == "length":
        console.print("[yellow]The answer was cut at the token limit.[/]")


def _show_sources(answer: Mapping[str, Any]) -> None:
    console.print()
    shown = answer["citations"][: NEAREST if answer["abstained"] else None]
    for citation, follows in group_passages(shown, lambda one: str(one["passage"]["link"])):
        number, passage = citation["number"], citation["passage"]
        style = "bold" if number in answer["cited"] else "dim"
        name = name_passage(passage["title"], passage["headings"], passage["text"], follows=follows)
        console.print(f"[{style}]\\[{number}] {escape(name)}[/]")
        if not follows:
            console.print(f"    [dim]{escape(passage['author'])} · {escape(passage['link'])}[/]")


if __name__ == "__main__":
    run(main)
