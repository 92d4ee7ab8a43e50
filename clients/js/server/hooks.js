/**
 * Hooks: what Rainbow asks a business server. `hooks.node` takes them from node:http and Express, `hooks.fetch` from whatever
 * speaks Request and Response.
 *
 *     const hooks = new Hooks({ token: "testtoken" });
 *     hooks.rainbowConnect((request) => request.sub("room"));
 *     hooks.rainbow(1, (request) => ({ "you said": request.data }));
 *     app.use("/rainbow", hooks.node);
 *
 * A handler may return nothing, text, bytes, or JSON, or a promise of these. One that throws is answered with 500, and Rainbow calls again.
 */

import { checkChannel, checkType, encode } from "./calls.js";
import { BadSignature, Refused } from "./errors.js";
import { Verifier, query } from "./signing.js";

export class Hooks {
  #handlers = new Map();
  #verifier;
  #onError;

  /** Further options are the Verifier's. `onError` hears what a handler threw, and whose signature was wrong. */
  constructor({ onError = (error) => console.error("rainbow:", error), ...options } = {}) {
    this.#verifier = new Verifier(options);
    this.#onError = onError;
    this.node = this.node.bind(this);
    this.fetch = this.fetch.bind(this);
  }

  /** The handler answers messages of this type. */
  rainbow(msgType, handler) {
    checkType("a message type", msgType);
    return this.#add(msgType, handler);
  }

  /** The handler decides who is let in: everybody whom it does not `refuse`. */
  rainbowConnect(handler) {
    return this.#add(CONNECT, handler);
  }

  /** The handler hears the end of each connection. */
  rainbowClose(handler) {
    return this.#add(CLOSE, handler);
  }

  /** The handler hears, in `data`, which stored messages have reached which sessions. */
  rainbowReceipt(handler) {
    return this.#add(RECEIPT, handler);
  }

  #add(key, handler) {
    if (typeof handler !== "function") throw new TypeError(`the handler of ${key} is no function`);
    if (this.#handlers.has(key) && this.#handlers.get(key) !== handler) throw new TypeError(`two handlers for ${key}`);
    this.#handlers.set(key, handler);
    return this;
  }

  /** For Express (`app.use("/rainbow", hooks.node)`, before any body parser) and node:http (`createServer(hooks.node)`). */
  async node(request, response, next) {
    // Express hides the path under which this hangs; the signature may cover it.
    const target = request.originalUrl ?? request.url;
    if (next !== undefined && route(target) === null) return next();
    try {
      const body = await readNode(request);
      if (body === null) return;
      const { status, headers, body: answer } = await this.handle({ method: request.method, target, headers: request.headers, body });
      response.writeHead(status, latin1(headers)).end(answer);
    } catch (error) {
      if (next === undefined) response.writeHead(500).end();
      (next ?? this.#onError)(error);
    }
  }

  /** For servers and frameworks of Request and Response. */
  async fetch(request) {
    const { pathname, search, origin } = new URL(request.url);
    const headers = Object.fromEntries(request.headers);
    const body = await readStream(request.body);
    const target = asSigned(headers["webhook-target"], request.method, pathname + search, origin);
    const answer = await this.handle({ method: request.method, target, headers, body });
    return new Response(answer.body, { status: answer.status, headers: latin1(answer.headers) });
  }

  /** The answer to a request, whatever brought it. `target`: path and query as in the request line. */
  async handle({ method, target, headers, body }) {
    const found = route(target);
    if (found === null) return failure(404, "no such hook");
    if (body.length > BODY_MAX) return failure(413, `more than ${BODY_MAX} bytes`);
    const hook = new Hook(found, { method, target, headers: lowerCase(headers), body });
    const invalid = this.#check(hook);
    if (invalid) return invalid;
    try {
      const handler = this.#handlers.get(found.messageType ?? found.kind);
      if (!handler && found.kind === MESSAGE) throw new Refused(`nobody takes messages of type ${found.messageType}`, { status: 404 });
      return hook.answer(await handler?.(hook));
    } catch (error) {
      if (error instanceof Refused) return hook.refusal(error);
      this.#onError(error, hook);
      // Rainbow calls again after a 5xx, until `forward_deadline`.
      return failure(500, "the handler failed");
    }
  }

  /** An answer for requests that no handler should see. */
  #check({ kind, identity, request }) {
    try {
      this.#verifier.verify(request);
    } catch (error) {
      if (!(error instanceof BadSignature)) throw error;
      this.#onError(error);
      return failure(401, `bad signature: ${error.message}`, "60001");
    }
    if ((kind === MESSAGE || kind === RECEIPT) && request.method !== "POST") return failure(405, "POST required", "60003");
    if ((kind === CONNECT || kind === MESSAGE) && !identity) return failure(400, "identity required", "60002");
  }
}

