"""Links: how they are compared, how they are shown, and which reader each goes to."""

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import asdict
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from llm_engineering.application.ports import Link
from llm_engineering.domain.errors import ConfigurationError

READERS = ("article", "feed", "files", "git", "linkedin", "posts", "table")
"""Names that a rule may send links to; a reader of another name is announced to the Router."""

_ON_THIS_MACHINE = r"(?i)^(file://|(?![a-z][a-z0-9+.-]+://))"
DEFAULT_RULES: tuple[tuple[str, str], ...] = (
    (
        _ON_THIS_MACHINE
        + r".*\.(md|markdown|te?xt|rst|org|x?html?|mht(ml)?|pdf|docx|epub|ipynb|eml|mbox|xml|zip)$",
        "files",
    ),
    # Tables before repositories, and feeds before tables: a more telling ending wins over a more general place.
    (r"(?i)/(feed|rss|atom)(\.xml)?/?([?#].*)?$", "feed"),
    (r"(?i)/(sitemap[^/?#]*|[^/?#]*\.(rss|atom|rdf))(\.xml)?(\.gz)?([?#].*)?$", "feed"),
    (r"(?i)/(feed|feeds|rss|atom|index|posts)[^/?#]*\.xml([?#].*)?$", "feed"),
    (r"(?i)[?&]feed=(rss2?|atom)\b", "feed"),
    (r"(?i)\.(csv|tsv|jsonl?|ndjson|parquet|sqlite3?)(\.gz)?([?#].*)?$", "table"),
    (r"(?i)^(s3|gs|gcs|az|abfs|memory)://", "table"),
    (r"(?i)^(sqlite|postgresql|mysql|mariadb|mssql|oracle)(\+\w+)?://", "table"),
    (r"(?i)^https?://([a-z]{2,3}\.)?(www\.)?linkedin\.com(/|$)", "linkedin"),
    (r"(?i)^(git|ssh|git\+ssh|git\+https?|file)://", "git"),
    (r"^[\w.-]+@[\w.-]+:", "git"),  # git@host:owner/repository
    (r"(?i)\.git/?$", "git"),
    # On a git host only a repository itself, at a branch or not: an issue or a wiki page is an article.
    (
        r"(?i)^https?://(www\.)?(github\.com|codeberg\.org|gitea\.com)/[^/?#]+/[^/?#]+(/tree/[^?#]+)?/?$",
        "git",
    ),
    (r"(?i)^https?://(www\.)?bitbucket\.org/[^/?#]+/[^/?#]+(/src/[^?#]+)?/?$", "git"),
    (r"(?i)^https?://(www\.)?gitlab\.com/[^/?#]+(/(?!-)[^/?#]+)+(/-/tree/[^?#]+)?/?$", "git"),
    (r"(?i)^https?://git\.sr\.ht/~[^/?#]+/[^/?#]+/?$", "git"),
    (r"^(\.{1,2}(/|$)|/|~|[A-Za-z]:\\)", "files"),  # a folder of this machine; "git" where it is a repository
)
FALLBACK = "article"

_TRACKING = re.compile(r"(?i)^(utm_\w+|fbclid|gclid|mc_cid|mc_eid|igshid|ref_src)$")
# What stands before an @ in the host's place; in a malformed address also a password with a slash (digits are a port).
_CREDENTIALS = re.compile(r"(?<=://)(?:[^/?#\s]*|[^/?#\s@:]*:(?!\d+[/?#])[^\s]*)@")
_SECRET_NAME = re.compile(
    r"(?i)^(x-amz-signature|x-goog-signature|sig|signature|auth|secret|password|passwd|pwd|odbc_connect|(api|access)?[_-]?key)$|token$|secret$|password$"
)
_DATABASE = re.compile(r"(?i)\b(?:postgresql|mysql|mariadb|mssql|oracle)(?:\+\w+)?://\S+")
_PARAMETER = re.compile(r"(?<=[?&])(?P<name>[^=&\s]+)=(?P<value>[^&\s]*)")
_PORTS = {"http": 80, "https": 443}


