-- name: step_by_id
SELECT body, feedback FROM steps WHERE id = :id

-- name: set_feedback
UPDATE steps SET feedback = :feedback, body = :body WHERE id = :id RETURNING id

-- name: trace_of_step
SELECT created_us, request, response FROM provider_traces WHERE step_id = :step_id

-- name: steps_of_run
SELECT body, feedback FROM steps WHERE run_id = :run_id ORDER BY created_us, id
