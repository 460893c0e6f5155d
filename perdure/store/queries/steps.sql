-- name: step_by_id
SELECT body, feedback FROM steps WHERE id = :id

-- name: set_feedback
UPDATE steps SET feedback = :feedback, body = :body WHERE id = :id RETURNING id

-- name: trace_of_step
SELECT t.created_us, t.request, t.response, t.base_id, b.body
FROM provider_traces t LEFT JOIN trace_bases b ON b.id = t.base_id WHERE t.step_id = :step_id

-- name: steps_of_run
SELECT body, feedback FROM steps WHERE run_id = :run_id ORDER BY created_us, id
