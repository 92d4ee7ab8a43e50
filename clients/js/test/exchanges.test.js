/** Whole exchanges, packet by packet and with what the client keeps, as every client's tests and the server's read them. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { SEND } from "../rainbow.js";
import { Arrivals, FakeServer, FakeSession, FakeStorage } from "./fake-server.js";

const { exchanges } = JSON.parse(readFileSync(new URL("../../vectors/exchanges.json", import.meta.url)));
const bytes = (hex) => Buffer.from(hex, "hex");
const hex = (some) => Buffer.from(some).toString("hex");

class Player {
  messages = new Arrivals();
  sends = new Map();
  storage = new FakeStorage();
  lastUp = null;

  constructor({ reply, plain, repeats }) {
    this.reply = reply;
    this.plain = plain;
    this.repeats = repeats;
  }

  async start(t) {
    this.fake = await (this.plain ? FakeServer.start(t) : FakeSession.server(t));
    const repeat = this.repeats ? 20 : 10_000;
    this.rainbow = this.fake.client(t, { session: !this.plain, storage: this.storage, repeat });
    this.rainbow.on("message", (message) => {
      this.messages.push(message);
      return this.reply === undefined ? undefined : bytes(this.reply);
    });
    const opened = this.rainbow.open();
    this.connection = await this.fake.next();
    if (this.plain) await opened;
  }

  async play(step) {
    const [[name, value]] = Object.entries(step);
    await this[name](value);
  }

  async greeting(greeting) {
    this.sessionId = greeting.session_id;
    this.connection.send({ command: SEND, type: 65535, body: JSON.stringify(greeting) });
    await this.connection.settled();
  }

  async open() {
    await this.connection.settled();
  }

  send({ tag, type, qos, body }) {
    const outcome = this.rainbow.send(type, bytes(body), qos).then((found) => ({ found }), (error) => ({ error }));
    this.sends.set(tag, outcome);
  }

  async up(expected) {
    let packet = await this.connection.next();
    while (this.repeats && packet.hex !== expected && packet.hex === this.lastUp) packet = await this.connection.next();
    assert.equal(packet.hex, expected);
    this.lastUp = expected;
  }

  down(packet) {
    this.connection.socket.send(bytes(packet));
  }

  async message({ body, id, ...expected }) {
    const { type, qos, id: found, bytes: data } = await this.messages.next();
    assert.deepEqual({ type, qos, id: found ?? null, body: hex(data) }, { ...expected, id, body });
  }

  async answered({ tag, body }) {
    const { found, error } = await this.sends.get(tag);
    assert.equal(error, undefined);
    assert.equal(hex(found?.bytes ?? ""), body);
  }

  async refused({ tag, status, body }) {
    const { error } = await this.sends.get(tag);
    assert.deepEqual([error.code, error.status, hex(error.body.bytes)], ["refused", status, body]);
  }

  async state({ held, received }) {
    await this.connection.settled();
    const [[, kept]] = [...this.storage.items].filter(([key]) => key.endsWith(` s ${this.sessionId}`));
    const ids = JSON.parse(kept.slice(kept.indexOf(" ")));
    assert.deepEqual({ held: ids.held, received: ids.received }, { held, received });
  }

  async cut() {
    this.connection.socket.terminate();
    this.connection = await this.fake.next();
  }

  async end() {
    await this.connection.settled();
    if (!this.repeats) assert.equal(this.connection.packets.length, 0, "nothing more goes up");
    assert.equal(this.messages.length, 0, "nothing more is handed on");
  }
}

for (const { name, steps, ...how } of exchanges) {
  test(name, { timeout: 10_000 }, async (t) => {
    const player = new Player(how);
    await player.start(t);
    for (const step of steps) await player.play(step);
    await player.end();
  });
}
