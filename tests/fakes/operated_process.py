"""The service over fakes in a process of its own, to be stopped by signals: ``python -m tests.fakes.operated_process``.

Arguments: a folder, and JSON of ``seconds_per_word`` of its model with fields of ``ServiceSettings``. Prints its address
when it can be called, and ``ended`` with what was closed when it has come to its end.
"""

import json
import sys
from pathlib import Path

from llm_engineering.application.ports import Message
from llm_engineering.bootstrap.service import open_listener
from tests.fakes.llm import Reply, ScriptedLanguageModel
from tests.fakes.operated_service import OperatedService
from tests.fakes.service import ANSWER


class PatientModel(ScriptedLanguageModel):
    """Says the same to everybody, at its own pace."""

    def __init__(self, seconds_per_word: float) -> None:
        super().__init__()
        self._seconds = seconds_per_word

    def _next(self, messages: "list[Message]") -> Reply:  # type: ignore[override]
        return Reply(ANSWER, seconds_per_piece=self._seconds)


def main() -> None:
    given = json.loads(sys.argv[2])
    model = PatientModel(given.pop("seconds_per_word"))
    service = OperatedService(Path(sys.argv[1]), model, **given)
    with open_listener("127.0.0.1", 0) as listener:
        listener.serve(
            service.app,
            shutdown_seconds=given.get("shutdown_seconds", 30),
            started=lambda: print(listener.url, flush=True),
        )
    print(f"ended, model closed {model.closed} time(s)", flush=True)


if __name__ == "__main__":
    main()
