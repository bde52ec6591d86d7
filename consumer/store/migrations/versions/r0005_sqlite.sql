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
