"""The data warehouse."""
