/** The hooks in a real React, with a server at the other end. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { StrictMode, act, createElement, useState } from "react";
import { SEND } from "../rainbow.js";
import { useRainbow, useRainbowEvent } from "../react.js";
import { FakeServer, heard } from "./fake-server.js";

globalThis.IS_REACT_ACT_ENVIRONMENT = true;
// It says at each use that it is deprecated; what takes its place needs a DOM.
const { error } = console;
console.error = (text, ...more) => String(text).includes("react-test-renderer is deprecated") || error(text, ...more);
const { create } = await import("react-test-renderer");

function Chat({ rainbow, by }) {
  const state = useRainbow(rainbow);
  const [lines, setLines] = useState([]);
  useRainbowEvent(rainbow, "chat", (message) => {
    setLines([...lines, `${by}: ${message.text}`]);
    return by;
  });
  return `${state} ${lines.join(", ")}`;
}

/** Renders, and gives what is on the page after something has happened. */
function page(t, element) {
  let root;
  act(() => (root = create(element)));
  t.after(() => act(() => root.unmount()));
  return {
    text: () => [root.toJSON()].flat().join("|"),
    render: (next) => act(() => root.update(next)),
    after: (promise) => act(() => promise),
    unmount: () => act(() => root.unmount()),
  };
}

test("a_component_opens_the_client_shows_its_state_and_closes_it", { timeout: 10_000 }, async (t) => {
  const fake = await FakeServer.start(t);
  const rainbow = fake.client(t, { types: { chat: 7 } });
  const shown = page(t, createElement(Chat, { rainbow, by: "a" }));
  assert.equal(shown.text(), "connecting ");
  await shown.after(heard(rainbow, "open"));
  assert.equal(shown.text(), "open ");
  const connection = await fake.next();
  const closed = heard(rainbow, "close");
  connection.socket.terminate();
  await shown.after(closed);
  assert.equal(shown.text(), "waiting ");
  const again = await fake.next();
  shown.unmount();
  await again.closed;
  assert.equal(rainbow.state, "closed");
});

test("a_message_is_handed_to_the_newest_handler_whose_result_is_the_reply", { timeout: 10_000 }, async (t) => {
  const fake = await FakeServer.start(t);
  const rainbow = fake.client(t, { types: { chat: 7 } });
  const shown = page(t, createElement(Chat, { rainbow, by: "a" }));
  await shown.after(heard(rainbow, "open"));
  const connection = await fake.next();
  const say = async (id) => {
    connection.send({ command: SEND, type: 7, qos: 1, id, body: `line ${id}` });
    return (await connection.next()).text;
  };
  assert.equal(await shown.after(say(1)), "a");
  shown.render(createElement(Chat, { rainbow, by: "b" }));
  assert.equal(await shown.after(say(2)), "b");
  assert.equal(shown.text(), "open a: line 1, b: line 2");
  shown.unmount();
});

test("two_components_and_strict_mode_share_one_connection_until_the_last_has_gone", { timeout: 10_000 }, async (t) => {
  const fake = await FakeServer.start(t);
  const rainbow = fake.client(t, { types: { chat: 7 } });
  const chats = (...names) =>
    createElement(StrictMode, null, names.map((by) => createElement(Chat, { rainbow, by, key: by })));
  const shown = page(t, chats("a", "b"));
  await shown.after(heard(rainbow, "open"));
  assert.equal(shown.text(), "open |open ");
  const connection = await fake.next();
  shown.render(chats("a"));
  shown.render(chats("c"));
  await connection.settled();
  assert.equal(rainbow.state, "open");
  assert.equal(fake.connections.length, 0);
  const gone = once(connection.socket, "close");
  shown.render(chats());
  await gone;
  assert.equal(rainbow.state, "closed");
});
