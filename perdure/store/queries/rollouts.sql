-- name: insert_rollout_job
INSERT INTO rollout_jobs (id, agent_id, status, created_us, body) VALUES (:id, :agent_id, :status, :created_us, :body)

-- name: rollout_job
SELECT id, status, created_us, ended_us, body, takes, error FROM rollout_jobs WHERE id = :id

-- name: free_rollout_jobs
SELECT id FROM rollout_jobs WHERE status = 'running' AND (lease_owner IS NULL OR lease_until_us < :now)
ORDER BY created_us LIMIT 20

-- name: take_rollout_job
UPDATE rollout_jobs SET lease_owner = :owner, lease_until_us = :until, takes = takes + 1
WHERE id = :id AND status = 'running' AND (lease_owner IS NULL OR lease_until_us < :now)
RETURNING takes

-- name: keep_rollout_job
UPDATE rollout_jobs SET lease_until_us = :until WHERE id = :id AND status = 'running' AND lease_owner = :owner
RETURNING id

-- name: rollout_job_is_kept
SELECT 1 FROM rollout_jobs WHERE id = :id AND status = 'running' AND lease_owner = :owner

-- name: leave_rollout_job
UPDATE rollout_jobs SET lease_owner = NULL, takes = CASE WHEN takes > 0 THEN takes - 1 ELSE 0 END
WHERE id = :id AND status = 'running' AND lease_owner = :owner

-- name: rollout_job_moved
UPDATE rollout_jobs SET takes = 0 WHERE id = :id AND takes > 0

-- name: end_rollout_job
UPDATE rollout_jobs SET status = :status, error = :error, ended_us = :now, lease_owner = NULL
WHERE id = :id AND status = 'running'
RETURNING id

-- name: insert_rollout
INSERT INTO rollouts (id, job_id, group_id, group_index, task_index, status, run_ids, updated_us)
VALUES (:id, :job_id, :group_id, :group_index, :task_index, 'pending', :run_ids, :now)

-- name: change_rollout
UPDATE rollouts SET status = :status, agent_id = :agent_id, run_ids = :run_ids, reward = :reward, error = :error,
       updated_us = :now
WHERE id = :id

-- name: end_rollouts
UPDATE rollouts SET status = :status, error = :error, updated_us = :now
WHERE job_id = :job_id AND status IN ('pending', 'running')
RETURNING id

-- name: rollouts_of_job
SELECT id, job_id, group_id, group_index, task_index, status, agent_id, run_ids, reward, error, updated_us
FROM rollouts WHERE job_id = :job_id ORDER BY task_index, group_index

-- name: rollouts_changed
SELECT id, job_id, group_id, group_index, task_index, status, agent_id, run_ids, reward, error, updated_us
FROM rollouts WHERE job_id = :job_id AND updated_us >= :since ORDER BY task_index, group_index

-- name: rollout_counts
SELECT status, COUNT(*), COUNT(reward), SUM(reward) FROM rollouts WHERE job_id = :job_id GROUP BY status

-- name: rollout_of_agent
SELECT id, job_id, group_id, group_index, task_index, status, agent_id, run_ids, reward, error, updated_us
FROM rollouts WHERE agent_id = :agent_id

-- name: rollout_by_id
SELECT id, job_id, group_id, group_index, task_index, status, agent_id, run_ids, reward, error, updated_us
FROM rollouts WHERE id = :id

-- name: insert_reward
INSERT INTO rewards (id, conversation_id, created_us, body) VALUES (:id, :conversation_id, :created_us, :body)

-- name: rewards_of_conversation
SELECT body FROM rewards WHERE conversation_id = :conversation_id ORDER BY created_us, id

-- name: feedback_of_conversation
SELECT s.id, s.run_id, s.feedback FROM steps s JOIN runs r ON r.id = s.run_id
WHERE r.conversation_id = :conversation_id AND s.feedback IS NOT NULL ORDER BY s.created_us, s.id

-- name: add_rollout_copy
INSERT INTO rollout_copies (rollout_id, source_agent_id, agent_id) VALUES (:rollout_id, :source_agent_id, :agent_id)
ON CONFLICT (rollout_id, source_agent_id) DO NOTHING RETURNING agent_id

-- name: rollout_copy
SELECT agent_id FROM rollout_copies
WHERE rollout_id = :rollout_id AND (source_agent_id = :agent_id OR agent_id = :agent_id)

-- name: rollout_copies
SELECT agent_id FROM rollout_copies WHERE rollout_id = :rollout_id
