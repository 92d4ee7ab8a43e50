import assert from "node:assert/strict";
import { test } from "node:test";
import { ACK, COM, REC, REL, SEND } from "../rainbow.js";
import { FakeServer, heard } from "./fake-server.js";

test("a_message_reaches_every_handler_and_qos_0_is_not_answered", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t);
  const seen = [];
  rainbow.on("message", (message) => void seen.push([message.type, message.qos, message.json()]));
  const second = heard(rainbow, "message");
  connection.send({ command: SEND, type: 9, body: '{"a":1}' });
  assert.equal((await second).text, '{"a":1}');
  assert.deepEqual(seen, [[9, 0, { a: 1 }]]);
  await connection.settled();
  assert.equal(connection.packets.length, 0);
});

test("qos_1_is_acknowledged_with_the_handlers_reply", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t);
  rainbow.on("message", () => {});
  rainbow.on("message", async (message) => ({ echo: message.text }));
  connection.send({ command: SEND, qos: 1, type: 9, id: 5, body: "x" });
  const ack = await connection.next();
  assert.deepEqual([ack.command, ack.id, ack.text], [ACK, 5, '{"echo":"x"}']);
});

test("without_a_handler_qos_1_is_acknowledged_empty", async (t) => {
  const fake = await FakeServer.start(t);
  const { connection } = await fake.pair(t);
  connection.send({ command: SEND, qos: 1, type: 9, id: 5, body: "x" });
  const ack = await connection.next();
  assert.deepEqual([ack.command, ack.id, ack.text], [ACK, 5, ""]);
});

test("a_repeat_is_answered_the_same_and_handed_on_once", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t);
  let count = 0;
  rainbow.on("message", () => `reply ${++count}`);
  for (const [qos, command] of [[1, ACK], [2, REC]]) {
    const expected = `reply ${count + 1}`;
    for (const dup of [false, true, true]) {
      connection.send({ command: SEND, qos, dup, type: 9, id: 5, body: "x" });
      const answer = await connection.next();
      assert.deepEqual([answer.command, answer.id, answer.text], [command, 5, expected]);
    }
  }
  assert.equal(count, 2);
});

test("a_repeat_while_the_handler_works_is_answered_once", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t);
  let finish;
  let count = 0;
  rainbow.on("message", () => (count++, new Promise((resolve) => (finish = resolve))));
  connection.send({ command: SEND, qos: 2, type: 9, id: 5, body: "x" });
  connection.send({ command: SEND, qos: 2, dup: true, type: 9, id: 5, body: "x" });
  await connection.settled();
  assert.equal(connection.packets.length, 0);
  finish("done");
  const rec = await connection.next();
  assert.deepEqual([rec.command, rec.text, count], [REC, "done", 1]);
  await connection.settled();
  assert.equal(connection.packets.length, 0);
});

test("qos_2_is_remembered_until_rel_and_rel_is_always_answered", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t);
  const seen = [];
  rainbow.on("message", (message) => void seen.push(message.text));
  const message = { command: SEND, qos: 2, type: 9, id: 5 };
  connection.send({ ...message, body: "first" });
  assert.equal((await connection.next()).command, REC);
  connection.send({ ...message, dup: true, body: "first" });
  assert.equal((await connection.next()).command, REC);
  for (let rel = 0; rel < 2; rel++) {
    connection.send({ command: REL, id: 5 });
    const com = await connection.next();
    assert.deepEqual([com.command, com.id], [COM, 5]);
  }
  connection.send({ ...message, body: "second" });
  assert.equal((await connection.next()).command, REC);
  assert.deepEqual(seen, ["first", "second"]);
});

test("equal_ids_in_both_directions_are_different_messages", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t, { repeat: 10_000 });
  rainbow.on("message", () => "from the page");
  const sent = rainbow.send(1, "x", 2);
  assert.equal((await connection.next()).id, 1);
  connection.send({ command: SEND, qos: 2, type: 9, id: 1, body: "y" });
  const rec = await connection.next();
  assert.deepEqual([rec.command, rec.id, rec.text], [REC, 1, "from the page"]);
  connection.send({ command: REC, id: 1, body: "from the server" });
  assert.equal((await connection.next()).command, REL);
  connection.send({ command: REL, id: 1 });
  assert.equal((await connection.next()).command, COM);
  connection.send({ command: COM, id: 1 });
  assert.equal((await sent).text, "from the server");
});

test("a_handler_that_throws_is_an_error_event_and_the_message_is_answered", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t);
  rainbow.on("message", () => {
    throw new Error("oops");
  });
  const error = heard(rainbow, "error");
  connection.send({ command: SEND, qos: 1, type: 9, id: 5, body: "x" });
  assert.equal((await error).message, "oops");
  assert.deepEqual([(await connection.next()).command], [ACK]);
});

test("answers_kept_for_repeats_are_bounded", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t);
  const seen = [];
  rainbow.on("message", (message) => void seen.push(message.text));
  for (let id = 1; id <= 1025; id++) connection.send({ command: SEND, qos: 1, type: 9, id, body: `${id}` });
  for (let id = 1; id <= 1025; id++) assert.equal((await connection.next()).id, id);
  // The oldest was forgotten: its id may be in use again. The next one is still known.
  connection.send({ command: SEND, qos: 1, dup: true, type: 9, id: 2, body: "repeat" });
  assert.equal((await connection.next()).id, 2);
  connection.send({ command: SEND, qos: 1, dup: true, type: 9, id: 1, body: "new" });
  assert.equal((await connection.next()).id, 1);
  assert.deepEqual(seen.slice(1024), ["1025", "new"]);
});

test("a_qos_1_id_without_dup_is_a_new_message_once_the_old_one_is_answered", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t);
  const seen = [];
  rainbow.on("message", (message) => (seen.push(message.text), message.text));
  for (const body of ["old", "new"]) {
    connection.send({ command: SEND, qos: 1, type: 9, id: 7, body });
    assert.equal((await connection.next()).text, body);
  }
  assert.deepEqual(seen, ["old", "new"]);
});

test("an_id_that_is_used_again_is_the_youngest", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t);
  const seen = [];
  rainbow.on("message", (message) => void seen.push(message.text));
  const ids = [...Array.from({ length: 1024 }, (_, index) => index + 1), 1, 1025];
  for (const id of ids) {
    connection.send({ command: SEND, qos: 1, type: 9, id, body: "x" });
    assert.equal((await connection.next()).id, id);
  }
  // It was 2 that had to go for 1025.
  for (const id of [1, 2]) connection.send({ command: SEND, qos: 1, dup: true, type: 9, id, body: `repeat of ${id}` });
  for (const id of [1, 2]) assert.equal((await connection.next()).id, id);
  assert.deepEqual(seen.slice(ids.length), ["repeat of 2"]);
});

test("messages_still_in_work_are_never_forgotten", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t);
  const count = 1_500;
  let handed = 0;
  let finish;
  const finished = new Promise((resolve) => (finish = resolve));
  // Nobody is answered before everybody has come.
  rainbow.on("message", () => (++handed === count && finish("done"), finished));
  for (let id = 1; id <= count; id++) connection.send({ command: SEND, qos: 1, type: 9, id, body: "x" });
  const answered = new Set();
  while (answered.size < count) answered.add((await connection.next()).id);
  assert.equal(handed, count);
});
