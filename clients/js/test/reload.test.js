/** What a session remembers when its page is loaded again: a new `Rainbow` over what the old one has left in the storage. */

import assert from "node:assert/strict";
import { test } from "node:test";
import WebSocket from "ws";
import { ACK, COM, REC, REL, Rainbow, SEND, decodePacket } from "../rainbow.js";
import { FakeSession, FakeStorage, greeting, heard } from "./fake-server.js";

/** Collects what is handed on. */
function listen(rainbow, reply) {
  const seen = [];
  rainbow.on("message", (message) => (seen.push(message.text), reply));
  return seen;
}

const shape = ({ command, id, text }) => [command, id, text];

test("a_received_qos_2_message_is_not_handed_on_again_after_a_reload", async (t) => {
  const storage = new FakeStorage();
  const { fake, rainbow, connection } = await FakeSession.pair(t, { storage });
  listen(rainbow, "reply");
  connection.send({ command: SEND, qos: 2, type: 1, id: 5, body: "once" });
  assert.deepEqual(shape(await connection.next()), [REC, 5, "reply"]);
  rainbow.close();
  const reloaded = await FakeSession.page(t, fake, { storage });
  const seen = listen(reloaded.rainbow);
  // Without being asked, and empty: replies are not kept.
  assert.deepEqual(shape(await reloaded.connection.next()), [REC, 5, ""]);
  reloaded.connection.send({ command: SEND, qos: 2, dup: true, type: 1, id: 5, body: "once" });
  assert.deepEqual(shape(await reloaded.connection.next()), [REC, 5, ""]);
  assert.deepEqual(seen, []);
  reloaded.connection.send({ command: REL, id: 5 });
  assert.deepEqual(shape(await reloaded.connection.next()), [COM, 5, ""]);
  reloaded.rainbow.close();
  // Released is free, after one more reload too.
  const third = await FakeSession.page(t, fake, { storage });
  const heardNow = listen(third.rainbow);
  third.connection.send({ command: SEND, qos: 2, type: 1, id: 5, body: "another" });
  assert.deepEqual(shape(await third.connection.next()), [REC, 5, ""]);
  assert.deepEqual(heardNow, ["another"]);
});

test("an_answered_qos_1_message_is_known_after_a_reload", async (t) => {
  const storage = new FakeStorage();
  const { fake, rainbow, connection } = await FakeSession.pair(t, { storage });
  listen(rainbow, "reply");
  connection.send({ command: SEND, qos: 1, type: 1, id: 5, body: "x" });
  await connection.next();
  rainbow.close();
  const reloaded = await FakeSession.page(t, fake, { storage });
  const seen = listen(reloaded.rainbow);
  reloaded.connection.send({ command: SEND, qos: 1, dup: true, type: 1, id: 5, body: "x" });
  assert.deepEqual(shape(await reloaded.connection.next()), [ACK, 5, ""]);
  reloaded.connection.send({ command: SEND, qos: 1, type: 1, id: 5, body: "new" });
  assert.deepEqual(shape(await reloaded.connection.next()), [ACK, 5, ""]);
  assert.deepEqual(seen, ["new"]);
});

test("rec_follows_the_write_and_the_write_follows_the_handler", async (t) => {
  const storage = new FakeStorage();
  const order = [];
  class Recorded extends WebSocket {
    send(bytes) {
      order.push(decodePacket(bytes).command);
      super.send(bytes);
    }
  }
  const { fake, rainbow, connection } = await FakeSession.pair(t, { storage, WebSocket: Recorded });
  let finish;
  rainbow.on("message", ({ qos }) => qos === 2 && new Promise((resolve) => (finish = resolve)));
  connection.send({ command: SEND, qos: 2, type: 1, id: 5, body: "x" });
  // A message that is through meanwhile writes the storage, and the one in work is not in it.
  connection.send({ command: SEND, qos: 1, type: 1, id: 6, body: "y" });
  assert.deepEqual(shape(await connection.next()), [ACK, 6, "false"]);
  const died = storage.copy();
  assert.deepEqual([died.ids.received, died.ids.answered], [[], [6]]);
  storage.setItem = (key, value) => {
    order.push("write");
    FakeStorage.prototype.setItem.call(storage, key, value);
  };
  order.length = 0;
  finish("done");
  assert.deepEqual(shape(await connection.next()), [REC, 5, "done"]);
  assert.deepEqual([order, storage.ids.received], [["write", REC], [5]]);
  rainbow.close();
  // A page that died while its handler worked gets the message again, under its id: nothing is lost.
  const reloaded = await FakeSession.page(t, fake, { storage: died });
  const again = heard(reloaded.rainbow, "message");
  reloaded.connection.send({ command: SEND, qos: 2, dup: true, type: 1, id: 5, body: "x" });
  const { text, id, dup } = await again;
  assert.deepEqual([text, id, dup], ["x", 5, true]);
});

