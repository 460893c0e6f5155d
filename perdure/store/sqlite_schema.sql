-- What the migrations make of an empty SQLite file. Written by scripts/make_sqlite_schema.py.

CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

CREATE TABLE agents (
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	created_us BIGINT NOT NULL, 
	updated_us BIGINT NOT NULL, 
	revision BIGINT DEFAULT 1 NOT NULL, 
	last_run_completed_us BIGINT, 
	last_run_duration_ms BIGINT, 
	last_stop_reason TEXT, 
	project_id TEXT, 
	hidden BIGINT DEFAULT 0 NOT NULL, 
	body BLOB NOT NULL, 
	PRIMARY KEY (id)
);

CREATE INDEX agents_created ON agents (created_us, id);

CREATE TABLE blocks (
	id TEXT NOT NULL, 
	label TEXT NOT NULL, 
	value TEXT NOT NULL, 
	description TEXT, 
	created_us BIGINT NOT NULL, 
	updated_us BIGINT NOT NULL, 
	version BIGINT DEFAULT 1 NOT NULL, 
	project_id TEXT, 
	hidden BIGINT DEFAULT 0 NOT NULL, 
	is_template BIGINT DEFAULT 0 NOT NULL, 
	template_name TEXT, 
	body BLOB NOT NULL, 
	PRIMARY KEY (id)
);

CREATE INDEX blocks_created ON blocks (created_us, id);

CREATE INDEX blocks_label ON blocks (label);

CREATE TABLE agent_blocks (
	agent_id TEXT NOT NULL, 
	block_id TEXT NOT NULL, 
	label TEXT NOT NULL, 
	position BIGINT NOT NULL, 
	PRIMARY KEY (agent_id, block_id)
)
 WITHOUT ROWID

;

CREATE INDEX agent_blocks_block ON agent_blocks (block_id);

CREATE UNIQUE INDEX agent_blocks_label ON agent_blocks (agent_id, label);

CREATE TABLE tools (
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	tool_type TEXT NOT NULL, 
	created_us BIGINT NOT NULL, 
	updated_us BIGINT NOT NULL, 
	body BLOB NOT NULL, 
	PRIMARY KEY (id)
);

CREATE UNIQUE INDEX tools_name ON tools (name);

CREATE INDEX tools_created ON tools (created_us, id);

CREATE TABLE agent_tools (
	agent_id TEXT NOT NULL, 
	tool_id TEXT NOT NULL, 
	position BIGINT NOT NULL, 
	PRIMARY KEY (agent_id, tool_id)
)
 WITHOUT ROWID

;

CREATE INDEX agent_tools_tool ON agent_tools (tool_id);

CREATE TABLE tags (
	kind TEXT NOT NULL, 
	entity_id TEXT NOT NULL, 
	tag TEXT NOT NULL, 
	position BIGINT DEFAULT 0 NOT NULL, 
	PRIMARY KEY (kind, entity_id, tag)
)
 WITHOUT ROWID

;

CREATE INDEX tags_tag ON tags (kind, tag, entity_id);

CREATE TABLE conversations (
	id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	created_us BIGINT NOT NULL, 
	updated_us BIGINT NOT NULL, 
	last_message_us BIGINT, 
	deleted_us BIGINT, 
	context_version BIGINT DEFAULT 1 NOT NULL, 
	compiled_revision BIGINT DEFAULT 0 NOT NULL, 
	tail_from BIGINT DEFAULT 0 NOT NULL, 
	head_ids BLOB NOT NULL, 
	segment_id TEXT, 
	break_cause TEXT, 
	active_run_id TEXT, 
	lease_owner TEXT, 
	lease_until_us BIGINT DEFAULT 0 NOT NULL, 
	fence BIGINT DEFAULT 0 NOT NULL, 
	seen_blocks BLOB, 
	body BLOB NOT NULL, pending BLOB, summary TEXT, hidden BIGINT DEFAULT 0 NOT NULL, archived_us BIGINT, last_run_us BIGINT, 
	PRIMARY KEY (id)
);

CREATE INDEX conversations_agent ON conversations (agent_id, created_us);

CREATE TABLE messages (
	pos INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	conversation_id TEXT NOT NULL, 
	run_id TEXT, 
	body BLOB NOT NULL, 
	PRIMARY KEY (pos)
);

CREATE UNIQUE INDEX messages_id ON messages (id);

