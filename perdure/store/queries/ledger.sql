-- name: insert_segment
INSERT INTO segments (id, conversation_id, agent_id, idx, body) VALUES (:id, :conversation_id, :agent_id, :idx, :body)

-- name: insert_call
INSERT INTO calls (id, segment_id, conversation_id, run_id, step_id, body)
VALUES (:id, :segment_id, :conversation_id, :run_id, :step_id, :body)

-- name: insert_experts
INSERT INTO routed_experts (call_id, conversation_id, body) VALUES (:call_id, :conversation_id, :body)

-- name: experts_of_conversation
SELECT call_id, body FROM routed_experts WHERE conversation_id = :conversation_id

-- name: segment_by_id
SELECT body FROM segments WHERE id = :id

-- name: last_segment_index
SELECT COALESCE(MAX(idx), -1) FROM segments WHERE conversation_id = :conversation_id

-- name: segments_of_conversation
SELECT body FROM segments WHERE conversation_id = :conversation_id ORDER BY idx

-- name: calls_of_segment
SELECT body FROM calls WHERE segment_id = :segment_id ORDER BY pos

-- name: calls_of_run
SELECT body FROM calls WHERE run_id = :run_id ORDER BY pos

-- name: calls_of_conversation
SELECT body FROM calls WHERE conversation_id = :conversation_id ORDER BY pos
