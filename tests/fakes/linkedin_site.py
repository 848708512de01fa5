"""A copy of the structure of LinkedIn's pages, on loopback: log-in form, checkpoint, and lazily loaded posts.

Written from how those pages are built (names of fields, classes, addresses and redirects), not copied from them. Texts
hidden behind "see more" come into the page only when it is clicked, and the last posts only by "Show more results".
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from tests.fakes.serving import LoopbackServer

USERNAME = "ada@example.org"
PASSWORD = "correct-horse-battery"
CHALLENGED = "checked@example.org"
"""A user whose log-in is answered by a captcha."""

_HEAD = '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{}</title></head><body>'

_LOGIN = (
    _HEAD.format("LinkedIn Login")
    + """
<form class="login__form" action="/checkpoint/lg/login-submit" method="post">
  <input type="hidden" name="loginCsrfParam" value="csrf-1">
  <input id="username" name="session_key" type="text" autocomplete="username">
  {username_error}
  <input id="password" name="session_password" type="password" autocomplete="current-password">
  {password_error}
  <button class="btn__primary--large" type="submit" aria-label="Sign in">Sign in</button>
</form></body></html>"""
)
_ERROR = '<div id="error-for-password" class="form__label--error" role="alert">{}</div>'
_CHALLENGE = (
    _HEAD.format("Security Verification")
    + '<main><h1>Let’s do a quick security check</h1><form id="captcha-challenge"></form></main></body></html>'
)
_ACTIVITY = (
    _HEAD.format("Activity")
    + """
<main class="scaffold-layout__main"><ul class="scaffold-finite-scroll__content" style="min-height:900px"></ul>
<div id="sentinel" style="height:20px"></div></main>
<script>
const list = document.querySelector('ul'), sentinel = document.getElementById('sentinel');
const el = (tag, cls, text) => {
  const n = document.createElement(tag); n.className = cls || ''; if (text) n.innerText = text; return n;
};
let next = 0, busy = false, button = null;
const draw = (post) => {
  const row = el('li', 'profile-creator-shared-feed-update__container');
  const card = el('div', 'feed-shared-update-v2'); card.setAttribute('data-urn', post.urn); card.style.minHeight = '260px';
  if (post.header) card.append(el('div', 'update-components-header', post.header));
  const title = el('span', 'update-components-actor__title');
  const name = el('span', '', post.author); name.setAttribute('aria-hidden', 'true'); title.append(name);
  const since = el('span', 'update-components-actor__sub-description', '3mo • ');
  card.append(title, since);
  if (post.text) {
    const box = el('div', 'update-components-text'), words = el('span', 'break-words', post.text.slice(0, 80));
    box.append(words);
    if (post.text.length > 80) {
      const more = el('button', 'feed-shared-inline-show-more-text__see-more-less-toggle see-more', '…more');
      more.setAttribute('aria-expanded', 'false');
      more.onclick = () => { words.innerText = post.text; more.remove(); };
      card.append(box, more);
    } else card.append(box);
  }
  if (post.quoted) {
    const inner = el('div', 'update-components-mini-update-v2');
    inner.append(el('div', 'update-components-text', post.quoted)); card.append(inner);
  }
  row.append(card); list.append(row);
};
const load = async () => {
  if (busy || next === null) return; busy = true;
  const reply = await (await fetch(location.pathname + 'updates?start=' + next)).json();
  reply.posts.forEach(draw); next = reply.next; busy = false;
  if (button) { button.remove(); button = null; }
  if (next !== null && reply.by_button) {
    button = el('button', 'scaffold-finite-scroll__load-button', 'Show more results');
    button.onclick = load; sentinel.before(button);
  } else if (next !== null) { observer.unobserve(sentinel); observer.observe(sentinel); }
};
const observer = new IntersectionObserver((seen) => { if (seen.some((e) => e.isIntersecting) && !button) load(); });
observer.observe(sentinel);
</script></body></html>"""
)


@dataclass(frozen=True)
class Post:
    urn: str
    text: str = ""
    author: str = "Ada Winter"
    header: str = ""
    quoted: str = ""


class LinkedInSite(LoopbackServer):
    """Serves a profile ``ada-winter`` with the given posts. ``logins`` counts submitted forms; ``page_size`` posts come
    at a time, the last page only by a button."""

    def __init__(self, posts: Sequence[Post], *, page_size: int = 3) -> None:
        outer = self
        self.logins = 0

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                address = urlsplit(self.path)
                if address.path == "/login":
                    self._page(_LOGIN.format(username_error="", password_error=""))
                elif address.path == "/checkpoint/challenge/AgF1":
                    self._page(_CHALLENGE)
                elif address.path.startswith(("/404", "/authwall", "/feed")):
                    self._page(_HEAD.format(address.path) + "</body></html>")
                elif SimpleCookie(self.headers["Cookie"] or "").get("li_at") is None:
                    self._redirect(f"/authwall?sessionRedirect={address.path}")
                elif address.path == "/in/ada-winter/recent-activity/all/":
                    self._page(_ACTIVITY)
                elif address.path == "/in/ada-winter/recent-activity/all/updates":
                    self._updates(int(parse_qs(address.query)["start"][0]))
                else:
                    self._redirect("/404/")

            def do_POST(self) -> None:
                outer.logins += 1
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                user, password = (form.get(name, [""])[0] for name in ("session_key", "session_password"))
                if password != PASSWORD:
                    fault = _ERROR.format("That’s not the right password.")
                    self._page(_LOGIN.format(username_error="", password_error=fault))
                elif user == CHALLENGED:
                    self._redirect("/checkpoint/challenge/AgF1")
                else:
                    self._redirect("/feed/", ("Set-Cookie", "li_at=session; Path=/; HttpOnly"))

            def _updates(self, start: int) -> None:
                end = start + page_size
                reply = {
                    "posts": [asdict(post) for post in posts[start:end]],
                    "next": end if end < len(posts) else None,
                    "by_button": end + page_size >= len(posts),
                }
                self._page(json.dumps(reply), "application/json")

            def _redirect(self, where: str, *headers: tuple[str, str]) -> None:
                self.send_response(302)
                for name, value in (("Location", where), ("Content-Length", "0"), *headers):
                    self.send_header(name, value)
                self.end_headers()

            def _page(self, content: str, kind: str = "text/html; charset=utf-8") -> None:
                body = content.encode()
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        super().__init__(Handler)
