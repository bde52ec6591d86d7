-- Made from consumer/store/tables.py by: python -m tests.store.schema
CREATE TABLE IF NOT EXISTS mns_consumer_job (
  key_id BYTEA NOT NULL CHECK (length(key_id) = 16),
  key TEXT NOT NULL CONSTRAINT key_length CHECK (length(key) <= 1087),
  holder TEXT,
  held_until DOUBLE PRECISION,
  claimed_at DOUBLE PRECISION NOT NULL,
  started BOOLEAN DEFAULT false NOT NULL,
  failures INTEGER DEFAULT 0 NOT NULL CHECK (failures >= 0),
  starts INTEGER DEFAULT 0 NOT NULL CHECK (starts >= 0),
  error TEXT CONSTRAINT error_length CHECK (length(error) <= 2048),
  dead BOOLEAN,
  stored_at DOUBLE PRECISION,
  queue TEXT,
  kind TEXT,
  function TEXT,
  message_id TEXT,
  job_id TEXT,
  state TEXT,
  code TEXT,
  message TEXT,
  user_data TEXT,
  result TEXT,
  attempts BIGINT,
  enqueued_at DOUBLE PRECISION,
  started_at DOUBLE PRECISION,
  ended_at DOUBLE PRECISION,
  retry_at DOUBLE PRECISION,
  trace_parent TEXT,
  PRIMARY KEY (key_id),
  CONSTRAINT whole_when_ended CHECK (dead IS NULL OR (stored_at IS NOT NULL AND queue IS NOT NULL AND kind IS NOT NULL AND function IS NOT NULL AND message_id IS NOT NULL AND state IS NOT NULL AND attempts IS NOT NULL AND enqueued_at IS NOT NULL AND started_at IS NOT NULL AND ended_at IS NOT NULL))
);
CREATE INDEX IF NOT EXISTS mns_consumer_job_dead ON mns_consumer_job (stored_at) WHERE dead IS true;
CREATE INDEX IF NOT EXISTS mns_consumer_job_ended ON mns_consumer_job (stored_at) WHERE dead IS NOT NULL;
CREATE INDEX IF NOT EXISTS mns_consumer_job_open ON mns_consumer_job (claimed_at) WHERE dead IS NULL;
COMMENT ON TABLE mns_consumer_job IS 'keys from their first claim on';
COMMENT ON COLUMN mns_consumer_job.key_id IS 'rows.key_id';
COMMENT ON COLUMN mns_consumer_job.key IS 'the ledger key of its job, or of its message';
COMMENT ON COLUMN mns_consumer_job.holder IS 'which daemon has, or has ended, it';
COMMENT ON COLUMN mns_consumer_job.held_until IS 'when the claim ends unless it is renewed';
COMMENT ON COLUMN mns_consumer_job.started IS 'this claim has recorded a start';
COMMENT ON COLUMN mns_consumer_job.starts IS 'recorded starts without an end';
COMMENT ON COLUMN mns_consumer_job.error IS 'one sentence: what was expected, what came';
COMMENT ON COLUMN mns_consumer_job.dead IS 'null while the key is open, else whether it ended as a dead letter';
COMMENT ON COLUMN mns_consumer_job.stored_at IS 'when it ended';
COMMENT ON COLUMN mns_consumer_job.queue IS 'account/region/name';
COMMENT ON COLUMN mns_consumer_job.kind IS 'the kind of the notification';
COMMENT ON COLUMN mns_consumer_job.function IS 'FunctionName, or the name of another kind';
COMMENT ON COLUMN mns_consumer_job.message_id IS 'MessageId of MNS';
COMMENT ON COLUMN mns_consumer_job.job_id IS 'JobId or RunId';
COMMENT ON COLUMN mns_consumer_job.state IS 'as received, like code and message';
COMMENT ON COLUMN mns_consumer_job.user_data IS 'JSON or any text';
COMMENT ON COLUMN mns_consumer_job.result IS 'JSON; null when the handler wanted none';
COMMENT ON COLUMN mns_consumer_job.attempts IS 'runs of the handler';
COMMENT ON COLUMN mns_consumer_job.enqueued_at IS 'when MNS took the message';
COMMENT ON COLUMN mns_consumer_job.started_at IS 'when the last run started';
COMMENT ON COLUMN mns_consumer_job.retry_at IS 'while the key is open: when its message is delivered again';
COMMENT ON COLUMN mns_consumer_job.trace_parent IS 'while the key is open: the span of its last run';
CREATE TABLE IF NOT EXISTS mns_consumer_letter (
  id BIGINT GENERATED ALWAYS AS IDENTITY,
  replay TEXT DEFAULT 'set_aside' NOT NULL CONSTRAINT replay_known CHECK (replay IN ('set_aside', 'replaying', 'replayed')),
  replayed_at DOUBLE PRECISION,
  stored_at DOUBLE PRECISION NOT NULL,
  reason TEXT NOT NULL CONSTRAINT reason_known CHECK (reason IN ('undecodable', 'unrouted', 'ill_typed', 'job_failed', 'rejected', 'exhausted', 'expiring', 'crashing', 'stuck', 'result_not_ready', 'not_iproduction', 'unanswered', 'contradicted')),
  error TEXT NOT NULL CONSTRAINT error_length CHECK (length(error) <= 2048),
  traceback TEXT CHECK (length(traceback) <= 16384),
  body BYTEA NOT NULL,
  dequeue_count BIGINT NOT NULL,
  first_dequeued_at DOUBLE PRECISION NOT NULL,
  bytes BIGINT NOT NULL,
  key TEXT NOT NULL CONSTRAINT key_length CHECK (length(key) <= 1087),
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
  enqueued_at DOUBLE PRECISION NOT NULL,
  started_at DOUBLE PRECISION NOT NULL,
  ended_at DOUBLE PRECISION NOT NULL,
  error_fingerprint TEXT DEFAULT '' NOT NULL,
  hook_at DOUBLE PRECISION,
  PRIMARY KEY (id),
  CONSTRAINT replayed_at_known CHECK ((replay = 'set_aside') = (replayed_at IS NULL))
);
CREATE INDEX IF NOT EXISTS mns_consumer_letter_fingerprint ON mns_consumer_letter (error_fingerprint, id, stored_at, replay);
CREATE INDEX IF NOT EXISTS mns_consumer_letter_hook ON mns_consumer_letter (queue, hook_at) WHERE hook_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS mns_consumer_letter_job ON mns_consumer_letter (job_id, id);
CREATE INDEX IF NOT EXISTS mns_consumer_letter_reason ON mns_consumer_letter (reason, id);
CREATE INDEX IF NOT EXISTS mns_consumer_letter_replayed ON mns_consumer_letter (replayed_at) WHERE replay = 'replayed';
CREATE INDEX IF NOT EXISTS mns_consumer_letter_stored ON mns_consumer_letter (stored_at);
CREATE INDEX IF NOT EXISTS mns_consumer_letter_waiting ON mns_consumer_letter (queue, reason, replay, stored_at, bytes) WHERE replay != 'replayed';
COMMENT ON TABLE mns_consumer_letter IS 'dead letters';
COMMENT ON COLUMN mns_consumer_letter.id IS 'never given to another letter';
COMMENT ON COLUMN mns_consumer_letter.replayed_at IS 'when its last replay was begun or finished';
COMMENT ON COLUMN mns_consumer_letter.error IS 'one sentence: what was expected, what came';
COMMENT ON COLUMN mns_consumer_letter.body IS 'the raw bytes as MNS returned them';
COMMENT ON COLUMN mns_consumer_letter.bytes IS 'what it counts towards the limit: body and long texts';
COMMENT ON COLUMN mns_consumer_letter.key IS 'the ledger key of its job, or of its message';
COMMENT ON COLUMN mns_consumer_letter.queue IS 'account/region/name';
COMMENT ON COLUMN mns_consumer_letter.kind IS 'the kind of the notification';
COMMENT ON COLUMN mns_consumer_letter.function IS 'FunctionName, or the name of another kind';
COMMENT ON COLUMN mns_consumer_letter.message_id IS 'MessageId of MNS';
COMMENT ON COLUMN mns_consumer_letter.job_id IS 'JobId or RunId';
COMMENT ON COLUMN mns_consumer_letter.state IS 'as received, like code and message';
COMMENT ON COLUMN mns_consumer_letter.user_data IS 'JSON or any text';
COMMENT ON COLUMN mns_consumer_letter.result IS 'JSON; null when the handler wanted none';
COMMENT ON COLUMN mns_consumer_letter.attempts IS 'runs of the handler';
COMMENT ON COLUMN mns_consumer_letter.enqueued_at IS 'when MNS took the message';
COMMENT ON COLUMN mns_consumer_letter.started_at IS 'when the last run started';
COMMENT ON COLUMN mns_consumer_letter.error_fingerprint IS 'equal for letters of one cause; empty where it is unknown';
COMMENT ON COLUMN mns_consumer_letter.hook_at IS 'when its hook is due; null where none is, 0 from the start';
CREATE TABLE IF NOT EXISTS mns_consumer_revision (
  version_num VARCHAR(32) NOT NULL,
  CONSTRAINT mns_consumer_revision_pkc PRIMARY KEY (version_num)
);
CREATE TABLE IF NOT EXISTS mns_consumer_run (
  id BIGINT GENERATED ALWAYS AS IDENTITY,
  key_id BYTEA NOT NULL CHECK (length(key_id) = 16),
  stored_at DOUBLE PRECISION NOT NULL,
  key TEXT NOT NULL CONSTRAINT key_length CHECK (length(key) <= 1087),
  queue TEXT NOT NULL,
  function TEXT NOT NULL,
  message_id TEXT NOT NULL,
  job_id TEXT,
  attempt BIGINT NOT NULL,
  started_at DOUBLE PRECISION NOT NULL,
  ended_at DOUBLE PRECISION NOT NULL,
  result TEXT NOT NULL,
  error TEXT NOT NULL CONSTRAINT error_length CHECK (length(error) <= 2048),
  traceback TEXT CHECK (length(traceback) <= 16384),
  retry_at DOUBLE PRECISION,
  trace_parent TEXT,
  PRIMARY KEY (id)
);
CREATE INDEX IF NOT EXISTS mns_consumer_run_key ON mns_consumer_run (key_id, id);
CREATE INDEX IF NOT EXISTS mns_consumer_run_stored ON mns_consumer_run (stored_at);
COMMENT ON TABLE mns_consumer_run IS 'runs that have left their jobs open';
COMMENT ON COLUMN mns_consumer_run.id IS 'rises with time';
COMMENT ON COLUMN mns_consumer_run.key_id IS 'rows.key_id';
COMMENT ON COLUMN mns_consumer_run.key IS 'the ledger key of its job, or of its message';
COMMENT ON COLUMN mns_consumer_run.queue IS 'account/region/name';
COMMENT ON COLUMN mns_consumer_run.function IS 'FunctionName, or the name of another kind';
COMMENT ON COLUMN mns_consumer_run.message_id IS 'MessageId of MNS';
COMMENT ON COLUMN mns_consumer_run.job_id IS 'JobId or RunId';
COMMENT ON COLUMN mns_consumer_run.attempt IS 'its number, from 1';
COMMENT ON COLUMN mns_consumer_run.result IS 'in one word';
COMMENT ON COLUMN mns_consumer_run.error IS 'one sentence: what was expected, what came';
COMMENT ON COLUMN mns_consumer_run.retry_at IS 'when its message is delivered again';
COMMENT ON COLUMN mns_consumer_run.trace_parent IS 'its span';
CREATE TABLE IF NOT EXISTS mns_consumer_submission (
  id BIGINT GENERATED ALWAYS AS IDENTITY,
  state TEXT NOT NULL CONSTRAINT state_known CHECK (state IN ('intent', 'submitted', 'unknown', 'ended', 'expired', 'refused')),
  ref TEXT NOT NULL CONSTRAINT ref_length CHECK (length(ref) <= 200),
  call_id TEXT NOT NULL,
  queue TEXT NOT NULL,
  function TEXT NOT NULL,
  request TEXT NOT NULL,
  created_at DOUBLE PRECISION NOT NULL,
  job_id TEXT,
  key TEXT,
  request_id TEXT,
  error TEXT CONSTRAINT error_length CHECK (length(error) <= 2048),
  submitted_at DOUBLE PRECISION,
  closed_at DOUBLE PRECISION,
  next_at DOUBLE PRECISION,
  asked INTEGER DEFAULT 0 NOT NULL,
  PRIMARY KEY (id),
  CONSTRAINT next_at_known CHECK ((state = 'submitted') = (next_at IS NOT NULL)),
  CONSTRAINT closed_at_known CHECK ((state IN ('intent', 'submitted')) = (closed_at IS NULL))
);
CREATE INDEX IF NOT EXISTS mns_consumer_submission_closed ON mns_consumer_submission (closed_at) WHERE closed_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS mns_consumer_submission_due ON mns_consumer_submission (queue, next_at) WHERE next_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS mns_consumer_submission_job ON mns_consumer_submission (job_id);
CREATE INDEX IF NOT EXISTS mns_consumer_submission_key ON mns_consumer_submission (key) WHERE state = 'submitted';
CREATE INDEX IF NOT EXISTS mns_consumer_submission_open ON mns_consumer_submission (id) WHERE state IN ('intent', 'submitted', 'unknown');
CREATE UNIQUE INDEX IF NOT EXISTS mns_consumer_submission_ref ON mns_consumer_submission (ref);
CREATE INDEX IF NOT EXISTS mns_consumer_submission_state ON mns_consumer_submission (queue, state, id);
COMMENT ON TABLE mns_consumer_submission IS 'jobs that were, or were to be, sent to MPS';
COMMENT ON COLUMN mns_consumer_submission.ref IS 'the idempotency key of the caller, or a random one';
COMMENT ON COLUMN mns_consumer_submission.call_id IS 'random: of the call that may send it';
COMMENT ON COLUMN mns_consumer_submission.queue IS 'account/region/name: handles the end of the job';
COMMENT ON COLUMN mns_consumer_submission.function IS 'FunctionName';
COMMENT ON COLUMN mns_consumer_submission.request IS 'JSON: the parameters of the call to MPS';
COMMENT ON COLUMN mns_consumer_submission.job_id IS 'JobId of the answer';
COMMENT ON COLUMN mns_consumer_submission.key IS 'the ledger key of the job';
COMMENT ON COLUMN mns_consumer_submission.request_id IS 'RequestId of the answer';
COMMENT ON COLUMN mns_consumer_submission.error IS 'one sentence: what was expected, what came';
COMMENT ON COLUMN mns_consumer_submission.submitted_at IS 'when MPS answered';
COMMENT ON COLUMN mns_consumer_submission.closed_at IS 'when it was ended, expired, refused or unknown';
COMMENT ON COLUMN mns_consumer_submission.next_at IS 'when MPS is asked for it, unless its end is known by then';
COMMENT ON COLUMN mns_consumer_submission.asked IS 'how often MPS was asked';
