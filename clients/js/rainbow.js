/**
 * Rainbow's client for browsers (and Node.js ≥ 20, given a WebSocket class): one WebSocket, messages of QoS 0, 1 and 2 in
 * both directions, reconnection. No dependencies, no build step.
 *
 *     const rainbow = new Rainbow("ws://localhost:1984/connect/");
 *     rainbow.on("message", (message) => message.type === 7 ? { answer: 42 } : undefined);
 *     await rainbow.open();
 *     const answer = await rainbow.send(1, { text: "hello" });       // QoS 1: the business server's answer
 *     console.log(answer.text, answer.json());
 *
 * With `types: { chat: 1 }` a type has a name: `rainbow.send("chat", …)`, `rainbow.on("chat", (message) => …)`.
 *
 * Times are milliseconds. A message that was promised (QoS 1 and 2) outlives the connection it was sent on: it is sent
 * again on the next one until its own timeout ends. "Exactly once" over a reconnection needs a durable session
 * (`session: true`, and a business server that names one); without it a QoS 2 message is exactly once per connection.
 *
 * With a session, the server's QoS 2 messages are exactly once over reconnections and reloads of the page: handlers have
 * finished with a message, then its id is put into `storage`, then the server is told (REC). One window is left: a page
 * that dies between what a handler did and the write of the id (the same task, unless the handler is asynchronous) gets
 * that message again when it comes back; `message.id` is then the same. It is never the other way round, so that nothing is
 * lost. A send that was unanswered when the page went is not repeated by the next page: nobody waits for its promise.
 */

/**
 * Why a promise was rejected or what failed: `code` is "timeout", "too_large", "closed", "full", "protocol", "storage" or
 * "refused": the business server has refused the message for good (`status`: its HTTP status, `body`: its answer, a Body), or
 * has refused us (`closeCode` 4401). After a final close `closeCode` and `reason` are the server's.
 */
export class RainbowError extends Error {
  constructor(code, message) {
    super(message);
    this.name = "RainbowError";
    this.code = code;
  }
}

/** What a packet carries: bytes, seen as text or as JSON. */
export class Body {
  constructor(bytes) {
    this.bytes = bytes;
  }

  get text() {
    return decoder.decode(this.bytes);
  }

  /** The parsed JSON; `undefined` for an empty body. Throws on anything else that is not JSON. */
  json() {
    return this.bytes.length === 0 ? undefined : JSON.parse(this.text);
  }

  toString() {
    return this.text;
  }
}

/**
 * A message from the server, as handed to "message" handlers. `id` is the packet's, undefined with QoS 0; `name` that of its
 * type in `types`, undefined without one.
 */
export class Message extends Body {
  constructor({ type, name, qos, id, dup, body }) {
    super(body);
    this.type = type;
    this.name = name;
    this.qos = qos;
    this.id = id;
    this.dup = dup;
  }
}

export class Rainbow {
  #url;
  #options;
  #timers;
  #handlers = new Map(EVENTS.map((event) => [event, new Set()]));
  /** Numbers by name, and names by number. */
  #types;
  #names;
  /** "closed" (nothing will happen by itself), "waiting" (for the next attempt), "connecting", "open". */
  #state = "closed";
  #socket = null;
  #attempts = 0;
  #openedAt = null;
  /** `close()` was called, or the server has refused us for good. What is sent before the first `open()` waits for it. */
  #hasEnded = false;
  #reconnectTimer;
  #opening = null;
  /** The present attempt; an older one's `params` come too late. */
  #attempt = null;
  #attemptTimer;
  /** The largest message that the server takes, packet header included; known from the greeting. */
  #bytesMax = Infinity;
  #heartbeat = 0;
  #heardAt = 0;
  #pulse;
  /** When the unanswered PING went out; 0 without. */
  #askedAt = 0;
  /** Sends without their last answer, in the order of `send`. */
  #sends = new Set();
  /** Those among them that have an id: a send gets one when it is written first, so that ids on the line have no gaps. */
  #pending = new Map();
  #memory = new Memory();