/** One call of Rainbow about one client, and what the answer does to that client. */
export class Hook {
  #session;
  #sessionExpiry;
  #user;
  #sub = [];
  #unsub = [];
  #cookieBefore;

  constructor({ kind, messageType = null }, request) {
    const { headers } = request;
    [this.kind, this.messageType, this.request] = [kind, messageType, request];
    this.identity = headers.rainbowclientidentity ?? "";
    this.device = headers["x-deviceid"] ?? "";
    this.os = headers["x-client-os"] ?? "";
    /** The client's address as Rainbow saw it. */
    this.address = headers["x-real-ip"] ?? "";
    this.origin = headers.rainbowclientorigin ?? "";
    /** The same over all repeats of one message; null with QoS 0. */
    this.idempotencyKey = headers["idempotency-key"] || null;
    this.closeCode = /^\d+$/.test(headers.rainbowclosecode ?? "") ? Number(headers.rainbowclosecode) : null;
    this.closeReason = headers.rainbowclosereason ?? "";
    this.sessionEnded = headers.rainbowsessionended || null;
    this.#cookieBefore = headers.rainbowclientcookie ?? "";
    /** What Rainbow keeps for this client and brings with every later call: JSON, or bytes. null: nothing yet. */
    this.cookie = readCookie(this.#cookieBefore);
  }

  /** Itself: a handler reads as one in Python does. */
  get rainbow() {
    return this;
  }

  get msgType() {
    return this.messageType;
  }

  /** 2014's name for `cookie`. */
  get context() {
    return this.cookie;
  }

  set context(value) {
    this.cookie = value;
  }

  get body() {
    return this.request.body;
  }

  get text() {
    return Buffer.from(this.body).toString();
  }

  /** The body as JSON; null when it is empty. What is no JSON is refused with 400. */
  get data() {
    if (this.body.length === 0) return null;
    try {
      return JSON.parse(this.text);
    } catch {
      throw new Refused("the message is not JSON", { status: 400 });
    }
  }

  /** Names are lower-case. */
  get headers() {
    return this.request.headers;
  }

  /** The first of each name counts. */
  get query() {
    return Object.fromEntries([...new URLSearchParams(query(this.request.target))].reverse());
  }

  sub(...channels) {
    this.#sub.push(...channels.map(checkChannel));
  }

  unsub(...channels) {
    this.#unsub.push(...channels.map(checkChannel));
  }

  /** The durable session of this client. Set it in a connect handler; `sessionExpiry` is in seconds. */
  get session() {
    return this.#session ?? (this.headers.rainbowclientsession || null);
  }

  set session(name) {
    this.#onlyAtConnect("session");
    this.#session = checkName(name);
  }

  get sessionExpiry() {
    return this.#sessionExpiry ?? null;
  }

  set sessionExpiry(seconds) {
    this.#onlyAtConnect("sessionExpiry");
    this.#sessionExpiry = Math.trunc(seconds);
  }

  /** Who this is, for `send({ user })`, `kick({ user })` and /channel/. Set it in a connect handler. */
  get user() {
    return this.#user ?? (this.headers.rainbowclientuser || null);
  }

  set user(name) {
    this.#onlyAtConnect("user");
    this.#user = checkName(String(name));
  }

  /** Does not let the client in, or refuses its message for good. Throws. */
  refuse(reason, options) {
    throw new Refused(reason, options);
  }

  #onlyAtConnect(what) {
    if (this.kind !== CONNECT) throw new Error(`${what} can be set when a client connects, not later`);
  }

