"""Fixtures of the conformance tier."""

from tests.services import mongo_database, mongo_server, own_mongo_server

__all__ = ["mongo_database", "mongo_server", "own_mongo_server"]
