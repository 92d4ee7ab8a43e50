/** The vectors that every client and the server read. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { PING, PONG, decodePacket, encodePacket } from "../rainbow.js";

const vectors = JSON.parse(readFileSync(new URL("../../vectors/packets.json", import.meta.url)));
const bytes = (hex) => new Uint8Array(Buffer.from(hex, "hex"));

test("valid_packets_decode_and_encode_as_the_vectors_say", () => {
  for (const { hex, body, ...fields } of vectors.valid) {
    const packet = decodePacket(bytes(hex));
    for (const [name, value] of Object.entries(fields)) assert.equal(packet[name], value, `${name} of ${hex}`);
    assert.deepEqual(Buffer.from(packet.body).toString("hex"), body);
    assert.equal(Buffer.from(encodePacket(packet)).toString("hex"), hex);
  }
});

test("invalid_packets_are_none", () => {
  for (const hex of vectors.invalid) assert.equal(decodePacket(bytes(hex)), null, hex);
});

test("ping_and_pong_are_one_byte", () => {
  assert.equal((PING << 4).toString(16), vectors.rainbow_2.ping);
  assert.equal((PONG << 4).toString(16), vectors.rainbow_2.pong);
});
