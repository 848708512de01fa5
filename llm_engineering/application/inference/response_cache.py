"""Responses of earlier requests, for as long as the index stands as it did."""

from collections import OrderedDict
from typing import Generic, TypeVar

Response = TypeVar("Response")


class ResponseCache(Generic[Response]):
    """Remembers the newest responses; the first look after the index has changed forgets all of them.

    For one event loop. Which models and prompts made a response does not matter: they stay the same while a process runs.

    Args:
        size: most responses; 0: none is kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[str, Response] = OrderedDict()
        self._state = ""

    def find(self, request: str, state: str) -> Response | None:
        """Return what was answered to the same request; None: nothing, or of another state of the index."""
        if state != self._state:
            # All at once, those never asked for again too: they may hold what was erased.
            self._kept.clear()
            self._state = state
        if request in self._kept:
            self._kept.move_to_end(request)
        return self._kept.get(request)

    def keep(self, request: str, state: str, response: Response) -> None:
        """Remember a response that was made in a state of the index."""
        if state != self._state:
            return  # it has changed meanwhile
        self._kept[request] = response
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)
