"""Pages as blogs and documentation tools really write them, to Markdown."""

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_engineering.domain.errors import ExtractionError
from llm_engineering.infrastructure.sources.web.blocks import fence_code
from llm_engineering.infrastructure.sources.web.extraction import NoTextError, Page, extract_page
from llm_engineering.infrastructure.sources.web.page_metadata import parse_date

PAGES = Path(__file__).parents[1] / "fakes" / "pages"


def paragraphs(number: int) -> str:
    return "".join(
        f"<p>Paragraph {n} stands here so that there is a text, with words enough to be taken for one by anybody.</p>"
        for n in range(number)
    )


URL = "https://example.org/posts/one"


def page(body: str, head: str = "<title>One - Example</title>", *, lang: str = ' lang="en"') -> str:
    return (
        f"<!doctype html><html{lang}><head>{head}</head><body><nav><a href='/'>Home</a><a href='/about'>About</a></nav>"
        f"<article><h1>About one</h1>{paragraphs(3)}{body}<p>And so it ends.</p></article>"
        "<footer><p>Copyright 2020 by Example</p></footer></body></html>"
    )


def extract(html: str, url: str = URL, **options: Any) -> Page:
    return extract_page(html, url, **{"min_characters": 140, **options})


def text_of(body: str) -> str:
    return extract(page(body)).text


def test_a_page_becomes_markdown_without_its_frame() -> None:
    text = text_of(
        "<h2>First</h2><p>With <b>bold</b>, <em>stress</em>, <code>in_line()</code> and <a href='/x'>a link</a>.</p>"
        "<h3>Lists</h3><ul><li>one<ul><li>nested</li></ul></li><li>two</li></ul><ol><li>a</li><li>b</li></ol>"
    )
    for expected in (
        "# About one",
        "## First",
        "With **bold**, *stress*, `in_line()` and a link.",
        "### Lists",
        "- one\n  - nested\n- two",
        "1. a\n2. b",
    ):
        assert expected in text
    assert "Home" not in text
    assert "Copyright" not in text


CODE = "def f(x):\n    if x:\n\n\n        return 'a'\n\treturn <b>"
ESCAPED = CODE.replace("<", "&lt;").replace(">", "&gt;")
LINES = ESCAPED.split("\n")
NUMBERS = "\n".join(str(n + 1) for n in range(len(LINES)))


@pytest.mark.parametrize(
    ("html", "language"),
    [
        pytest.param(f"<pre>{ESCAPED}</pre>", "", id="bare"),
        pytest.param(f"<pre>\n{ESCAPED}\n\n</pre>", "", id="blank lines around"),
        pytest.param(
            f'<pre><code class="language-python">{ESCAPED}</code></pre>', "python", id="markdown-it"
        ),
        pytest.param(
            f'<pre class="brush: python; gutter: true">{ESCAPED}</pre>', "python", id="SyntaxHighlighter"
        ),
        pytest.param(f'<pre><code class="hljs python">{ESCAPED}</code></pre>', "python", id="highlight.js"),
        pytest.param(
            f'<div class="sourceCode"><pre class="sourceCode python"><code>{ESCAPED}</code></pre></div>',
            "python",
            id="pandoc",
        ),
        pytest.param(
            f'<div class="highlight-python notranslate"><div class="highlight"><pre><span></span>{ESCAPED}\n</pre></div></div>',
            "python",
            id="Sphinx",
        ),
        pytest.param(
            f'<div class="highlight highlight-source-python"><pre>{ESCAPED}</pre><clipboard-copy>Copy</clipboard-copy></div>',
            "python",
            id="GitHub",
        ),
        pytest.param(
            '<div class="highlight"><table class="highlighttable"><tr><td class="linenos"><div class="linenodiv"><pre>'
            f'{NUMBERS}</pre></div></td><td class="code"><pre><code>{ESCAPED}</code></pre></td></tr></table></div>',
            "",
            id="Pygments with line numbers beside",
        ),
        pytest.param(
            '<div class="language-python highlighter-rouge"><div class="highlight"><pre class="highlight"><code><table '
            f'class="rouge-table"><tr><td class="rouge-gutter gl"><pre class="lineno">{NUMBERS}\n</pre></td>'
            f'<td class="rouge-code"><pre>{ESCAPED}\n</pre></td></tr></table></code></pre></div></div>',
            "python",
            id="Jekyll with line numbers",
        ),
        pytest.param(
            '<div class="language-python codeBlockContainer_x"><pre class="prism-code language-python"><code>'
            + "".join(
                f'<span class="token-line"><span class="token">{line}</span><br></span>' for line in LINES
            )
            + "</code></pre><div><button>Copy</button></div></div>",
            "python",
            id="Docusaurus",
        ),
        pytest.param(
            '<figure data-rehype-pretty-code-figure=""><pre data-language="python"><code data-language="python">'
            + "\n".join(f'<span data-line=""><span>{line}</span></span>' for line in LINES)
            + "</code></pre></figure>",
            "python",
            id="code in a figure",
        ),
        pytest.param(
            '<pre data-lang="python"><button>Copy</button>'
            + "".join(f'<span class="line-number">{n}</span>{line}\n' for n, line in enumerate(LINES))
            + "</pre>",
            "python",
            id="line numbers inside",
        ),
        pytest.param(f"<pre><span>{'<br>'.join(LINES)}</span></pre>", "", id="Medium"),
        pytest.param(
            "<pre>" + "\n".join(f"<code>{line}</code>" for line in LINES) + "</pre>", "", id="a code per line"
        ),
    ],
)
def test_code_is_kept_to_the_letter_with_its_language(html: str, language: str) -> None:
    text = text_of(html)
    assert f"\n\n```{language}\n{CODE}\n```\n\n" in text
    assert "Copy" not in text


