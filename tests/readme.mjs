/**
 * Does what README.md tells a reader to do: the demo and its call; the business servers in Python and Node.js, rainbow.toml, the
 * client, the command line. Then the same without a library, as src/io/api/README.md has it.
 *
 *     RAINBOW_BIN=target/release/rainbow-server README_PYTHON=target/conformance/bin/python node tests/readme.mjs
 *
 * The blocks are taken out of the files as they stand; only ports become free ones, and `rainbow-server` the one that is tested.
 * Called by tests/run.sh, which makes a Python that has what clients/python needs.
 */

import { execFile, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { Rainbow } from "../clients/js/rainbow.js";

const ROOT = new URL("..", import.meta.url).pathname;
const WebSocket = createRequire(join(ROOT, "clients/js/"))("ws");
const PATIENCE = 10_000;
/** The server refuses variables that look like its own and are not. */
const ENV = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("RAINBOW_")));
// Other servers on this machine would be its peers.
ENV.RAINBOW_CLUSTER = "off";
ENV.PYTHONPATH = join(ROOT, "clients/python/src");
const SERVER = resolve(process.env.RAINBOW_BIN ?? join(ROOT, "target/release/rainbow-server"));
const PYTHON = process.env.README_PYTHON ? resolve(process.env.README_PYTHON) : "python3";
const START = "README.md";
const REFERENCE = "src/io/api/README.md";
const work = mkdtempSync(join(tmpdir(), "rainbow-readme-"));
const started = [];

/** The first block of that language in that file that contains `mark`. */
function block(file, language, mark) {
  const text = readFileSync(join(ROOT, file), "utf8");
  const blocks = [...text.matchAll(/^```(\w+)\n(.*?)^```$/gms)].filter((found) => found[1] === language);
  const found = blocks.find((found) => found[2].includes(mark));
  if (!found) throw new Error(`${file} has no ${language} block with ${mark}`);
  return found[2];
}

/** The line of a block that contains `mark`. */
function line(text, mark) {
  return text.split("\n").find((line) => line.includes(mark)) ?? fail(`no line with ${mark} in\n${text}`);
}

function fail(what) {
  throw new Error(what);
}

function freePort() {
  return new Promise((resolve) => {
    const holder = createServer().listen(0, "127.0.0.1", () => {
      const { port } = holder.address();
      holder.close(() => resolve(port));
    });
  });
}

function start(command, args, env = {}) {
  const child = spawn(command, args, { cwd: work, env: { ...ENV, ...env }, stdio: ["ignore", "pipe", "inherit"] });
  child.printed = "";
  child.stdout.on("data", (data) => (child.printed += data));
  started.push(child);
  return child;
}

async function types(command) {
  const { stdout } = await promisify(execFile)("bash", ["-c", command], { cwd: work, env: ENV, timeout: PATIENCE });
  return stdout;
}

async function stop(child) {
  started.splice(started.indexOf(child), 1);
  if (child.exitCode !== null || !child.kill()) return;
  await inTime("an end on SIGTERM", new Promise((resolve) => child.on("exit", resolve)));
}

