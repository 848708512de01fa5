"""Adapters: one module per SDK, each implementing one port. Only ``bootstrap`` imports them."""