CREATE INDEX messages_conversation ON messages (conversation_id, pos);

CREATE INDEX messages_agent ON messages (agent_id, pos);

CREATE INDEX messages_run ON messages (run_id, pos);

CREATE TABLE otids (
	conversation_id TEXT NOT NULL, 
	otid TEXT NOT NULL, 
	run_id TEXT NOT NULL, 
	created_us BIGINT NOT NULL, 
	PRIMARY KEY (conversation_id, otid)
)
 WITHOUT ROWID

;

CREATE TABLE runs (
	id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	conversation_id TEXT NOT NULL, 
	status TEXT NOT NULL, 
	background BIGINT DEFAULT 0 NOT NULL, 
	created_us BIGINT NOT NULL, 
	completed_us BIGINT, 
	stop_reason TEXT, 
	cancel_requested BIGINT DEFAULT 0 NOT NULL, 
	attempts BIGINT DEFAULT 0 NOT NULL, 
	step_count BIGINT DEFAULT 0 NOT NULL, 
	context_tokens BIGINT, 
	ttft_ns BIGINT, 
	total_duration_ns BIGINT, 
	config BLOB NOT NULL, 
	input BLOB NOT NULL, 
	usage BLOB, 
	error BLOB, 
	metadata BLOB, 
	PRIMARY KEY (id)
)
 WITHOUT ROWID

;

CREATE INDEX runs_created ON runs (created_us, id);

CREATE INDEX runs_agent ON runs (agent_id, created_us);

CREATE INDEX runs_active ON runs (conversation_id, created_us) WHERE status IN ('created', 'running');

CREATE TABLE run_events (
	run_id TEXT NOT NULL, 
	first_seq BIGINT NOT NULL, 
	last_seq BIGINT NOT NULL, 
	body BLOB NOT NULL, 
	PRIMARY KEY (run_id, first_seq)
)
 WITHOUT ROWID

;

CREATE TABLE steps (
	id TEXT NOT NULL, 
	run_id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	created_us BIGINT NOT NULL, 
	model TEXT, 
	feedback TEXT, 
	body BLOB NOT NULL, 
	PRIMARY KEY (id)
)
 WITHOUT ROWID

;

CREATE INDEX steps_run ON steps (run_id, created_us);

CREATE INDEX steps_agent ON steps (agent_id, created_us);

CREATE TABLE provider_traces (
	step_id TEXT NOT NULL, 
	created_us BIGINT NOT NULL, 
	request BLOB NOT NULL, 
	response BLOB NOT NULL, base_id TEXT, 
	PRIMARY KEY (step_id)
)
 WITHOUT ROWID

;

CREATE TABLE segments (
	id TEXT NOT NULL, 
	conversation_id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	idx BIGINT NOT NULL, 
	body BLOB NOT NULL, 
	PRIMARY KEY (id)
);

CREATE INDEX segments_conversation ON segments (conversation_id, idx);

CREATE TABLE calls (
	pos INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	segment_id TEXT NOT NULL, 
	conversation_id TEXT NOT NULL, 
	run_id TEXT NOT NULL, 
	step_id TEXT NOT NULL, 
	body BLOB NOT NULL, 
	PRIMARY KEY (pos)
);

CREATE INDEX calls_segment ON calls (segment_id, pos);

CREATE INDEX calls_run ON calls (run_id, pos);

CREATE INDEX calls_conversation ON calls (conversation_id, pos);

CREATE TABLE search_state (
	name TEXT NOT NULL, 
	last_pos BIGINT DEFAULT 0 NOT NULL, 
	PRIMARY KEY (name)
);

CREATE INDEX conversations_created ON conversations (created_us, id) WHERE id <> agent_id;

CREATE INDEX conversations_deleted ON conversations (id) WHERE deleted_us IS NOT NULL;

CREATE TABLE private_blocks (
	conversation_id TEXT NOT NULL, 
	block_id TEXT NOT NULL, 
	position BIGINT NOT NULL, 
	PRIMARY KEY (conversation_id, block_id)
)
 WITHOUT ROWID

;

CREATE INDEX private_blocks_block ON private_blocks (block_id);

CREATE TABLE shared_messages (
	conversation_id TEXT NOT NULL, 
	pos BIGINT NOT NULL, 
	message_id TEXT NOT NULL, 
	PRIMARY KEY (conversation_id, pos)
)
 WITHOUT ROWID

