"""Whether this machine has a browser for the tests that need one."""

from llm_engineering.domain.errors import CollectionError
from llm_engineering.infrastructure.sources.browser.chromium import find_programs


def _why_not() -> str:
    try:
        find_programs(None, None)
    except CollectionError as error:
        return str(error)
    return ""


NO_CHROMIUM = _why_not()
"""Why tests in a real browser are skipped; empty where they are not."""
