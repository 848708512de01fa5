"""Requests and replies of the endpoints."""