;

CREATE INDEX shared_messages_message ON shared_messages (message_id, conversation_id);

CREATE TABLE archives (
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	created_us BIGINT NOT NULL, 
	updated_us BIGINT NOT NULL, 
	embedding TEXT, 
	embedding_dim BIGINT, 
	made_for TEXT, 
	passages BIGINT DEFAULT 0 NOT NULL, 
	body BLOB NOT NULL, 
	PRIMARY KEY (id)
);

CREATE INDEX archives_created ON archives (created_us, id);

CREATE TABLE agent_archives (
	agent_id TEXT NOT NULL, 
	archive_id TEXT NOT NULL, 
	position BIGINT NOT NULL, 
	PRIMARY KEY (agent_id, archive_id)
)
 WITHOUT ROWID

;

CREATE INDEX agent_archives_archive ON agent_archives (archive_id);

CREATE TABLE archive_tags (
	archive_id TEXT NOT NULL, 
	tag TEXT NOT NULL, 
	uses BIGINT NOT NULL, 
	PRIMARY KEY (archive_id, tag)
)
 WITHOUT ROWID

;

CREATE TABLE passage_tags (
	archive_id TEXT NOT NULL, 
	tag TEXT NOT NULL, 
	pos BIGINT NOT NULL, 
	PRIMARY KEY (archive_id, tag, pos)
)
 WITHOUT ROWID

;

CREATE TABLE passages (
	pos INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	archive_id TEXT NOT NULL, 
	created_us BIGINT NOT NULL, 
	updated_us BIGINT NOT NULL, 
	embedded BIGINT DEFAULT 0 NOT NULL, 
	text TEXT NOT NULL, 
	body BLOB NOT NULL, 
	PRIMARY KEY (pos)
);

CREATE UNIQUE INDEX passages_id ON passages (id);

CREATE INDEX passages_archive ON passages (archive_id, created_us, id);

CREATE INDEX passages_pending ON passages (archive_id, pos) WHERE embedded = 0;

CREATE TABLE vectors (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	scope TEXT NOT NULL, 
	pos BIGINT NOT NULL, 
	code BLOB, 
	vector BLOB NOT NULL
);

CREATE UNIQUE INDEX vectors_of ON vectors (scope, pos);

CREATE INDEX vectors_codes ON vectors (scope, seq, pos, code);

CREATE VIEW passages_text AS SELECT pos, REPLACE(archive_id, '-', '') AS scope, text AS text FROM passages;

CREATE VIRTUAL TABLE passages_fts USING fts5(scope, text, content='passages_text', content_rowid='pos');

CREATE TRIGGER passage_in AFTER INSERT ON passages BEGIN INSERT INTO passages_fts (rowid, scope, text) VALUES (new.pos, REPLACE(new.archive_id, '-', ''), new.text); END;

CREATE TRIGGER passage_out AFTER DELETE ON passages BEGIN INSERT INTO passages_fts (passages_fts, rowid, scope, text) VALUES ('delete', old.pos, REPLACE(old.archive_id, '-', ''), old.text); END;

CREATE TRIGGER passage_changed AFTER UPDATE OF text, archive_id ON passages BEGIN INSERT INTO passages_fts (passages_fts, rowid, scope, text) VALUES ('delete', old.pos, REPLACE(old.archive_id, '-', ''), old.text); INSERT INTO passages_fts (rowid, scope, text) VALUES (new.pos, REPLACE(new.archive_id, '-', ''), new.text); END;

CREATE VIRTUAL TABLE messages_fts USING fts5(scope, text);

CREATE TABLE providers (
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	created_us BIGINT NOT NULL, 
	body BLOB NOT NULL, 
	PRIMARY KEY (id)
);

CREATE UNIQUE INDEX providers_name ON providers (name);

CREATE TABLE sealing (
	one BIGINT NOT NULL, 
	key_id TEXT NOT NULL, 
	PRIMARY KEY (one)
);

CREATE TABLE groups (
	id TEXT NOT NULL, 
	manager_type TEXT NOT NULL, 
	manager_agent_id TEXT, 
	created_us BIGINT NOT NULL, 
	updated_us BIGINT NOT NULL, 
	project_id TEXT, 
	hidden BIGINT DEFAULT 0 NOT NULL, 
	turns BIGINT DEFAULT 0 NOT NULL, 
	last_message_id TEXT, 
	body BLOB NOT NULL, 
	PRIMARY KEY (id)
);

