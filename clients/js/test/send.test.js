import assert from "node:assert/strict";
import { test } from "node:test";
import { ACK, COM, REC, REL, SEND } from "../rainbow.js";
import { FakeServer, heard } from "./fake-server.js";

test("device_platform_and_params_are_in_the_query", async (t) => {
  const fake = await FakeServer.start(t);
  const { connection } = await fake.pair(t, { params: () => ({ room: "a b", name: "Ü" }) });
  assert.deepEqual(Object.fromEntries(connection.url.searchParams), {
    room: "a b", name: "Ü", "X-DEVICEID": "d1", "X-CLIENT-OS": "test",
  });
  assert.equal(connection.socket.protocol, "");
});

test("qos_0_is_written_once_and_resolves", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t);
  assert.equal(await rainbow.send(7, "text", 0), undefined);
  const packet = await connection.next();
  assert.deepEqual([packet.command, packet.type, packet.qos, packet.id, packet.text], [SEND, 7, 0, undefined, "text"]);
});

test("qos_0_without_a_connection_is_rejected", async (t) => {
  const fake = await FakeServer.start(t);
  const rainbow = fake.client(t);
  await assert.rejects(rainbow.send(1, "x", 0), { code: "closed" });
  rainbow.open();
  await assert.rejects(rainbow.send(1, "x", 0), { code: "closed" });
});

test("qos_1_resolves_with_the_body_of_ack", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t);
  const sent = rainbow.send(3, { a: 1 });
  const packet = await connection.next();
  assert.deepEqual([packet.command, packet.type, packet.qos, packet.id, packet.dup, packet.text], [SEND, 3, 1, 1, false, '{"a":1}']);
  connection.send({ command: ACK, id: 1, body: '{"ok":true}' });
  const answer = await sent;
  assert.deepEqual([answer.text, answer.json()], ['{"ok":true}', { ok: true }]);
  assert.equal(rainbow.pending, 0);
});

test("a_lost_ack_is_asked_for_again_with_dup", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t);
  const sent = rainbow.send(3, "x", 1);
  const first = await connection.next();
  const second = await connection.next();
  const third = await connection.next();
  assert.deepEqual([first, second, third].map((packet) => [packet.id, packet.dup, packet.text]), [[1, false, "x"], [1, true, "x"], [1, true, "x"]]);
  connection.send({ command: ACK, id: 1, body: "late" });
  assert.equal((await sent).text, "late");
  // The next message's first copy is no repeat, and the answered one is not repeated any more.
  const next = rainbow.send(3, "y", 1);
  for (let packet = await connection.next(); packet.id !== 2; packet = await connection.next()) assert.equal(packet.id, 1);
  connection.send({ command: ACK, id: 2 });
  assert.equal((await next).json(), undefined);
});

test("qos_2_resolves_after_com_with_the_body_of_rec", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t, { repeat: 10_000 });
  let done = false;
  const sent = rainbow.send(3, "x", 2).finally(() => (done = true));
  const { id } = await connection.next();
  connection.send({ command: REC, id, body: "got it" });
  const rel = await connection.next();
  assert.deepEqual([rel.command, rel.id], [REL, id]);
  assert.equal(done, false);
  connection.send({ command: COM, id });
  assert.equal((await sent).text, "got it");
});

test("a_lost_rec_is_asked_for_again_and_a_lost_com_by_rel", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t);
  const sent = rainbow.send(3, "x", 2);
  const first = await connection.next();
  const repeat = await connection.next();
  assert.deepEqual([first.dup, repeat.dup, repeat.id], [false, true, first.id]);
  connection.send({ command: REC, id: first.id, body: "one" });
  connection.send({ command: REC, id: first.id, body: "two" });
  const rels = [];
  while (rels.length < 4) {
    const packet = await connection.next();
    if (packet.command === REL) rels.push(packet.id);
    // A SEND after its REC would be handed on twice.
    else assert.equal(rels.length, 0);
  }
  connection.send({ command: COM, id: first.id });
  assert.equal((await sent).text, "one");
});

