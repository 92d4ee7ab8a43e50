/**
 * Does what the README tells a reader to do: its business server in Python, its rainbow.toml, its call by curl, its client.
 *
 *     RAINBOW_BIN=target/release/rainbow-server node tests/readme.mjs
 *
 * The blocks are taken out of README.md as they stand; only the ports 1984 and 8000 become free ones. Called by tests/run.sh.
 */

import { execFile, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { Rainbow } from "../clients/js/rainbow.js";

const ROOT = new URL("..", import.meta.url).pathname;
const WebSocket = createRequire(join(ROOT, "clients/js/"))("ws");
const PATIENCE = 10_000;
/** The server refuses variables that look like its own and are not. */
const ENV = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("RAINBOW_")));
// Other servers on this machine would be its peers.
ENV.RAINBOW_CLUSTER = "off";
const readme = readFileSync(join(ROOT, "README.md"), "utf8");
const work = mkdtempSync(join(tmpdir(), "rainbow-readme-"));
const started = [];

/** The first block of that language that contains `mark`. */
function block(language, mark) {
  const blocks = [...readme.matchAll(/^```(\w+)\n(.*?)^```$/gms)].filter((found) => found[1] === language);
  const found = blocks.find((found) => found[2].includes(mark));
  if (!found) throw new Error(`README.md has no ${language} block with ${mark}`);
  return found[2];
}

function freePort() {
  return new Promise((resolve) => {
    const holder = createServer().listen(0, "127.0.0.1", () => {
      const { port } = holder.address();
      holder.close(() => resolve(port));
    });
  });
}

function start(command, args) {
  const child = spawn(command, args, { cwd: work, env: ENV, stdio: ["ignore", "inherit", "inherit"] });
  started.push(child);
  return child;
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
}

async function main() {
  const [port, behind] = [await freePort(), await freePort()];
  const own = (text) => text.replaceAll("1984", port).replaceAll("8000", behind);
  const python = own(block("python", "http.server"));
  equal(python.trim().split("\n").length, 10, "lines of the business server");
  writeFileSync(join(work, "business.py"), python);
  writeFileSync(join(work, "rainbow.toml"), own(block("toml", "connect_url")));
  start("python3", ["business.py"]);
  start(process.env.RAINBOW_BIN ?? join(ROOT, "target/release/rainbow-server"), ["-f", "rainbow.toml", "-p", String(port)]);
  await Promise.all([listening(port), listening(behind)]);

  const [one, two] = [new Reader(port, "one"), new Reader(port, "two")];
  await inTime("both are let in", Promise.all([one.rainbow.open(), two.rainbow.open()]));
  const answer = await inTime("the answer to a message", one.rainbow.send(1, { text: "hello" }, 2));
  equal(answer.json().connections, 2, "clients that acknowledged it");
  await inTime("the room hears it", Promise.all([one.hears('{"text":"hello"}'), two.hears('{"text":"hello"}')]));

  const { stdout } = await promisify(execFile)("bash", ["-c", own(block("sh", "sha1sum"))], { timeout: PATIENCE });
  equal(JSON.parse(stdout).connections, 2, "clients that curl reached");
  await inTime("the room hears curl", Promise.all([one, two].map((reader) => reader.hears('{"text": "hello from curl"}'))));
  await Promise.all([one.rainbow.close(), two.rainbow.close()]);
  console.log("the README's business server, call and client work as written");
}

try {
  await main();
} finally {
  // The server first: its last calls to the business server tell of the clients that have gone.
  for (const child of started.reverse()) {
    if (child.exitCode !== null || !child.kill()) continue;
    await inTime("an end on SIGTERM", new Promise((resolve) => child.on("exit", resolve)));
  }
  rmSync(work, { recursive: true });
}