CREATE UNIQUE INDEX groups_manager ON groups (manager_agent_id);

CREATE INDEX groups_created ON groups (created_us, id);

CREATE TABLE group_agents (
	group_id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	position BIGINT NOT NULL, 
	PRIMARY KEY (group_id, agent_id)
)
 WITHOUT ROWID

;

CREATE INDEX group_agents_agent ON group_agents (agent_id);

CREATE TABLE group_conversations (
	conversation_id TEXT NOT NULL, 
	group_id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	PRIMARY KEY (conversation_id)
)
 WITHOUT ROWID

;

CREATE INDEX group_conversations_group ON group_conversations (group_id, agent_id);

CREATE TABLE callbacks (
	run_id TEXT NOT NULL, 
	url TEXT NOT NULL, 
	due_us BIGINT NOT NULL, 
	attempts BIGINT DEFAULT 0 NOT NULL, 
	sent_us BIGINT, 
	status_code BIGINT, 
	error TEXT, 
	done BIGINT DEFAULT 0 NOT NULL, 
	PRIMARY KEY (run_id)
)
 WITHOUT ROWID

;

CREATE INDEX callbacks_due ON callbacks (due_us) WHERE done = 0;

CREATE TABLE request_keys (
	conversation_id TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	digest BLOB NOT NULL, 
	run_id TEXT NOT NULL, 
	created_us BIGINT NOT NULL, 
	PRIMARY KEY (conversation_id, "key")
)
 WITHOUT ROWID

;

CREATE INDEX request_keys_created ON request_keys (created_us);

CREATE TABLE rollout_jobs (
	id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	status TEXT NOT NULL, 
	created_us BIGINT NOT NULL, 
	ended_us BIGINT, 
	lease_owner TEXT, 
	lease_until_us BIGINT DEFAULT 0 NOT NULL, 
	body BLOB NOT NULL, takes BIGINT DEFAULT '0' NOT NULL, error TEXT, 
	PRIMARY KEY (id)
);

CREATE INDEX rollout_jobs_created ON rollout_jobs (created_us, id);

CREATE TABLE rollouts (
	id TEXT NOT NULL, 
	job_id TEXT NOT NULL, 
	group_id TEXT NOT NULL, 
	group_index BIGINT NOT NULL, 
	task_index BIGINT NOT NULL, 
	status TEXT NOT NULL, 
	agent_id TEXT, 
	run_ids BLOB NOT NULL, 
	reward FLOAT, 
	error TEXT, 
	updated_us BIGINT NOT NULL, 
	PRIMARY KEY (id)
);

CREATE INDEX rollouts_job ON rollouts (job_id, task_index, group_index);

CREATE INDEX rollouts_agent ON rollouts (agent_id);

CREATE TABLE rewards (
	id TEXT NOT NULL, 
	conversation_id TEXT NOT NULL, 
	created_us BIGINT NOT NULL, 
	body BLOB NOT NULL, 
	PRIMARY KEY (id)
);

CREATE INDEX rewards_conversation ON rewards (conversation_id, created_us);

CREATE TABLE schedules (
	id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	created_us BIGINT NOT NULL, 
	next_us BIGINT, 
	body BLOB NOT NULL, 
	PRIMARY KEY (id)
);

CREATE INDEX schedules_agent ON schedules (agent_id, created_us);

CREATE INDEX schedules_next ON schedules (next_us) WHERE next_us IS NOT NULL;

CREATE TABLE schedule_ticks (
	schedule_id TEXT NOT NULL, 
	due_us BIGINT NOT NULL, 
	status TEXT NOT NULL, 
	count BIGINT NOT NULL, 
	run_id TEXT, 
	reason TEXT, 
	at_us BIGINT NOT NULL, 
	PRIMARY KEY (schedule_id, due_us)
)
 WITHOUT ROWID

;

CREATE INDEX ticks_firing ON schedule_ticks (at_us) WHERE status = 'firing';

CREATE TABLE leases (
	name TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	until_us BIGINT NOT NULL, 
	PRIMARY KEY (name)
)
 WITHOUT ROWID

;

CREATE TABLE cleanup (
	name TEXT NOT NULL, 
	at_us BIGINT NOT NULL, 
	at_id TEXT NOT NULL, 
	PRIMARY KEY (name)
)
 WITHOUT ROWID