test("a_session_that_begins_anew_forgets_what_was_received", async (t) => {
  const storage = new FakeStorage();
  const { fake, rainbow, connection } = await FakeSession.pair(t, { storage });
  connection.send({ command: SEND, qos: 2, type: 1, id: 5, body: "old" });
  await connection.next();
  const given = assert.rejects(rainbow.send(1, "x", 2), { code: "closed" });
  await connection.next();
  rainbow.close();
  await given;
  assert.equal(storage.ids.held.length, 1);
  const anew = await FakeSession.page(t, fake, { storage, resumed: false });
  const seen = listen(anew.rainbow);
  assert.deepEqual([storage.ids.received, storage.ids.held], [[], []]);
  anew.connection.send({ command: SEND, qos: 2, type: 1, id: 5, body: "new" });
  assert.deepEqual(shape(await anew.connection.next()), [REC, 5, ""]);
  assert.deepEqual(seen, ["new"]);
});

test("our_ids_go_on_after_a_reload", async (t) => {
  const storage = new FakeStorage();
  const { fake, ...page } = await FakeSession.pair(t, { storage });
  const used = new Set();
  const take = async ({ rainbow, connection }) => {
    // More than one block of reserved ids.
    for (let sent = 0; sent < 300; sent++) {
      const send = rainbow.send(1, "", 1);
      const { id } = await connection.next();
      assert.ok(!used.has(id), `id ${id} again`);
      used.add(id);
      connection.send({ command: ACK, id });
      await send;
    }
    rainbow.close();
  };
  await take(page);
  await take(await FakeSession.page(t, fake, { storage }));
  await take(await FakeSession.page(t, fake, { storage }));
});

test("a_qos_2_send_that_the_last_page_left_open_is_released_and_its_id_not_used", async (t) => {
  const storage = new FakeStorage();
  const { fake, rainbow, connection } = await FakeSession.pair(t, { storage });
  const sends = [rainbow.send(1, "a", 2), rainbow.send(1, "b", 2)];
  for (const send of sends) send.catch(() => {});
  const ids = [(await connection.next()).id, (await connection.next()).id];
  rainbow.close();
  // As if all ids had been used since: the next one would be one of those.
  const [key, item] = [...storage.items].find(([key]) => key.startsWith("rainbow.session "));
  storage.setItem(key, item.replace(/"last":\d+/, `"last":${ids[0] - 1 || 65534}`));
  const reloaded = await FakeSession.page(t, fake, { storage });
  assert.deepEqual(shape(await reloaded.connection.next()), [REL, ids[0], ""]);
  assert.deepEqual(shape(await reloaded.connection.next()), [REL, ids[1], ""]);
  reloaded.rainbow.send(1, "c", 1).catch(() => {});
  assert.equal((await reloaded.connection.next()).id, ids[1] + 1);
  reloaded.connection.send({ command: COM, id: ids[0] });
  await reloaded.connection.settled();
  assert.deepEqual(storage.ids.held, [ids[1]]);
  // One that is answered to its end is held by nobody.
  const sent = reloaded.rainbow.send(1, "d", 2);
  const { id } = await reloaded.connection.next();
  assert.deepEqual(storage.ids.held, [ids[1], id]);
  reloaded.connection.send({ command: REC, id, body: "D" });
  assert.equal((await reloaded.connection.next()).command, REL);
  reloaded.connection.send({ command: COM, id });
  assert.equal((await sent).text, "D");
  assert.deepEqual(storage.ids.held, [ids[1]]);
});

