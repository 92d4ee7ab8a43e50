/** The chat with Express. One command: clients/examples/start.sh express */

import { fileURLToPath } from "node:url";
import express from "express";
import { Hooks, Rainbow } from "rainbow-client/server";

const { EXAMPLE_PORT = 8000, EXAMPLE_RAINBOW_PORT = 1984 } = process.env;
const [SAY, LINE, CAME] = [1, 2, 3];

const hooks = new Hooks({ token: "testtoken" });
const server = new Rainbow(`http://127.0.0.1:${EXAMPLE_RAINBOW_PORT}`, { token: "testtoken" });

hooks.rainbowConnect(async (request) => {
  const { name = "Guest" } = request.query;
  request.cookie = { name, device: request.device };
  // What is said while this device is away waits for it.
  request.session = `chat:${request.device}`;
  request.sub("room");
  await server.send("room", { name }, { msgtype: CAME, qos: 0 });
});

hooks.rainbow(SAY, async (request) => {
  const line = { name: request.cookie.name, text: request.data.text, by: request.cookie.device };
  // The author is in the room and waits for this answer: the call must not wait for the author. The key makes a repeat of the call harmless.
  await server.send("room", line, { msgtype: LINE, wait: "stored", messageId: request.idempotencyKey ?? undefined });
  return { status: "ok" };
});

hooks.rainbowClose((request) => console.log(`${request.cookie.name} has gone`));

const app = express();
app.use("/rainbow", hooks.node);
for (const [path, file] of [["/", "chat.html"], ["/rainbow.js", "../js/rainbow.js"]]) {
  app.get(path, (request, response) => response.sendFile(fileURLToPath(new URL(file, import.meta.url))));
}
app.listen(EXAMPLE_PORT, "127.0.0.1");
