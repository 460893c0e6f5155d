-- name: take_named_lease
-- sqlite:
INSERT INTO leases (name, owner, until_us) VALUES (:name, :owner, :until)
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until_us = excluded.until_us
WHERE leases.owner = excluded.owner OR leases.until_us < :now
RETURNING name
-- postgres:
INSERT INTO leases (name, owner, until_us)
VALUES (:name, :owner, (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint + :until - :now)
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until_us = excluded.until_us
WHERE leases.owner = excluded.owner OR leases.until_us < (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint
RETURNING name

-- name: give_back_named_lease
DELETE FROM leases WHERE name = :name AND owner = :owner

-- name: cleaned_to
SELECT at_us, at_id FROM cleanup WHERE name = :name

-- name: clean_to
INSERT INTO cleanup (name, at_us, at_id) VALUES (:name, :at_us, :at_id)
ON CONFLICT (name) DO UPDATE SET at_us = excluded.at_us, at_id = excluded.at_id

-- name: runs_from
SELECT id, created_us, CASE WHEN status NOT IN ('created', 'running') AND completed_us < :before THEN 1 ELSE 0 END
FROM runs WHERE (created_us, id) > (:at_us, :at_id) AND created_us < :before ORDER BY created_us, id LIMIT :limit

-- name: leave_run
INSERT INTO cleanup_left (run_id) VALUES (:run_id) ON CONFLICT (run_id) DO NOTHING

-- name: runs_left
SELECT l.run_id FROM cleanup_left l LEFT JOIN runs r ON r.id = l.run_id
WHERE r.id IS NULL OR (r.status NOT IN ('created', 'running') AND r.completed_us < :before) LIMIT :limit

-- name: run_not_left
DELETE FROM cleanup_left WHERE run_id = :run_id

-- name: delete_old_trace_bases
DELETE FROM trace_bases WHERE id IN
    (SELECT id FROM trace_bases WHERE created_us < :before ORDER BY created_us LIMIT :limit)
RETURNING id

-- name: delete_told_callbacks
DELETE FROM callbacks WHERE run_id IN
    (SELECT run_id FROM callbacks WHERE done = 1 AND sent_us < :before ORDER BY sent_us LIMIT :limit)
RETURNING run_id

-- name: delete_old_request_keys
DELETE FROM request_keys WHERE (conversation_id, key) IN
    (SELECT conversation_id, key FROM request_keys WHERE created_us < :before ORDER BY created_us LIMIT :limit)
RETURNING key

-- name: schedules_after
SELECT id FROM schedules WHERE id > :id ORDER BY id LIMIT :limit

-- name: delete_old_ticks
DELETE FROM schedule_ticks WHERE schedule_id = :id AND due_us < :before AND status <> 'firing'

-- name: old_batches
SELECT id FROM batches WHERE status NOT IN ('created', 'running') AND completed_us < :before AND created_us < :before
ORDER BY created_us LIMIT :limit

-- name: delete_batch
DELETE FROM batches WHERE id = :id

-- name: delete_batch_items
DELETE FROM batch_items WHERE batch_id = :id