test("what_comes_to_a_page_that_has_lost_its_session_is_left_to_the_other", async (t) => {
  const storage = new FakeStorage();
  const { fake, rainbow, connection } = await FakeSession.pair(t, { storage });
  const seen = listen(rainbow);
  connection.send({ command: SEND, qos: 2, type: 1, id: 5, body: "five" });
  await connection.next();
  const other = await FakeSession.page(t, fake, { storage });
  const seenThere = listen(other.rainbow);
  await other.connection.next();
  // Still on its way to the first page when the second one came.
  connection.send({ command: SEND, qos: 2, type: 1, id: 6, body: "six" });
  connection.send({ command: REL, id: 5 });
  await connection.settled();
  assert.deepEqual([seen, connection.packets.length, storage.ids.received], [["five"], 0, [5]]);
  other.connection.send({ command: SEND, qos: 2, dup: true, type: 1, id: 6, body: "six" });
  assert.deepEqual(shape(await other.connection.next()), [REC, 6, ""]);
  other.connection.send({ command: REL, id: 5 });
  assert.deepEqual(shape(await other.connection.next()), [COM, 5, ""]);
  assert.deepEqual(seenThere, ["six"]);
  // Taken back, the first page knows what the other one has received and released.
  connection.socket.close(4409, "taken over");
  await heard(rainbow, "close");
  const opened = rainbow.open();
  const back = await fake.next();
  back.send(greeting(true));
  await opened;
  assert.deepEqual(shape(await back.next()), [REC, 6, ""]);
  back.send({ command: SEND, qos: 2, type: 1, id: 5, body: "another five" });
  assert.deepEqual(shape(await back.next()), [REC, 5, ""]);
  assert.deepEqual(seen, ["five", "another five"]);
});

test("a_handler_that_finishes_after_a_takeover_answers_nobody", async (t) => {
  const storage = new FakeStorage();
  const { fake, rainbow, connection } = await FakeSession.pair(t, { storage });
  let finish;
  rainbow.on("message", () => new Promise((resolve) => (finish = resolve)));
  connection.send({ command: SEND, qos: 2, type: 1, id: 5, body: "x" });
  await connection.settled();
  await FakeSession.page(t, fake, { storage });
  const theirs = new Map(storage.items);
  finish("late");
  await connection.settled();
  assert.equal(connection.packets.length, 0);
  // What it still sends is lost with its line, and not written over what the other page keeps.
  rainbow.send(1, "lost", 2).catch(() => {});
  assert.deepEqual(storage.items, theirs);
});

test("sessions_of_one_device_have_memories_of_their_own", async (t) => {
  const storage = new FakeStorage();
  const { fake, rainbow, connection } = await FakeSession.pair(t, { storage, session: "ann" });
  connection.send({ command: SEND, qos: 2, type: 1, id: 5, body: "for Ann" });
  await connection.next();
  rainbow.close();
  const bob = await FakeSession.page(t, fake, { storage, session: "bob" });
  const seen = listen(bob.rainbow);
  bob.connection.send({ command: SEND, qos: 2, type: 1, id: 5, body: "for Bob" });
  await bob.connection.next();
  assert.deepEqual(seen, ["for Bob"]);
});

test("a_session_that_nothing_is_known_of_does_not_begin_at_1", async (t) => {
  for (const item of [null, "tag {", "tag {}", 'tag {"last":7,"held":[0],"answered":[],"received":[]}']) {
    const storage = new FakeStorage();
    if (item !== null) storage.setItem("rainbow.session d1 s", item);
    const fake = await FakeSession.server(t);
    const { rainbow, connection } = await FakeSession.page(t, fake, { storage, random: () => 0.5 });
    rainbow.send(1, "x").catch(() => {});
    assert.equal((await connection.next()).id, 32768, item);
  }
});

