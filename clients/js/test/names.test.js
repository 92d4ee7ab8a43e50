/** Message types by name. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { ACK, SEND } from "../rainbow.js";
import { FakeServer } from "./fake-server.js";

const TYPES = { chat: 1, typing: 2 };

test("a_name_is_sent_as_its_number", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t, { types: TYPES });
  rainbow.send("typing", undefined, 0);
  assert.equal((await connection.next()).type, 2);
  const sent = rainbow.send("chat", { text: "hello" });
  const { id, type } = await connection.next();
  assert.equal(type, 1);
  connection.send({ command: ACK, id, body: "[1]" });
  assert.deepEqual((await sent).json(), [1]);
  rainbow.send(2, "", 0);
  assert.equal((await connection.next()).type, 2, "numbers go on as they are");
});

test("a_named_handler_gets_its_messages_and_replies", async (t) => {
  const fake = await FakeServer.start(t);
  const { rainbow, connection } = await fake.pair(t, { types: TYPES });
  const heard = [];
  rainbow.on("message", ({ name, type }) => void heard.push([name, type]));
  const onChat = (message) => {
    heard.push(message.text);
    return "seen";
  };
  rainbow.on("chat", onChat);
  connection.send({ command: SEND, qos: 1, id: 1, type: 1, body: "hello" });
  assert.deepEqual([(await connection.next()).text, heard], ["seen", [["chat", 1], "hello"]]);
  connection.send({ command: SEND, qos: 1, id: 2, type: 3, body: "other" });
  assert.deepEqual([(await connection.next()).text, heard.slice(2)], ["", [[undefined, 3]]]);
  rainbow.off("chat", onChat);
  connection.send({ command: SEND, qos: 1, id: 3, type: 1, body: "hello" });
  assert.equal((await connection.next()).text, "");
});

test("names_that_cannot_be_are_refused_at_once", async (t) => {
  const fake = await FakeServer.start(t);
  for (const types of [{ open: 1 }, { message: 1 }, { chat: -1 }, { chat: 70_000 }, { chat: "1" }, { a: 1, b: 1 }]) {
    assert.throws(() => fake.client(t, { types }), TypeError, JSON.stringify(types));
  }
  const rainbow = fake.client(t, { types: TYPES });
  await assert.rejects(rainbow.send("shout", "x"), TypeError);
  await assert.rejects(rainbow.send("toString", "x"), TypeError);
  assert.throws(() => rainbow.on("shout", () => {}), TypeError);
  assert.throws(() => rainbow.on("toString", () => {}), TypeError);
});