test("no_answer_until_the_timeout_rejects", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t);
  await assert.rejects(rainbow.send(3, "x", 1, 40), { code: "timeout" });
  assert.equal(rainbow.pending, 0);
  // A REC for what was given up still releases the id on the other side.
  connection.send({ command: REC, id: 1 });
  for (;;) {
    const packet = await connection.next();
    if (packet.command === REL) return assert.equal(packet.id, 1);
  }
});

test("a_timeout_after_rec_keeps_the_promise_and_rel_goes_on", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t);
  const sent = rainbow.send(3, "x", 2, 60);
  const { id } = await connection.next();
  connection.send({ command: REC, id, body: "safe" });
  assert.equal((await sent).text, "safe");
  assert.equal(rainbow.pending, 1);
  while ((await connection.next()).command !== REL);
  assert.equal((await connection.next()).command, REL);
  connection.send({ command: COM, id });
  await connection.settled();
  assert.equal(rainbow.pending, 0);
});

test("ids_wrap_and_pass_over_those_in_flight", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t, { repeat: 60_000, pendingMax: 70_000, timeout: 60_000 });
  const first = rainbow.send(1, "first", 2);
  assert.equal((await connection.next()).id, 1);
  const answered = [];
  connection.socket.on("message", (data) => {
    const id = data.readUInt16BE(3);
    answered.push(id);
    connection.send({ command: ACK, id });
  });
  // All other ids once, then some again.
  for (let batch = 0; batch < 66_000; batch += 1_000) {
    await Promise.all(Array.from({ length: 1_000 }, () => rainbow.send(1, "", 1)));
  }
  assert.equal(answered.length, 66_000);
  assert.deepEqual(answered.slice(0, 2), [2, 3]);
  assert.deepEqual(answered.slice(65_532, 65_535), [65_534, 2, 3]);
  assert.ok(!answered.includes(1) && !answered.includes(0) && !answered.includes(65_535));
  connection.socket.removeAllListeners("message");
  rainbow.close();
  await assert.rejects(first, { code: "closed" });
});

test("more_than_pending_max_is_refused", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow } = await fake.pair(t, { pendingMax: 2 });
  const sends = [rainbow.send(1, "a"), rainbow.send(1, "b"), rainbow.send(1, "c")];
  await assert.rejects(sends[2], { code: "full" });
  rainbow.close();
  for (const send of sends.slice(0, 2)) await assert.rejects(send, { code: "closed" });
});

test("bad_arguments_are_type_errors", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow } = await fake.pair(t);
  await assert.rejects(rainbow.send(65_536, ""), TypeError);
  await assert.rejects(rainbow.send(-1, ""), TypeError);
  await assert.rejects(rainbow.send(1, "", 3), TypeError);
  await assert.rejects(rainbow.send(1, () => {}), TypeError);
  assert.throws(() => rainbow.on("mesage", () => {}), TypeError);
  assert.equal(rainbow.pending, 0);
});

test("an_answer_to_nothing_is_ignored", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t);
  connection.send({ command: ACK, id: 9 });
  connection.send({ command: COM, id: 9 });
  const sent = rainbow.send(1, "x", 2);
  const { id } = await connection.next();
  // An ACK is no answer to QoS 2, nor COM before REC.
  connection.send({ command: ACK, id, body: "wrong" });
  connection.send({ command: COM, id });
  connection.send({ command: REC, id, body: "right" });
  while ((await connection.next()).command !== REL);
  connection.send({ command: COM, id });
  assert.equal((await sent).text, "right");
});

test("a_malformed_packet_ends_the_connection_and_is_said", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t);
  const error = heard(rainbow, "error");
  connection.socket.send(Buffer.from([0xf0, 0, 1]));
  assert.equal((await error).code, "protocol");
  assert.equal(await connection.closed, 4002);
  await fake.next();
});
