/** What clients/README.md tells its reader to type, typed. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { COM, REC, REL, SEND } from "../rainbow.js";
import { FakeSession, greeting } from "./fake-server.js";

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
