"""Who may call the service: keys made, used, revoked while it runs; and what is open without one."""

import json
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from loguru import logger

from llm_engineering.domain.api_keys import PREFIX, hash_secret
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError
from llm_engineering.infrastructure.api.middleware.auth import ApiKeyFile, is_loopback
from tests.fakes.operated_service import OperatedService, eventually
from tests.fakes.service import QUESTION, serving

ASK = {"query": QUESTION}


@pytest.fixture
def keys(tmp_path: Path) -> ApiKeyFile:
    return ApiKeyFile(tmp_path / "keys.json")


@pytest.fixture
def laptop(keys: ApiKeyFile) -> str:
    """A key, made before the service starts."""
    return keys.create("laptop")


@pytest.fixture
def locked(tmp_path: Path, laptop: str) -> Iterator[httpx.Client]:
    """A service that needs a key."""
    with serving(OperatedService(tmp_path).app) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture
def open_service(tmp_path: Path) -> Iterator[httpx.Client]:
    """A service on loopback without any key."""
    with serving(OperatedService(tmp_path).app) as url, httpx.Client(base_url=url) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_key_is_long_random_and_kept_only_as_its_hash(keys: ApiKeyFile) -> None:
    first, second = keys.create("laptop"), keys.create("phone")
    assert first.startswith(PREFIX)
    assert len(first) == len(PREFIX) + 43, "256 bits in base64"
    assert first != second
    stored = keys.path.read_text()
    assert first not in stored
    assert first.removeprefix(PREFIX) not in stored
    assert hash_secret(first) in stored
    assert [entry["name"] for entry in json.loads(stored)["keys"]] == ["laptop", "phone"]


def test_the_file_is_for_its_owner_alone(keys: ApiKeyFile) -> None:
    keys.create("laptop")
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600
    assert [path.name for path in keys.path.parent.iterdir() if path.name.endswith("json")] == ["keys.json"]


@pytest.mark.parametrize("name", ["", " ", "a b", "-x", "x" * 65, "näme", "a\nb", "../x"])
def test_a_name_that_would_confuse_a_log_is_refused(keys: ApiKeyFile, name: str) -> None:
    with pytest.raises(InvalidInputError, match="1 to 64"):
        keys.create(name)
    assert not keys.path.exists()


def test_a_name_is_given_once(keys: ApiKeyFile) -> None:
    keys.create("laptop")
    with pytest.raises(InvalidInputError, match="already"):
        keys.create("laptop")


def test_revoking_what_is_not_there_says_what_is(keys: ApiKeyFile) -> None:
    keys.create("laptop")
    with pytest.raises(InvalidInputError, match=r"no key named 'lptop'. There are: laptop\."):
        keys.revoke("lptop")


def test_keys_made_at_the_same_time_are_all_kept(keys: ApiKeyFile) -> None:
    threads = [
        threading.Thread(target=ApiKeyFile(keys.path).create, args=(f"key-{number}",)) for number in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in keys.read_keys().keys} == {f"key-{number}" for number in range(16)}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"keys": [{"name": "x"}]}', '{"keys": 1}'])
def test_a_broken_file_is_told_without_its_content(keys: ApiKeyFile, content: str) -> None:
    keys.path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"keys\.json cannot be read"):
        keys.read_keys()
    with pytest.raises(ConfigurationError):
        keys.create("laptop")
    assert keys.path.read_text() == content, "what cannot be understood is not overwritten"


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_only_addresses_of_this_machine_are_loopback(host: str, own: bool) -> None:
    assert is_loopback(host) is own


# --- the guard --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_a_service_that_others_can_reach_does_not_start_without_a_key(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigurationError, match="poe create-api-key NAME"):
        OperatedService(tmp_path, host=host)
    ApiKeyFile(tmp_path / "keys.json").create("laptop")
    OperatedService(tmp_path, host=host)


