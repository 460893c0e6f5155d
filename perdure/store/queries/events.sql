-- name: insert_events
INSERT INTO run_events (run_id, first_seq, last_seq, body) VALUES (:run_id, :first_seq, :last_seq, :body)

-- name: events_after
SELECT first_seq, body FROM run_events WHERE run_id = :run_id AND last_seq > :after ORDER BY first_seq

-- name: last_event_seq
SELECT COALESCE(MAX(last_seq), 0) FROM run_events WHERE run_id = :run_id
