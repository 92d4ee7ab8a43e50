/** A server that does nothing by itself: a test takes each connection and each packet from it and decides what follows. */

import { once } from "node:events";
import WebSocket, { WebSocketServer } from "ws";
import { PING, Rainbow, SEND, decodePacket, encodePacket } from "../rainbow.js";

/** What arrives, in order, for whoever awaits `next()`. */
export class Arrivals {
  #items = [];
  #waiting = [];

  push(item) {
    const taker = this.#waiting.shift();
    taker ? taker(item) : this.#items.push(item);
  }

  next() {
    return this.#items.length > 0 ? this.#items.shift() : new Promise((resolve) => this.#waiting.push(resolve));
  }

  get length() {
    return this.#items.length;
  }
}

export class FakeConnection {
  packets = new Arrivals();
  pings = 0;

  constructor(socket, request) {
    this.socket = socket;
    this.url = new URL(request.url, "ws://fake");
    this.closed = new Promise((resolve) => socket.on("close", (code) => resolve(code)));
    socket.on("message", (data) => {
      if (data.length === 1 && data[0] === PING << 4) this.pings += 1;
      const packet = decodePacket(new Uint8Array(data));
      if (packet) Object.assign(packet, { text: Buffer.from(packet.body).toString(), hex: Buffer.from(data).toString("hex") });
      this.packets.push(packet);
    });
  }

  next() {
    return this.packets.next();
  }

  send(packet) {
    this.socket.send(encodePacket({ ...packet, body: Buffer.from(packet.body ?? "") }));
  }

  /** Everything written before has been handled by the client when this resolves. */
  async settled() {
    this.socket.ping();
    await once(this.socket, "pong");
  }
}

export class FakeServer {
  connections = new Arrivals();

  static async start(test, options = {}) {
    const fake = new FakeServer();
    fake.wss = new WebSocketServer({ port: 0, host: "127.0.0.1", ...options });
    fake.wss.on("connection", (socket, request) => fake.connections.push(new FakeConnection(socket, request)));
    await once(fake.wss, "listening");
    fake.url = `ws://127.0.0.1:${fake.wss.address().port}/connect/`;
    test.after(() => {
      for (const socket of fake.wss.clients) socket.terminate();
      fake.wss.close();
    });
    return fake;
  }

  next() {
    return this.connections.next();
  }

  /** A client with short times, closed when the test ends. */
  client(test, options = {}) {
    const rainbow = new Rainbow(this.url, {
      WebSocket, repeat: 15, timeout: 5_000, backoffMin: 5, backoffMax: 20, deviceId: "d1", os: "test", ...options,
    });
    test.after(() => rainbow.close());
    return rainbow;
  }

  /** A client and its first connection, open on both sides. */
  async pair(test, options = {}) {
    const rainbow = this.client(test, options);
    const opened = rainbow.open();
    const connection = await this.next();
    await opened;
    return { rainbow, connection };
  }
}

/** What a server says first to a client of `rainbow.2`. */
export function greeting(resumed, { session = "s", waiting = 0 } = {}) {
  return { command: SEND, type: 65535, body: JSON.stringify({ session, resumed, waiting }) };
}

/** Pages of one durable session. */
export const FakeSession = {
  server(test) {
    return FakeServer.start(test, { handleProtocols: (offered) => (offered.has("rainbow.2") ? "rainbow.2" : false) });
  },

  /** A page that connects to `fake` and is greeted. */
  async page(test, fake, { resumed = true, session, ...options } = {}) {
    const rainbow = fake.client(test, { session: true, repeat: 10_000, ...options });
    const opened = rainbow.open();
    const connection = await fake.next();
    connection.send(greeting(resumed, { session }));
    await opened;
    return { rainbow, connection };
  },

  /** A server, and a page whose session is new. */
  async pair(test, options) {
    const fake = await FakeSession.server(test);
    return { fake, ...(await FakeSession.page(test, fake, { resumed: false, ...options })) };
  },
};

/** What a page keeps; `copy()` is what is left of it when the page dies now. */
export class FakeStorage {
  items = new Map();

  getItem(key) {
    return this.items.get(key) ?? null;
  }

  setItem(key, value) {
    this.items.set(key, value);
  }

  removeItem(key) {
    this.items.delete(key);
  }

  copy() {
    const copy = new FakeStorage();
    copy.items = new Map(this.items);
    return copy;
  }

  /** The ids that the only session here has kept. */
  get ids() {
    const [item, ...others] = [...this.items].filter(([key]) => key.startsWith("rainbow.session "));
    if (item === undefined || others.length > 0) throw new Error(`${others.length + (item !== undefined)} sessions`);
    return JSON.parse(item[1].slice(item[1].indexOf(" ")));
  }
}

/** Time that passes when a test says so. */
export class FakeTimers {
  #now = 0;
  #last = 0;
  #timers = new Map();

  now = () => this.#now;
  setTimeout = (what, delay) => this.#add({ what, due: this.#now + delay });
  setInterval = (what, delay) => this.#add({ what, due: this.#now + delay, every: delay });
  clearTimeout = (timer) => this.#timers.delete(timer);
  clearInterval = (timer) => this.#timers.delete(timer);

  /** Timers that have been set and are neither over nor cleared. */
  get waiting() {
    return this.#timers.size;
  }

  /** Each timer that is due runs at its time. */
  pass(time) {
    const end = this.#now + time;
    for (;;) {
      const [next] = [...this.#timers].filter(([, { due }]) => due <= end).sort(([, a], [, b]) => a.due - b.due);
      if (next === undefined) break;
      const [id, timer] = next;
      this.#now = timer.due;
      if (timer.every === undefined) this.#timers.delete(id);
      else timer.due += timer.every;
      timer.what();
    }
    this.#now = end;
  }

  /** The machine sleeps: time passes, timers do not. */
  sleep(time) {
    this.#now += time;
    for (const timer of this.#timers.values()) timer.due += time;
  }

  #add(timer) {
    this.#last += 1;
    this.#timers.set(this.#last, timer);
    return this.#last;
  }
}

/** The next event of that name. */
export function heard(rainbow, event) {
  return new Promise((resolve) => {
    const handler = (value) => {
      rainbow.off(event, handler);
      resolve(value);
    };
    rainbow.on(event, handler);
  });
}