  #actions() {
    const cookie = writeCookie(this.cookie);
    const list = (channels) => (channels.length > 0 ? [...new Set(channels)].join(";;") : undefined);
    const headers = {
      RAINBOWCLIENTCHANNELUNSUB: list(this.#unsub),
      RAINBOWCLIENTCHANNEL: list(this.#sub),
      RAINBOWCLIENTCOOKIE: cookie === this.#cookieBefore ? undefined : cookie,
      RAINBOWCLIENTSESSION: this.#session,
      RAINBOWCLIENTSESSIONEXPIRY: this.#session === undefined ? undefined : this.#sessionExpiry?.toString(),
      RAINBOWCLIENTUSER: this.#user,
    };
    return Object.fromEntries(Object.entries(headers).filter(([, value]) => value !== undefined));
  }

  /** What a handler returned, as an answer. */
  answer(result) {
    let value = result;
    if (this.kind === CONNECT) {
      if (value === false) throw new Refused();
      if (value === undefined || value === null || value === true) value = { status: "success" };
    } else if (this.kind === CLOSE && (value === undefined || value === null)) {
      value = { status: "success" };
    }
    const isRaw = value instanceof ArrayBuffer || ArrayBuffer.isView(value);
    return { status: 200, headers: { "content-type": isRaw ? "application/octet-stream" : JSON_TYPE, ...this.#actions() }, body: encode(value) };
  }

  /** At connect a JSON that is not a success, which every server of Rainbow's understands; else a final 4xx. */
  refusal({ reason, status }) {
    if (this.kind !== CONNECT) return failure(status, reason);
    return { status: 200, headers: { "content-type": JSON_TYPE }, body: encode({ status: "failed", reason }) };
  }
}

/** `connect/`, `message/7/`, `close/`, `receipt/`, wherever they hang: the kind of hook and the message type. */
function route(target) {
  const parts = target.replace(/\?.*$/s, "").replace(/^\/+|\/+$/g, "").split("/");
  const [last, before] = [parts.pop(), parts.pop()];
  if (before === MESSAGE && /^\d+$/.test(last) && Number(last) <= 65535) return { kind: MESSAGE, messageType: Number(last) };
  return [CONNECT, CLOSE, RECEIPT].includes(last) ? { kind: last } : null;
}

/** URL rewrites some characters. The target that was signed is the request's if it is rewritten to the request's. */
function asSigned(signed, method, target, origin) {
  const [, path] = /^\S+ (\/.*)$/.exec(signed ?? "") ?? [];
  if (path === undefined || !URL.canParse(origin + path)) return target;
  const { pathname, search } = new URL(origin + path);
  return signed === `${method} ${path}` && pathname + search === target ? path : target;
}

/** null when the caller is gone. What is too large is read no further than its first byte too many. */
async function readNode(request) {
  for (const read of [request.rawBody, request.body]) if (read instanceof Uint8Array) return read;
  if (request.readableDidRead) {
    throw new Error("the body is parsed already, so that its signature cannot be checked: put Rainbow's hooks before express.json()");
  }
  try {
    // Broken off, it must not take the socket along: the answer goes there.
    return await readStream(request.iterator({ destroyOnReturn: false }));
  } catch (error) {
    if (request.destroyed) return null;
    throw error;
  }
}

async function readStream(stream) {
  const parts = [];
  let size = 0;
  for await (const part of stream ?? []) {
    parts.push(part);
    size += part.length;
    if (size > BODY_MAX) break;
  }
  return Buffer.concat(parts);
}

function lowerCase(headers) {
  return Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), String(value)]));
}

/** Header values are taken for Latin-1; UTF-8 travels in disguise. */
function latin1(headers) {
  return Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, Buffer.from(value).toString("latin1")]));
}

function failure(status, msg, code) {
  const headers = { "content-type": JSON_TYPE, ...(code && { RAINBOWREQUESTINVALID: code }) };
  return { status, headers, body: encode({ status: "error", msg }) };
}

function checkName(name) {
  if (typeof name !== "string" || !/^[\x20-\x7e]{1,128}$/.test(name) || name !== name.trim()) {
    throw new TypeError(`${JSON.stringify(name)}: a name has 1 to 128 printable ASCII characters`);
  }
  return name;
}

function readCookie(header) {
  const raw = Buffer.from(header, "base64");
  if (raw.length === 0) return null;
  try {
    return JSON.parse(raw.toString());
  } catch {
    return raw;
  }
}

function writeCookie(value) {
  if (value === null || value === undefined) return "";
  const isRaw = value instanceof ArrayBuffer || ArrayBuffer.isView(value);
  return (isRaw ? encode(value) : Buffer.from(JSON.stringify(value))).toString("base64");
}

const [CONNECT, MESSAGE, CLOSE, RECEIPT] = ["connect", "message", "close", "receipt"];
const JSON_TYPE = "application/json";
const BODY_MAX = 64 << 20;