@pytest.mark.parametrize("path", ["/rag", "/rag/stream", "/search", "/v1/chat/completions", "/feedback"])
def test_without_a_key_nothing_is_answered(locked: httpx.Client, path: str) -> None:
    response = locked.post(path, json=ASK)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="llm-twin"'
    error = response.json()["error"]
    assert error["code"] == "api_key_missing"
    assert "X-API-Key" in error["message"]
    assert ("type" in error) is path.startswith("/v1/")


@pytest.mark.parametrize(
    "path", ["/info", "/filters", "/v1/models", "/reports", "/reports/a.html", "/nothing-here"]
)
def test_what_tells_of_the_inside_needs_a_key_too(locked: httpx.Client, path: str) -> None:
    assert locked.get(path).status_code == 401


@pytest.mark.parametrize(
    "path", ["/", "/page/chat.js", "/docs", "/openapi.json", "/health/live", "/health/ready", "/metrics"]
)
def test_the_pages_the_probes_and_local_metrics_are_open(locked: httpx.Client, path: str) -> None:
    assert locked.get(path).status_code in (200, 503)


def test_metrics_need_a_key_where_others_can_reach_them(tmp_path: Path, laptop: str) -> None:
    with serving(OperatedService(tmp_path, host="0.0.0.0").app) as url, httpx.Client(base_url=url) as client:
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers=bearer(laptop)).status_code == 200
        assert client.get("/health/live").status_code == 200


def test_a_key_opens_in_either_header(locked: httpx.Client, laptop: str) -> None:
    for headers in (bearer(laptop), {"X-API-Key": laptop}, {"Authorization": f"bearer  {laptop}"}):
        response = locked.post("/rag", json=ASK, headers=headers)
        assert response.status_code == 200, response.text
    assert locked.get("/health/ready", headers=bearer(laptop)).status_code == 200


@pytest.mark.parametrize("change", ["last", "case", "shorter", "longer", "foreign", "hash", "not-ascii"])
def test_a_key_that_is_nearly_right_is_wrong(locked: httpx.Client, laptop: str, change: str) -> None:
    wrong = {
        "last": laptop[:-1] + ("A" if laptop[-1] != "A" else "B"),
        "case": laptop.swapcase(),
        "shorter": laptop[:-1],
        "longer": laptop + "A",
        "foreign": "sk-something-else",
        "hash": hash_secret(laptop),
        "not-ascii": "twin_éé",
    }[change]
    response = locked.post("/rag", json=ASK, headers={b"X-API-Key": wrong.encode("latin-1")})
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "api_key_invalid"
    assert "invalid_token" in response.headers["WWW-Authenticate"]
    assert wrong not in response.text


def test_a_key_works_from_its_making_to_its_revoking_without_a_restart(
    locked: httpx.Client, keys: ApiKeyFile, laptop: str
) -> None:
    phone = keys.create("phone")
    assert locked.get("/info", headers=bearer(phone)).status_code == 200
    keys.revoke("phone")
    assert locked.get("/info", headers=bearer(phone)).status_code == 401
    assert locked.get("/info", headers=bearer(laptop)).status_code == 200


def test_revoking_the_last_key_or_losing_the_file_does_not_open_the_service(
    locked: httpx.Client, keys: ApiKeyFile, laptop: str
) -> None:
    keys.revoke("laptop")
    assert locked.get("/info").status_code == 401
    assert locked.get("/info", headers=bearer(laptop)).status_code == 401
    keys.path.unlink()
    assert locked.get("/info").status_code == 401


def test_a_file_that_breaks_refuses_everybody_until_it_is_mended(
    locked: httpx.Client, keys: ApiKeyFile, laptop: str
) -> None:
    before = keys.path.read_bytes()
    keys.path.write_text("{")
    assert locked.get("/info", headers=bearer(laptop)).status_code == 401
    assert locked.get("/health/live").status_code == 200
    keys.path.write_bytes(before)
    assert locked.get("/info", headers=bearer(laptop)).status_code == 200


