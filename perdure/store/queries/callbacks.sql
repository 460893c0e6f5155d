-- name: insert_callback
INSERT INTO callbacks (run_id, url, due_us) VALUES (:run_id, :url, :due_us)

-- name: callback_of_run
SELECT url, attempts, sent_us, status_code, error, done FROM callbacks WHERE run_id = :run_id

-- name: due_callbacks
SELECT c.run_id, c.url, c.attempts FROM callbacks c JOIN runs r ON r.id = c.run_id
WHERE c.done = 0 AND c.due_us <= :now AND r.status IN ('completed', 'failed', 'cancelled') ORDER BY c.due_us LIMIT 50

-- name: take_callback
UPDATE callbacks SET due_us = :until, attempts = attempts + 1
WHERE run_id = :run_id AND done = 0 AND attempts = :attempts RETURNING run_id

-- name: callback_tried
UPDATE callbacks SET sent_us = :sent_us, status_code = :status_code, error = :error, done = :done, due_us = :due_us
WHERE run_id = :run_id

-- name: request_key
SELECT digest, run_id, created_us FROM request_keys WHERE conversation_id = :conversation_id AND key = :key

-- name: put_request_key
INSERT INTO request_keys (conversation_id, key, digest, run_id, created_us)
VALUES (:conversation_id, :key, :digest, :run_id, :now)
ON CONFLICT (conversation_id, key) DO UPDATE SET digest = excluded.digest, run_id = excluded.run_id,
   created_us = excluded.created_us

-- name: forget_request_key
DELETE FROM request_keys WHERE conversation_id = :conversation_id AND run_id = :run_id

-- name: delete_old_request_keys
DELETE FROM request_keys WHERE created_us < :before
