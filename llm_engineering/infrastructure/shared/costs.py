"""What tokens cost. A pure function, shared by the adapters of services that are paid by the token."""

from llm_engineering.domain.retrieval import Usage

TOKENS_PER_PRICE = 1_000_000


def add_cost(usage: Usage | None, prompt_price: float | None, completion_price: float | None) -> Usage | None:
    """Add the cost in US dollars to a usage, at prices in US dollars for a million tokens.

    None stays None (the service did not tell), and without both prices no cost is stated: half of it would pass for all.
    """
    if usage is None or prompt_price is None or completion_price is None:
        return usage
    dollars = usage.prompt_tokens * prompt_price + usage.completion_tokens * completion_price
    return usage.model_copy(update={"cost_usd": dollars / TOKENS_PER_PRICE})