def test_keys_are_never_logged_and_names_are(locked: httpx.Client, laptop: str) -> None:
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message) + json.dumps(message.record["extra"])))
    try:
        locked.post("/rag", json=ASK, headers=bearer(laptop))
        locked.post("/rag", json=ASK, headers=bearer(laptop + "x"))
        eventually(lambda: "POST /rag 401" in "".join(lines))  # a line is written when the response is gone
    finally:
        logger.remove(sink)
    log = "".join(lines)
    assert "POST /rag 200" in log
    assert "laptop" in log
    assert laptop not in log
    assert hash_secret(laptop) not in log
    assert QUESTION not in log


# --- open on loopback -------------------------------------------------------------------------------------------------


def test_on_loopback_without_keys_everything_is_open_to_this_machine(open_service: httpx.Client) -> None:
    assert open_service.post("/search", json=ASK).status_code == 200
    assert open_service.get("/info").json()["keys_required"] is False
    foreign_key = open_service.post("/search", json=ASK, headers=bearer("sk-whatever-a-client-wants"))
    assert foreign_key.status_code == 200


def test_the_first_key_closes_an_open_service(open_service: httpx.Client, keys: ApiKeyFile) -> None:
    key = keys.create("laptop")
    assert open_service.post("/search", json=ASK).status_code == 401
    assert open_service.get("/info", headers=bearer(key)).json()["keys_required"] is True


@pytest.mark.slow
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8088", "127.0.0.1.evil.example", "localhost.evil.example", ""]
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/search"), ("GET", "/info"), ("GET", "/metrics"), ("GET", "/")]
)
def test_a_name_that_was_pointed_at_this_machine_is_refused(
    open_service: httpx.Client, host: str, method: str, path: str
) -> None:
    response = open_service.request(method, path, json=ASK, headers={"Host": host})
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "LOCALHOST:8088", "127.0.0.1", "[::1]:8088"])
def test_names_of_this_machine_are_its_own(open_service: httpx.Client, host: str) -> None:
    assert open_service.get("/info", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "https://localhost.evil.example"]
)
def test_a_page_of_elsewhere_cannot_post(open_service: httpx.Client, origin: str) -> None:
    response = open_service.post("/search", json=ASK, headers={"Origin": origin})
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "origin_not_allowed"


def test_the_services_own_page_can_post(open_service: httpx.Client) -> None:
    own = str(open_service.base_url).rstrip("/")
    assert open_service.post("/search", json=ASK, headers={"Origin": own}).status_code == 200


def test_a_page_whose_origin_was_allowed_can_post_and_read(tmp_path: Path) -> None:
    app = OperatedService(tmp_path, cors_origins="https://a.example, https://b.example").app
    with serving(app) as url, httpx.Client(base_url=url) as client:
        allowed = client.post("/search", json=ASK, headers={"Origin": "https://b.example"})
        assert allowed.status_code == 200
        assert allowed.headers["Access-Control-Allow-Origin"] == "https://b.example"
        assert "X-Request-ID" in allowed.headers["Access-Control-Expose-Headers"]
        assert client.post("/search", json=ASK, headers={"Origin": "https://c.example"}).status_code == 403
        asked = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type,x-api-key",
        }
        assert client.options("/rag", headers={"Origin": "https://a.example", **asked}).status_code == 200
        assert client.options("/rag", headers={"Origin": "https://c.example", **asked}).status_code == 400


def test_cors_is_closed_unless_it_was_opened(open_service: httpx.Client) -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    preflight = open_service.options("/rag", headers=asked)
    assert preflight.status_code == 405
    assert "Access-Control-Allow-Origin" not in preflight.headers
    read = open_service.get("/info", headers={"Origin": "https://a.example"})
    assert "Access-Control-Allow-Origin" not in read.headers