async function prints(child, text) {
  const deadline = Date.now() + PATIENCE;
  while (!child.printed.includes(text)) {
    if (Date.now() > deadline) throw new Error(`it did not print ${text}, but\n${child.printed}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function listening(port) {
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    const open = await new Promise((resolve) => {
      const socket = connect(port, "127.0.0.1", () => resolve(true)).on("error", () => resolve(false));
      socket.on("connect", () => socket.destroy());
    });
    if (open) return;
    if (Date.now() > deadline) throw new Error(`nobody listens on port ${port}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Rejects when `promise` takes longer than PATIENCE. */
function inTime(what, promise) {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`not in time: ${what}`)), PATIENCE)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

function equal(found, expected, what) {
  if (found !== expected) throw new Error(`${what}: ${found} in place of ${expected}`);
}

class Reader {
  heard = [];

  constructor(port, name) {
    this.rainbow = new Rainbow(`ws://127.0.0.1:${port}/connect/`, { WebSocket, deviceId: name });
    this.rainbow.on("message", (message) => {
      this.heard.push(message.text);
      this.wake?.();
    });
  }

  async hears(text) {
    while (!this.heard.includes(text)) await new Promise((resolve) => (this.wake = resolve));
  }

  async hearsLine(text) {
    while (!this.heard.some((line) => JSON.parse(line).text === text)) await new Promise((resolve) => (this.wake = resolve));
  }

  /** As the demo's page does. */
  say(text) {
    return this.rainbow.send(1, { key: text, text }, 2);
  }
}

/** The demo, the call that reaches it, and a second demo beside it: one chat, and either goes on without the other. */
async function demo() {
  const [first, call, second] = block(START, "sh", "demo").split("\n");
  const one = await startDemo(first);
  const answer = JSON.parse(await types(call.replace("1983", one.admin)));
  equal(answer.status, 0, "the status of the call to the demo");
  const other = await startDemo(second);
  await Promise.all([one, other].map(({ server }) => prints(server, "Another node was found")));
  const [ann, bob] = [new Reader(one.port, "ann"), new Reader(other.port, "bob")];
  await inTime("both are let in", Promise.all([ann.rainbow.open(), bob.rainbow.open()]));
  await inTime("a line of Ann's", Promise.all([ann.say("from the first"), bob.hearsLine("from the first")]));
  await inTime("a line of Bob's", Promise.all([bob.say("from the second"), ann.hearsLine("from the second")]));
  one.server.kill("SIGKILL");
  await inTime("the other one goes on", Promise.all([bob.say("still here"), bob.hearsLine("still here")]));
  await Promise.all([ann.rainbow.close(), bob.rainbow.close()]);
  await stop(one.server);
  await stop(other.server);
}

/** Started by that line, in the directory of the other demos. */
async function startDemo(line) {
  equal(line.startsWith("cargo run --release -- demo "), true, "the command starts the demo");
  const [port, page, admin] = [await freePort(), await freePort(), await freePort()];
  const args = ["demo", "-p", `${port}`, "--page", `${page}`, "--admin", `${admin}`];
  const server = start(SERVER, args, { RAINBOW_CLUSTER: "auto", RAINBOW_CLUSTER_NAME: `readme-${process.pid}` });
  await Promise.all([listening(page), listening(admin)]);
  return { server, port, admin };
}

/** Starts a business server and Rainbow in front of it, as the file's rainbow.toml says. */
async function behind(file, name, text, command) {
  const [port, business] = [await freePort(), await freePort()];
  const own = (text) => text.replaceAll("1984", port).replaceAll("8000", business).replaceAll("target/release/rainbow-server", SERVER);
  writeFileSync(join(work, name), own(text));
  writeFileSync(join(work, "rainbow.toml"), `http_port = ${port}\n${own(block(file, "toml", "connect_url"))}`);
  const application = start(command, [name]);
  const rainbow = start(SERVER, ["-f", "rainbow.toml"]);
  await Promise.all([listening(port), listening(business)]);
  return { port, own, end: async () => [await stop(rainbow), await stop(application)] };
}

/** The business server of the first page, with the client and the command beside it. */
async function withLibrary(name, text, command) {
  const { own, end } = await behind(START, name, text, command);
  writeFileSync(join(work, "client.mjs"), own(block(START, "js", "rainbow.open()")));
  // Node.js has a WebSocket of its own since 22.
  writeFileSync(join(work, "websocket.mjs"), 'import WebSocket from "ws";\nglobalThis.WebSocket ??= WebSocket;\n');
  const client = start("node", ["--import", "./websocket.mjs", "client.mjs"]);
  await prints(client, "the room hears { text: 'hello' }");
  await prints(client, "{ 'you said': { text: 'hello' } }");
  const sent = JSON.parse(await types(own(line(block(START, "sh", "send room"), "send room"))));
  equal(sent.connections, 1, "clients that the command line reached");
  await prints(client, "the room hears { text: 'hello from a shell' }");
  await stop(client);
  await end();
}

/** The business server without a library, and the call by curl. */
async function withoutLibrary() {
  const { port, own, end } = await behind(REFERENCE, "business.py", block(REFERENCE, "python", "http.server"), "python3");
  const [one, two] = [new Reader(port, "one"), new Reader(port, "two")];
  await inTime("both are let in", Promise.all([one.rainbow.open(), two.rainbow.open()]));
  const answer = await inTime("the answer to a message", one.rainbow.send(1, { text: "hello" }, 2));
  equal(answer.json().connections, 2, "clients that acknowledged it");
  await inTime("the room hears it", Promise.all([one.hears('{"text":"hello"}'), two.hears('{"text":"hello"}')]));

  const sent = JSON.parse(await types(own(block(REFERENCE, "sh", "sha1sum"))));
  equal(sent.connections, 2, "clients that curl reached");
  await inTime("the room hears curl", Promise.all([one, two].map((reader) => reader.hears('{"text": "hello from curl"}'))));
  await Promise.all([one.rainbow.close(), two.rainbow.close()]);
  await end();
}

async function main() {
  // What `npm install ./clients/js` makes, and what its own tests have fetched.
  mkdirSync(join(work, "node_modules"));
  symlinkSync(join(ROOT, "clients/js"), join(work, "node_modules/rainbow-client"));
  symlinkSync(join(ROOT, "clients/js/node_modules/ws"), join(work, "node_modules/ws"));
  await demo();
  await withLibrary("business.py", block(START, "python", "hooks.wsgi"), PYTHON);
  await withLibrary("business.mjs", block(START, "js", "hooks.node"), "node");
  await withoutLibrary();
  console.log("the demo, three business servers, the client and the calls work as written");
}

try {
  await main();
} finally {
  // The server first: its last calls to the business server tell of the clients that have gone.
  for (const child of [...started].reverse()) await stop(child);
  rmSync(work, { recursive: true });
}
