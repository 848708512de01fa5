"""Pages that do not say their character set, or say a wrong one."""

import pytest

from llm_engineering.infrastructure.sources.web.charset import decode


@pytest.mark.parametrize(
    ("text", "charset"),
    [
        ("The clock strikes the übliche hour a little late. " * 20, "cp1252"),
        ("Größe und Übermut tun selten gut, sagte der Müller am späten Abend.", "cp1252"),
        ("Привет, как дела? Сегодня хорошая погода и мы идём гулять.", "cp1251"),
        ("Привет, как дела? Сегодня хорошая погода и мы идём гулять.", "koi8_r"),
        ("これは日本語のテキストです。検索と生成について説明します。", "cp932"),
        ("为什么要结合向量搜索和关键词搜索？因为它们互补。", "gb18030"),
        ("안녕하세요. 검색과 생성에 대해 설명합니다.", "cp949"),
        ("Καλημέρα σας, τι κάνετε σήμερα;", "cp1253"),
    ],
)
def test_a_set_that_nobody_declares_is_recognised(text: str, charset: str) -> None:
    page = f"<html><body><p>{text}</p></body></html>"
    assert decode(page.encode(charset), "text/html")[0] == page


@pytest.mark.parametrize("declared", ["iso-8859-1", "ascii", "no-such-set", ""])
def test_utf_8_is_read_as_such_whatever_is_declared(declared: str) -> None:
    assert (
        decode("<p>Größe — “groß”</p>".encode(), f"text/html; charset={declared}")[0]
        == "<p>Größe — “groß”</p>"
    )


def test_bytes_of_no_set_are_read_all_the_same() -> None:
    text, _ = decode(bytes(range(256)), "text/html; charset=utf-8")
    assert "ABC" in text
