/** This client as a program of the conformance kit (../../conformance/README.md): commands come in, events go out, a line of JSON each. */

import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import WebSocket from "ws";
import { Rainbow } from "../rainbow.js";

let rainbow = null;
let attempts = null;
let reply;
let held = null;
let clockOffset = 0;

const timers = { now: () => Date.now() + clockOffset, setTimeout, clearTimeout, setInterval, clearInterval };

const base64 = (bytes) => Buffer.from(bytes).toString("base64");

function tell(event, fields = {}) {
  process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`);
}

/** localStorage in a file, as it is after a crash: each item whole, or as it was. */
class FileStorage {
  constructor(path) {
    this.path = path;
    try {
      this.items = JSON.parse(readFileSync(path, "utf8"));
    } catch {
      this.items = {};
    }
  }

  getItem(key) {
    return this.items[key] ?? null;
  }

  setItem(key, value) {
    this.items[key] = value;
    writeFileSync(`${this.path}.new`, JSON.stringify(this.items));
    renameSync(`${this.path}.new`, this.path);
  }
}

function make({ url, device, session, storage, params, options }) {
  const { backoff_min: backoffMin, backoff_max: backoffMax, ...others } = options;
  rainbow = new Rainbow(url, {
    WebSocket,
    timers,
    deviceId: device,
    os: "kit",
    session,
    storage: storage === null ? null : new FileStorage(storage),
    params: attempts === null ? params : () => Promise.resolve(attempts.shift()),
    backoffMin,
    backoffMax,
    ...others,
  });
  rainbow.on("open", ({ session, resumed, waiting }) => tell("opened", { session, resumed, waiting }));
  rainbow.on("close", ({ code, reason, retryIn }) => tell("closed", { code, reason, retry: retryIn }));
  rainbow.on("error", (error) => tell("error", { text: String(error) }));
  rainbow.on("message", ({ type, qos, id, dup, bytes }) => {
    tell("message", { type, qos, id, dup, body: base64(bytes) });
    return held === null ? reply : held.promise.then(() => reply);
  });
}

/** What becomes of a promise. */
function follow(tag, promise) {
  const fulfilled = (body) => tell("acknowledged", { tag, body: base64(body?.bytes ?? "") });
  const rejected = ({ code, status, reason, body, message }) =>
    tell("rejected", { tag, code: code ?? message, status, reason, body: base64(body?.bytes ?? "") });
  promise.then(fulfilled, rejected);
}

async function flood({ count, type, qos, window }) {
  let started = 0;
  const sendSome = async () => {
    while (started < count) {
      started += 1;
      await rainbow.send(type, "", qos);
    }
  };
  await Promise.all(Array.from({ length: window }, sendSome));
}

const COMMANDS = {
  open(command) {
    if (rainbow === null) make(command);
    follow(command.tag, rainbow.open());
  },
  send({ tag, type, qos, body, timeout }) {
    follow(tag, rainbow.send(type, Buffer.from(body, "base64"), qos, timeout));
  },
  close: () => rainbow.close(),
  flood: (command) => follow(command.tag, flood(command)),
};

/** Those that only change how we behave are confirmed. */
const SETTINGS = {
  sync() {},
  reply: ({ text }) => (reply = text),
  hold: () => (held = settleable()),
  release() {
    held.resolve();
    held = null;
  },
  params: ({ each }) => (attempts = each),
  clock: ({ add }) => (clockOffset += add),
};

function settleable() {
  let resolve;
  const promise = new Promise((yes) => (resolve = yes));
  return { promise, resolve };
}

createInterface({ input: process.stdin })
  .on("line", (line) => {
    const { do: name, ...command } = JSON.parse(line);
    if (name in COMMANDS) return COMMANDS[name](command);
    SETTINGS[name](command);
    tell("done", { command: name });
  })
  .on("close", () => process.exit());
