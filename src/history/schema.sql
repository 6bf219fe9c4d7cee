-- One schema for SQLite and PostgreSQL: text and 64-bit integers. Times are microseconds since 1970.

-- Its one row is changed first in every transaction that writes, which lets one writer in at a time.
CREATE TABLE writer (turn BIGINT NOT NULL);
INSERT INTO writer (turn) VALUES (0);

CREATE TABLE runs (
    run_key        TEXT NOT NULL PRIMARY KEY,
    namespace      TEXT NOT NULL,
    name           TEXT NOT NULL,
    attempt        BIGINT NOT NULL,
    connection     TEXT NOT NULL,
    group_name     TEXT,
    group_is_id    BIGINT NOT NULL,
    desired_kernel TEXT,
    -- 'ERROR' when a phase ended so, and the code of the first that did
    result         TEXT,
    error_code     TEXT
);
CREATE INDEX runs_namespace ON runs (namespace);
CREATE INDEX runs_group ON runs (group_name);

CREATE TABLE phases (
    phase_key  TEXT NOT NULL PRIMARY KEY,
    run_key    TEXT NOT NULL REFERENCES runs (run_key),
    namespace  TEXT NOT NULL,
    connection TEXT NOT NULL,
    -- what was patched: group:<group>, hosts:<digest>, or run:<name> when no host was looked up
    target     TEXT NOT NULL,
    phase      TEXT NOT NULL,
    result     TEXT NOT NULL,
    reason     TEXT NOT NULL,
    message    TEXT NOT NULL,
    error_code TEXT,
    started_at BIGINT,
    ended_at   BIGINT NOT NULL,
    -- hosts by outcome, JSON
    counts     TEXT NOT NULL,
    has_log    BIGINT NOT NULL
);
CREATE INDEX phases_newest ON phases (ended_at, phase_key);
CREATE INDEX phases_run ON phases (run_key);
CREATE INDEX phases_target ON phases (namespace, connection, target, phase, ended_at, phase_key);

CREATE TABLE host_results (
    phase_key      TEXT NOT NULL REFERENCES phases (phase_key),
    host           TEXT NOT NULL,
    outcome        TEXT NOT NULL,
    message        TEXT,
    error_code     TEXT,
    guard          TEXT,
    kernel_before  TEXT,
    kernel_after   TEXT,
    boot_id_before TEXT,
    boot_id_after  TEXT,
    PRIMARY KEY (phase_key, host)
);
CREATE INDEX host_results_host ON host_results (host);

-- What is known last of a host, each with its time (0: never).
CREATE TABLE facts (
    namespace       TEXT NOT NULL,
    connection      TEXT NOT NULL,
    host            TEXT NOT NULL,
    kernel          TEXT,
    kernel_at       BIGINT NOT NULL,
    boot_id         TEXT,
    boot_id_at      BIGINT NOT NULL,
    -- bytes by directory, JSON
    free            TEXT,
    free_at         BIGINT NOT NULL,
    -- JSON list
    repositories    TEXT,
    repositories_at BIGINT NOT NULL,
    seen_at         BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    PRIMARY KEY (namespace, connection, host)
);
CREATE INDEX facts_host ON facts (host);

-- Opened by the first ERROR of a phase of a target, resolved by its next OK.
CREATE TABLE incidents (
    opened_by   TEXT NOT NULL PRIMARY KEY,
    namespace   TEXT NOT NULL,
    connection  TEXT NOT NULL,
    target      TEXT NOT NULL,
    phase       TEXT NOT NULL,
    error_code  TEXT,
    opened_at   BIGINT NOT NULL,
    failures    BIGINT NOT NULL,
    resolved_by TEXT,
    resolved_at BIGINT
);
CREATE INDEX incidents_target ON incidents (namespace, connection, target, phase, opened_at, opened_by);

CREATE TABLE questions (
    id       TEXT NOT NULL PRIMARY KEY,
    asked_at BIGINT NOT NULL,
    username TEXT NOT NULL,
    question TEXT NOT NULL,
    answer   TEXT NOT NULL
);
CREATE INDEX questions_asked ON questions (asked_at);
