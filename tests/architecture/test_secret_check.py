"""The secret check of pre-commit and CI: what it refuses, and what it lets pass."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[2] / ".ci" / "check_secrets.py"


def check(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, CHECK, path], capture_output=True, text=True, check=False)


# Put together here, so that no line of this file looks like a secret itself.
@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("private key", "-----BEGIN RSA " + "PRIVATE KEY-----"),
        ("AWS access key", "key = " + "AKIA" + "IOSFODNN7EXAMPLQ"),
        ("GitHub token", "ghp_" + "a1B2" * 9),
        ("Hugging Face token", "HF=hf_" + "aB3d" * 9),
        ("OpenAI or Anthropic key", "sk-proj-" + "aB3d" * 12),
        ("secret written out", 'api_key = "' + "9f8e7d6c5b4a" * 3 + '"'),
        ("address with a password", "mongodb+srv://me:" + "s3cr3tPw@cluster0.abcde.mongodb.net/"),
    ],
)
def test_a_secret_is_refused_with_its_line_and_without_showing_it(
    tmp_path: Path, what: str, line: str
) -> None:
    path = tmp_path / "settings.txt"
    path.write_text(f"fine\n{line}\n", encoding="utf-8")
    result = check(path)
    assert result.returncode == 1
    assert f"{path}:2: {what}" in result.stdout
    assert line not in result.stdout


@pytest.mark.parametrize(
    "line",
    [
        "mongodb://127.0.0.1:27017",
        "mongodb://user:password@localhost:27017",
        "mongodb+srv://USER:PASSWORD@HOST/",
        "https://user:${PASSWORD}@db.internal/",
        "api_key: SecretStr = SecretStr('')",
        'api_key = "your-key-here"',
        "sha256 = '53aa5117'",
    ],
)
def test_what_opens_nothing_passes(tmp_path: Path, line: str) -> None:
    path = tmp_path / "settings.txt"
    path.write_text(line, encoding="utf-8")
    assert check(path).returncode == 0, check(path).stdout


def test_a_marked_line_passes(tmp_path: Path) -> None:
    path = tmp_path / "settings.txt"
    path.write_text("AKIA" + "IOSFODNN7EXAMPLQ  # not-a-secret", encoding="utf-8")
    assert check(path).returncode == 0


def test_a_file_of_own_secrets_is_refused_whatever_it_holds(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("LOG_FORMAT=json", encoding="utf-8")
    assert check(path).returncode == 1
