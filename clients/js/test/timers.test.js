/** Time from outside: hours pass in a moment, and nothing but the given timers is used. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { ACK, SEND } from "../rainbow.js";
import { FakeServer, FakeSession, FakeTimers, greeting, heard } from "./fake-server.js";

test("a_sleep_of_ten_minutes_ends_with_a_question_and_then_a_new_line", { timeout: 10_000 }, async (t) => {
  const fake = await FakeSession.server(t);
  const timers = new FakeTimers();
  const rainbow = fake.client(t, { session: true, timers, backoffMin: 1_000, random: () => 0.5 });
  const opened = rainbow.open();
  const connection = await fake.next();
  const { body, ...packet } = greeting(false);
  connection.send({ ...packet, body: JSON.stringify({ ...JSON.parse(body), heartbeat: 60 }) });
  await opened;
  timers.sleep(600_000);
  timers.pass(2_000);
  await connection.settled();
  assert.equal(connection.pings, 1);
  const closed = heard(rainbow, "close");
  timers.pass(7_000);
  assert.deepEqual(await closed, { code: 4000, reason: "no pong", retryIn: 10 });
  timers.pass(10);
  assert.equal(rainbow.state, "connecting");
  await fake.next();
});

test("repeats_and_timeouts_of_a_send_are_the_timers", { timeout: 10_000 }, async (t) => {
  const fake = await FakeServer.start(t);
  const timers = new FakeTimers();
  const rainbow = fake.client(t, { timers, repeat: 3_000, timeout: 3_600_000 });
  const opened = rainbow.open();
  const connection = await fake.next();
  await opened;
  const [first, second] = [rainbow.send(1, "a"), rainbow.send(1, "b")];
  await connection.next();
  await connection.next();
  timers.pass(3_000);
  const repeat = await connection.next();
  assert.deepEqual([repeat.command, repeat.id, repeat.dup], [SEND, 1, true]);
  connection.send({ command: ACK, id: 1, body: "yes" });
  assert.equal((await first).text, "yes");
  timers.pass(3_600_000);
  await assert.rejects(second, { code: "timeout" });
  rainbow.close();
  assert.equal(timers.waiting, 0);
});

test("what_a_client_waits_for_is_given_up_with_it", { timeout: 10_000 }, async (t) => {
  const fake = await FakeServer.start(t);
  const timers = new FakeTimers();
  const rainbow = fake.client(t, { timers, params: () => new Promise(() => {}), random: () => 1 });
  const closed = heard(rainbow, "close");
  rainbow.open();
  rainbow.send(1, "a").catch(() => {});
  timers.pass(10_000);
  assert.equal((await closed).reason, "no answer");
  assert.equal(rainbow.state, "waiting");
  rainbow.close();
  assert.equal(timers.waiting, 0);
});
