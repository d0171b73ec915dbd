"""The store in MongoDB, for several server processes on one replica set."""

from taskyard_server.store.mongo.store import MongoStore

__all__ = ["MongoStore"]
