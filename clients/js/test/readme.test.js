/** What clients/README.md tells its reader to type, typed. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import WebSocket from "ws";
import { COM, REC, REL, Rainbow, SEND } from "../rainbow.js";
import { FakeSession, greeting } from "./fake-server.js";
import { skip, startServer } from "./real-server.js";

const README = readFileSync(new URL("../../README.md", import.meta.url), "utf8");

test("the_five_lines_say_hello_and_hear_an_answer", { timeout: 20_000 }, async (t) => {
  const fake = await FakeSession.server(t);
  const block = /```js\n(import \{ Rainbow \}.*?)```/s.exec(README)[1];
  const script = block.replace("ws://127.0.0.1:1984/connect/", fake.url);
  const ws = 'globalThis.WebSocket ??= (await import("ws")).default;\n';
  const cwd = fileURLToPath(new URL("..", import.meta.url));
  const reader = spawn(process.execPath, ["--input-type=module", "-e", ws + script], { cwd });
  t.after(() => reader.kill());
  let printed = "";
  reader.stdout.on("data", (data) => (printed += data));
  reader.stderr.on("data", (data) => (printed += data));
  const connection = await fake.next();
  connection.send(greeting(false));
  const sent = await connection.next();
  assert.deepEqual([sent.command, sent.type, sent.qos, sent.text], [SEND, 1, 2, '{"text":"hello"}'], printed);
  connection.send({ command: SEND, type: 2, body: '{"by":"ann"}' });
  connection.send({ command: REC, id: sent.id, body: "welcome" });
  assert.equal((await connection.next()).command, REL);
  connection.send({ command: COM, id: sent.id });
  while (!printed.includes("welcome")) await new Promise((resolve) => reader.stdout.once("data", resolve));
  assert.match(printed, /by: 'ann'/);
});

async function freePort() {
  const holder = createServer().listen(0, "127.0.0.1");
  await once(holder, "listening");
  const { port } = holder.address();
  await new Promise((resolve) => holder.close(resolve));
  return port;
}

test("the_business_server_works_as_it_stands", { skip, timeout: 30_000 }, async (t) => {
  const [port, behind] = [await freePort(), await freePort()];
  const script = /```js\n(import express .*?)```/s.exec(README)[1].replace("1984", port).replace("8000", behind);
  const cwd = fileURLToPath(new URL("..", import.meta.url));
  const business = spawn(process.execPath, ["--input-type=module", "-e", script], { cwd, stdio: "inherit" });
  t.after(() => business.kill());
  const url = await startServer(t, `http://127.0.0.1:${behind}/rainbow/`, { keys: { http_port: port } });
  // It comes back until the business server is there.
  const client = new Rainbow(`${url.replace("http", "ws")}/connect/`, { WebSocket, session: true, storage: null, backoffMax: 200 });
  t.after(() => client.close());
  const heard = new Promise((resolve) => client.on("message", (message) => void resolve([message.type, message.json()])));
  await client.open();
  assert.deepEqual((await client.send(1, { text: "hello" }, 2)).json(), { "you said": { text: "hello" } });
  assert.deepEqual(await heard, [2, { text: "hello" }]);
});
