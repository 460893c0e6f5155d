-- Leases run by one clock: the process's on SQLite, the database's on PostgreSQL, whose servers' clocks may differ.
-- SQLite uses a partial index only where its condition stands in the query word for word, or where it is told to.

-- name: conversation_for_run
-- sqlite:
SELECT c.agent_id, c.head_ids, c.tail_from, c.context_version, c.compiled_revision, c.segment_id, c.break_cause,
       c.active_run_id, c.lease_until_us, c.fence, c.seen_blocks, c.body, c.deleted_us, a.revision, c.pending,
       (SELECT COUNT(*) FROM runs r WHERE r.conversation_id = c.id AND r.status IN ('created', 'running')
                                      AND r.status = 'created'), NULL
FROM conversations c JOIN agents a ON a.id = c.agent_id WHERE c.id = :id
-- postgres:
SELECT c.agent_id, c.head_ids, c.tail_from, c.context_version, c.compiled_revision, c.segment_id, c.break_cause,
       c.active_run_id, c.lease_until_us, c.fence, c.seen_blocks, c.body, c.deleted_us, a.revision, c.pending,
       (SELECT COUNT(*) FROM runs r WHERE r.conversation_id = c.id AND r.status IN ('created', 'running')
                                      AND r.status = 'created'),
       c.xmin::text
FROM conversations c JOIN agents a ON a.id = c.agent_id WHERE c.id = :id

-- name: otid_run
SELECT run_id FROM otids WHERE conversation_id = :conversation_id AND otid = :otid

-- name: insert_otid
INSERT INTO otids (conversation_id, otid, run_id, created_us) VALUES (:conversation_id, :otid, :run_id, :now)
ON CONFLICT (conversation_id, otid) DO NOTHING

-- name: queued_runs
SELECT id FROM runs WHERE conversation_id = :conversation_id AND status IN ('created', 'running') AND status = 'created'
ORDER BY created_us, id LIMIT :limit

-- name: insert_run
INSERT INTO runs (id, agent_id, conversation_id, status, background, created_us, attempts, config, input, metadata)
VALUES (:id, :agent_id, :conversation_id, :status, :background, :created_us, :attempts, :config, :input, :metadata)

-- name: take_lease
-- sqlite:
UPDATE conversations SET active_run_id = :run_id, lease_owner = :owner, lease_until_us = :until, fence = fence + 1,
       last_message_us = :now
