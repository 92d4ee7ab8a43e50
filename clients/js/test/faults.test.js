/** What used to leave a client hanging: a dead line, a message over the limit, `params` that fail, a refusal. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { FakeServer } from "./fake-server.js";

const GREETING = { session: null, session_id: null, resumed: false, waiting: 0 };

async function greeted(t, greeting = {}, options = {}) {
  const fake = await FakeServer.start(t, { handleProtocols: () => "rainbow.2" });
  const rainbow = fake.client(t, { session: true, ...options });
  const open = rainbow.open();
  const connection = await fake.next();
  greet(connection, greeting);
  await open;
  return { fake, rainbow, connection };
}

function greet(connection, greeting) {
  connection.send({ command: 1, type: 65535, body: JSON.stringify({ ...GREETING, ...greeting }) });
}

test("a_silent_line_is_asked_and_given_up_without_an_answer", async (t) => {
  const { fake, rainbow, connection } = await greeted(t, { heartbeat: 0.04 }, { pongTimeout: 80 });
  const pings = [];
  connection.socket.on("message", (data) => pings.push([...data]));
  const closed = new Promise((resolve) => rainbow.on("close", resolve));
  assert.equal((await closed).code, 4000);
  assert.deepEqual(pings, [[0x60]]);
  await fake.next();
});

test("an_answered_ping_keeps_the_line", async (t) => {
  const { rainbow, connection } = await greeted(t, { heartbeat: 0.02 }, { pongTimeout: 400 });
  for (let n = 0; n < 3; n += 1) {
    await once(connection.socket, "message");
    connection.socket.send(new Uint8Array([0x70]));
  }
  assert.equal(rainbow.state, "open");
});

test("a_message_over_the_limit_is_rejected_at_once", async (t) => {
  const { rainbow } = await greeted(t, { message_bytes_max: 100 });
  for (const qos of [0, 1, 2]) {
    await assert.rejects(rainbow.send(1, "x".repeat(96), qos), { code: "too_large" });
  }
  assert.equal(rainbow.pending, 0);
});

test("after_1009_the_largest_message_is_rejected_and_the_others_go_on", async (t) => {
  const { fake, rainbow, connection } = await greeted(t);
  const small = rainbow.send(1, "small");
  const large = assert.rejects(rainbow.send(1, "x".repeat(1000)), { code: "too_large" });
  await connection.next();
  connection.socket.close(1009);
  await large;
  const next = await fake.next();
  greet(next, {});
  const { id } = await next.next();
  next.send({ command: 2, id, body: "done" });
  assert.equal((await small).text, "done");
});

test("params_may_be_async_and_a_throw_is_a_failed_attempt", async (t) => {
  const fake = await FakeServer.start(t);
  let calls = 0;
  const params = async () => {
    calls += 1;
    if (calls === 1) throw new Error("no token yet");
    return { token: "t" };
  };
  const rainbow = fake.client(t, { params });
  const errors = [];
  rainbow.on("error", (error) => errors.push(error.message));
  await rainbow.open();
  assert.deepEqual(errors, ["no token yet"]);
  assert.equal((await fake.next()).url.searchParams.get("token"), "t");
});

test("a_refusal_is_final_and_an_unreachable_backend_is_not", async (t) => {
  const fake = await FakeServer.start(t, { handleProtocols: () => "rainbow.2" });
  const rainbow = fake.client(t, { session: true });
  const why = { code: "refused", closeCode: 4401, reason: "who are you", message: /who are you/ };
  const open = assert.rejects(rainbow.open(), why);
  const waiting = assert.rejects(rainbow.send(1, "x"), why);
  (await fake.next()).socket.close(4503, "later");
  (await fake.next()).socket.close(4401, "who are you");
  await Promise.all([open, waiting]);
  assert.equal(rainbow.state, "closed");
  const again = rainbow.open();
  greet(await fake.next(), {});
  await again;
  assert.equal(rainbow.state, "open", "whoever has signed in meanwhile may try again");
});

test("other_final_codes_are_no_refusal", async (t) => {
  const { rainbow, connection } = await greeted(t);
  const sent = assert.rejects(rainbow.send(1, "x"), { code: "closed", closeCode: 4409, reason: "elsewhere" });
  await connection.next();
  connection.socket.close(4409, "elsewhere");
  await sent;
});

test("what_is_sent_before_open_waits_for_it", async (t) => {
  const fake = await FakeServer.start(t);
  const rainbow = fake.client(t);
  const sent = rainbow.send(1, "early");
  rainbow.open();
  const connection = await fake.next();
  const { id, text } = await connection.next();
  assert.equal(text, "early");
  connection.send({ command: 2, id, body: "yes" });
  assert.equal((await sent).text, "yes");
});
