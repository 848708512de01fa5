"""Hand the variables of a secret to a workflow's later steps: ``… | python3 .ci/export_secret.py``.

Reads a JSON object from standard input. Each value is masked in the log before anything else could show it.
"""

import json
import os
import re
import sys
from pathlib import Path
from uuid import uuid4

_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_OTHERS = ("GITHUB_", "RUNNER_", "ACTIONS_", "LD_", "PYTHON")
"""Variables that steer the runner itself."""


def main() -> int:
    try:
        variables = json.load(sys.stdin)
    except ValueError:
        return _refuse("The secret is no JSON object of variables.")
    if not isinstance(variables, dict):
        return _refuse("The secret is no JSON object of variables.")
    for name, value in variables.items():
        if (
            not (_NAME.fullmatch(name) and isinstance(value, str))
            or name.startswith(_OTHERS)
            or name == "PATH"
        ):
            return _refuse("The secret holds a name that is no setting, or a value that is no text.")
    for value in variables.values():
        for line in filter(None, value.splitlines()):
            print(f"::add-mask::{line}")
    with Path(os.environ["GITHUB_ENV"]).open("a", encoding="utf-8") as file:
        for name, value in variables.items():
            end = uuid4().hex  # no value can contain it
            file.write(f"{name}<<{end}\n{value}\n{end}\n")
    print(f"{len(variables)} settings were read: {', '.join(sorted(variables))}")
    return 0


def _refuse(reason: str) -> int:
    print(f"::error::{reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
