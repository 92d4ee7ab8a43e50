import assert from "node:assert/strict";
import { createServer } from "node:net";
import { once } from "node:events";
import { test } from "node:test";
import WebSocket from "ws";
import { ACK, COM, REC, REL, Rainbow, SEND } from "../rainbow.js";
import { FakeServer, heard } from "./fake-server.js";

test("a_lost_connection_comes_back_and_says_so", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t);
  const closed = heard(rainbow, "close");
  connection.socket.terminate();
  const { code, retryIn } = await closed;
  assert.equal(code, 1006);
  assert.ok(retryIn >= 0 && retryIn <= 5);
  const opened = heard(rainbow, "open");
  await fake.next();
  assert.deepEqual(await opened, { session: null, resumed: false, waiting: 0 });
});

test("what_was_unanswered_goes_out_again_in_order_with_new_ids", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t, { repeat: 10_000 });
  const sends = [rainbow.send(1, "a", 1), rainbow.send(1, "b", 2)];
  assert.deepEqual([(await connection.next()).id, (await connection.next()).id], [1, 2]);
  const closed = heard(rainbow, "close");
  connection.socket.terminate();
  await closed;
  sends.push(rainbow.send(1, "c", 1));
  const second = await fake.next();
  const packets = [await second.next(), await second.next(), await second.next()];
  assert.deepEqual(packets.map(({ text, dup }) => [text, dup]), [["a", false], ["b", false], ["c", false]]);
  const ids = packets.map((packet) => packet.id);
  assert.equal(new Set(ids).size, 3);
  assert.ok(!ids.includes(1) && !ids.includes(2));
  second.send({ command: ACK, id: ids[0], body: "A" });
  second.send({ command: REC, id: ids[1], body: "B" });
  second.send({ command: ACK, id: ids[2], body: "C" });
  assert.equal((await second.next()).command, REL);
  second.send({ command: COM, id: ids[1] });
  assert.deepEqual((await Promise.all(sends)).map(String), ["A", "B", "C"]);
});

test("past_rec_nothing_is_sent_again_on_a_new_connection", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t, { repeat: 10_000 });
  const sent = rainbow.send(1, "once", 2);
  const { id } = await connection.next();
  connection.send({ command: REC, id, body: "there" });
  assert.equal((await connection.next()).command, REL);
  connection.socket.terminate();
  assert.equal((await sent).text, "there");
  const second = await fake.next();
  await second.settled();
  assert.equal(second.packets.length, 0);
});

test("a_new_connection_knows_no_old_ids", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t);
  const seen = [];
  let finish;
  rainbow.on("message", (message) => (seen.push(message.text), new Promise((resolve) => (finish = resolve))));
  connection.send({ command: SEND, qos: 2, type: 1, id: 1, body: "old" });
  await connection.settled();
  const finishOld = finish;
  connection.socket.terminate();
  const second = await fake.next();
  second.send({ command: SEND, qos: 2, type: 1, id: 1, body: "new" });
  await second.settled();
  finishOld("answer to the old");
  finish("answer to the new");
  assert.equal((await second.next()).text, "answer to the new");
  await second.settled();
  assert.equal(second.packets.length, 0);
  assert.deepEqual(seen, ["old", "new"]);
});

test("a_timeout_also_ends_while_there_is_no_connection", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t, { backoffMin: 10_000, backoffMax: 10_000, random: () => 1 });
  const closed = heard(rainbow, "close");
  connection.socket.terminate();
  assert.equal((await closed).retryIn, 10_000);
  await assert.rejects(rainbow.send(1, "x", 1, 30), { code: "timeout" });
});

test("a_server_that_goes_away_says_when_to_come_back", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t, { backoffMin: 40, backoffMax: 10_000, random: () => 1 });
  const before = Date.now();
  const gone = heard(rainbow, "close");
  connection.socket.close(1001, "going away; retry_after=0.120");
  assert.equal((await gone).retryIn, 120);
  const second = await fake.next();
  assert.ok(Date.now() - before >= 115, "it waited");
  // What was told is no failure of the row, and nothing else is taken for it.
  const failed = heard(rainbow, "close");
  second.socket.close(1001, "no_retry_after=5");
  assert.equal((await failed).retryIn, 40);
});

