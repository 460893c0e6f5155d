-- SQLite uses a partial index only where its condition stands in the query word for word, or where it is told to.

-- name: insert_batch
INSERT INTO batches (id, status, created_us, updated_us, body)
VALUES (:id, :status, :created_us, :updated_us, :body)

-- name: insert_batch_item
INSERT INTO batch_items (batch_id, position, id, agent_id, status, request)
VALUES (:batch_id, :position, :id, :agent_id, :status, :request)

-- name: batch_by_id
SELECT id, status, created_us, updated_us, completed_us, body FROM batches WHERE id = :id

-- name: batches_going
SELECT 1 FROM batch_items WHERE status IN ('waiting', 'running') LIMIT 1

-- name: items_of_batch
SELECT id, batch_id, position, agent_id, status, run_id, error FROM batch_items
WHERE batch_id = :batch_id AND position > :after ORDER BY position LIMIT :limit

-- name: count_items
SELECT status, COUNT(*) FROM batch_items WHERE batch_id = :batch_id GROUP BY status

-- name: running_items
SELECT i.agent_id, CASE WHEN EXISTS (SELECT 1 FROM batch_calls c WHERE c.run_id = i.run_id
                                     AND c.status IN ('waiting', 'sent', 'answered')) THEN 1 ELSE 0 END
FROM batch_items i WHERE i.status IN ('waiting', 'running') AND i.status = 'running'

-- name: waiting_items
SELECT i.id, i.batch_id, i.position, i.agent_id FROM batch_items i JOIN batches b ON b.id = i.batch_id
WHERE i.status IN ('waiting', 'running') AND i.status = 'waiting' ORDER BY b.created_us, i.batch_id, i.position LIMIT :limit

-- name: item_request
SELECT request FROM batch_items WHERE batch_id = :batch_id AND position = :position

-- name: begin_item
UPDATE batch_items SET status = 'running', run_id = :run_id
WHERE batch_id = :batch_id AND position = :position AND status = 'waiting' RETURNING id

-- name: ended_items
SELECT i.batch_id, i.position, r.status, r.error, i.run_id FROM batch_items i LEFT JOIN runs r ON r.id = i.run_id
WHERE i.status IN ('waiting', 'running') AND i.status = 'running' AND (r.id IS NULL OR r.status NOT IN ('created', 'running'))
ORDER BY i.batch_id, i.position LIMIT :limit

-- name: end_item
UPDATE batch_items SET status = :status, error = :error
WHERE batch_id = :batch_id AND position = :position AND status IN ('waiting', 'running') RETURNING id

-- name: cancel_waiting_items
UPDATE batch_items SET status = 'cancelled' WHERE batch_id = :batch_id AND status = 'waiting'

-- name: runs_of_batch
SELECT run_id FROM batch_items WHERE batch_id = :batch_id AND status = 'running' ORDER BY position

-- name: item_left
SELECT 1 FROM batch_items WHERE batch_id = :batch_id AND status IN ('waiting', 'running') LIMIT 1

-- name: touch_batch
UPDATE batches SET updated_us = :now WHERE id = :id

-- name: end_batch
UPDATE batches SET status = :status, updated_us = :now, completed_us = :now
WHERE id = :id AND status IN ('created', 'running') RETURNING id
