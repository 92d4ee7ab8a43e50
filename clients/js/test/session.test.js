import assert from "node:assert/strict";
import { test } from "node:test";
import { ACK, COM, REC, REL, SEND } from "../rainbow.js";
import { FakeServer, heard } from "./fake-server.js";

const SESSIONS = { handleProtocols: (offered) => (offered.has("rainbow.2") ? "rainbow.2" : false) };
const greeting = (resumed, waiting = 0) => ({
  command: SEND, type: 65535, body: JSON.stringify({ session: "s", resumed, waiting }),
});

async function sessionPair(t, options) {
  const fake = await FakeServer.start(t, SESSIONS);
  const rainbow = fake.client(t, { session: true, repeat: 10_000, ...options });
  const opened = heard(rainbow, "open");
  rainbow.open();
  const connection = await fake.next();
  connection.send(greeting(false));
  await opened;
  return { fake, rainbow, connection };
}

test("the_greeting_is_handed_on_with_open_and_is_no_message", async (t) => {
  const fake = await FakeServer.start(t, SESSIONS);
  const rainbow = fake.client(t, { session: true });
  rainbow.on("message", () => assert.fail("the greeting is Rainbow's own"));
  const opened = heard(rainbow, "open");
  rainbow.open();
  const early = rainbow.send(1, "early", 1);
  const connection = await fake.next();
  assert.equal(connection.socket.protocol, "rainbow.2");
  await connection.settled();
  // Before the greeting nobody knows whether ids are resumed, so nothing goes out.
  assert.equal(connection.packets.length, 0);
  connection.send(greeting(true, 3));
  assert.deepEqual(await opened, { session: "s", resumed: true, waiting: 3 });
  const { id, dup } = await connection.next();
  assert.equal(dup, false);
  connection.send({ command: ACK, id, body: "ok" });
  assert.equal((await early).text, "ok");
  await assert.rejects(rainbow.send(65535, ""), TypeError);
});

test("after_resumption_sends_are_repeated_with_dup_and_their_ids", async (t) => {
  const { fake, rainbow, connection } = await sessionPair(t);
  const sends = [rainbow.send(1, "a", 1), rainbow.send(1, "b", 2), rainbow.send(1, "c", 2)];
  const ids = [(await connection.next()).id, (await connection.next()).id, (await connection.next()).id];
  connection.send({ command: REC, id: ids[2], body: "C" });
  assert.equal((await connection.next()).command, REL);
  const closed = heard(rainbow, "close");
  connection.socket.terminate();
  await closed;
  sends.push(rainbow.send(1, "d", 1));
  const second = await fake.next();
  second.send(greeting(true));
  const packets = [await second.next(), await second.next(), await second.next(), await second.next()];
  assert.deepEqual(packets.map(({ command, id, dup, text }) => [command, id, dup, text]), [
    [SEND, ids[0], true, "a"],
    [SEND, ids[1], true, "b"],
    [REL, ids[2], false, ""],
    [SEND, packets[3].id, false, "d"],
  ]);
  second.send({ command: ACK, id: ids[0], body: "A" });
  second.send({ command: REC, id: ids[1], body: "B" });
  assert.equal((await second.next()).command, REL);
  second.send({ command: COM, id: ids[1] });
  second.send({ command: COM, id: ids[2] });
  second.send({ command: ACK, id: packets[3].id, body: "D" });
  assert.deepEqual((await Promise.all(sends)).map(String), ["A", "B", "C", "D"]);
});

test("after_resumption_received_ids_are_known", async (t) => {
  const { fake, rainbow, connection } = await sessionPair(t);
  const seen = [];
  rainbow.on("message", (message) => (seen.push(message.text), `reply to ${message.text}`));
  for (const [qos, id] of [[2, 1], [1, 2]]) {
    connection.send({ command: SEND, qos, type: 1, id, body: `m${id}` });
    await connection.next();
  }
  connection.socket.terminate();
  const second = await fake.next();
  second.send(greeting(true));
  for (const [qos, id, command] of [[2, 1, REC], [1, 2, ACK]]) {
    second.send({ command: SEND, qos, dup: true, type: 1, id, body: `m${id}` });
    const answer = await second.next();
    assert.deepEqual([answer.command, answer.id, answer.text], [command, id, `reply to m${id}`]);
  }
  assert.deepEqual(seen, ["m1", "m2"]);
});

test("a_handler_that_finishes_after_resumption_answers_on_the_new_line", async (t) => {
  const { fake, rainbow, connection } = await sessionPair(t);
  let finish;
  rainbow.on("message", () => new Promise((resolve) => (finish = resolve)));
  connection.send({ command: SEND, qos: 2, type: 1, id: 1, body: "x" });
  await connection.settled();
  connection.socket.terminate();
  const opened = heard(rainbow, "open");
  const second = await fake.next();
  second.send(greeting(true));
  await opened;
  finish("late");
  const rec = await second.next();
  assert.deepEqual([rec.command, rec.id, rec.text], [REC, 1, "late"]);
});

test("without_resumption_ids_are_new_and_nothing_is_known", async (t) => {
  const { fake, rainbow, connection } = await sessionPair(t);
  const seen = [];
  rainbow.on("message", (message) => void seen.push(message.text));
  connection.send({ command: SEND, qos: 2, type: 1, id: 1, body: "old" });
  assert.equal((await connection.next()).command, REC);
  const sent = rainbow.send(1, "a", 2);
  const { id } = await connection.next();
  connection.socket.terminate();
  const second = await fake.next();
  second.send(greeting(false));
  const again = await second.next();
  assert.deepEqual([again.text, again.dup], ["a", false]);
  assert.notEqual(again.id, id);
  second.send({ command: SEND, qos: 2, type: 1, id: 1, body: "new" });
  assert.equal((await second.next()).command, REC);
  assert.deepEqual(seen, ["old", "new"]);
  rainbow.close();
  await assert.rejects(sent, { code: "closed" });
});

test("a_wrong_first_packet_is_a_violation", async (t) => {
  const fake = await FakeServer.start(t, SESSIONS);
  const rainbow = fake.client(t, { session: true });
  const error = heard(rainbow, "error");
  rainbow.open();
  const connection = await fake.next();
  connection.send({ command: SEND, type: 1, body: "{}" });
  assert.equal((await error).code, "protocol");
  assert.equal(await connection.closed, 4002);
});

test("ids_do_not_begin_again_after_a_reload", async (t) => {
  const kept = new Map();
  const storage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => void kept.set(key, value) };
  const { fake, rainbow, connection } = await sessionPair(t, { storage });
  const used = new Set();
  const take = async (rainbow, connection, count) => {
    for (let sent = 0; sent < count; sent++) {
      const send = rainbow.send(1, "", 1);
      const { id } = await connection.next();
      assert.ok(!used.has(id), `id ${id} again`);
      used.add(id);
      connection.send({ command: ACK, id });
      await send;
    }
  };
  await take(rainbow, connection, 300);
  rainbow.close();
  const reloaded = fake.client(t, { session: true, repeat: 10_000, storage });
  const opened = reloaded.open();
  const second = await fake.next();
  second.send(greeting(true));
  await opened;
  await take(reloaded, second, 300);
});