def test_code_whose_lines_are_boxes_keeps_its_lines() -> None:
    text = text_of("<pre><div>one {</div><div>  two</div><div>}</div></pre>")
    assert "```\none {\n  two\n}\n```" in text


def test_code_in_a_list_stands_at_the_margin_after_its_item() -> None:
    text = text_of(
        "<ol><li><p>First do:</p><pre><code>a\n    b</code></pre></li><li><p>Then rest</p></li></ol>"
    )
    assert "1. First do:\n\n```\na\n    b\n```\n\n" in text
    assert "Then rest" in text


def test_numbers_in_a_block_of_their_own_are_code_and_no_line_numbers() -> None:
    assert "```\n1\n2\n3\n```" in text_of("<pre>1\n2\n3</pre>")


def test_code_that_holds_fences_is_fenced_longer() -> None:
    assert "````\n```python\nx\n```\n````" in text_of("<pre>```python\nx\n```</pre>")


def test_a_long_page_of_many_code_blocks_is_read_in_reasonable_time() -> None:
    text = text_of(
        "".join(f"<p>Step {n} is described here.</p><pre>step_{n}(\n    {n})</pre>" for n in range(1_000))
    )
    assert all(f"Step {n} is described here.\n\n```\nstep_{n}(\n    {n})\n```" in text for n in range(1_000))


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from(list("ab<>&\"'`~|*_#\\ \t\n[]()-.1é漢")), min_size=1, max_size=60))
def test_any_code_comes_back_as_it_was(code: str) -> None:
    lines = code.split("\n")
    while lines and not lines[0].strip():
        lines.pop(0)
    expected = "\n".join(lines).rstrip()
    escaped = code.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = text_of(f"<pre>{escaped}</pre>")
    assert (fence_code(expected) in text) if expected.strip() else ("```" not in text)


def test_a_table_of_data_is_kept_cell_by_cell() -> None:
    text = text_of(
        "<table><caption>Prices</caption><thead><tr><th>Kind</th><th>In|Out</th></tr></thead><tbody>"
        "<tr><td><code>a|b</code></td><td>1<br>2</td></tr><tr><td colspan='2'>both</td></tr><tr><td>short</td></tr>"
        "</tbody></table>"
    )
    expected = [
        "Prices",
        "",
        "| Kind | In\\|Out |",
        "| --- | --- |",
        "| `a\\|b` | 1 2 |",
        "| both |  |",
        "| short |  |",
    ]
    assert "\n".join(expected) in text


def test_text_in_a_layout_table_is_not_lost() -> None:
    sentence = "Some old pages are laid out with tables, and their text must not be lost."
    assert sentence in text_of(f"<table><tr><td><h2>Old</h2><p>{sentence}</p></td><td>side</td></tr></table>")


