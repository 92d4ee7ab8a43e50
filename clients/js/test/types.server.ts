/** For the compiler only: what a business server's author may write, and, marked as errors, what not. */

import express from "express";
import { createServer } from "node:http";
import { CallRefused, Hook, Hooks, Rainbow, SendIncomplete, Unreachable, Verifier, WebhookKey } from "rainbow-client/server";

const hooks = new Hooks({ token: "testtoken", onError: (error, hook) => console.error(error, hook?.identity) });
hooks
  .rainbowConnect((request) => {
    if (request.query.token !== "t") request.refuse("who are you?");
    request.rainbow.sub("room", "other");
    request.user = 7;
    request.session = "ann";
    request.sessionExpiry = 60;
  })
  .rainbow(1, async (request: Hook) => ({ you: request.data.text, key: request.idempotencyKey?.length }))
  .rainbowClose(({ closeCode }) => console.log((closeCode ?? 0) + 1));
const app = express();
app.use("/rainbow", hooks.node);
createServer(hooks.node);
createServer(app);
export default { fetch: hooks.fetch };

const server = new Rainbow(new URL("http://127.0.0.1:1984"), { token: "testtoken", timeout: 1 });
export async function call(): Promise<number> {
  try {
    const { connections, stored } = await server.send({ session: "ann" }, { text: "x" }, { messageId: "1", wait: "stored" });
    await server.broadcast(["a", "b"], new Uint8Array(1), { qos: 0 });
    await server.kick({ user: "7" }, { code: 4000 });
    return (connections ?? 0) + (stored ?? 0) + (await server.channel("room")).identities.length;
  } catch (error) {
    if (error instanceof SendIncomplete) return error.result.refused ?? 0;
    if (error instanceof CallRefused) return error.httpStatus;
    return error instanceof Unreachable && error.maybeDone ? 1 : 0;
  }
}
new Verifier({ webhookSecrets: ["whsec_"] }).verify({ method: "GET", target: "/", headers: new WebhookKey("").headers("GET /", ""), body: new Uint8Array() });

// @ts-expect-error: no such target.
server.send({ chanel: "a" });
// @ts-expect-error: no such QoS.
server.send("a", "x", { qos: 3 });
// @ts-expect-error: the handler is missing.
hooks.rainbow(1);
// @ts-expect-error: a type is a number.
hooks.rainbow("chat", () => {});
// @ts-expect-error: hooks need keys.
new Hooks();