  /**
   * `url`: ws(s):// or http(s)://, or a path on the page's own host; an empty path means /connect/. Options:
   * - `deviceId`, `os`: who connects (default: a random id that the browser keeps; "web" or "node");
   * - `params`: further query parameters for the business server, or a function (it may be async) that yields them for each attempt; if
   *    it throws, the attempt has failed and another follows;
   * - `WebSocket`: the class to use (default: the global one);
   * - `types`: names for message types, as in `{ chat: 1, typing: 2 }`; `send` and `on` take them;
   * - `timeout` (10 s) of a send, `repeat` (3 s) between repeats, `pendingMax` (1024) unanswered sends;
   * - `backoffMin` (500 ms) and `backoffMax` (30 s): a reconnection waits a random part of `backoffMin` · 2ⁿ, at most
   *    `backoffMax`; n counts failures in a row, and a connection that lasted `stable` (5 s) ends the row. A close whose reason
   *    says `retry_after` decides instead;
   * - `openTimeout` (10 s): an attempt that is not open by then has failed;
   * - `pongTimeout` (10 s): with `session`, a line that was silent for the server's heartbeat and for so long after is dropped;
   * - `session`: offer durable sessions (the subprotocol `rainbow.2`). Only one page holds a session: the page that had it
   *    before hears "close" with code 4409, which is final;
   * - `storage`: where the session's ids survive a reload of the page (default: localStorage). An object with `getItem` and
   *    `setItem`, both synchronous; one item of a few hundred bytes per session, 200 kB at most. null: nothing survives;
   * - `timers`: an object with `now` (ms), `setTimeout`, `clearTimeout`, `setInterval` and `clearInterval`, and `random`, the source
   *    of jitter: for tests.
   */
  constructor(url, options = {}) {
    this.#options = { ...DEFAULTS, ...options };
    this.#timers = this.#options.timers;
    this.#options.WebSocket ??= globalThis.WebSocket;
    this.#options.os ??= typeof document === "undefined" ? "node" : "web";
    if (this.#options.storage === undefined) this.#options.storage = browserStorage();
    this.#options.deviceId ??= keptDeviceId(this.#options.storage);
    this.#url = connectUrl(url);
    this.#types = new Map(Object.entries(this.#options.types ?? {}));
    this.#names = new Map([...this.#types].map(([name, type]) => [type, name]));
    if (this.#names.size < this.#types.size) throw new TypeError("types: two names have one number");
    for (const [name, type] of this.#types) {
      if (this.#handlers.has(name)) throw new TypeError(`types: "${name}" is an event`);
      checkType(type);
      this.#handlers.set(name, new Set());
    }
    if (this.#options.WebSocket === undefined) throw new TypeError("no WebSocket class here: pass one as an option");
  }

  get state() {
    return this.#state;
  }

  get deviceId() {
    return this.#options.deviceId;
  }

  /** Sends that still wait for an answer. */
  get pending() {
    return this.#sends.size;
  }

  /**
   * Events: "open" ({session: its name or null, resumed, waiting: messages that were kept for us}), "message" (Message; what the handler returns, or what its promise
   * yields, is the reply of a QoS 1/2 message), "close" ({code, reason, retryIn}: `retryIn` is null when no attempt
   * follows), "error" (RainbowError, or what a handler threw). A name of `types` is like "message", for that type alone.
   */
  on(event, handler) {
    this.#handlersOf(event).add(handler);
    return this;
  }

  off(event, handler) {
    this.#handlersOf(event).delete(handler);
    return this;
  }

  /** Connects, and stays connected until `close()` or a final close code: 4401, 4409, 4500–4999 but 4503. Resolves when open for the first time. */
  open() {
    if (this.#state === "open") return Promise.resolve();
    this.#hasEnded = false;
    this.#listen(true);
    if (this.#opening === null) {
      this.#opening = settleable();
      // Whoever ignores the promise hears of failures by events; it must not become an unhandled rejection.
      this.#opening.promise.catch(() => {});
    }
    if (this.#state === "closed" || this.#state === "waiting") this.#connect();
    return this.#opening.promise;
  }

  /** Ends the connection and all attempts; what is unanswered is rejected. */
  close(code = 1000, reason = "") {
    const socket = this.#socket;
    const wasClosed = this.#state === "closed";
    this.#detach();
    this.#end(new RainbowError("closed", "closed by this side"));
    socket?.close(code, reason);
    if (!wasClosed) this.#emit("close", { code, reason, retryIn: null });
  }

  /**
   * Sends `data` (text, bytes, or anything that JSON can say) as message `type` (0–65535, or a name of `types`). Resolves with QoS 0 when
   * written, with QoS 1 with the body of ACK, with QoS 2 with the body of REC after COM. A QoS 0 message is never kept for
   * later: without a connection it is rejected. `timeout` 0 or Infinity waits for ever.
   */
  async send(type, data, qos = 1, timeout = this.#options.timeout) {
    if (typeof type === "string") type = this.#types.get(type);
    checkType(type);
    if (type === SESSION_TYPE && this.#options.session) throw new TypeError("type 65535 is Rainbow's own");
    if (qos !== 0 && qos !== 1 && qos !== 2) throw new TypeError("qos: 0, 1 or 2");
    const body = toBytes(data);
    if (body.length + HEADER_MAX > this.#bytesMax) {
      throw new RainbowError("too_large", `${body.length} bytes are more than the server takes`);
    }
    if (qos === 0) return this.#sendOnce(type, body);
    if (this.#state === "closed" && this.#hasEnded) throw new RainbowError("closed", "not open");
    if (this.#sends.size >= this.#options.pendingMax) throw new RainbowError("full", "too many unanswered messages");
    const entry = { id: null, type, body, qos, written: false, reply: null, status: undefined, ...settleable() };
    this.#sends.add(entry);
    if (timeout > 0 && timeout < TIMER_MAX) entry.deadline = this.#timers.setTimeout(() => this.#timeOut(entry), timeout);
    if (this.#state === "open") this.#transmit(entry);
    return entry.promise;
  }

  // — Out —

  #sendOnce(type, body) {
    if (this.#state !== "open") throw new RainbowError("closed", "not connected; QoS 0 is not kept for later");
    if (this.#congested()) throw new RainbowError("full", "the connection does not take more now");
    this.#write(encodePacket({ command: SEND, type, qos: 0, body }));
  }

  /** Writes what the entry's state asks for now, and again every `repeat` until it is answered or the line is gone. */
  #transmit(entry) {
    this.#timers.clearInterval(entry.repeat);
    entry.repeat = this.#timers.setInterval(() => this.#writeEntry(entry), this.#options.repeat);
    this.#writeEntry(entry);
  }

  #writeEntry(entry) {
    // A line that is stuck gets no copies on top; TCP will bring the first one.
    if (entry.written && this.#congested()) return;
    if (entry.id === null) this.#number(entry);
    const { id, type, qos, body } = entry;
    if (entry.reply !== null) return this.#write(encodePacket({ command: REL, id }));
    this.#write(encodePacket({ command: SEND, id, type, qos, body, dup: entry.written }));
    entry.written = true;
  }

  #timeOut(entry) {
    // After REC the other side has the message: the promise is kept. REL goes on until COM frees the id on both sides.
    if (entry.reply !== null) return settle(entry);
    this.#forget(entry);
    entry.reject(new RainbowError("timeout", `no answer to a message of type ${entry.type}`));
  }

  #forget(entry) {
    this.#timers.clearTimeout(entry.deadline);
    this.#timers.clearInterval(entry.repeat);
    this.#sends.delete(entry);
    this.#pending.delete(entry.id);
  }

  #number(entry) {
    entry.id = this.#memory.takeId((id) => this.#pending.has(id));
    this.#pending.set(entry.id, entry);
    // A page that is loaded again must know which ids the server still holds for us.
    if (entry.qos === 2) this.#memory.hold(entry.id, (id) => this.#pending.has(id));
  }

  // — In —

  #onPacket(socket, data) {
    this.#heardAt = this.#timers.now();
    this.#askedAt = 0;
    if (socket.protocol === SESSION_PROTOCOL && data.byteLength === 1 && toBytes(data)[0] === PONG << 4) return;
    const packet = decodePacket(toBytes(data), socket.protocol === SESSION_PROTOCOL);
    if (packet === null) return this.#violate("malformed packet");
    if (socket.protocol === SESSION_PROTOCOL && (this.#state !== "open" || packet.type === SESSION_TYPE)) {
      return this.#onSession(packet);
    }
    if (packet.command === SEND) return this.#onMessage(packet);
    if (packet.command === REL) return this.#onRelease(packet.id);
    this.#onAnswer(packet);
  }

  #onAnswer({ command, id, body, status }) {
    const entry = this.#pending.get(id);
    if (command === ACK && entry?.qos === 1) {
      this.#forget(entry);
      Object.assign(entry, { reply: body, status });
      settle(entry);
    } else if (command === REC && entry?.qos === 2) {
      if (entry.reply === null) Object.assign(entry, { reply: body, status });
      this.#transmit(entry);
    } else if (command === REC) {
      // Given up here, but the server still holds the id: release it.
      this.#write(encodePacket({ command: REL, id }));
    } else if (command === COM && entry === undefined) {
      this.#memory.letGo(id);
    } else if (command === COM && entry.qos === 2 && entry.reply !== null) {
      this.#memory.letGo(id);
      this.#forget(entry);
      settle(entry);
    }
  }

  async #onMessage(packet) {
    const { id, qos, dup } = packet;
    if (qos === 0) return void this.#deliver(packet);
    const memory = this.#memory;
    // What still comes on a line that has lost its session comes again, to the page that has it now.
    if (!memory.isOurs()) return;
    const received = memory.received[qos];
    const known = received.get(id);
    // Without DUP, the id of an answered QoS 1 message names a new one. QoS 2 ids are not free before REL.
    const isRepeat = known !== undefined && (qos === 2 || dup || known.reply === null);
    if (isRepeat) return void this.#answer(qos, id, known.reply);
    if (qos === 2 && received.size >= RECEIVED_MAX) {
      return this.#emit("error", new RainbowError("full", "too many messages without REL: one was not taken"));
    }
    const entry = { reply: null };
    received.delete(id); // So that the new one is the youngest.
    received.set(id, entry);
    const reply = await this.#deliver(packet);
    // What was forgotten or taken over meanwhile is not ours to answer.
    if (memory !== this.#memory || received.get(id) !== entry || !memory.isOurs()) return;
    entry.reply = reply;
    if (qos === 1) memory.forgetOldAnswers();
    memory.keep();
    this.#answer(qos, id, reply);
  }

  #answer(qos, id, body) {
    if (body !== null && this.#state === "open") this.#write(encodePacket({ command: qos === 1 ? ACK : REC, id, body }));
  }

  /** An id that we do not know is answered too: the server repeats REL until it hears COM. */
  #onRelease(id) {
    if (!this.#memory.isOurs()) return;
    if (this.#memory.received[2].delete(id)) this.#memory.keep();
    this.#write(encodePacket({ command: COM, id }));
  }

  /** Hands a message to every handler, all at once; the bytes of the first reply that is not undefined. */
  async #deliver(packet) {
    const name = this.#names.get(packet.type);
    const message = new Message({ ...packet, name });
    const handlers = ["message", name].flatMap((event) => [...(this.#handlers.get(event) ?? [])]);
    const replies = handlers.map(async (handler) => handler(message));
    let reply;
    for (const outcome of await Promise.allSettled(replies)) {
      if (outcome.status === "rejected") this.#emit("error", outcome.reason);
      else reply ??= outcome.value;
    }
    try {
      return toBytes(reply);
    } catch (error) {
      this.#emit("error", error);
      return EMPTY;
    }
  }

  // — The connection —

  #connect() {
    this.#timers.clearTimeout(this.#reconnectTimer);
    this.#state = "connecting";
    const attempt = (this.#attempt = {});
    // A server that takes the connection and says no more, or parameters that never come.
    this.#attemptTimer = this.#timers.setTimeout(() => this.#drop(4000, "no answer"), this.#options.openTimeout);
    // Without a promise the socket is there when `open()` returns.
    const fail = (error) => this.#attempt === attempt && this.#onAttemptFailed(error);
    try {
      const { params } = this.#options;
      const extra = typeof params === "function" ? params() : params;
      if (typeof extra?.then !== "function") return this.#dial(extra);
      extra.then((found) => this.#attempt === attempt && this.#dial(found)).catch(fail);
    } catch (error) {
      fail(error);
    }
  }

  #onAttemptFailed(error) {
    const retryIn = this.#reconnectLater();
    this.#emit("error", error);
    this.#emit("close", { code: 1006, reason: "the attempt failed", retryIn });
  }

  #dial(extra) {
    const { WebSocket, session } = this.#options;
    const url = this.#attemptUrl(extra);
    const socket = session ? new WebSocket(url, [SESSION_PROTOCOL]) : new WebSocket(url);
    socket.binaryType = "arraybuffer";
    // Events of a socket that is no longer ours are nobody's.
    const ours = (handle) => (event) => this.#socket === socket && handle(event);
    socket.onopen = ours(() => this.#onOpen(socket));
    socket.onmessage = ours((event) => this.#onPacket(socket, event.data));
    socket.onclose = ours((event) => this.#onClose(event.code, event.reason));
    socket.onerror = ours((event) => this.#emit("error", new RainbowError("closed", event.message || "connection failed")));
    this.#socket = socket;
  }

  #attemptUrl(extra) {
    const { deviceId, os } = this.#options;
    const url = new URL(this.#url);
    for (const [name, value] of Object.entries(extra ?? {})) url.searchParams.set(name, value);
    url.searchParams.set("X-DEVICEID", deviceId);
    url.searchParams.set("X-CLIENT-OS", os);
    return url.href;
  }

  #onOpen(socket) {
    this.#openedAt = this.#timers.now();
    this.#heardAt = this.#timers.now();
    this.#askedAt = 0;
    // With a session the first packet says what was kept, and only then is it known how to go on.
    if (socket.protocol !== SESSION_PROTOCOL) this.#goOn({ session: null, resumed: false, waiting: 0 });
  }

  #onSession(packet) {
    let greeting = null;
    if (packet.command === SEND && packet.type === SESSION_TYPE && this.#state !== "open") {
      try {
        greeting = new Body(packet.body).json();
      } catch {
        // Said below.
      }
    }
    if (typeof greeting?.resumed !== "boolean") return this.#violate("bad session greeting");
    const { session = null, session_id: sessionId = null, resumed, waiting = 0 } = greeting;
    if (greeting.message_bytes_max > 0) this.#bytesMax = greeting.message_bytes_max;
    if (greeting.heartbeat > 0) this.#watch(greeting.heartbeat * 1000);
    this.#goOn({ session, sessionId, resumed: resumed && session !== null, waiting });
  }

  #goOn(greeting) {
    this.#state = "open";
    this.#timers.clearTimeout(this.#attemptTimer);
    this.#recall(greeting);
    if (greeting.resumed) this.#settleIds();
    else this.#startAfresh();
    for (const entry of [...this.#sends]) {
      if (entry.body.length + HEADER_MAX > this.#bytesMax) this.#rejectTooLarge(entry);
      else this.#transmit(entry);
    }
    this.#opening?.resolve();
    this.#opening = null;
    this.#emit("open", greeting);
  }

  /** The memory that belongs to the session that the server has named. */
  #recall({ session, sessionId, resumed }) {
    const { storage, deviceId, random } = this.#options;
    // Ids belong to the session that was made under that name, not to the next one of the same name.
    const made = sessionId ? ` ${sessionId}` : "";
    const key = session === null ? null : `rainbow.session ${deviceId} ${session}${made}`;
    const onFault = (error) => this.#emit("error", new RainbowError("storage", `ids will not survive a reload: ${error}`));
    if (!resumed) this.#memory = Memory.fresh({ key, storage, onFault, lastId: this.#memory.lastId });
    else if (!this.#memory.belongsTo(key)) this.#memory = Memory.restored({ key, storage, onFault, random });
  }

  /** What was half done when the line or the page went: ids that the other side holds for us, or we for it. */
  #settleIds() {
    for (const [id, { reply }] of this.#memory.received[2]) this.#answer(2, id, reply);
    for (const id of this.#memory.held) {
      if (!this.#pending.has(id)) this.#write(encodePacket({ command: REL, id }));
    }
  }

  /** Ids of a connection that nobody resumes mean nothing any more: what is unanswered gets new ones. */
  #startAfresh() {
    this.#pending.clear();
    for (const entry of [...this.#sends]) {
      if (entry.reply !== null) {
        this.#forget(entry);
        settle(entry);
      }
      entry.id = null;
      entry.written = false;
    }
  }

  #onClose(code, reason) {
    this.#detach();
    const final = code === TAKEN_OVER || code === REFUSED || (code >= 4500 && code <= 4999 && code !== BACKEND_UNREACHABLE);
    if (final) this.#end(finalError(code, reason));
    else if (code === TOO_LARGE) this.#rejectLargest();
    const retryIn = final ? null : this.#reconnectLater(retryAfter(reason));
    this.#emit("close", { code, reason, retryIn });
  }

  #detach() {
    for (const entry of this.#sends) this.#timers.clearInterval(entry.repeat);
    if (this.#openedAt !== null && this.#timers.now() - this.#openedAt >= this.#options.stable) this.#attempts = 0;
    this.#openedAt = null;
    this.#socket = null;
    this.#attempt = null;
    this.#timers.clearTimeout(this.#reconnectTimer);
    this.#timers.clearTimeout(this.#attemptTimer);
    this.#timers.clearInterval(this.#pulse);
  }

  /** A line that says nothing for `heartbeat` is asked; one that says nothing for 10 s more is dead. */
  #watch(heartbeat) {
    this.#heartbeat = heartbeat;
    this.#timers.clearInterval(this.#pulse);
    this.#pulse = this.#timers.setInterval(() => this.#checkPulse(), Math.min(heartbeat, this.#options.pongTimeout) / 8);
  }

  /** A page that comes back asks at once, and does not wait for the end of a backoff when the network is there again. */
  #onWake = () => {
    if (this.#state === "open") this.#checkPulse();
    else if (this.#state === "waiting") this.#connect();
  };

  #listen(on) {
    const change = on ? "addEventListener" : "removeEventListener";
    if (typeof document !== "undefined") document[change]?.("visibilitychange", this.#onWake);
    globalThis[change]?.("online", this.#onWake);
  }

  /** Judged by the clock: a page that slept has missed its timers. A clock that was set back begins anew. */
  #checkPulse() {
    const now = this.#timers.now();
    this.#heardAt = Math.min(this.#heardAt, now);
    this.#askedAt = Math.min(this.#askedAt, now);
    if (now - this.#heardAt < this.#heartbeat) {
      this.#askedAt = 0;
    } else if (this.#askedAt === 0) {
      this.#askedAt = now;
      this.#write(new Uint8Array([PING << 4]));
    } else if (now - this.#askedAt >= this.#options.pongTimeout * 0.7) {
      this.#drop(4000, "no pong");
    }
  }

  /** Gives the line up: on a dead one the server's close would take minutes. */
  #drop(code, reason) {
    const socket = this.#socket;
    this.#onClose(code, reason);
    socket?.close(code, reason);
  }

  #rejectTooLarge(entry) {
    this.#forget(entry);
    entry.reject(new RainbowError("too_large", `${entry.body.length} bytes are more than the server takes`));
  }

  /** The server does not say which message was too large. The largest one on the line must not be repeated for ever. */
  #rejectLargest() {
    const written = [...this.#sends].filter((entry) => entry.written && entry.reply === null);
    const largest = written.reduce((a, b) => (b.body.length > (a?.body.length ?? -1) ? b : a), null);
    if (largest !== null) this.#rejectTooLarge(largest);
  }

  #end(error) {
    this.#state = "closed";
    this.#hasEnded = true;
    this.#listen(false);
    this.#attempts = 0;
    for (const entry of [...this.#sends]) {
      this.#forget(entry);
      entry.reply === null ? entry.reject(error) : settle(entry);
    }
    this.#opening?.reject(error);
    this.#opening = null;
  }

  /**
   * Exponential backoff with full jitter: a server that comes back is not met by everyone at once. A server that goes away in
   * order says itself when it wants us back, `told` ms: it says something else to each client.
   */
  #reconnectLater(told = null) {
    const { backoffMin, backoffMax, random } = this.#options;
    const delay = told ?? Math.round(random() * Math.min(backoffMax, backoffMin * 2 ** this.#attempts));
    if (told === null) this.#attempts = Math.min(this.#attempts + 1, 30);
    this.#state = "waiting";
    this.#timers.clearTimeout(this.#attemptTimer);
    this.#reconnectTimer = this.#timers.setTimeout(() => this.#connect(), delay);
    return delay;
  }

  #violate(what) {
    this.#emit("error", new RainbowError("protocol", what));
    this.#drop(4002, what);
  }

  #write(bytes) {
    // Between the server's close and our hearing of it a write is lost; whoever promised repeats it.
    if (this.#socket?.readyState === 1) this.#socket.send(bytes);
  }

  #congested() {
    return this.#socket?.bufferedAmount > this.#options.bufferedMax;
  }

  #handlersOf(event) {
    const handlers = this.#handlers.get(event);
    if (handlers === undefined) throw new TypeError(`no event "${event}": ${[...this.#handlers.keys()].join(", ")}`);
    return handlers;
  }

  #emit(event, value) {
    for (const handler of [...this.#handlers.get(event)]) {
      try {
        handler(value);
      } catch (error) {
        // A handler's fault must not stop the connection; a fault of the error handler is the page's own.
        if (event !== "error") this.#emit("error", error);
        else queueMicrotask(() => { throw error; });
      }
    }
  }
}

// — What a session must remember —

/**
 * The ids of a session, kept in one item of the storage: `TAG {"last":…,"held":[…],"answered":[…],"received":[…]}`. TAG says
 * which page wrote it last. A page that finds another's tag has been taken over, whether it has heard so or not: it must
 * neither write any more nor hand anything on.
 */
class Memory {
  lastId = 0;
  /** Our ids up to this one may have been used: they are reserved in blocks, so that not every send is a write. */
  #reservedId = 0;
  /** Ids of our QoS 2 messages that the server may hold until it hears REL. */
  held = new Set();
  /** The server's messages by QoS and id, with our answer once there is one, so that a repeat is answered the same. */
  received = { 1: new Map(), 2: new Map() };
  #key;
  #storage;
  #onFault;
  #tag = "";

  constructor({ key = null, storage = null, onFault = () => {} } = {}) {
    this.#key = key;
    this.#storage = key === null ? null : storage;
    this.#onFault = onFault;
  }

  /** For a session that begins, or (`key` null) a connection without one. */
  static fresh({ lastId, ...where }) {
    const memory = new Memory(where);
    memory.lastId = lastId;
    memory.#takeOver();
    return memory;
  }

  /** For a session that goes on, with what the last page that held it has kept. */
  static restored({ random, ...where }) {
    const memory = new Memory(where);
    const kept = memory.#read();
    // Of a session that is not known here, any id may be in use; two lives that begin at 1 would meet at once.
    memory.lastId = kept?.last ?? Math.floor(random() * ID_MAX);
    for (const id of kept?.held ?? []) memory.held.add(id);
    // Replies are not kept: a repeat after a reload is answered with an empty one.
    for (const id of kept?.answered ?? []) memory.received[1].set(id, { reply: EMPTY });
    for (const id of kept?.received ?? []) memory.received[2].set(id, { reply: EMPTY });
    memory.#takeOver();
    return memory;
  }

  belongsTo(key) {
    return this.#key === key && this.isOurs();
  }

  /** False when another page has taken the session over. */
  isOurs() {
    if (this.#storage === null) return true;
    try {
      const kept = this.#storage.getItem(this.#key);
      return kept === null || kept.startsWith(this.#tag);
    } catch {
      return true;
    }
  }

  /** The next id that neither `isPending` nor the server holds. */
  takeId(isPending) {
    do this.lastId = (this.lastId % ID_MAX) + 1;
    while (isPending(this.lastId) || this.held.has(this.lastId));
    if (this.lastId === this.#reservedId) {
      this.#reserve();
      this.keep();
    }
    return this.lastId;
  }

  hold(id, isPending) {
    this.held.add(id);
    // Given up, and the server has never said a word of them: the oldest are forgotten.
    for (const old of this.held) {
      if (this.held.size <= HELD_MAX) break;
      if (!isPending(old)) this.held.delete(old);
    }
    this.keep();
  }

  letGo(id) {
    if (this.held.delete(id)) this.keep();
  }

  /** The oldest first; what is still being handled stays, or its answer would never be given. */
  forgetOldAnswers() {
    const answers = this.received[1];
    for (const [id, { reply }] of answers) {
      if (answers.size <= ANSWERS_MAX) return;
      if (reply !== null) answers.delete(id);
    }
  }

  /** Writes everything at once, so that what is said to the server afterwards is true after a reload. */
  keep() {
    if (this.isOurs()) this.#write();
  }

  #takeOver() {
    this.#tag = `${hex(8)} `;
    this.#reserve();
    this.#write();
  }

  #reserve() {
    this.#reservedId = ((this.lastId + ID_BLOCK - 1) % ID_MAX) + 1;
  }

  #write() {
    if (this.#storage === null) return;
    const handled = (qos) => [...this.received[qos]].filter(([, { reply }]) => reply !== null).map(([id]) => id);
    const [answered, received] = [handled(1).slice(-ANSWERS_KEPT), handled(2)];
    const all = { last: this.#reservedId, held: [...this.held], answered, received };
    try {
      this.#storage.setItem(this.#key, this.#tag + JSON.stringify(all));
    } catch (error) {
      this.#giveUp(error);
    }
  }

  /** The storage is full or forbidden. What it holds is old, and would be wrong after a reload: better nothing. */
  #giveUp(error) {
    try {
      this.#storage.removeItem?.(this.#key);
    } catch {
      // Nothing more can be done; the page hears of it.
    }
    this.#storage = null;
    this.#onFault(error);
  }

  /** What the item says; null for none, or for what is not one of ours. */
  #read() {
    try {
      const text = this.#storage.getItem(this.#key);
      const kept = JSON.parse(text.slice(text.indexOf(" ") + 1));
      const isId = (id) => Number.isInteger(id) && id > 0 && id <= ID_MAX;
      const isList = (list) => Array.isArray(list) && list.every(isId);
      return isId(kept.last) && isList(kept.held) && isList(kept.answered) && isList(kept.received) ? kept : null;
    } catch {
      return null;
    }
  }
}

// — Packets —

export const SEND = 1;
export const ACK = 2;
export const REC = 3;
export const REL = 4;
export const COM = 5;
/** With `rainbow.2`: one byte each, no id. */
export const PING = 6;
export const PONG = 7;

/**
 * {command, dup?, qos?, type?, id?, status?, body?} to bytes. Byte 0: command (4 bits), DUP, QoS (2 bits), refused. `status`
 * makes an ACK or REC a refusal.
 */
export function encodePacket({ command, dup = false, qos = 0, type = 0, id = 0, status, body = EMPTY }) {
  const head = [(command << 4) | (dup ? 8 : 0) | (qos << 1) | (status === undefined ? 0 : 1)];
  if (command === SEND) head.push(type >> 8, type & 0xff);
  if (command !== SEND || qos > 0) head.push(id >> 8, id & 0xff);
  if (status !== undefined) head.push(status >> 8, status & 0xff);
  const bytes = new Uint8Array(head.length + body.length);
  bytes.set(head);
  bytes.set(body, head.length);
  return bytes;
}

/**
 * Bytes to a packet; null when they are none. The body is a view of the same bytes. `refusals`: the sender speaks
 * `rainbow.2`, and the last bit of an ACK or REC says that the message was refused with `status`.
 */
export function decodePacket(bytes, refusals = false) {
  const command = bytes[0] >> 4;
  const qos = (bytes[0] >> 1) & 3;
  const dup = (bytes[0] & 8) !== 0;
  const isSend = command === SEND;
  const length = isSend && qos > 0 ? 5 : 3;
  if (!(command >= SEND && command <= COM) || qos === 3 || bytes.length < length) return null;
  const packet = { command, dup, qos, body: bytes.subarray(length) };
  if (isSend) packet.type = (bytes[1] << 8) | bytes[2];
  if (!isSend || qos > 0) packet.id = (bytes[length - 2] << 8) | bytes[length - 1];
  if (packet.id !== undefined && (packet.id === 0 || packet.id > ID_MAX)) return null;
  if ((command === REL || command === COM) && bytes.length > length) return null;
  if (refusals && (command === ACK || command === REC) && (bytes[0] & 1) !== 0) {
    if (bytes.length < length + 2) return null;
    packet.status = (bytes[length] << 8) | bytes[length + 1];
    packet.body = bytes.subarray(length + 2);
  }
  return packet;
}

/** How long the reason of a close wants us to wait, in ms; null when it does not say. */
function retryAfter(reason) {
  const seconds = /(?:^|; )retry_after=(\d{1,9}(?:\.\d{1,9})?)$/.exec(reason)?.[1];
  return seconds === undefined ? null : Math.min(Math.round(Number(seconds) * 1000), RETRY_AFTER_MAX);
}

/** The server wants no more of us. */
function finalError(code, reason) {
  const error = new RainbowError(code === REFUSED ? "refused" : "closed", `closed by the server for good: ${code} ${reason}`);
  return Object.assign(error, { closeCode: code, reason });
}

/** The promise of a send that has its answer. */
function settle({ reply, status, resolve, reject }) {
  const body = new Body(reply);
  if (status === undefined) return resolve(body);
  const error = new RainbowError("refused", `refused by the business server with status ${status}`);
  reject(Object.assign(error, { status, body }));
}

function checkType(type) {
  if (!Number.isInteger(type) || type < 0 || type > 0xffff) throw new TypeError("type: 0–65535, or a name of `types`");
}

function toBytes(data) {
  if (data === undefined || data === null) return EMPTY;
  if (typeof data === "string") return encoder.encode(data);
  if (data instanceof Uint8Array) return data;
  if (data instanceof ArrayBuffer) return new Uint8Array(data);
  if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const text = JSON.stringify(data);
  if (text === undefined) throw new TypeError("neither text, bytes nor JSON");
  return encoder.encode(text);
}

// — Surroundings —

function connectUrl(url) {
  const parsed = new URL(url, globalThis.location?.href);
  parsed.protocol = parsed.protocol.replace(/^http/, "ws");
  if (parsed.pathname === "/") parsed.pathname = "/connect/";
  parsed.hash = "";
  return parsed.href;
}

function browserStorage() {
  try {
    return typeof document === "undefined" ? null : globalThis.localStorage;
  } catch {
    return null; // Forbidden by the browser's settings.
  }
}

function keptDeviceId(storage) {
  const made = hex(16);
  try {
    const kept = storage?.getItem("rainbow.deviceId");
    if (kept) return kept;
    storage?.setItem("rainbow.deviceId", made);
  } catch {
    // A device that cannot keep its id gets a new one each time.
  }
  return made;
}

function hex(bytes) {
  const random = new Uint8Array(bytes);
  // React Native has no `crypto`; these ids are names, not secrets.
  if (globalThis.crypto?.getRandomValues) crypto.getRandomValues(random);
  else random.forEach((_, at) => (random[at] = Math.random() * 256));
  return [...random].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function settleable() {
  let resolve, reject;
  const promise = new Promise((yes, no) => ([resolve, reject] = [yes, no]));
  return { promise, resolve, reject };
}

const EVENTS = ["open", "message", "close", "error"];
const encoder = new TextEncoder();
const decoder = new TextDecoder();
const EMPTY = new Uint8Array(0);
const ID_MAX = 65534;
/** Answers to QoS 1 messages that are kept for repeats: far fewer than ids, so that an id's next use is not taken for a repeat. */
const ANSWERS_MAX = 1024;
/** As many of them outlive the page. QoS 1 allows doubles; these spare a reloaded page most of them. */
const ANSWERS_KEPT = 256;
/**
 * QoS 2 messages without REL; all of them outlive the page. No server has more in flight (`inflight_window` allows no more).
 * The next one is neither handed on nor answered, since to forget one would be to hand it on twice.
 */
const RECEIVED_MAX = 16384;
/** Our QoS 2 ids that may await REL on the server. */
const HELD_MAX = 1024;
const ID_BLOCK = 256;
const SESSION_TYPE = 65535;
const SESSION_PROTOCOL = "rainbow.2";
/** Another connection of the same session has taken over; to come back would only throw that one out. */
const TAKEN_OVER = 4409;
/** The business server has refused the connection: to ask again would be refused again. */
const REFUSED = 4401;
/** The business server could not be asked. */
const BACKEND_UNREACHABLE = 4503;
const TOO_LARGE = 1009;
/** Whatever a server says, nobody is away for longer. */
const RETRY_AFTER_MAX = 60_000;
/** Before the body of a SEND. */
const HEADER_MAX = 5;
/** Longer than this, setTimeout would fire at once. */
const TIMER_MAX = 2 ** 31;
/** Looked up at each call, so that whoever replaces the global ones is heard. */
const TIMERS = {
  now: () => Date.now(),
  setTimeout: (what, delay) => setTimeout(what, delay),
  clearTimeout: (timer) => clearTimeout(timer),
  setInterval: (what, delay) => setInterval(what, delay),
  clearInterval: (timer) => clearInterval(timer),
};
const DEFAULTS = {
  timeout: 10_000,
  repeat: 3_000,
  pendingMax: 1024,
  bufferedMax: 4 << 20,
  backoffMin: 500,
  backoffMax: 30_000,
  stable: 5_000,
  openTimeout: 10_000,
  pongTimeout: 10_000,
  session: false,
  timers: TIMERS,
  random: Math.random,
};
