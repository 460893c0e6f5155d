-- Full-text search, which SQLite (FTS5) and PostgreSQL (tsvector) have each in their own way. `words` and `owners` are as
-- `full_text.py` spells them: quoted and joined by OR. FTS5 knows whom a text belongs to by a word of the index. Both rank only
-- the newest `most` matches.

-- name: passages_by_words
-- sqlite:
SELECT rowid FROM (
    SELECT rowid, bm25(passages_fts, 0.0, 1.0) AS score FROM passages_fts WHERE passages_fts MATCH :words
    ORDER BY rowid DESC LIMIT :most)
ORDER BY score LIMIT :limit
-- postgres:
SELECT pos FROM (
    SELECT p.pos, p.words, q FROM passages p, websearch_to_tsquery('simple', :words) q
    WHERE p.words @@ q ORDER BY p.pos DESC LIMIT :most) newest
ORDER BY ts_rank(words, q, 1) DESC, pos LIMIT :limit

-- name: passages_of_archives_by_words
-- sqlite:
SELECT rowid FROM (
    SELECT rowid, bm25(passages_fts, 0.0, 1.0) AS score FROM passages_fts
    WHERE passages_fts MATCH '(' || REPLACE(:owners, '-', '') || ') AND (' || :words || ')'
    ORDER BY rowid DESC LIMIT :most)
ORDER BY score LIMIT :limit
-- postgres:
SELECT pos FROM (
    SELECT p.pos, p.words, q FROM passages p, websearch_to_tsquery('simple', :words) q
    WHERE p.words @@ q AND p.archive_id = ANY (string_to_array(REPLACE(:owners, '"', ''), ' OR '))
    ORDER BY p.pos DESC LIMIT :most) newest
ORDER BY ts_rank(words, q, 1) DESC, pos LIMIT :limit

-- name: passages_with_word
-- sqlite:
SELECT COUNT(*) FROM (SELECT 1 FROM passages_fts WHERE passages_fts MATCH :word LIMIT :most)
-- postgres:
SELECT COUNT(*) FROM (
    SELECT 1 FROM passages p WHERE p.words @@ websearch_to_tsquery('simple', :word) LIMIT :most) found

-- name: passages_of_archives_with_word
-- sqlite:
SELECT COUNT(*) FROM (
    SELECT 1 FROM passages_fts WHERE passages_fts MATCH '(' || REPLACE(:owners, '-', '') || ') AND ' || :word LIMIT :most)
-- postgres:
SELECT COUNT(*) FROM (
    SELECT 1 FROM passages p WHERE p.words @@ websearch_to_tsquery('simple', :word)
    AND p.archive_id = ANY (string_to_array(REPLACE(:owners, '"', ''), ' OR ')) LIMIT :most) found

-- name: messages_by_words
-- sqlite:
SELECT rowid FROM (
    SELECT rowid, bm25(messages_fts, 0.0, 1.0) AS score FROM messages_fts WHERE messages_fts MATCH :words
    ORDER BY rowid DESC LIMIT :most)
ORDER BY score LIMIT :limit
-- postgres:
SELECT pos FROM (
    SELECT m.pos, m.words, q FROM message_words m, websearch_to_tsquery('simple', :words) q
    WHERE m.words @@ q ORDER BY m.pos DESC LIMIT :most) newest
ORDER BY ts_rank(words, q, 1) DESC, pos LIMIT :limit

-- name: messages_of_agents_by_words
-- sqlite:
SELECT rowid FROM (
    SELECT rowid, bm25(messages_fts, 0.0, 1.0) AS score FROM messages_fts
    WHERE messages_fts MATCH '(' || REPLACE(:owners, '-', '') || ') AND (' || :words || ')'
    ORDER BY rowid DESC LIMIT :most)
ORDER BY score LIMIT :limit
-- postgres:
SELECT pos FROM (
    SELECT m.pos, m.words, q FROM message_words m, websearch_to_tsquery('simple', :words) q
    WHERE m.words @@ q AND m.agent_id = ANY (string_to_array(REPLACE(:owners, '"', ''), ' OR '))
    ORDER BY m.pos DESC LIMIT :most) newest
ORDER BY ts_rank(words, q, 1) DESC, pos LIMIT :limit

-- name: messages_with_word
-- sqlite:
SELECT COUNT(*) FROM (SELECT 1 FROM messages_fts WHERE messages_fts MATCH :word LIMIT :most)
-- postgres:
SELECT COUNT(*) FROM (
    SELECT 1 FROM message_words m WHERE m.words @@ websearch_to_tsquery('simple', :word) LIMIT :most) found

-- name: messages_of_agents_with_word
-- sqlite:
SELECT COUNT(*) FROM (
    SELECT 1 FROM messages_fts WHERE messages_fts MATCH '(' || REPLACE(:owners, '-', '') || ') AND ' || :word LIMIT :most)
-- postgres:
SELECT COUNT(*) FROM (
    SELECT 1 FROM message_words m WHERE m.words @@ websearch_to_tsquery('simple', :word)
    AND m.agent_id = ANY (string_to_array(REPLACE(:owners, '"', ''), ' OR ')) LIMIT :most) found

-- name: unindexed_messages
-- Positions are given out before they are committed: with several writers a lower one may come later.
-- sqlite:
SELECT pos, body FROM messages
WHERE pos > (SELECT COALESCE(MAX(last_pos), 0) FROM search_state WHERE name = 'messages') ORDER BY pos LIMIT :limit
-- postgres:
SELECT m.pos, m.body FROM messages m
WHERE m.pos > (SELECT COALESCE(MAX(last_pos), 0) - 1000 FROM search_state WHERE name = 'messages')
  AND NOT EXISTS (SELECT 1 FROM message_words w WHERE w.pos = m.pos) ORDER BY m.pos LIMIT :limit

-- name: index_message
-- sqlite:
INSERT INTO messages_fts (rowid, scope, text) VALUES (:pos, REPLACE(:agent_id, '-', ''), :text)
-- postgres:
INSERT INTO message_words (pos, agent_id, words) VALUES (:pos, :agent_id, to_tsvector('simple', :text))
ON CONFLICT (pos) DO NOTHING

-- name: set_indexed
INSERT INTO search_state (name, last_pos) VALUES ('messages', :pos)
ON CONFLICT (name) DO UPDATE SET last_pos = CASE WHEN search_state.last_pos > excluded.last_pos THEN search_state.last_pos
                                                 ELSE excluded.last_pos END

-- name: unindex_messages_of_agent
-- sqlite:
DELETE FROM messages_fts WHERE rowid IN (SELECT pos FROM messages WHERE agent_id = :id)
-- postgres:
DELETE FROM message_words WHERE agent_id = :id

-- name: unindex_messages_of_conversation
-- sqlite:
DELETE FROM messages_fts WHERE rowid IN (SELECT pos FROM messages WHERE conversation_id = :conversation_id AND id <> :but)
-- postgres:
DELETE FROM message_words WHERE pos IN (SELECT pos FROM messages WHERE conversation_id = :conversation_id AND id <> :but)

-- name: index_from_the_end
-- SQLite hands out the positions again that were freed at the end.
UPDATE search_state SET last_pos = (SELECT COALESCE(MAX(pos), 0) FROM messages)
WHERE name LIKE 'messages%' AND last_pos > (SELECT COALESCE(MAX(pos), 0) FROM messages)