WHERE id = :conversation_id AND (active_run_id IS NULL OR lease_until_us < :now OR lease_owner = :dead_owner)
RETURNING fence
-- postgres:
UPDATE conversations SET active_run_id = :run_id, lease_owner = :owner, fence = fence + 1, last_message_us = :now,
       lease_until_us = (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint + :until - :now
WHERE id = :conversation_id AND (active_run_id IS NULL OR lease_owner = :dead_owner
      OR lease_until_us < (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint)
  AND (CAST(:seen AS text) IS NULL OR xmin::text = CAST(:seen AS text))
RETURNING fence

-- name: renew_lease
-- sqlite:
UPDATE conversations SET lease_until_us = :until
WHERE id = :conversation_id AND lease_owner = :owner AND active_run_id IS NOT NULL
-- postgres:
UPDATE conversations SET lease_until_us = (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint + :until - :now
WHERE id = :conversation_id AND lease_owner = :owner AND active_run_id IS NOT NULL

-- name: fence_check
UPDATE conversations SET segment_id = COALESCE(:segment_id, segment_id), last_message_us = :now,
       break_cause = CASE WHEN break_cause = :consumed_cause THEN NULL ELSE break_cause END
WHERE id = :conversation_id AND active_run_id = :run_id AND lease_owner = :owner AND fence = :fence
RETURNING id

-- name: fence_check_and_release
UPDATE conversations SET segment_id = COALESCE(:segment_id, segment_id), last_message_us = :now,
       break_cause = CASE WHEN break_cause = :consumed_cause THEN NULL ELSE break_cause END,
       active_run_id = NULL, lease_owner = NULL, lease_until_us = 0, last_run_us = :completed_us
WHERE id = :conversation_id AND active_run_id = :run_id AND lease_owner = :owner AND fence = :fence
RETURNING id

-- name: ended_under_fence
SELECT 1 FROM conversations c JOIN runs r ON r.id = :run_id
WHERE c.id = :conversation_id AND c.fence = :fence AND c.active_run_id IS NULL AND r.status NOT IN ('created', 'running')

-- name: hold_fence
UPDATE conversations SET fence = fence
WHERE id = :conversation_id AND active_run_id = :run_id AND lease_owner = :owner AND fence = :fence
RETURNING id

-- name: hand_over
UPDATE conversations SET lease_until_us = 0, lease_owner = NULL, fence = fence + 1
WHERE id = :conversation_id AND active_run_id = :run_id AND lease_owner = :owner AND fence = :fence
RETURNING id

-- name: forgive_attempt
UPDATE runs SET attempts = CASE WHEN attempts > 1 THEN attempts - 1 ELSE attempts END
WHERE id = :id AND status = 'running'

-- name: start_run
UPDATE runs SET status = 'running', attempts = attempts + 1 WHERE id = :id AND status IN ('created', 'running')
RETURNING id

-- name: run_row
SELECT id, agent_id, conversation_id, status, background, created_us, completed_us, stop_reason, attempts, step_count,
       context_tokens, ttft_ns, total_duration_ns, config, usage, error, metadata, input, cancel_requested
FROM runs WHERE id = :id

-- name: progress_run
UPDATE runs SET attempts = 1, usage = :usage, step_count = :step_count, context_tokens = :context_tokens,
       ttft_ns = COALESCE(ttft_ns, :ttft_ns)
WHERE id = :id

-- name: finish_run
UPDATE runs SET status = :status, stop_reason = :stop_reason, completed_us = :completed_us, usage = :usage,
       step_count = :step_count, context_tokens = :context_tokens, error = :error, metadata = :metadata,
       ttft_ns = COALESCE(ttft_ns, :ttft_ns), total_duration_ns = :total_duration_ns
WHERE id = :id AND status IN ('created', 'running') RETURNING id

-- name: agent_ran
UPDATE agents SET last_run_completed_us = :completed_us, last_run_duration_ms = :duration_ms,
       last_stop_reason = :stop_reason
WHERE id = :agent_id

-- name: request_cancel
UPDATE runs SET cancel_requested = 1 WHERE id = :id AND status IN ('created', 'running') RETURNING id

-- name: cancel_queued_run
UPDATE runs SET status = 'cancelled', stop_reason = 'cancelled', completed_us = :now
WHERE id = :id AND status = 'created' RETURNING id

-- name: active_runs_of
SELECT id, status, conversation_id FROM runs
WHERE conversation_id = :conversation_id AND status IN ('created', 'running') ORDER BY created_us, id

-- name: active_runs_of_agent
-- sqlite:
SELECT id, status, conversation_id FROM runs INDEXED BY runs_active
WHERE agent_id = :agent_id AND status IN ('created', 'running') ORDER BY created_us, id LIMIT 100
-- postgres:
SELECT id, status, conversation_id FROM runs
WHERE agent_id = :agent_id AND status IN ('created', 'running') ORDER BY created_us, id LIMIT 100

-- name: orphaned_runs
-- sqlite:
SELECT id, conversation_id FROM (
  SELECT r.id, r.conversation_id, r.created_us, COALESCE(a.last_run_completed_us, 0) AS served_us,
         ROW_NUMBER() OVER (PARTITION BY r.agent_id ORDER BY r.created_us, r.id) + COALESCE(busy.runs, 0) AS turn
  FROM runs r INDEXED BY runs_active JOIN conversations c ON c.id = r.conversation_id JOIN agents a ON a.id = r.agent_id
  LEFT JOIN (SELECT agent_id, COUNT(*) AS runs FROM runs INDEXED BY runs_active
             WHERE status IN ('created', 'running') AND status = 'running'
             GROUP BY agent_id) busy ON busy.agent_id = r.agent_id
  WHERE r.status IN ('created', 'running')
    AND (c.active_run_id IS NULL OR c.lease_until_us < :now OR c.lease_owner = :dead_owner)
) waiting
ORDER BY turn, served_us, created_us, id LIMIT :limit
-- postgres:
SELECT id, conversation_id FROM (
  SELECT r.id, r.conversation_id, r.created_us, COALESCE(a.last_run_completed_us, 0) AS served_us,
         ROW_NUMBER() OVER (PARTITION BY r.agent_id ORDER BY r.created_us, r.id) + COALESCE(busy.runs, 0) AS turn
  FROM runs r JOIN conversations c ON c.id = r.conversation_id JOIN agents a ON a.id = r.agent_id
  LEFT JOIN (SELECT agent_id, COUNT(*) AS runs FROM runs WHERE status IN ('created', 'running') AND status = 'running'
             GROUP BY agent_id) busy ON busy.agent_id = r.agent_id
  WHERE r.status IN ('created', 'running')
    AND (c.active_run_id IS NULL OR c.lease_owner = :dead_owner
         OR c.lease_until_us < (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint)
) waiting
ORDER BY turn, served_us, created_us, id LIMIT :limit

-- name: count_waiting
SELECT COUNT(*) FROM runs WHERE status IN ('created', 'running') AND status = 'created'

-- name: lock_conversation
-- sqlite:
SELECT id FROM conversations WHERE id = :id
-- postgres:
SELECT id FROM conversations WHERE id = :id FOR UPDATE SKIP LOCKED

-- name: cancel_requests
SELECT id FROM runs WHERE status IN ('created', 'running') AND status = 'running' AND cancel_requested = 1

-- name: lease_owners
SELECT DISTINCT c.lease_owner FROM runs r JOIN conversations c ON c.id = r.conversation_id
WHERE r.status IN ('created', 'running') AND r.status = 'running' AND c.active_run_id IS NOT NULL

-- name: insert_step
INSERT INTO steps (id, run_id, agent_id, created_us, model, feedback, body)
VALUES (:id, :run_id, :agent_id, :created_us, :model, NULL, :body)
ON CONFLICT (id) DO UPDATE SET body = excluded.body

-- name: insert_trace
INSERT INTO provider_traces (step_id, created_us, base_id, request, response)
VALUES (:step_id, :created_us, :base_id, :request, :response)
ON CONFLICT (step_id) DO UPDATE SET base_id = excluded.base_id, request = excluded.request, response = excluded.response

-- name: insert_trace_base
INSERT INTO trace_bases (id, agent_id, created_us, body) VALUES (:id, :agent_id, :created_us, :body)
ON CONFLICT (id) DO NOTHING

-- name: bump_agents_of_block
UPDATE agents SET revision = revision + 1, updated_us = :now
WHERE id IN (SELECT agent_id FROM agent_blocks WHERE block_id = :block_id)
