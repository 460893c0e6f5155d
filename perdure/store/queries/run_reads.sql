-- name: delete_run
DELETE FROM runs WHERE id = :id AND status NOT IN ('created', 'running') RETURNING id

-- name: delete_run_events
DELETE FROM run_events WHERE run_id = :id

-- name: delete_run_traces
DELETE FROM provider_traces WHERE step_id IN (SELECT id FROM steps WHERE run_id = :id)

-- name: delete_run_steps
DELETE FROM steps WHERE run_id = :id

-- name: delete_run_otids
DELETE FROM otids WHERE conversation_id = :conversation_id AND run_id = :id

