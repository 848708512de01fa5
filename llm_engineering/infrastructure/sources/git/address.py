"""What a repository is called: for git, for readers and in the store. Credentials never leave this module in a URL."""

import base64
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from llm_engineering.domain.errors import CollectionError

_SCP_LIKE = re.compile(r"(?:(?P<user>[\w.-]+)@)?(?P<host>[\w.-]+):(?P<path>(?!//|:).+)")
_FORGES = {
    "github.com": "github",
    "gitlab.com": "gitlab",
    "bitbucket.org": "bitbucket",
    "codeberg.org": "codeberg",
}
_TREES = {
    platform: re.compile(rf"(?P<repository>/[^/]+/.+?)/{word}/(?P<branch>[^/]+)(?:/(?P<folder>.+))?")
    for platform, word in (("github", "tree"), ("gitlab", "-/tree"), ("bitbucket", "src"))
}


@dataclass(frozen=True, slots=True)
class Address:
    """A repository's address, taken apart."""

    clone_url: str
    """What git is given; never holds a password."""
    public_url: str
    """How the repository is shown and stored: no credentials, no ``.git``, a browsable URL where the host is known."""
    platform: str
    """``github``, ``gitlab`` ..., a host name, or ``git`` for a folder."""
    name: str
    """``owner/name``, or a folder's name."""
    branch: str | None = None
    """Named by a link such as ``https://github.com/owner/name/tree/BRANCH/folder``."""
    folder: str | None = None
    authorization: str | None = None
    """The HTTP header's value for credentials that stood in the link."""

    @property
    def server(self) -> str:
        """Scheme, host and port: where the authorization may be sent. Empty for a folder."""
        parts = urlsplit(self.clone_url)
        return f"{parts.scheme}://{parts.netloc}/" if parts.scheme in ("http", "https") else ""

    def link(self, path: str, branch: str | None) -> str:
        """Return where a reader opens a file; its identity. Without a branch, ``HEAD`` stands for the default one, so
        that the address holds when commits come or the branch is renamed."""
        revision, file = quote(branch or "HEAD"), quote(path)
        match self.platform:
            case "github":
                return f"{self.public_url}/blob/{revision}/{file}"
            case "gitlab":
                return f"{self.public_url}/-/blob/{revision}/{file}"
            case "bitbucket":
                return f"{self.public_url}/src/{revision}/{file}"
        return f"{self.public_url}{'@' + revision if branch else ''}#{file}"


def parse_address(url: str) -> Address:
    """Understand a git URL (https, http, ssh, git, file, ``user@host:path``) or a path of this machine.

    Raises:
        CollectionError: it is neither, or there is no such folder.
    """
    text = url.strip().removeprefix("git+")
    if text.startswith("file://"):
        return _local(unquote(urlsplit(text).path), url)
    if "://" in text:
        return _remote(text)
    scp = _SCP_LIKE.fullmatch(text)
    if scp and not Path(text).exists():
        address = _remote(f"ssh://{scp['user'] or 'git'}@{scp['host']}/{scp['path'].lstrip('/')}")
        # A path after the colon counts from the user's home, which the ssh:// form cannot say.
        return Address(text, address.public_url, address.platform, address.name)
    return _local(text, url)


def _local(path: str, url: str) -> Address:
    folder = Path(path).expanduser().resolve()
    if not folder.is_dir():
        raise CollectionError(
            f"There is no folder {url!r}, and it is no git URL either "
            "(https://host/owner/name, git@host:owner/name.git)."
        )
    if folder.name == ".git":
        folder = folder.parent
    # Through a URL, because git ignores --depth for a plain path and would link files instead of copying them.
    return Address(
        folder.as_uri(), folder.as_uri().removesuffix(".git"), "git", folder.name.removesuffix(".git")
    )


def _remote(url: str) -> Address:
    try:
        parts = urlsplit(url)
        host, port, scheme = (parts.hostname or "").lower(), parts.port, parts.scheme.lower()
    except ValueError:
        raise CollectionError(
            "The repository's URL cannot be read. Expected https://host/owner/name."
        ) from None
    if scheme not in ("https", "http", "ssh", "git") or not host or host.startswith("-"):
        raise CollectionError(
            f"{scheme}://{host} is no git URL that is allowed. Expected https, http, ssh, git or file."
        )
    platform = _FORGES.get(host.removeprefix("www."), host)
    path, branch, folder = parts.path.rstrip("/"), None, None
    if platform in _TREES and (tree := _TREES[platform].fullmatch(path)):
        path, branch, folder = (
            tree["repository"],
            unquote(tree["branch"]),
            unquote(tree["folder"] or "") or None,
        )
    path = path.removesuffix(".git")
    where = f"{host}:{port}" if port else host
    ssh_user = f"{parts.username}@" if scheme == "ssh" and parts.username else ""
    suffix = ".git" if parts.path.rstrip("/").endswith(".git") else ""
    secret = (
        f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        if parts.username and not ssh_user
        else ""
    )
    return Address(
        clone_url=f"{scheme}://{ssh_user}{where}{path}{suffix}",
        public_url=f"https://{host.removeprefix('www.')}{path}"
        if platform in _FORGES.values()
        else f"{scheme}://{where}{path}",
        platform=platform,
        name=unquote(path.strip("/")),
        branch=branch,
        folder=folder,
        authorization=basic_authorization(secret) if secret and scheme in ("http", "https") else None,
    )


def basic_authorization(user_and_password: str) -> str:
    """Return value of the header ``Authorization`` (RFC 7617)."""
    return f"Basic {base64.b64encode(user_and_password.encode()).decode()}"
