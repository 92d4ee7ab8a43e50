/** Calls to Rainbow, from a business server's side. Times are in seconds, as in the server's own parameters. */

import { CallRefused, SendIncomplete, Unreachable } from "./errors.js";
import { WebhookKey, query2014 } from "./signing.js";

/**
 *     const server = new Rainbow("http://127.0.0.1:1984", { token: "testtoken" });
 *     (await server.send("room", { text: "hello" }, { msgtype: 7, qos: 1 })).connections;
 */
export class Rainbow {
  #base;
  #token;
  #key;
  #timeout;
  #retryFor;
  #fetch;

  constructor(url, { token, webhookSecret, timeout = 5, retryFor = 30, fetch } = {}) {
    this.#base = new URL(url);
    if (!/^https?:$/.test(this.#base.protocol)) throw new TypeError(`${url} is no http(s) URL`);
    this.#token = token;
    this.#key = webhookSecret === undefined ? undefined : new WebhookKey(webhookSecret);
    [this.#timeout, this.#retryFor, this.#fetch] = [timeout, retryFor, fetch];
  }

  get url() {
    return this.#base.origin + this.#base.pathname.replace(/\/+$/, "");
  }

  /** Sends `data` to everyone in a channel, or to `{ session }` or `{ user }`. */
  send(to, data, options) {
    return this.#call(() => sendCall(typeof to === "string" ? { channel: to } : only(to, ["channel", "session", "user"]), data, options));
  }

  /** Sends `data` to everyone in several channels, once each. */
  broadcast(channels, data, options) {
    return this.#call(() => sendCall({ channels: channels.map(checkChannel).join(";;") }, data, options));
  }

  /** Subscribes a client. `occupy`: everyone else is unsubscribed first. */
  sub(identity, channel, { occupy = false } = {}) {
    return this.#call(() => post("/sub/", { identity, channel, occupy: Number(occupy) }));
  }

  unsub(identity, channel) {
    return this.#call(() => post("/unsub/", { identity, channel }));
  }

  /** Closes a client, or all of `{ channel }` or `{ user }`. They return on 4000-4499, not on 4500-4999. */
  kick(whom, { code = 4500, reason = "" } = {}) {
    const named = () => (typeof whom === "string" ? { identity: whom } : only(whom, ["identity", "channel", "user"]));
    return this.#call(() => post("/kick/", { ...named(), code, reason }));
  }

  /** How many are in a channel, and a page of who. Without a name: the largest channels, in `raw`. */
  /** Who is in a channel, or with `{ user }` which connections a user has. */
  channel(name, { user, offset = 0, limit = 100 } = {}) {
    return this.#call(() => ({ method: "GET", path: "/channel/", query: { channel: name, user, offset, limit }, read: (answer) => readChannel(name, answer) }));
  }

  session(name) {
    return this.#call(() => ({ method: "GET", path: "/session/", query: { session: name }, read: (answer) => readSession(name, answer) }));
  }

  /** Ends a session and all that waits for it. */
  drop(session) {
    return this.#call(() => ({ method: "POST", path: "/session/drop/", query: { session }, read: nothing }));
  }

  info() {
    return this.#call(() => ({ method: "GET", path: "/info/", read: (answer) => answer }));
  }

  /** Resolves if the server answers at all. */
  hello() {
    return this.#call(() => ({ method: "GET", path: "/hello/", isText: true, read: nothing }));
  }

  /** `describe` throws for what cannot be meant; the promise rejects then. */
  async #call(describe) {
    const call = describe();
    const deadline = now() + this.#retryFor;
    for (let attempt = 0; ; attempt++) {
      try {
        return await this.#attempt(call);
      } catch (error) {
        const isTransient = error instanceof Unreachable || (error instanceof CallRefused && error.httpStatus === 503);
        if (!call.isRepeatable || !isTransient) throw error;
        // Exponential, with full jitter: callers do not come back in step.
        const pause = Math.random() * Math.min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2 ** attempt) + Math.min(error.retryAfter ?? 0, BACKOFF_MAX_S);
        if (now() + pause > deadline) throw error;
        await new Promise((resolve) => setTimeout(resolve, pause * 1000));
      }
    }
  }

  async #attempt(call) {
    const { url, headers } = this.#signed(call);
    const signal = AbortSignal.timeout(((call.patience ?? 0) + this.#timeout) * 1000);
    const { method, body, path } = call;
    let response, bytes;
    try {
      // A redirect is no answer of Rainbow's, and would carry the signature elsewhere.
      response = await (this.#fetch ?? fetch)(url, { method, headers, body, signal, redirect: "manual" });
      bytes = Buffer.from(await response.arrayBuffer());
    } catch (error) {
      const { code, message } = error.cause ?? error;
      const maybeDone = !NOT_SENT.includes(code);
      throw new Unreachable(`${path}: ${message || code || error.message}`, { maybeDone, cause: error });
    }
    try {
      return readAnswer(call, response.status, bytes);
    } catch (error) {
      const after = response.headers.get("retry-after");
      if (/^[0-9]+$/.test(after ?? "")) Object.defineProperty(error, "retryAfter", { value: Number(after) });
      throw error;
    }
  }

  /** URL and headers of one attempt: by Standard Webhooks where a secret is known, else as in 2014. */
  #signed({ method, path, query = {}, body, isSend }) {
    const url = new URL(this.url + path);
    const signature = !this.#key && this.#token ? query2014(this.#token) : {};
    for (const [name, value] of Object.entries({ ...query, ...signature })) {
      if (value !== undefined) url.searchParams.append(name, String(value));
    }
    const headers = this.#key?.headers(`${method} ${url.pathname}${url.search}`, body ?? "") ?? {};
    if (body) headers["content-type"] = isSend ? "application/octet-stream" : "application/json";
    return { url, headers };
  }
}

function sendCall(to, data, { msgtype = 1, qos = 2, timeout = 10, ttl, messageId, wait } = {}) {
  if (![0, 1, 2].includes(qos)) throw new RangeError(`qos is 0, 1 or 2, not ${qos}`);
  checkType("msgtype", msgtype);
  return {
    method: "POST",
    path: "channels" in to ? "/broadcast/" : "/send/",
    query: { ...to, msgtype, qos, timeout, ttl, message_id: messageId, wait },
    body: encode(data),
    patience: qos === 0 ? 0 : timeout,
    // The server sends a message of one id once.
    isRepeatable: messageId !== undefined,
    isSend: true,
    read: readSend,
  };
}

function post(path, body) {
  return { method: "POST", path, body: encode(body), read: nothing };
}

/** `named` if it has exactly one of `names`. */
function only(named, names) {
  const found = Object.entries(named ?? {}).filter(([, value]) => value !== undefined && value !== null);
  if (found.length !== 1 || !names.includes(found[0][0])) throw new TypeError(`name one of: ${names.join(", ")}`);
  return Object.fromEntries(found);
}

/** The result of a call, or the error that its answer means. */
function readAnswer(call, httpStatus, bytes) {
  if (call.isText && httpStatus === 200) return call.read({});
  const answer = asObject(bytes);
  if (answer === undefined) {
    const text = bytes.subarray(0, 200).toString().trim();
    if (httpStatus < 400) throw new Unreachable(`${call.path} answered no JSON: ${text}`, { maybeDone: true });
    throw new CallRefused(text || `HTTP ${httpStatus}`, { httpStatus });
  }
  if (httpStatus < 400 && (answer.status ?? 0) === 0) return call.read(answer);
  const msg = String(answer.msg || `HTTP ${httpStatus}`);
  if (call.isSend && count(answer.connections) !== null) throw new SendIncomplete(msg, { httpStatus, result: readSend(answer) });
  throw new CallRefused(msg, { httpStatus });
}

function asObject(bytes) {
  try {
    const value = JSON.parse(bytes.toString());
    return typeof value === "object" && value !== null && !Array.isArray(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function readSend(answer) {
  const figures = ["targets", "connections", "stored", "refused", "undecided", "unreachable"];
  return {
    ...Object.fromEntries(figures.map((name) => [name, count(answer[name])])),
    data: text(answer.data),
    ignored: texts(answer.ignored),
    raw: answer,
  };
}

function readChannel(name, answer) {
  return { channel: name ?? null, connections: count(answer.connections), identities: texts(answer.identities), users: { ...answer.users }, raw: answer };
}

function readSession(name, answer) {
  return {
    session: name,
    user: text(answer.user),
    online: typeof answer.online === "boolean" ? answer.online : null,
    identity: text(answer.identity),
    channels: texts(answer.channels),
    waiting: count(answer.waiting),
    waitingBytes: count(answer.waiting_bytes),
    oldestS: count(answer.oldest_s),
    expiresS: count(answer.expires_s),
    raw: answer,
  };
}

/** A figure is null where the server did not say it. */
function count(value) {
  if (Array.isArray(value)) return value.length;
  return Number.isInteger(value) ? value : null;
}

function text(value) {
  return typeof value === "string" ? value : null;
}

function texts(value) {
  return Array.isArray(value) ? value.map(String) : [];
}

function nothing() {}

/** Bytes and text as they are, nothing as nothing, anything else as JSON. */
export function encode(data) {
  if (data === undefined || data === null) return Buffer.alloc(0);
  if (typeof data === "string") return Buffer.from(data);
  if (data instanceof ArrayBuffer) return Buffer.from(data);
  if (ArrayBuffer.isView(data)) return Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  return Buffer.from(JSON.stringify(data));
}

export function checkType(what, number) {
  if (!Number.isInteger(number) || number < 0 || number > 65534) throw new RangeError(`${what} is a number from 0 to 65534, not ${number}`);
}

/** A channel's name as a list of names can hold it. */
export function checkChannel(name) {
  if (typeof name !== "string" || name === "" || name.includes(";;") || name !== name.trim() || /[\x00-\x1f\x7f]/.test(name)) {
    throw new TypeError(`${JSON.stringify(name)} cannot stand in a list of channels`);
  }
  return name;
}

function now() {
  return performance.now() / 1000;
}

const BACKOFF_MIN_S = 0.1;
const BACKOFF_MAX_S = 5;
/** The request has not left this machine. */
const NOT_SENT = ["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH", "ENETUNREACH", "UND_ERR_CONNECT_TIMEOUT"];
