-- name: keep_begun
INSERT INTO begun_calls (run_id, step_id, call_id, body) VALUES (:run_id, :step_id, :call_id, :body)
ON CONFLICT (run_id, step_id, call_id) DO NOTHING

-- name: begun_of_run
SELECT step_id, call_id, body FROM begun_calls WHERE run_id = :run_id ORDER BY step_id, call_id

-- name: settle_begun
DELETE FROM begun_calls WHERE run_id = :run_id
