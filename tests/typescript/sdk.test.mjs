// Agents, messages (sync, streamed), conversations and runs with the npm SDK against the server at PERDURE_BASE_URL, whose model is the
// double that tests/typescript/run.py starts.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Letta } from "@letta-ai/letta-client";

const client = new Letta({ baseURL: process.env.PERDURE_BASE_URL, apiKey: "none", maxRetries: 0 });
const MODEL = "openai/gpt-test";

async function collect(page) {
  const items = [];
  for await (const item of page) items.push(item);
  return items;
}

test("an agent's life", async () => {
  const made = await client.agents.create({
    model: MODEL,
    name: "ts agent",
    memory_blocks: [{ label: "human", value: "Name: Ada" }],
    tags: ["ts"],
  });
  assert.match(made.id, /^agent-/);
  const found = await client.agents.retrieve(made.id, { include: ["agent.blocks"] });
  assert.equal(found.blocks[0].value, "Name: Ada");
  const renamed = await client.agents.update(made.id, { description: "changed" });
  assert.equal(renamed.description, "changed");
  const listed = await collect(await client.agents.list({ tags: ["ts"] }));
  assert.deepEqual(listed.map((agent) => agent.id), [made.id]);
  await client.agents.delete(made.id);
  await assert.rejects(client.agents.retrieve(made.id), (error) => error.status === 404);
});

test("a message is answered", async () => {
  const agent = await client.agents.create({ model: MODEL, include_base_tools: false });
  const answer = await client.agents.messages.create(agent.id, { input: "plain" });
  assert.deepEqual(answer.messages.map((message) => message.message_type), ["assistant_message"]);
  assert.equal(answer.messages[0].content, "You said: plain");
  assert.equal(answer.stop_reason.stop_reason, "end_turn");
  assert.equal(answer.usage.step_count, 1);
  const listed = await collect(await client.agents.messages.list(agent.id, { order: "asc" }));
  assert.deepEqual(
    listed.map((message) => message.message_type),
    ["system_message", "user_message", "assistant_message"],
  );
  await client.agents.delete(agent.id);
});

test("a message is streamed by step and by token", async () => {
  const agent = await client.agents.create({ model: MODEL, include_base_tools: false });
  const byStep = [];
  for await (const event of await client.agents.messages.create(agent.id, { input: "steps", streaming: true })) {
    byStep.push(event.message_type);
  }
  assert.deepEqual(byStep, ["ping", "assistant_message", "stop_reason", "usage_statistics"]);
  let text = "";
  let pieces = 0;
  const stream = await client.agents.messages.create(agent.id, {
    input: "tokens",
    streaming: true,
    stream_tokens: true,
    include_pings: false,
  });
  for await (const event of stream) {
    if (event.message_type === "assistant_message") {
      text += event.content;
      pieces += 1;
    }
  }
  assert.equal(text, "You said: tokens");
  assert.ok(pieces > 1);
  await client.agents.delete(agent.id);
});

test("runs and their steps", async () => {
  const agent = await client.agents.create({ model: MODEL, include_base_tools: false });
  await client.agents.messages.create(agent.id, { input: "one" });
  const [run] = await collect(await client.runs.list({ agent_id: agent.id }));
  assert.equal(run.status, "completed");
  const same = await client.runs.retrieve(run.id);
  assert.equal(same.stop_reason, "end_turn");
  const steps = await collect(await client.runs.steps.list(run.id));
  assert.equal(steps.length, 1);
  const messages = await collect(await client.runs.messages.list(run.id));
  assert.deepEqual(messages.map((message) => message.message_type), ["user_message", "assistant_message"]);
  const usage = await client.runs.usage.retrieve(run.id);
  assert.equal(usage.total_tokens, 15);
  await client.agents.delete(agent.id);
});

test("a failed request says why", async () => {
  await assert.rejects(
    client.agents.create({ model: "nobody/nothing" }),
    (error) => error.status === 404 && /nobody/.test(JSON.stringify(error.error ?? error.message)),
  );
});

async function said(conversation) {
  const listed = await collect(await client.conversations.messages.list(conversation, { order: "asc" }));
  return listed.filter((message) => /^(user|assistant)_message$/.test(message.message_type)).map((message) => message.content);
}

async function say(conversation, input, more = {}) {
  const events = [];
  for await (const event of await client.conversations.messages.create(conversation, { input, ...more })) events.push(event);
  return events;
}

test("a conversation's life", async () => {
  const agent = await client.agents.create({ model: MODEL, include_base_tools: false });
  const made = await client.conversations.create({ agent_id: agent.id, summary: "on tea" });
  assert.match(made.id, /^conv-/);
  const events = await say(made.id, "hello");
  assert.deepEqual(
    events.map((event) => event.message_type),
    ["ping", "assistant_message", "stop_reason", "usage_statistics"],
  );
  assert.deepEqual(await said(made.id), ["hello", "You said: hello"]);

  const forked = await client.conversations.fork(made.id);
  await say(forked.id, "in the fork");
  assert.deepEqual(await said(forked.id), ["hello", "You said: hello", "in the fork", "You said: in the fork"]);
  assert.deepEqual(await said(made.id), ["hello", "You said: hello"]);
  const both = await collect(await client.conversations.messages.list(forked.id, { limit: 2 }));
  assert.equal(new Set(both.map((message) => message.id)).size, both.length);
  assert.equal(both.length, 5);

  const renamed = await client.conversations.update(made.id, { summary: "on coffee", archived: true });
  assert.equal(renamed.summary, "on coffee");
  assert.deepEqual((await client.conversations.list({ agent_id: agent.id })).map((item) => item.id), [forked.id]);
  assert.deepEqual(
    (await client.conversations.list({ agent_id: agent.id, archive_status: "archived" })).map((item) => item.id),
    [made.id],
  );
  assert.match(await client.conversations.recompile(made.id, { dry_run: true }), new RegExp(made.id));
  await client.conversations.delete(made.id);
  await assert.rejects(client.conversations.retrieve(made.id), (error) => error.status === 404);
  await client.agents.delete(agent.id);
});

test("a conversation's stream is taken up again, and its default is the agent's own history", async () => {
  const agent = await client.agents.create({ model: MODEL, include_base_tools: false });
  const events = await say("default", "hello", { agent_id: agent.id, background: true });
  const again = [];
  const stream = await client.conversations.messages.stream("default", {
    agent_id: agent.id,
    run_id: events[0].run_id,
    starting_after: events[0].seq_id,
  });
  for await (const event of stream) again.push(event.message_type);
  assert.deepEqual(again, ["assistant_message", "stop_reason", "usage_statistics"]);
  const listed = await collect(await client.agents.messages.list(agent.id, { conversation_id: "default" }));
  assert.equal(listed.at(-1).content, "You said: hello");
  await assert.rejects(client.conversations.cancel("default", { agent_id: agent.id }), (error) => error.status === 409);
  await client.agents.delete(agent.id);
});
