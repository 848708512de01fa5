"""Refuse secrets before they are committed: keys of known shape, private keys, addresses that carry a password.

    python .ci/check_secrets.py [FILE ...]     without files: all that git tracks

A line that is meant to hold such a thing says so with the comment ``not-a-secret``. Needs the standard library only.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

RULES = {
    "private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})",
    "Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "OpenAI or Anthropic key": r"\bsk-(?:proj-|ant-|svcacct-)?[A-Za-z0-9_-]{32,}",
    "Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{20,}",
    "Google key": r"\bAIza[0-9A-Za-z_-]{35}\b",
    "JSON web token": r"\beyJ[A-Za-z0-9_-]{15,}\.eyJ[A-Za-z0-9_-]{15,}\.[A-Za-z0-9_-]{20,}",
    "secret written out": (
        r"(?i)\b\w*(?:api_?key|secret|token|passwd|password)\w*[\"']?\s*[:=]\s*[\"']"
        r"(?=[^\"']*[0-9])(?=[^\"']*[A-Za-z])[A-Za-z0-9+/_=-]{24,}[\"']"
    ),
}
# Tests and documents speak of such addresses on purpose, with passwords that open nothing.
URI_WITH_PASSWORD = re.compile(
    r"[a-z][a-z0-9+.-]*://[^\s:/@\"'<>{}$]+:(?P<password>[^\s/@\"'<>{}$]+)@(?P<host>[\w.-]+)"
)
HARMLESS_HOSTS = re.compile(r"(?i)^(?:[^.]+|127\.0\.0\.1|.*\bexample\.\w+|.*\.(?:test|invalid|internal))$")
HARMLESS_PASSWORDS = re.compile(r"(?i)^(?:pass(?:word)?|secret|pw|hunter\d*|x+|\*+|…|\.+)$")
ALLOWED = "not-a-secret"
COMPILED = {name: re.compile(pattern) for name, pattern in RULES.items()}


def findings(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, what was found) for each suspicious line; never the secret itself."""
    for number, line in enumerate(text.splitlines(), start=1):
        if ALLOWED in line:
            continue
        yield from ((number, name) for name, pattern in COMPILED.items() if pattern.search(line))
        for match in URI_WITH_PASSWORD.finditer(line):
            if not (HARMLESS_HOSTS.match(match["host"]) or HARMLESS_PASSWORDS.match(match["password"])):
                yield number, "address with a password"


def tracked() -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in names.split("\0") if name]


def main(arguments: list[str]) -> int:
    found = 0
    for path in [Path(name) for name in arguments] or tracked():
        if path.name == "poetry.lock" or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # not text
        if path.name == ".env":
            print(f"{path}: the file of your own secrets is never committed")
            found += 1
        for line, what in findings(text):
            print(f"{path}:{line}: {what}; move it to .env, or mark the line with `{ALLOWED}`")
            found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
