/**
 * Starts each example as its README says, and sends a message both ways.
 *
 *     RAINBOW_BIN=target/release/rainbow-server node --test clients/examples/test.mjs
 */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Rainbow } from "rainbow-client";
import WebSocket from "ws";

const HERE = fileURLToPath(new URL(".", import.meta.url));
/** Without the packages at hand, start.sh fetches them first. */
const PATIENCE = process.env.EXAMPLE_PYTHON ? 30_000 : 180_000;
const LINES_MAX = 120;

async function freePort() {
  const holder = createServer().listen(0, "127.0.0.1");
  await once(holder, "listening");
  const { port } = holder.address();
  await new Promise((resolve) => holder.close(resolve));
  return port;
}

/** Runs `start.sh example` until the end of the test. */
async function start(t, example) {
  const [port, rainbow, work] = [await freePort(), await freePort(), mkdtempSync(join(tmpdir(), "rainbow-example-"))];
  const env = { ...process.env, EXAMPLE_PORT: port, EXAMPLE_RAINBOW_PORT: rainbow, DEVICE_MEMORY: join(work, "memory"), PYTHONUNBUFFERED: "1" };
  const child = spawn(join(HERE, "start.sh"), [example], { env, stdio: ["ignore", "pipe", "pipe"] });
  const running = { url: `http://127.0.0.1:${port}`, rainbow, printed: "", exit: new Promise((resolve) => child.on("exit", resolve)) };
  running.exit.then(() => (running.ended = true));
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (data) => (running.printed += data));
  running.stop = () => {
    child.kill("SIGTERM");
    return running.exit;
  };
  t.after(async () => {
    const status = await running.stop();
    rmSync(work, { recursive: true });
    assert.equal(status, 0, running.printed);
  });
  await until(t, running, "its page", async () => (await fetch(running.url)).ok);
  return running;
}

/** Asks until the answer is true. */
async function until(t, running, what, ask) {
  const deadline = Date.now() + PATIENCE;
  while (!(await ask().catch(() => false))) {
    assert.ok(!running.ended, `it has ended\n${running.printed}`);
    assert.ok(Date.now() < deadline, `not in time: ${what}\n${running.printed}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

function client(t, { rainbow }, deviceId, params, types) {
  const options = { WebSocket, deviceId, params, types, session: true, storage: null, backoffMax: 200 };
  const found = new Rainbow(`ws://127.0.0.1:${rainbow}/connect/`, options);
  t.after(() => found.close());
  return found;
}

/** The first message of that name that `fits`. */
function heard(rainbow, name, fits = () => true) {
  return new Promise((resolve) => rainbow.on(name, (message) => void (fits(message.json()) && resolve(message.json()))));
}

for (const [example, file] of [["django", "chat_django.py"], ["fastapi", "chat_fastapi.py"], ["express", "chat_express.mjs"]]) {
  test(`the_chat_with_${example}`, { timeout: PATIENCE }, async (t) => {
    assert.ok(readFileSync(join(HERE, file), "utf8").split("\n").length <= LINES_MAX);
    const running = await start(t, example);
    assert.match(await (await fetch(running.url)).text(), /from "\/rainbow\.js"/);
    const script = await fetch(`${running.url}/rainbow.js`);
    assert.match(script.headers.get("content-type"), /^(text|application)\/javascript/);
    assert.match(await script.text(), /export class Rainbow/);
    const types = { say: 1, line: 2, came: 3 };
    const [ann, bob] = ["Ann", "Bob"].map((name) => client(t, running, `device of ${name}`, { name }, types));
    const came = heard(ann, "came", ({ name }) => name === "Bob");
    await ann.open();
    await bob.open();
    assert.deepEqual(await came, { name: "Bob" });
    const line = { name: "Ann", text: "hällo", by: "device of Ann" };
    const lines = [ann, bob].map((rainbow) => heard(rainbow, "line"));
    assert.deepEqual((await ann.send("say", { text: "hällo" }, 2)).json(), { status: "ok" });
    assert.deepEqual(await Promise.all(lines), [line, line]);
    // While Bob is away, it waits for him.
    bob.close();
    await until(t, running, "Bob is missed", async () => running.printed.includes("Bob has gone"));
    await ann.send("say", { text: "later" }, 2);
    const late = heard(bob, "line");
    await bob.open();
    assert.equal((await late).text, "later");
  });
}

test("the_bell", { timeout: PATIENCE }, async (t) => {
  const running = await start(t, "bell");
  assert.match(await (await fetch(`${running.url}/bell.js`)).text(), /createRoot/);
  const ann = client(t, running, "phone", { user: "ann" }, { ring: 1, read: 2 });
  const rings = heard(ann, "ring");
  await ann.open();
  const notify = async (text) => (await fetch(`${running.url}/notify?user=ann`, { method: "POST", body: text })).json();
  const { connections, stored } = await notify("Your parcel is here");
  assert.equal(connections + stored, 1);
  assert.equal((await rings).text, "Your parcel is here");
  assert.deepEqual((await ann.send("read", { count: 1 }, 2)).json(), { read: 1 });
  const nobody = client(t, running, "phone", {}, {});
  await assert.rejects(nobody.open(), { code: "refused", reason: "who are you?" });
});

test("the_device", { timeout: PATIENCE }, async (t) => {
  const running = await start(t, "device");
  let report;
  const reported = async () => (report = (await (await fetch(running.url)).json())["thermostat-1"]) !== undefined;
  await until(t, running, "a report", reported);
  assert.equal(report.wanted, 20);
  const order = await fetch(`${running.url}/set?device=thermostat-1`, { method: "POST", body: "celsius=22" });
  assert.equal((await order.json()).answer.wanted, 22);
  await until(t, running, "it obeys", async () => (await reported()) && report.wanted === 22);
});
