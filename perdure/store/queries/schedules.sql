-- name: insert_schedule
INSERT INTO schedules (id, agent_id, created_us, next_us, body) VALUES (:id, :agent_id, :created_us, :next_us, :body)

-- name: schedule_by_id
SELECT body, next_us FROM schedules WHERE id = :id AND agent_id = :agent_id

-- name: due_schedules
SELECT body, next_us FROM schedules WHERE next_us <= :now ORDER BY next_us LIMIT 100

-- name: move_schedule
UPDATE schedules SET next_us = :next_us WHERE id = :id AND next_us = :due_us RETURNING id

-- name: delete_schedule
DELETE FROM schedules WHERE id = :id AND agent_id = :agent_id RETURNING id

-- name: insert_tick
INSERT INTO schedule_ticks (schedule_id, due_us, status, count, run_id, reason, at_us)
VALUES (:schedule_id, :due_us, :status, :count, :run_id, :reason, :at_us)
ON CONFLICT (schedule_id, due_us) DO NOTHING

-- name: firing_ticks
SELECT t.schedule_id, t.due_us, t.status, t.count, t.run_id, t.reason, t.at_us, s.body
FROM schedule_ticks t JOIN schedules s ON s.id = t.schedule_id
WHERE t.status = 'firing' AND t.at_us < :before ORDER BY t.due_us LIMIT 100

-- name: end_tick
UPDATE schedule_ticks SET status = :status, run_id = :run_id, reason = :reason
WHERE schedule_id = :schedule_id AND due_us = :due_us AND status = 'firing' RETURNING due_us

-- name: ticks_of_schedule
SELECT schedule_id, due_us, status, count, run_id, reason, at_us FROM schedule_ticks
WHERE schedule_id = :schedule_id AND due_us < :before ORDER BY due_us DESC LIMIT :limit

-- name: delete_ticks
DELETE FROM schedule_ticks WHERE schedule_id = :id

-- name: delete_agent_ticks
DELETE FROM schedule_ticks WHERE schedule_id IN (SELECT id FROM schedules WHERE agent_id = :id)

-- name: delete_agent_schedules
DELETE FROM schedules WHERE agent_id = :id