;

CREATE TABLE cleanup_left (
	run_id TEXT NOT NULL, 
	PRIMARY KEY (run_id)
)
 WITHOUT ROWID

;

CREATE INDEX callbacks_done ON callbacks (sent_us) WHERE done = 1;

CREATE TABLE batches (
	id TEXT NOT NULL, 
	status TEXT NOT NULL, 
	created_us BIGINT NOT NULL, 
	updated_us BIGINT NOT NULL, 
	completed_us BIGINT, 
	body BLOB NOT NULL, 
	PRIMARY KEY (id)
);

CREATE INDEX batches_created ON batches (created_us, id);

CREATE INDEX batches_open ON batches (created_us) WHERE status IN ('created', 'running');

CREATE TABLE batch_items (
	batch_id TEXT NOT NULL, 
	position BIGINT NOT NULL, 
	id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	status TEXT NOT NULL, 
	run_id TEXT, 
	error TEXT, 
	request BLOB NOT NULL, 
	PRIMARY KEY (batch_id, position)
)
 WITHOUT ROWID

;

CREATE INDEX batch_items_open ON batch_items (status, batch_id, position) WHERE status IN ('waiting', 'running');

CREATE INDEX rollouts_news ON rollouts (job_id, updated_us);

CREATE TABLE rollout_copies (
	rollout_id TEXT NOT NULL, 
	source_agent_id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	PRIMARY KEY (rollout_id, source_agent_id)
)
 WITHOUT ROWID

;

CREATE TABLE begun_calls (
	run_id TEXT NOT NULL, 
	step_id TEXT NOT NULL, 
	call_id TEXT NOT NULL, 
	body BLOB NOT NULL, 
	PRIMARY KEY (run_id, step_id, call_id)
)
 WITHOUT ROWID

;

CREATE TABLE batch_calls (
	id TEXT NOT NULL, 
	batch_id TEXT NOT NULL, 
	run_id TEXT NOT NULL, 
	conversation_id TEXT NOT NULL, 
	status TEXT NOT NULL, 
	grp TEXT NOT NULL, 
	provider_batch_id TEXT, 
	place TEXT NOT NULL, 
	number BIGINT NOT NULL, 
	created_us BIGINT NOT NULL, 
	due_us BIGINT NOT NULL, 
	size BIGINT NOT NULL, 
	request BLOB NOT NULL, 
	answer BLOB, 
	PRIMARY KEY (id)
);

CREATE INDEX batch_calls_run ON batch_calls (run_id);

CREATE INDEX batch_calls_provider_batch ON batch_calls (provider_batch_id);

CREATE INDEX batch_calls_open ON batch_calls (status, created_us) WHERE status IN ('waiting', 'answered');

CREATE TABLE provider_batches (
	id TEXT NOT NULL, 
	batch_id TEXT NOT NULL, 
	status TEXT NOT NULL, 
	due_us BIGINT NOT NULL, 
	body BLOB NOT NULL, 
	PRIMARY KEY (id)
);

CREATE INDEX provider_batches_going ON provider_batches (due_us) WHERE status = 'going';

CREATE INDEX provider_batches_batch ON provider_batches (batch_id);

CREATE TABLE shared_limits (
	name TEXT NOT NULL, 
	body BLOB NOT NULL, 
	PRIMARY KEY (name)
)
 WITHOUT ROWID

;

CREATE TABLE routed_experts (
	call_id TEXT NOT NULL, 
	conversation_id TEXT NOT NULL, 
	body BLOB NOT NULL, 
	PRIMARY KEY (call_id)
);

CREATE INDEX routed_experts_conversation ON routed_experts (conversation_id);

CREATE INDEX runs_conversation ON runs (conversation_id, created_us);

CREATE INDEX steps_created ON steps (created_us, id);

CREATE INDEX segments_agent ON segments (agent_id);

CREATE INDEX archives_made_for ON archives (made_for) WHERE made_for IS NOT NULL;

CREATE TABLE trace_bases (
	id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	created_us BIGINT NOT NULL, 
	body BLOB NOT NULL, 
	PRIMARY KEY (id)
)
 WITHOUT ROWID

;

CREATE INDEX trace_bases_agent ON trace_bases (agent_id);

CREATE INDEX trace_bases_created ON trace_bases (created_us);

INSERT INTO alembic_version VALUES ('0017');
