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