test("what_a_server_says_of_the_wait_is_bounded", async (t) => {
  const fake = await FakeServer.start(t);
  const reasons = ["retry_after=-1", "retry_after=", "retry_after=1e9", "retry_after=1 s", "retry_after=NaN", "retry_after=99999"];
  const waits = [];
  for (const reason of reasons) {
    const { rainbow, connection } = await fake.pair(t, { backoffMin: 10_000, backoffMax: 10_000, random: () => 1 });
    const closed = heard(rainbow, "close");
    connection.socket.close(1001, reason);
    waits.push((await closed).retryIn);
    rainbow.close();
  }
  assert.deepEqual(waits, [10_000, 10_000, 10_000, 10_000, 10_000, 60_000]);
});

test("close_codes_4500_to_4999_and_takeover_are_final", async (t) => {
  const fake = await FakeServer.start(t);
  for (const code of [4500, 4999, 4409]) {
    const { rainbow, connection } = await fake.pair(t);
    const sent = rainbow.send(1, "x");
    const closed = heard(rainbow, "close");
    connection.socket.close(code, "no");
    assert.deepEqual(await closed, { code, reason: "no", retryIn: null });
    await assert.rejects(sent, { code: "closed" });
    assert.equal(rainbow.state, "closed");
    await assert.rejects(rainbow.send(1, "x"), { code: "closed" });
  }
  assert.equal(fake.connections.length, 0);
});

test("other_close_codes_are_not_final", async (t) => {
  const fake = await FakeServer.start(t);
  for (const code of [1000, 1001, 1011, 1013, 4000, 4499]) {
    const { rainbow, connection } = await fake.pair(t);
    connection.socket.close(code);
    await fake.next();
    rainbow.close();
  }
});

test("close_is_final_and_open_begins_again", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t);
  const closed = heard(rainbow, "close");
  rainbow.close(4001, "bye");
  assert.deepEqual(await closed, { code: 4001, reason: "bye", retryIn: null });
  assert.equal(await connection.closed, 4001);
  assert.equal(fake.connections.length, 0);
  const opened = rainbow.open();
  await fake.next();
  await opened;
  assert.equal(rainbow.state, "open");
});

test("close_while_connecting_rejects_open", async (t) => {
  const fake = await FakeServer.start(t);
  const rainbow = fake.client(t);
  const opened = rainbow.open();
  rainbow.close();
  await assert.rejects(opened, { code: "closed" });
});

test("backoff_doubles_to_its_cap_with_full_jitter_and_open_waits_for_success", async (t) => {
  // A port that answers nobody until a server takes it.
  const holder = createServer((socket) => socket.destroy()).listen(0, "127.0.0.1");
  await once(holder, "listening");
  t.after(() => holder.close());
  const draws = [];
  const rainbow = new Rainbow(`ws://127.0.0.1:${holder.address().port}/`, {
    WebSocket, deviceId: "d", os: "test", backoffMin: 2, backoffMax: 10, random: () => (draws.push(1), draws.length % 2 ? 1 : 0.5),
  });
  t.after(() => rainbow.close());
  rainbow.on("error", () => {});
  rainbow.open();
  const delays = [];
  while (delays.length < 6) delays.push((await heard(rainbow, "close")).retryIn);
  assert.deepEqual(delays, [2, 2, 8, 5, 10, 5]);
});

test("an_empty_path_means_connect_and_http_means_ws", () => {
  for (const url of ["http://h:1984", "ws://h:1984/"]) {
    class Spy {
      constructor(address) {
        assert.ok(address.startsWith("ws://h:1984/connect/?X-DEVICEID="), address);
      }
      close() {}
    }
    const rainbow = new Rainbow(url, { WebSocket: Spy });
    rainbow.open();
    rainbow.close();
  }
});
