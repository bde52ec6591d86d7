-- Made from consumer/store/tables.py by: python -m tests.store.schema
CREATE TABLE IF NOT EXISTS attempt (
  "key" TEXT NOT NULL CONSTRAINT key_length CHECK (length(key) <= 1087),
  failures INTEGER DEFAULT 0 NOT NULL CHECK (failures >= 0),
  starts INTEGER DEFAULT 0 NOT NULL CHECK (starts >= 0),
  error TEXT CONSTRAINT error_length CHECK (length(error) <= 2048),
  stored_at DOUBLE NOT NULL,
  function TEXT,
  job_id TEXT,
  retry_at DOUBLE,
  trace_parent TEXT,
  PRIMARY KEY ("key")
)
 WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS attempt_age ON attempt (stored_at);
CREATE TABLE IF NOT EXISTS job (
  id INTEGER NOT NULL,
  key_hash BIGINT NOT NULL,
  dead BOOLEAN NOT NULL,
  holder TEXT NOT NULL,
  stored_at DOUBLE NOT NULL,
  "key" TEXT NOT NULL CONSTRAINT key_length CHECK (length(key) <= 1087),
  queue TEXT NOT NULL,
  kind TEXT NOT NULL,
  function TEXT NOT NULL,
  message_id TEXT NOT NULL,
  job_id TEXT,
  state TEXT NOT NULL,
  code TEXT,
  message TEXT,
  user_data TEXT,
  result TEXT,
  attempts BIGINT NOT NULL,
  enqueued_at DOUBLE NOT NULL,
  started_at DOUBLE NOT NULL,
  ended_at DOUBLE NOT NULL,
  PRIMARY KEY (id)
);
CREATE INDEX IF NOT EXISTS job_dead ON job (dead) WHERE dead IS 1;
CREATE INDEX IF NOT EXISTS job_key ON job (key_hash);
CREATE TABLE IF NOT EXISTS letter (
  id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  replay TEXT DEFAULT 'set_aside' NOT NULL CONSTRAINT replay_known CHECK (replay IN ('set_aside', 'replaying', 'replayed')),
  replayed_at DOUBLE,
  stored_at DOUBLE NOT NULL,
  reason TEXT NOT NULL CONSTRAINT reason_known CHECK (reason IN ('undecodable', 'unrouted', 'ill_typed', 'job_failed', 'rejected', 'exhausted', 'expiring', 'crashing', 'stuck', 'result_not_ready', 'not_iproduction', 'unanswered', 'contradicted')),
  error TEXT NOT NULL CONSTRAINT error_length CHECK (length(error) <= 2048),
  traceback TEXT CHECK (length(traceback) <= 16384),
  body BLOB NOT NULL,
  dequeue_count BIGINT NOT NULL,
  first_dequeued_at DOUBLE NOT NULL,
  bytes BIGINT NOT NULL,
  "key" TEXT NOT NULL CONSTRAINT key_length CHECK (length(key) <= 1087),
  queue TEXT NOT NULL,
  kind TEXT NOT NULL,
  function TEXT NOT NULL,
  message_id TEXT NOT NULL,
  job_id TEXT,
  state TEXT NOT NULL,
  code TEXT,
  message TEXT,
  user_data TEXT,
  result TEXT,
  attempts BIGINT NOT NULL,
  enqueued_at DOUBLE NOT NULL,
  started_at DOUBLE NOT NULL,
  ended_at DOUBLE NOT NULL,
  error_fingerprint TEXT DEFAULT '' NOT NULL,
  hook_at DOUBLE,
  CONSTRAINT replayed_at_known CHECK ((replay = 'set_aside') = (replayed_at IS NULL))
);
CREATE INDEX IF NOT EXISTS letter_fingerprint ON letter (error_fingerprint, id, stored_at, replay);
CREATE INDEX IF NOT EXISTS letter_hook ON letter (queue, hook_at) WHERE hook_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS letter_job ON letter (job_id, id);
CREATE INDEX IF NOT EXISTS letter_reason ON letter (reason, id);
CREATE INDEX IF NOT EXISTS letter_replayed ON letter (replayed_at) WHERE replay = 'replayed';
CREATE INDEX IF NOT EXISTS letter_stored ON letter (stored_at);
CREATE INDEX IF NOT EXISTS letter_waiting ON letter (queue, reason, replay, stored_at, bytes) WHERE replay != 'replayed';
CREATE TABLE IF NOT EXISTS revision (
  version_num VARCHAR(32) NOT NULL,
  CONSTRAINT revision_pkc PRIMARY KEY (version_num)
);
CREATE TABLE IF NOT EXISTS run (
  id INTEGER NOT NULL,
  key_hash BIGINT NOT NULL,
  stored_at DOUBLE NOT NULL,
  "key" TEXT NOT NULL CONSTRAINT key_length CHECK (length(key) <= 1087),
  queue TEXT NOT NULL,
  function TEXT NOT NULL,
  message_id TEXT NOT NULL,
  job_id TEXT,
  attempt BIGINT NOT NULL,
  started_at DOUBLE NOT NULL,
  ended_at DOUBLE NOT NULL,
  result TEXT NOT NULL,
  error TEXT NOT NULL CONSTRAINT error_length CHECK (length(error) <= 2048),
  traceback TEXT CHECK (length(traceback) <= 16384),
  retry_at DOUBLE,
  trace_parent TEXT,
  PRIMARY KEY (id)
);
CREATE INDEX IF NOT EXISTS run_key ON run (key_hash, id);
CREATE TABLE IF NOT EXISTS submission (
  id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  state TEXT NOT NULL CONSTRAINT state_known CHECK (state IN ('intent', 'submitted', 'unknown', 'ended', 'expired', 'refused')),
  ref TEXT NOT NULL CONSTRAINT ref_length CHECK (length(ref) <= 200),
  call_id TEXT NOT NULL,
  queue TEXT NOT NULL,
  function TEXT NOT NULL,
  request TEXT NOT NULL,
  created_at DOUBLE NOT NULL,
  job_id TEXT,
  "key" TEXT,
  request_id TEXT,
  error TEXT CONSTRAINT error_length CHECK (length(error) <= 2048),
  submitted_at DOUBLE,
  closed_at DOUBLE,
  next_at DOUBLE,
  asked INTEGER DEFAULT 0 NOT NULL,
  CONSTRAINT next_at_known CHECK ((state = 'submitted') = (next_at IS NOT NULL)),
  CONSTRAINT closed_at_known CHECK ((state IN ('intent', 'submitted')) = (closed_at IS NULL))
);
CREATE INDEX IF NOT EXISTS submission_closed ON submission (closed_at) WHERE closed_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS submission_due ON submission (queue, next_at) WHERE next_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS submission_job ON submission (job_id);
CREATE INDEX IF NOT EXISTS submission_key ON submission ("key") WHERE state = 'submitted';
CREATE INDEX IF NOT EXISTS submission_open ON submission (id) WHERE state IN ('intent', 'submitted', 'unknown');
CREATE UNIQUE INDEX IF NOT EXISTS submission_ref ON submission (ref);
CREATE INDEX IF NOT EXISTS submission_state ON submission (queue, state, id);
