-- A call is 'waiting' for its batch, 'sent' with it, 'answered', and 'taken' once its run goes on.
-- SQLite uses a partial index only where its condition stands in the query word for word, or where it is told to.

-- name: park_conversation
UPDATE conversations SET lease_until_us = :until, lease_owner = :parked, fence = fence + 1
WHERE id = :conversation_id AND active_run_id = :run_id AND lease_owner = :owner AND fence = :fence
RETURNING id

-- name: unpark_conversation
UPDATE conversations SET lease_until_us = 0, lease_owner = NULL, fence = fence + 1
WHERE id = (SELECT conversation_id FROM runs WHERE id = :run_id) AND active_run_id = :run_id AND lease_owner = :parked
RETURNING id

-- name: park_run
UPDATE runs SET attempts = CASE WHEN attempts > 1 THEN attempts - 1 ELSE attempts END
WHERE id = :id AND status = 'running' AND cancel_requested = 0 RETURNING id

-- name: insert_batch_call
INSERT INTO batch_calls (id, batch_id, run_id, conversation_id, status, grp, place, number, created_us, due_us, size, request)
VALUES (:id, :batch_id, :run_id, :conversation_id, 'waiting', :grp, :place, :number, :created_us, :created_us, :size,
        :request)

-- name: drop_calls_of_other_steps
DELETE FROM batch_calls WHERE run_id = :run_id AND place NOT LIKE :step

-- name: drop_calls_of_run
DELETE FROM batch_calls WHERE run_id = :run_id AND status <> 'sent'

-- name: answers_of_run
SELECT place, number, request, answer FROM batch_calls
WHERE run_id = :run_id AND status IN ('answered', 'taken') ORDER BY created_us, number

-- name: answered_calls
SELECT c.id, c.run_id, c.conversation_id, CASE WHEN r.status = 'running' THEN 1 ELSE 0 END
FROM batch_calls c LEFT JOIN runs r ON r.id = c.run_id
WHERE c.status IN ('waiting', 'answered') AND c.status = 'answered' ORDER BY c.created_us, c.id LIMIT :limit

-- name: take_call
UPDATE batch_calls SET status = 'taken' WHERE id = :id AND status = 'answered'

-- name: waiting_groups
SELECT grp, batch_id, MIN(created_us) FROM batch_calls
WHERE status IN ('waiting', 'answered') AND status = 'waiting' AND due_us <= :now
GROUP BY grp, batch_id

-- name: more_to_come
SELECT 1 FROM batch_items i WHERE i.batch_id = :batch_id AND i.status = 'running' AND NOT EXISTS
  (SELECT 1 FROM batch_calls c WHERE c.run_id = i.run_id AND c.status IN ('waiting', 'sent'))
UNION ALL
SELECT 1 FROM batch_items w WHERE w.batch_id = :batch_id AND w.status = 'waiting' AND w.agent_id NOT IN
  (SELECT agent_id FROM batch_items WHERE status IN ('waiting', 'running') AND status = 'running')
LIMIT 1

-- name: waiting_calls
SELECT id, size FROM batch_calls
WHERE grp = :grp AND status IN ('waiting', 'answered') AND status = 'waiting' AND due_us <= :now
ORDER BY created_us, id LIMIT :limit

-- name: send_call
UPDATE batch_calls SET status = 'sent', provider_batch_id = :provider_batch_id WHERE id = :id AND status = 'waiting'

-- name: insert_provider_batch
INSERT INTO provider_batches (id, batch_id, status, due_us, body) VALUES (:id, :batch_id, 'going', :due_us, :body)

-- name: due_provider_batches
SELECT body FROM provider_batches WHERE status = 'going' AND due_us <= :now ORDER BY due_us LIMIT :limit

-- name: provider_batch
SELECT status, body FROM provider_batches WHERE id = :id

-- name: change_provider_batch
UPDATE provider_batches SET due_us = :due_us, body = :body WHERE id = :id AND status = 'going'

-- name: end_provider_batch
UPDATE provider_batches SET status = 'ended' WHERE id = :id

-- name: provider_batches_now
UPDATE provider_batches SET due_us = :now WHERE batch_id = :batch_id AND status = 'going'

-- name: batch_calls_due
SELECT 1 FROM batch_calls WHERE status IN ('waiting', 'answered') AND status = 'waiting'
UNION ALL
SELECT 1 FROM provider_batches WHERE status = 'going' AND due_us <= :now
LIMIT 1

-- name: sent_calls
SELECT id, request FROM batch_calls WHERE provider_batch_id = :id AND status = 'sent' ORDER BY created_us, id

-- name: call_wanted
SELECT 1 FROM batch_calls c JOIN runs r ON r.id = c.run_id
WHERE c.provider_batch_id = :id AND c.status = 'sent' AND r.status = 'running' AND r.cancel_requested = 0 LIMIT 1

-- name: answer_call
UPDATE batch_calls SET status = 'answered', answer = :answer
WHERE id = :id AND provider_batch_id = :provider_batch_id AND status = 'sent' RETURNING id

-- name: call_of_provider_batch
SELECT 1 FROM batch_calls WHERE id = :id AND provider_batch_id = :provider_batch_id

-- name: wait_again
UPDATE batch_calls SET status = 'waiting', provider_batch_id = NULL, due_us = :due_us
WHERE provider_batch_id = :id AND status = 'sent'

-- name: drop_sent_calls
DELETE FROM batch_calls WHERE provider_batch_id = :id AND status = 'sent'

-- name: provider_batches_of
SELECT status, body FROM provider_batches WHERE batch_id = :batch_id

-- name: delete_provider_batches
DELETE FROM provider_batches WHERE batch_id = :id

-- name: delete_batch_calls
DELETE FROM batch_calls WHERE batch_id = :id