class Router:
    """Says which reader a link goes to: the first rule whose pattern is found in the URL.

    Args:
        rules: (regular expression, reader) pairs that are asked before the built-in ones.
        readers: names of readers beyond the built-in ones.

    Raises:
        ConfigurationError: a pattern is no regular expression, or a reader is not known; all problems at once.
    """

    def __init__(self, rules: Iterable[tuple[str, str]] = (), *, readers: Collection[str] = ()) -> None:
        self.readers = tuple(sorted({*READERS, *readers}))
        self._rules: list[tuple[re.Pattern[str], str]] = []
        problems = []
        rules = tuple(rules)
        self._own = len(rules)
        for number, (pattern, reader) in enumerate((*rules, *DEFAULT_RULES)):
            try:
                self._rules.append((re.compile(pattern), reader))
            except re.error as error:
                problems.append(f"routes.{number}.pattern: {pattern!r} is not a regular expression: {error}")
            if reader not in self.readers:
                problems.append(f"routes.{number}.reader: there is no reader {reader!r}; {self._choices()}")
        if problems:
            raise ConfigurationError(
                "The routes cannot be used:\n" + "\n".join(f"  - {line}" for line in problems)
            )

    def route(self, url: str) -> str:
        """Return the name of the reader for a URL or a local path. What no rule knows is a file or a folder if there is one of
        that name, else an article."""
        stripped = url.strip()
        for number, (pattern, reader) in enumerate(self._rules):
            if pattern.search(stripped):
                own = number < self._own
                return "git" if reader == "files" and not own and _is_repository(stripped) else reader
        if "://" in stripped or not _exists(stripped):
            return FALLBACK
        return "git" if _is_repository(stripped) else "files"

    def check(self, reader: object) -> str:
        """Return the name, where a reader of that name may exist (a link's own ``reader`` option).

        Raises:
            ConfigurationError: no such reader.
        """
        if reader not in self.readers:
            raise ConfigurationError(f"There is no reader {reader!r}; {self._choices()}")
        return str(reader)

    def _choices(self) -> str:
        return f"expected one of {', '.join(self.readers)}"


def _exists(path: str) -> bool:
    try:
        return bool(path) and Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # longer than any name, no such home, a zero byte
        return False


def _is_repository(path: str) -> bool:
    """Whether a folder of this machine is a git repository, with a working tree or bare."""
    if not _exists(path):
        return False
    folder = Path(path).expanduser()
    return (folder / ".git").exists() or ((folder / "HEAD").is_file() and (folder / "objects").is_dir())


def normalise_link(url: str) -> str:
    """Return a web address in one spelling: lower-case host, no default port, no fragment, no tracking parameters.

    What is not a web address (a path, ``git@host:...``) is only stripped. The path is left as it is: servers may tell
    ``/a`` from ``/a/``.
    """
    stripped = url.strip()
    try:
        parts = urlsplit(stripped)
        port = parts.port
    except ValueError:  # a malformed address is reported by the reader that is asked to fetch it
        return stripped
    scheme = parts.scheme.lower()
    if scheme not in _PORTS or not parts.hostname:
        return stripped
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if port and port != _PORTS[scheme]:
        host = f"{host}:{port}"
    if "@" in parts.netloc:
        host = f"{parts.netloc.rpartition('@')[0]}@{host}"
    # `#!/page` and `#/page` are addresses of their own in a page that draws itself; other fragments are places in it.
    fragment = parts.fragment if parts.fragment.startswith(("!", "/")) else ""
    return urlunsplit((scheme, host, parts.path or "/", _without_tracking(parts.query), fragment))


def _without_tracking(query: str) -> str:
    pairs = parse_qsl(query, keep_blank_values=True)
    kept = [(name, value) for name, value in pairs if not _TRACKING.match(name)]
    # Encoded anew only where something was taken out: other queries must reach the server as they were written.
    return query if len(kept) == len(pairs) else urlencode(kept)


def dump_link(link: Link) -> str:
    """Return a link as JSON, without credentials, as a dead letter keeps it."""
    given = asdict(link) | {"url": hide_credentials(link.url.strip())}
    return json.dumps(given, ensure_ascii=False, default=str)


def load_link(text: str) -> Link | None:
    """Return the link that :func:`dump_link` wrote; None where there is none, or none that can be read."""
    try:
        return Link(**json.loads(text)) if text else None
    except (ValueError, TypeError):  # of another version, or imported
        return None


def identify_link(link: Link) -> str:
    """Return what tells a link from all others, as it may be stored: its address in one spelling, and what is read of it."""
    return f"{hide_credentials(normalise_link(link.url))}{link.part}"


def hide_credentials(url: str) -> str:
    """Return a link as it may be logged and stored: without user name and password; a database's also without parameters that are
    secret."""
    return _DATABASE.sub(_hide_parameters, _CREDENTIALS.sub("", url))


def find_database_secrets(url: str) -> list[tuple[int, int]]:
    """Return where the values of those parameters of a database's address stand that are secret."""
    found = _DATABASE.match(url)
    return [
        pair.span("value")
        for pair in _PARAMETER.finditer(found[0] if found else "")
        if is_secret_name(unquote(pair["name"]))
    ]


def _hide_parameters(address: re.Match[str]) -> str:
    return _PARAMETER.sub(
        lambda pair: f"{pair['name']}=***" if is_secret_name(unquote(pair["name"])) else pair[0], address[0]
    )


def is_secret_name(name: str) -> bool:
    """Return whether a parameter of this name carries a secret."""
    return _SECRET_NAME.search(name) is not None


def find_query_secret(url: str) -> str | None:
    """Return the name of the first parameter of a web address that looks like a secret; None: there is none."""
    try:
        names = [name for name, value in parse_qsl(urlsplit(url).query) if value]
    except ValueError:
        return None
    return next((name for name in names if is_secret_name(name)), None)