test("what_outlives_the_page_is_bounded", async (t) => {
  const storage = new FakeStorage();
  const { fake, rainbow, connection } = await FakeSession.pair(t, { storage });
  for (let id = 1; id <= 300; id++) {
    connection.send({ command: SEND, qos: 1, type: 1, id, body: "x" });
    await connection.next();
  }
  const { answered } = storage.ids;
  assert.deepEqual([answered.length, answered[0], answered.at(-1)], [256, 45, 300]);
  rainbow.close();
  // As many QoS 2 ids as may be held; one more is refused, and one of them is still known.
  const received = Array.from({ length: 16384 }, (_, index) => index + 1);
  storage.setItem("rainbow.session d1 s", `tag ${JSON.stringify({ last: 1, held: [], answered: [], received })}`);
  const full = await FakeSession.page(t, fake, { storage });
  const seen = listen(full.rainbow);
  for (const id of received) assert.equal((await full.connection.next()).id, id);
  const refused = heard(full.rainbow, "error");
  full.connection.send({ command: SEND, qos: 2, type: 1, id: 20000, body: "one more" });
  assert.equal((await refused).code, "full");
  full.connection.send({ command: SEND, qos: 2, dup: true, type: 1, id: 1, body: "known" });
  assert.deepEqual(shape(await full.connection.next()), [REC, 1, ""]);
  full.connection.send({ command: REL, id: 1 });
  assert.deepEqual(shape(await full.connection.next()), [COM, 1, ""]);
  full.connection.send({ command: SEND, qos: 2, dup: true, type: 1, id: 20000, body: "one more" });
  assert.deepEqual(shape(await full.connection.next()), [REC, 20000, ""]);
  assert.deepEqual(seen, ["one more"]);
});

test("held_ids_that_nobody_asks_for_are_bounded", async (t) => {
  const storage = new FakeStorage();
  const held = Array.from({ length: 1024 }, (_, index) => index + 1);
  storage.setItem("rainbow.session d1 s", `tag ${JSON.stringify({ last: 5000, held, answered: [], received: [] })}`);
  const fake = await FakeSession.server(t);
  const { rainbow, connection } = await FakeSession.page(t, fake, { storage });
  for (const id of held) assert.equal((await connection.next()).id, id);
  rainbow.send(1, "x", 2).catch(() => {});
  assert.equal((await connection.next()).id, 5001);
  assert.deepEqual([storage.ids.held.length, storage.ids.held[0], storage.ids.held.at(-1)], [1024, 2, 5001]);
});

test("a_storage_that_refuses_is_said_once_and_leaves_nothing_stale", async (t) => {
  const storage = new FakeStorage();
  const { rainbow, connection } = await FakeSession.pair(t, { storage });
  storage.setItem = () => {
    throw new Error("QuotaExceededError");
  };
  const errors = [];
  rainbow.on("error", (error) => errors.push(error.code));
  const seen = listen(rainbow);
  for (const [id, body] of [[5, "a"], [6, "b"]]) {
    connection.send({ command: SEND, qos: 2, type: 1, id, body });
    assert.equal((await connection.next()).command, REC);
  }
  connection.send({ command: SEND, qos: 2, dup: true, type: 1, id: 5, body: "a" });
  assert.equal((await connection.next()).command, REC);
  assert.deepEqual([errors, seen, storage.items.size], [["storage"], ["a", "b"], 0]);
});

test("null_for_a_storage_keeps_nothing_in_a_page_either", (t) => {
  let touched = 0;
  const localStorage = { getItem: () => (touched++, null), setItem: () => touched++ };
  for (const [name, value] of Object.entries({ document: {}, localStorage })) {
    const before = Object.getOwnPropertyDescriptor(globalThis, name);
    Object.defineProperty(globalThis, name, { value, configurable: true });
    t.after(() => (before ? Object.defineProperty(globalThis, name, before) : delete globalThis[name]));
  }
  const create = (options) => new Rainbow("ws://127.0.0.1/", { WebSocket, session: true, ...options });
  create({ storage: null });
  assert.equal(touched, 0);
  create({});
  assert.ok(touched > 0);
});
