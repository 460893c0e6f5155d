// Client-side tools with the npm SDK beyond the plain case: streamed, failing, denied, with images, and in a conversation.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Letta } from "@letta-ai/letta-client";

const client = new Letta({ baseURL: process.env.PERDURE_BASE_URL, apiKey: "none", maxRetries: 0 });
const MODEL = "openai/gpt-test";
const READ = {
  name: "read_file",
  description: "Read a file.",
  parameters: { type: "object", properties: { path: { type: "string" } }, required: ["path"] },
};

const call = (...calls) => `call ${JSON.stringify(calls)}`;
const agentOf = () => client.agents.create({ model: MODEL, include_base_tools: false });

async function collect(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

test("a token stream asks for client tools, and one that failed is told to the model", async () => {
  const agent = await agentOf();
  const streaming = { streaming: true, stream_tokens: true, include_pings: false, client_tools: [READ] };
  const asked = await collect(
    await client.agents.messages.create(agent.id, { input: call(["call_1", "read_file", { path: "gone" }]), ...streaming }),
  );
  const pieces = asked.filter((event) => event.message_type === "approval_request_message");
  assert.equal(pieces[0].tool_call.name, "read_file");
  assert.equal(pieces.map((event) => event.tool_call.arguments ?? "").join(""), '{"path": "gone"}');
  assert.equal(asked.at(-2).stop_reason, "requires_approval");
  const done = await collect(
    await client.agents.messages.create(agent.id, {
      messages: [
        {
          type: "tool_return",
          tool_returns: [{ type: "tool", tool_call_id: "call_1", status: "error", tool_return: "no such file", stderr: ["ENOENT"] }],
        },
      ],
      ...streaming,
    }),
  );
  assert.equal(done[0].message_type, "tool_return_message");
  assert.equal(done[0].status, "error");
  const said = done.filter((event) => event.message_type === "assistant_message").map((event) => event.content);
  assert.equal(said.join(""), "You said: no such file");
  await client.agents.delete(agent.id);
});

test("a client tool is denied, and cannot be approved without what it returned", async () => {
  const agent = await agentOf();
  await client.agents.messages.create(agent.id, { input: call(["call_1", "read_file", { path: "a" }]), client_tools: [READ] });
  const answer = (approval) =>
    client.agents.messages.create(agent.id, { messages: [{ type: "approval", approvals: [approval] }], client_tools: [READ] });
  await assert.rejects(
    answer({ type: "approval", tool_call_id: "call_1", approve: true }),
    (error) => error.status === 400 && /run by the client/.test(error.message),
  );
  const denied = await answer({ type: "approval", tool_call_id: "call_1", approve: false, reason: "not mine" });
  assert.match(denied.messages[0].tool_return, /denied.*not mine/);
  await client.agents.delete(agent.id);
});

test("conversations run client tools side by side, and a fork goes its own way", async () => {
  const agent = await agentOf();
  const [one, two] = [await client.conversations.create({ agent_id: agent.id }), await client.conversations.create({ agent_id: agent.id })];
  const send = async (id, body) =>
    collect(await client.conversations.messages.create(id, { include_pings: false, client_tools: [READ], ...body }));
  const asked = await Promise.all(
    [one, two].map(({ id }, at) => send(id, { input: call([`call_${at}`, "read_file", { path: `${at}` }]) })),
  );
  for (const events of asked) assert.equal(events[0].message_type, "approval_request_message");
  const done = await Promise.all(
    [one, two].map(({ id }, at) =>
      send(id, {
        messages: [
          { type: "approval", approvals: [{ type: "tool", tool_call_id: `call_${at}`, status: "success", tool_return: `text ${at}` }] },
        ],
      }),
    ),
  );
  assert.deepEqual(
    done.map((events) => events.find((event) => event.message_type === "assistant_message").content),
    ["You said: text 0", "You said: text 1"],
  );
  const fork = await client.conversations.fork(one.id);
  const before = (await client.conversations.retrieve(one.id)).in_context_message_ids.length;
  await send(fork.id, { input: "only here" });
  assert.equal((await client.conversations.retrieve(one.id)).in_context_message_ids.length, before);
  await client.agents.delete(agent.id);
});
