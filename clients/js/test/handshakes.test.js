/** What the client asks for, and what it makes of a server's answer, with the heads that every client's tests read. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import { test } from "node:test";
import WebSocket from "ws";
import { Rainbow } from "../rainbow.js";
import { heard } from "./fake-server.js";

const vectors = JSON.parse(readFileSync(new URL("../../vectors/handshakes.json", import.meta.url)));
const GREETING = JSON.stringify({ session: null, resumed: false, waiting: 0 });

function acceptKey(key) {
  return createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
}

/** A server that answers each upgrade with these lines; the requests that it got. */
async function answering(t, lines, afterwards) {
  const requests = [];
  const sockets = new Set();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.once("data", (data) => {
      const request = data.toString();
      requests.push(request);
      const key = /sec-websocket-key: (\S+)/i.exec(request)[1];
      const [head, body = ""] = lines.join("\r\n").replace("{accept}", acceptKey(key)).split("\r\n\r\n");
      socket.write(`${head}\r\n\r\n${body}`);
      socket.write(afterwards);
      if (!head.includes(" 101 ")) socket.end();
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { url: `ws://127.0.0.1:${server.address().port}/connect/`, requests };
}

test("accept_keys_are_as_the_vectors_say", () => {
  for (const { key, accept } of vectors.accept) assert.equal(acceptKey(key), accept);
});

for (const { name, offered, answer, outcome } of vectors.answers) {
  test(`an_answer_${name}`, { timeout: 10_000 }, async (t) => {
    const frame = Buffer.concat([Buffer.from([0x82, 3 + GREETING.length, 0x10, 0xff, 0xff]), Buffer.from(GREETING)]);
    const { url, requests } = await answering(t, answer, outcome === "rainbow.2" ? frame : "");
    const rainbow = new Rainbow(url, { WebSocket, session: offered.length > 0, deviceId: "d1", os: "test", backoffMin: 60_000, random: () => 1 });
    t.after(() => rainbow.close());
    const [opened, closed] = [heard(rainbow, "open"), heard(rainbow, "close")];
    rainbow.on("error", () => {});
    rainbow.open();
    // The `ws` class does as a browser does: it shows no status, and fails when it offered something and nothing was chosen.
    const isOpen = outcome === "rainbow.2" || (outcome === "plain" && offered.length === 0);
    if (isOpen) assert.equal((await opened).session, null);
    else assert.equal((await closed).code, 1006);
    assert.equal(rainbow.state, isOpen ? "open" : "waiting");
    assert.match(requests[0], /^GET \/connect\/\?X-DEVICEID=d1&X-CLIENT-OS=test HTTP\/1\.1\r\n/);
    assert.deepEqual(/sec-websocket-protocol: (.+)\r\n/i.exec(requests[0])?.[1].split(", ") ?? [], offered);
  });
}
