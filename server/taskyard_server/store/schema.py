"""The tables of the control database."""

from __future__ import annotations

from taskyard_server.store.database import Schema

# `body` is the record as JSON; the columns beside it are copies to search by, except `rank` and `due_at`, which
# stand nowhere else. The body comes last, so that a search never walks through its pages.
_FIRST = """
CREATE TABLE tasks (
    id TEXT PRIMARY KEY NOT NULL,
    state TEXT NOT NULL,
    queue TEXT,
    shape TEXT NOT NULL,
    rank BLOB,
    due_at REAL,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    owner TEXT NOT NULL,
    body BLOB NOT NULL
);
-- A claim seeks the lowest rank of each shape; positions and pages count along the ranks.
CREATE INDEX entries_by_shape ON tasks (queue, shape, rank) WHERE state = 'queued';
CREATE INDEX entries_by_rank ON tasks (queue, rank) WHERE state = 'queued';
-- Places that are kept while a task runs, so that it can come back to its own.
CREATE INDEX held_places ON tasks (queue, rank) WHERE state IN ('waiting', 'preparing', 'running');
CREATE INDEX tasks_due ON tasks (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX tasks_by_age ON tasks (created_at, id);
CREATE INDEX tasks_by_state ON tasks (state, created_at, id);
CREATE INDEX tasks_by_queue ON tasks (queue, created_at, id);
CREATE INDEX tasks_by_project ON tasks (project, created_at, id);
CREATE INDEX tasks_by_name ON tasks (name, created_at, id);
CREATE INDEX tasks_by_change ON tasks (updated_at);

CREATE TABLE tags (
    tag TEXT NOT NULL,
    task TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    PRIMARY KEY (tag, task)
) WITHOUT ROWID;
CREATE INDEX tags_of_task ON tags (task);

CREATE TABLE runs (
    task TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    report_hash TEXT NOT NULL,
    PRIMARY KEY (task, number)
) WITHOUT ROWID;
CREATE INDEX runs_by_request ON runs (request_id);
CREATE INDEX runs_by_report_token ON runs (report_hash);

CREATE TABLE queues (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT UNIQUE NOT NULL,
    paused INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE TABLE workers (name TEXT PRIMARY KEY NOT NULL, body BLOB NOT NULL);
CREATE TABLE tokens (
    id TEXT PRIMARY KEY NOT NULL,
    hash TEXT UNIQUE NOT NULL,
    created_at REAL NOT NULL,
    body BLOB NOT NULL
);
CREATE TABLE answers (
    key TEXT PRIMARY KEY NOT NULL,
    request_hash TEXT NOT NULL,
    status INTEGER NOT NULL,
    at REAL NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX answers_by_age ON answers (at);
CREATE TABLE servers (id TEXT PRIMARY KEY NOT NULL, at REAL NOT NULL);
"""

_ONE_RUN_PER_REQUEST = """
DROP INDEX runs_by_request;
CREATE UNIQUE INDEX runs_by_request ON runs (request_id);
"""

_GENERATIONS = """
-- One row for each time that the store was restored from a copy.
CREATE TABLE generations (number INTEGER PRIMARY KEY, copied_at REAL, restored_at REAL, resumed_at REAL);
"""

_RESTS = "CREATE TABLE rests (target TEXT PRIMARY KEY NOT NULL, body BLOB NOT NULL);"

_ARTIFACTS = """
CREATE TABLE artifacts (
    run TEXT NOT NULL,
    name TEXT NOT NULL,
    task TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    files INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (run, name)
) WITHOUT ROWID;
CREATE INDEX artifacts_of_task ON artifacts (task);
CREATE TABLE artifact_parts (
    digest TEXT NOT NULL,
    account TEXT NOT NULL,
    run TEXT NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (digest, account, run, name),
    FOREIGN KEY (run, name) REFERENCES artifacts (run, name) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX parts_of_artifact ON artifact_parts (run, name);
CREATE TABLE sent_parts (
    digest TEXT NOT NULL,
    account TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (digest, account)
) WITHOUT ROWID;
CREATE INDEX sent_parts_by_age ON sent_parts (at);
CREATE TABLE settings (name TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL);
"""

CONTROL = Schema(
    application_id=0x5459_4331, migrations=(_FIRST, _ONE_RUN_PER_REQUEST, _GENERATIONS, _RESTS, _ARTIFACTS)
)
