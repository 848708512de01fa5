"""Track what a run spends on a language model, and stop its requests before they exceed the budget."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from pydantic import Field

from llm_engineering.domain.documents import Model
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.domain.retrieval import Usage


class BudgetExhaustedError(Exception):
    """The next request might exceed the budget. Requests stop; the run goes on."""


class Budget(Model):
    """What a run may spend at most. What comes from the cache costs nothing."""

    tokens: int | None = Field(default=None, ge=1)
    """Prompts and replies together; None: no limit."""
    usd: float | None = Field(default=None, gt=0)
    """US dollars at the prices of the settings; None: no limit."""


class CostTracker:
    """Count tokens and costs, and reserve what a request may cost before it is sent.

    A request that does not fit beside those in flight waits for them, since most cost less than was reserved; one that does
    not fit although nothing is in flight stops all further ones. Tokens so stay within the budget. What a request will cost in
    dollars is known only by the dearest token so far, so the very first ones are made one at a time.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._reserved = 0
        self._in_flight = 0
        self._dearest_token = 0.0
        self._settled = asyncio.Condition()
        self.spent = Usage()
        """By this run."""
        self.saved = Usage()
        """What replies from the cache had cost when they were made."""
        self.requests = 0
        self.stopped = ""
        """Why requests stopped early; empty: they did not."""

    @asynccontextmanager
    async def reserve(self, tokens: int) -> AsyncIterator[Callable[[Usage | None], None]]:
        """Reserve room for a request of at most ``tokens``; the block reports what it really used.

        Raises:
            BudgetExhaustedError: there is no such room, or requests have stopped before.
            ConfigurationError: the budget is in dollars, and the reply came without a price.
        """
        async with self._settled:
            while not self.stopped and not self._fits(tokens):
                if not self._in_flight:
                    self._stop(tokens)
                    break
                await self._settled.wait()
            if self.stopped:
                raise BudgetExhaustedError(self.stopped)
            self._reserved += tokens
            self._in_flight += 1
        try:
            yield self._add
        finally:
            async with self._settled:
                self._reserved -= tokens
                self._in_flight -= 1
                self._settled.notify_all()

    def add_cached(self, usage: Usage | None) -> None:
        """Count a reply that came from the cache."""
        self.saved += usage or Usage()

    def _fits(self, tokens: int) -> bool:
        budget = self._budget
        used = self.spent.prompt_tokens + self.spent.completion_tokens
        if budget.tokens is not None and used + self._reserved + tokens > budget.tokens:
            return False
        if budget.usd is None:
            return True
        if not self._dearest_token:
            return not self._in_flight
        expected = (self.spent.cost_usd or 0.0) + (self._reserved + tokens) * self._dearest_token
        return expected <= budget.usd

    def _stop(self, tokens: int) -> None:
        used = self.spent.prompt_tokens + self.spent.completion_tokens
        cost = "" if self.spent.cost_usd is None else f" and {self.spent.cost_usd:.4f} US dollars"
        limits = [
            f"{self._budget.tokens:,} tokens" if self._budget.tokens is not None else "",
            f"{self._budget.usd:g} US dollars" if self._budget.usd is not None else "",
        ]
        self.stopped = (
            f"The budget of {' and '.join(filter(None, limits))} is spent: {used:,} tokens{cost} were used, and the next "
            f"request may need {tokens:,} tokens. Finished samples are saved; raise `budget` and rerun to continue."
        )

    def _add(self, usage: Usage | None) -> None:
        used = usage or Usage()
        self.requests += 1
        self.spent += used
        tokens = used.prompt_tokens + used.completion_tokens
        if used.cost_usd is not None and tokens:
            self._dearest_token = max(self._dearest_token, used.cost_usd / tokens)
        elif self._budget.usd is not None and used.cost_usd is None:
            raise ConfigurationError(
                "The budget is in US dollars, but the model's replies come without a price. Set LLM_PROMPT_PRICE and "
                "LLM_COMPLETION_PRICE (of a judge: JUDGE_PROMPT_PRICE and so on), or give `budget.tokens` in place of "
                "`budget.usd`."
            )
