// Agents, messages (sync, streamed) and runs with the npm SDK against the server at PERDURE_BASE_URL, whose model is the
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
