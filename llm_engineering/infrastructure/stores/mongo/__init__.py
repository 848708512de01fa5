"""The data warehouse on any server that speaks MongoDB's protocol."""

from llm_engineering.infrastructure.stores.mongo.warehouse import MongoWarehouse

__all__ = ["MongoWarehouse"]
