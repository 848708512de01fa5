"""Register models, promote them by policy, describe them in a card."""