def test_names_are_not_littered_with_backslashes_and_code_keeps_its_own() -> None:
    text = text_of(r"<p>See snake_case_name [1] (here) and <code>a\[b\]</code>.</p>")
    assert r"See snake_case_name [1] (here) and `a\[b\]`." in text


def test_captions_are_kept_and_permalinks_dropped() -> None:
    text = text_of(
        '<h2>Part<a class="headerlink" href="#p">¶</a></h2><p>Words.</p>'
        '<figure class="captioned"><img src="x.png"><figcaption class="caption">What is shown here</figcaption></figure>'
    )
    assert "## Part\n" in text
    assert "What is shown here" in text


def test_a_medium_story_is_read_without_its_buttons() -> None:
    found = extract(
        (PAGES / "medium.html").read_text("utf-8"), "https://letters.example.org/why-pipelines?source=rss---1"
    )
    about = found.metadata
    assert about.platform == "medium"
    assert about.title == "Why pipelines should meet in stores"
    assert about.author == "Ada Winter"
    assert about.published_at == datetime(2025, 3, 4, 7, 31, 2, 123000, UTC)
    assert about.link == "https://letters.example.org/why-pipelines-should-meet-in-stores-0a1b2c"
    assert (
        "```\ndef load(store):\n    for item in store:\n        yield item\n\n    return None\n```"
        in found.text
    )
    assert "Two pipelines and the store between them" in found.text
    for furniture in (
        "Follow",
        "min read",
        "Listen",
        "Share",
        "Sign",
        "Responses",
        "Great read",
        "followers",
    ):
        assert furniture not in found.text


def test_a_substack_post_is_read_without_its_appeals() -> None:
    found = extract(
        (PAGES / "substack.html").read_text("utf-8"), "https://slowdata.substack.com/p/on-keeping-notes"
    )
    assert found.metadata.platform == "substack"
    assert found.metadata.author == "Ben Okafor"
    assert "```\nnotes/\n    2025-01.md\n    2025-02.md\n\n    index.md\n```" in found.text
    assert "1. When is a record old enough to be read again?" in found.text
    assert "The notebook, in March" in found.text
    for furniture in ("Subscribe", "reader-supported", "Share", "Lovely piece", "Sign in"):
        assert furniture not in found.text


@pytest.mark.parametrize(
    ("href", "link", "other"),
    [
        ("/posts/canonical", "https://example.org/posts/canonical", ""),
        ("canonical", "https://example.org/posts/canonical", ""),
        ("https://www.example.org/posts/one#top", "https://www.example.org/posts/one", ""),
        ("https://elsewhere.org/one", URL, "https://elsewhere.org/one"),
        ("https://example.org/", URL, ""),
        ("javascript:void(0)", URL, ""),
        ("http://[broken", URL, ""),
        ("", URL, ""),
    ],
)
def test_a_canonical_address_is_trusted_within_its_host(href: str, link: str, other: str) -> None:
    about = extract(page("", f'<title>One</title><link rel="canonical" href="{href}">')).metadata
    assert (about.link, about.other_canonical) == (link, other)


@pytest.mark.parametrize(
    ("head", "title"),
    [
        ('<title>One - Site</title><meta property="og:title" content="The one">', "The one"),
        ("<title>One - Site</title>", "About one"),
        (
            '<script type="application/ld+json">{"@graph": [{"@type": "BlogPosting", "headline": "By data"}]}</script>',
            "By data",
        ),
        ('<script type="application/ld+json">{"broken": </script>', "About one"),
    ],
)
def test_the_title_is_what_the_page_says_it_is(head: str, title: str) -> None:
    assert extract(page("", head)).metadata.title == title


@pytest.mark.parametrize(
    "head",
    [
        '<meta property="article:published_time" content="2024-05-06T12:00:00+02:00">',
        '<script type="application/ld+json">[{"@type": ["Article"], "datePublished": "2024-05-06T10:00:00Z"}]</script>',
        '<meta name="date" content="Mon, 06 May 2024 10:00:00 GMT">',
    ],
)
def test_the_date_is_read_from_what_the_page_declares(head: str) -> None:
    assert extract(page("", head)).metadata.published_at == datetime(2024, 5, 6, 10, tzinfo=UTC)


