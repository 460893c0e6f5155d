// Approvals and client-side tools with the npm SDK against the server at PERDURE_BASE_URL. The model of tests/typescript/run.py makes the
// calls that a message asks for: "call" and a JSON list of [id, name, arguments].

import assert from "node:assert/strict";
import { test } from "node:test";
import { Letta } from "@letta-ai/letta-client";

const client = new Letta({ baseURL: process.env.PERDURE_BASE_URL, apiKey: "none", maxRetries: 0 });
const MODEL = "openai/gpt-test";
const SOURCE = `
def pay(amount: int) -> str:
    """Pay.

    Args:
        amount (int): how much
    """
    return f"paid {amount}"
`;
const READ = {
  name: "read_file",
  description: "Read a file.",
  parameters: { type: "object", properties: { path: { type: "string" } }, required: ["path"] },
};

const types = (messages) => messages.map((message) => message.message_type);
const call = (...calls) => `call ${JSON.stringify(calls)}`;

async function payer() {
  const tool = await client.tools.upsert({ source_code: SOURCE });
  const agent = await client.agents.create({ model: MODEL, include_base_tools: false, tool_ids: [tool.id] });
  await client.agents.tools.updateApproval("pay", { agent_id: agent.id, body_requires_approval: true });
  return agent;
}

function answer(agent, approvals, more = {}) {
  return client.agents.messages.create(agent.id, { messages: [{ type: "approval", approvals }], ...more });
}

test("a call is approved", async () => {
  const agent = await payer();
  const asked = await client.agents.messages.create(agent.id, { input: call(["call_1", "pay", { amount: 5 }]) });
  assert.deepEqual(types(asked.messages), ["approval_request_message"]);
  assert.equal(asked.stop_reason.stop_reason, "requires_approval");
  assert.equal(asked.messages[0].tool_calls[0].tool_call_id, "call_1");
  const waiting = await client.agents.retrieve(agent.id, { include: ["agent.pending_approval"] });
  assert.equal(waiting.pending_approval.id, asked.messages[0].id);
  await assert.rejects(
    client.agents.messages.create(agent.id, { input: "meanwhile" }),
    (error) => error.status === 409 && error.error.detail.code === "PENDING_APPROVAL",
  );
  const done = await answer(agent, [{ type: "approval", tool_call_id: "call_1", approve: true }]);
  assert.deepEqual(types(done.messages), ["tool_return_message", "assistant_message"]);
  assert.equal(done.messages[0].tool_return, "paid 5");
  const again = await answer(agent, [{ type: "approval", tool_call_id: "call_1", approve: true }]);
  assert.deepEqual(again.messages, done.messages);
  await client.agents.delete(agent.id);
});

test("a call is denied, and a request cancelled", async () => {
  const agent = await payer();
  await client.agents.messages.create(agent.id, { input: call(["call_1", "pay", { amount: 5 }]) });
  const denied = await answer(agent, [{ type: "approval", tool_call_id: "call_1", approve: false, reason: "too much" }]);
  assert.equal(denied.messages[0].status, "error");
  assert.match(denied.messages[0].tool_return, /denied.*too much/);
  const asked = await client.agents.messages.create(agent.id, { input: call(["call_2", "pay", { amount: 6 }]) });
  const run = asked.messages[0].run_id;
  assert.deepEqual(await client.agents.messages.cancel(agent.id), { [run]: "cancelled" });
  const free = await client.agents.messages.create(agent.id, { input: "free again" });
  assert.equal(free.messages[0].content, "You said: free again");
  await client.agents.delete(agent.id);
});

test("a token stream asks, and the answer streams on", async () => {
  const agent = await payer();
  const streaming = { streaming: true, stream_tokens: true, include_pings: false };
  const input = call(["call_1", "pay", { amount: 7 }]);
  const asked = [];
  for await (const event of await client.agents.messages.create(agent.id, { input, ...streaming })) asked.push(event);
  const requests = asked.filter((event) => event.message_type === "approval_request_message");
  assert.equal(requests.map((event) => event.tool_call.arguments ?? "").join(""), '{"amount": 7}');
  assert.equal(new Set(requests.map((event) => event.otid)).size, 1);
  assert.equal(asked.at(-2).stop_reason, "requires_approval");
  const rest = [];
  const approvals = [{ type: "approval", tool_call_id: "call_1", approve: true }];
  for await (const event of await answer(agent, approvals, streaming)) rest.push(event.message_type);
  assert.deepEqual([...new Set(rest)], ["tool_return_message", "assistant_message", "stop_reason", "usage_statistics"]);
  await client.agents.delete(agent.id);
});

test("client tools run here, beside the server's", async () => {
  const tool = await client.tools.upsert({ source_code: SOURCE.replace("def pay", "def give") });
  const agent = await client.agents.create({ model: MODEL, include_base_tools: false, tool_ids: [tool.id] });
  const input = call(["call_1", "read_file", { path: "a" }], ["call_2", "give", { amount: 1 }], ["call_3", "read_file", { path: "b" }]);
  const asked = await client.agents.messages.create(agent.id, { input, client_tools: [READ] });
  assert.deepEqual(types(asked.messages), ["tool_call_message", "approval_request_message"]);
  const returns = asked.messages[1].tool_calls.map((made) => ({
    type: "tool",
    tool_call_id: made.tool_call_id,
    status: "success",
    tool_return: `text of ${JSON.parse(made.arguments).path}`,
  }));
  const done = await client.agents.messages.create(agent.id, {
    messages: [{ type: "tool_return", tool_returns: returns.reverse() }],
    client_tools: [READ],
  });
  assert.deepEqual(
    done.messages[0].tool_returns.map((made) => [made.tool_call_id, made.tool_return]),
    [
      ["call_1", "text of a"],
      ["call_2", "paid 1"],
      ["call_3", "text of b"],
    ],
  );
  assert.equal(done.messages[1].content, "You said: text of b");
  await client.agents.delete(agent.id);
});

test("a conversation waits for itself alone", async () => {
  const agent = await payer();
  const { id } = await client.conversations.create({ agent_id: agent.id });
  const send = async (body) => {
    const events = [];
    for await (const event of await client.conversations.messages.create(id, { include_pings: false, ...body })) events.push(event);
    return events;
  };
  const asked = await send({ input: call(["call_1", "pay", { amount: 8 }]) });
  assert.equal(asked[1].stop_reason, "requires_approval");
  const other = await client.agents.messages.create(agent.id, { input: "hello" });
  assert.equal(other.messages[0].content, "You said: hello");
  const done = await send({
    messages: [{ type: "approval", approvals: [{ type: "approval", tool_call_id: "call_1", approve: true }] }],
  });
  assert.equal(done[0].tool_return, "paid 8");
  await client.agents.delete(agent.id);
});
