import assert from "node:assert/strict";
import { test } from "node:test";
import { ACK, COM, REC, REL, SEND, decodePacket, encodePacket } from "../rainbow.js";

const body = new TextEncoder().encode("hi");
const bytes = (...numbers) => new Uint8Array(numbers);

test("packets_are_the_bytes_of_the_protocol", () => {
  assert.deepEqual(encodePacket({ command: SEND, type: 0x0102, body }), bytes(0x10, 1, 2, 0x68, 0x69));
  assert.deepEqual(encodePacket({ command: SEND, type: 1, id: 0xfffe, qos: 1, body }), bytes(0x12, 0, 1, 0xff, 0xfe, 0x68, 0x69));
  assert.deepEqual(encodePacket({ command: SEND, type: 1, id: 2, qos: 2, dup: true }), bytes(0x1c, 0, 1, 0, 2));
  assert.deepEqual(encodePacket({ command: ACK, id: 0x0304, body }), bytes(0x20, 3, 4, 0x68, 0x69));
  assert.deepEqual(encodePacket({ command: REC, id: 1 }), bytes(0x30, 0, 1));
  assert.deepEqual(encodePacket({ command: REL, id: 1 }), bytes(0x40, 0, 1));
  assert.deepEqual(encodePacket({ command: COM, id: 1 }), bytes(0x50, 0, 1));
});

test("every_packet_survives_a_round_trip", () => {
  for (const qos of [0, 1, 2]) {
    for (const dup of [false, true]) {
      const packet = { command: SEND, dup, qos, type: 65535, ...(qos > 0 ? { id: 65534 } : {}), body };
      const back = decodePacket(encodePacket(packet));
      assert.deepEqual({ ...back, body: Uint8Array.from(back.body) }, packet);
    }
  }
});

test("what_is_no_packet_is_refused", () => {
  const refused = [
    bytes(), bytes(0x10), bytes(0x10, 0), bytes(0x12, 0, 1, 0), bytes(0x16, 0, 1, 0, 1), bytes(0x00, 0, 1), bytes(0x60, 0, 1),
    bytes(0x20, 0), bytes(0x20, 0, 0), bytes(0x20, 0xff, 0xff), bytes(0x40, 0, 1, 9), bytes(0x50, 0, 1, 9), bytes(0xf0, 0, 1),
  ];
  for (const input of refused) assert.equal(decodePacket(input), null, `${input}`);
});
