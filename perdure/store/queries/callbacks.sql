-- name: insert_callback
INSERT INTO callbacks (run_id, url, due_us) VALUES (:run_id, :url, :due_us)

-- name: callback_of_run
SELECT url, attempts, sent_us, status_code, error, done FROM callbacks WHERE run_id = :run_id

-- name: due_callbacks
SELECT c.run_id, c.url, c.attempts, c.due_us FROM callbacks c LEFT JOIN runs r ON r.id = c.run_id
WHERE c.done = 0 AND c.due_us <= :now AND (c.due_us, c.run_id) > (:after_us, :after_id)
  AND (r.id IS NULL OR r.status NOT IN ('created', 'running'))
ORDER BY c.due_us, c.run_id LIMIT :limit

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

-- name: delete_run_callback
DELETE FROM callbacks WHERE run_id = :id

-- name: delete_agent_callbacks
DELETE FROM callbacks WHERE run_id IN (SELECT id FROM runs WHERE agent_id = :id)

-- name: delete_agent_request_keys
DELETE FROM request_keys WHERE conversation_id IN (SELECT id FROM conversations WHERE agent_id = :id)
