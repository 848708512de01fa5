"""Say whether the last answer on this machine helped: ``./poe vote up``, ``./poe vote down COMMENT …``.

Votes become training data: what was voted down is what the next preference set leads away from.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from llm_engineering.application.files import atomic_write
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError
from llm_engineering.domain.hints import POE
from llm_engineering.settings import Settings, load_settings
from tools.console import console, make_parser, run

_FILE = "last_answer.json"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("vote", __doc__)
    parser.add_argument("rating", choices=("up", "down"))
    parser.add_argument("comment", nargs="*", metavar="COMMENT", help="what was good or wrong")
    parser.add_argument("--url", help="where the service is that gave the answer (default: as noted with it)")
    options = parser.parse_args(arguments)
    settings = load_settings()
    start_logging(settings)
    vote_on_last(settings, options.rating, " ".join(options.comment), url=options.url)
    console.print(f"[green]✓[/] Voted {options.rating}. Thank you.")
    return 0


def note_answer(settings: Settings, trace_id: str, *, url: str = "") -> None:
    """Keep which answer was given last. ``url``: the service that gave it; empty: this machine."""
    folder = settings.local.data_dir
    with suppress(OSError):  # a folder that cannot be written to: there is only no vote
        atomic_write(folder / _FILE, json.dumps({"trace_id": trace_id, "url": url}))


def vote_on_last(settings: Settings, rating: str, comment: str, *, url: str | None = None) -> None:
    """Vote on the answer that was given last.

    Raises:
        InvalidInputError: there is none, or it is not kept.
        ConfigurationError: answers are not kept here.
        StoreError: the data warehouse does not answer.
    """
    answer = _read(settings.local.data_dir / _FILE)
    if where := url or answer["url"]:
        from tools.call_service import Caller, read_key

        with Caller(where.rstrip("/"), read_key(settings)) as caller:
            caller.vote(answer["trace_id"], rating, comment)
        return
    from llm_engineering.bootstrap.resources import open_resources
    from llm_engineering.domain.inference import Feedback

    vote = {"trace_id": answer["trace_id"], "rating": rating, "comment": comment}
    with open_resources(settings) as resources:
        if resources.feedback is None:
            raise ConfigurationError(
                "Answers are not kept here, so none can be voted on (SERVICE_KEEP_ANSWERS)."
            )
        resources.feedback.vote(Feedback.model_validate(vote | {"created_at": datetime.now(UTC)}))


def _read(file: Path) -> dict[str, str]:
    try:
        answer = json.loads(file.read_text(encoding="utf-8"))
        return {"trace_id": str(answer["trace_id"]), "url": str(answer["url"])}
    except (OSError, ValueError, LookupError, TypeError):
        raise InvalidInputError(f"No answer was given here yet. Ask first: {POE} ask WORDS …") from None


if __name__ == "__main__":
    run(main)
