"""Fixtures of the conformance tier."""

from tests.aws_account import aws_account, aws_clients, aws_server
from tests.services import mongo_database, mongo_server, own_mongo_server

__all__ = ["aws_account", "aws_clients", "aws_server", "mongo_database", "mongo_server", "own_mongo_server"]