def test_the_date_is_read_from_a_time_element_but_not_guessed_from_a_copyright() -> None:
    assert extract(page('<time datetime="2024-05-06">6 May</time>')).metadata.published_at == datetime(
        2024, 5, 6, tzinfo=UTC
    )
    assert extract(page("")).metadata.published_at is None


@pytest.mark.parametrize("value", ["", "soon", None, "2999-01-01", "0001-01-01", "2024-13-45"])
def test_a_date_that_cannot_be_is_none(value: str | None) -> None:
    assert parse_date(value) is None


@pytest.mark.parametrize(
    ("lang", "language"), [(' lang="de-AT"', "de"), (' lang="pt_BR"', "pt"), ("", ""), (' lang="{{x}}"', "")]
)
def test_the_declared_language_is_shortened(lang: str, language: str) -> None:
    assert extract(page("", lang=lang)).metadata.language == language


@pytest.mark.parametrize(
    ("html", "reason"),
    [
        pytest.param(
            "<html><head><title>404 - Not Found</title></head><body><article><h1>Oops</h1>" + paragraphs(3),
            "no such page",
            id="404",
        ),
        pytest.param(
            "<title>Page not found | Blog</title><body>" + paragraphs(3), "no such page", id="not found"
        ),
        pytest.param(
            "<title>Blog</title><body><h1>Seite nicht gefunden</h1>" + paragraphs(3),
            "no such page",
            id="in German",
        ),
        pytest.param("<title>Sign in - Blog</title><body>" + paragraphs(3), "log-in", id="log-in by title"),
        pytest.param(
            "<title>Blog</title><body><main>" + paragraphs(2) + "<form><input type=password></form>",
            "log-in",
            id="log-in by form",
        ),
        pytest.param(
            "<title>Attention Required!</title><body>" + paragraphs(2), "human", id="proof of being human"
        ),
        pytest.param(
            '<title>Blog</title><script type="application/ld+json">{"@type":"NewsArticle","isAccessibleForFree":false}</script>'
            "<body><article>" + paragraphs(2),
            "paid for",
            id="paywall",
        ),
        pytest.param("\x89PNG\r\n\x1a\n\0\0\0", "binary", id="binary"),
        pytest.param("\ufffd\ufffdx\ufffd" * 50, "binary", id="undecodable"),
    ],
)
def test_an_excuse_is_not_taken_for_an_article(html: str, reason: str) -> None:
    with pytest.raises(ExtractionError, match=reason) as caught:
        extract(html)
    assert not isinstance(caught.value, NoTextError)


@pytest.mark.parametrize(
    "html",
    [
        "",
        "   \n ",
        "<!-- nothing -->",
        "<html></html>",
        '<html><body><div id="root"></div><script src="app.js"></script></body></html>',
        "<title>Blog</title><body><noscript>You need to enable JavaScript to run this app.</noscript><div></div>",
        "<title>Hi</title><body><p>Too short.</p>",
    ],
)
def test_a_page_without_text_is_told_apart_since_a_browser_may_help(html: str) -> None:
    with pytest.raises(NoTextError):
        extract(html)


@pytest.mark.parametrize(
    ("title", "extra"),
    [
        ("Error handling in Go", ""),
        ("Log files and how to read them", "<p>Log in to the machine first.</p>"),
        ("Lost, sought and not found again", ""),
        ("A short note", "<form><input type=password></form>"),
    ],
)
def test_a_short_article_that_only_sounds_like_an_excuse_is_kept(title: str, extra: str) -> None:
    html = f"<title>{title}</title><body><article><h1>{title}</h1>{extra}{paragraphs(6)}</article>"
    assert extract(html).metadata.title == title


def test_a_long_article_about_error_pages_is_an_article() -> None:
    html = f"<title>Designing a good 404 page</title><body><article><h1>404 not found</h1>{paragraphs(30)}</article>"
    assert len(extract(html).text) > 2_000


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=300))
def test_no_input_breaks_the_extraction(html: str) -> None:
    with suppress(ExtractionError):
        extract("<table><tr><td><pre>" + html, min_characters=1)
