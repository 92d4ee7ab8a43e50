import assert from "node:assert/strict";
import { test } from "node:test";
import { ACK, COM, REC, REL, SEND } from "../rainbow.js";
import { FakeServer, FakeSession, greeting, heard } from "./fake-server.js";

test("the_greeting_is_handed_on_with_open_and_is_no_message", async (t) => {
  const fake = await FakeSession.server(t);
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
  connection.send(greeting(true, { waiting: 3 }));
  assert.deepEqual(await opened, { session: "s", sessionId: null, resumed: true, waiting: 3 });
  const { id, dup } = await connection.next();
  assert.equal(dup, false);
  connection.send({ command: ACK, id, body: "ok" });
  assert.equal((await early).text, "ok");
  await assert.rejects(rainbow.send(65535, ""), TypeError);
});

test("after_resumption_sends_are_repeated_with_dup_and_their_ids", async (t) => {
  const { fake, rainbow, connection } = await FakeSession.pair(t);
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
  const { fake, rainbow, connection } = await FakeSession.pair(t);
  const seen = [];
  rainbow.on("message", (message) => (seen.push(message.text), `reply to ${message.text}`));
  for (const [qos, id] of [[2, 1], [1, 2]]) {
    connection.send({ command: SEND, qos, type: 1, id, body: `m${id}` });
    await connection.next();
  }
  connection.socket.terminate();
  const second = await fake.next();
  second.send(greeting(true));
  // What was not released is said again without being asked: the server may have lost the first REC.
  const rec = await second.next();
  assert.deepEqual([rec.command, rec.id, rec.text], [REC, 1, "reply to m1"]);
  for (const [qos, id, command] of [[2, 1, REC], [1, 2, ACK]]) {
    second.send({ command: SEND, qos, dup: true, type: 1, id, body: `m${id}` });
    const answer = await second.next();
    assert.deepEqual([answer.command, answer.id, answer.text], [command, id, `reply to m${id}`]);
  }
  assert.deepEqual(seen, ["m1", "m2"]);
});

test("a_handler_that_finishes_after_resumption_answers_on_the_new_line", async (t) => {
  const { fake, rainbow, connection } = await FakeSession.pair(t);
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
  const { fake, rainbow, connection } = await FakeSession.pair(t);
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
  const fake = await FakeSession.server(t);
  const rainbow = fake.client(t, { session: true });
  const error = heard(rainbow, "error");
  rainbow.open();
  const connection = await fake.next();
  connection.send({ command: SEND, type: 1, body: "{}" });
  assert.equal((await error).code, "protocol");
  assert.equal(await connection.closed, 4002);
});

test("what_was_given_up_before_it_was_written_leaves_no_gap_in_the_ids", async (t) => {
  const { fake, rainbow, connection } = await FakeSession.pair(t);
  const first = rainbow.send(1, "a", 1);
  const { id } = await connection.next();
  const closed = heard(rainbow, "close");
  connection.socket.terminate();
  await closed;
  await assert.rejects(rainbow.send(1, "never", 1, 1), { code: "timeout" });
  const third = rainbow.send(1, "c", 1);
  const second = await fake.next();
  second.send(greeting(true));
  const packets = [await second.next(), await second.next()];
  assert.deepEqual(packets.map(({ id, dup, text }) => [id, dup, text]), [[id, true, "a"], [id + 1, false, "c"]]);
  for (const packet of packets) second.send({ command: ACK, id: packet.id });
  await Promise.all([first, third]);
});

test("a_given_up_qos_2_message_is_released_on_the_next_line", async (t) => {
  const { fake, rainbow, connection } = await FakeSession.pair(t);
  const given = assert.rejects(rainbow.send(1, "x", 2, 40), { code: "timeout" });
  const { id } = await connection.next();
  await given;
  for (let line = 0, last = connection; line < 2; line++) {
    last.socket.terminate();
    last = await fake.next();
    last.send(greeting(true));
    const rel = await last.next();
    // On every new line, until COM.
    assert.deepEqual([rel.command, rel.id], [REL, id]);
    if (line === 1) {
      last.send({ command: COM, id });
      await last.settled();
      last.socket.terminate();
    }
  }
  const quiet = await fake.next();
  quiet.send(greeting(true));
  await quiet.settled();
  assert.equal(quiet.packets.length, 0);
});

test("rel_for_an_unknown_id_is_answered_with_com_right_after_resumption", async (t) => {
  const { fake, connection } = await FakeSession.pair(t);
  connection.socket.terminate();
  const second = await fake.next();
  second.send(greeting(true));
  for (const id of [77, 78]) second.send({ command: REL, id });
  for (const id of [77, 78]) {
    const com = await second.next();
    assert.deepEqual([com.command, com.id], [COM, id]);
  }
});

test("a_qos_2_message_is_handed_on_once_however_often_the_line_drops", async (t) => {
  const { fake, rainbow, connection } = await FakeSession.pair(t);
  const seen = [];
  rainbow.on("message", (message) => void seen.push(message.text));
  let line = connection;
  for (let cut = 0; cut < 10; cut++) {
    line.send({ command: SEND, qos: 2, dup: cut > 0, type: 1, id: 9, body: "once" });
    // Cut sometimes behind the answer, sometimes as soon as the message is out.
    if (cut % 2 === 0) while ((await line.next()).command !== REC);
    else await line.settled();
    line.socket.terminate();
    line = await fake.next();
    line.send(greeting(true));
  }
  line.send({ command: REL, id: 9 });
  while ((await line.next()).command !== COM);
  assert.deepEqual(seen, ["once"]);
});

test("a_takeover_is_final_and_is_said", async (t) => {
  const { fake, rainbow, connection } = await FakeSession.pair(t);
  const closed = heard(rainbow, "close");
  connection.socket.close(4409, "taken over");
  assert.deepEqual(await closed, { code: 4409, reason: "taken over", retryIn: null });
  assert.equal(rainbow.state, "closed");
  assert.equal(fake.connections.length, 0);
});

test("a_refused_send_is_rejected_with_status_and_body", async (t) => {
  const { rainbow, connection } = await FakeSession.pair(t);
  const refused = (status, text) => (error) => {
    assert.deepEqual([error.code, error.status, error.body.text], ["refused", status, text]);
    return true;
  };
  const sends = [
    assert.rejects(rainbow.send(1, "a", 1), refused(422, "no such room")),
    assert.rejects(rainbow.send(1, "b", 2), refused(404, "{}")),
  ];
  const [first, second] = [await connection.next(), await connection.next()];
  connection.send({ command: ACK, id: first.id, status: 422, body: "no such room" });
  connection.send({ command: REC, id: second.id, status: 404, body: "{}" });
  assert.equal((await connection.next()).command, REL);
  connection.send({ command: COM, id: second.id });
  await Promise.all(sends);
  assert.equal(rainbow.pending, 0);
});

test("without_a_session_the_last_bit_of_an_answer_means_nothing", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t);
  const sent = rainbow.send(1, "a", 1);
  const { id } = await connection.next();
  connection.send({ command: ACK, id, status: 0x6869, body: "!" });
  assert.equal((await sent).text, "hi!");
});
