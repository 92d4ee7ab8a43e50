/** The server library against the real server: a message both ways, every call, both schemes. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { test } from "node:test";
import express from "express";
import WebSocket from "ws";
import { Rainbow as Client } from "rainbow-client";
import { Hooks, Rainbow } from "rainbow-client/server";
import { skip, startServer } from "./real-server.js";

const SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const BY_WEBHOOK = { security_token: "", webhook_secrets: [SECRET], signature_require: "webhook" };

/** Node's adapter between requests and a Fetch handler, as frameworks have one. */
function fetchListener(handler) {
  return async (request, response) => {
    const body = request.method === "POST" ? Buffer.concat(await request.toArray()) : undefined;
    const { method, headers } = request;
    const answer = await handler(new Request(`http://${headers.host}${request.url}`, { method, headers, body }));
    response.writeHead(answer.status, Object.fromEntries(answer.headers)).end(Buffer.from(await answer.arrayBuffer()));
  };
}

const WAYS = {
  express: { listener: (hooks) => express().use("/rainbow", hooks.node), prefix: "rainbow/", token: "testtoken" },
  node: { listener: (hooks) => hooks.node, prefix: "", webhookSecret: SECRET },
  fetch: { listener: (hooks) => fetchListener(hooks.fetch), prefix: "a/b/", webhookSecret: SECRET },
};

/** A business server behind the real one. */
async function start(t, { listener, prefix, token, webhookSecret }, store) {
  let leave;
  const left = new Promise((resolve) => (leave = resolve));
  const hooks = new Hooks(token ? { token } : { webhookSecrets: [webhookSecret], requireWebhook: true });
  hooks
    .rainbowConnect((request) => {
      if (request.device === "banned") request.refuse("banned");
      request.sub("room", "räume");
      request.cookie = { device: request.device };
      request.user = request.device;
      if (request.query.session) [request.session, request.sessionExpiry] = [request.query.session, 60];
    })
    .rainbow(1, (request) => ({ by: request.cookie.device, said: request.data }))
    .rainbow(2, (request) => request.unsub("room"))
    .rainbow(3, (request) => request.refuse("not you", { status: 422 }))
    .rainbowClose((request) => leave(request.cookie.device));
  const business = createServer(listener(hooks)).listen(0, "127.0.0.1");
  await once(business, "listening");
  t.after(() => business.close() && business.closeAllConnections());
  const keys = webhookSecret ? BY_WEBHOOK : {};
  const url = await startServer(t, `http://127.0.0.1:${business.address().port}/${prefix}`, { keys, store });
  const client = (deviceId, params) => {
    const client = new Client(`${url.replace("http", "ws")}/connect/`, { WebSocket, deviceId, params, session: true, storage: null });
    t.after(() => client.close());
    const messages = [];
    const waiting = [];
    client.on("message", (message) => void (waiting.shift() ?? messages.push.bind(messages))(message));
    client.next = () => (messages.length > 0 ? messages.shift() : new Promise((resolve) => waiting.push(resolve)));
    return client;
  };
  return { server: new Rainbow(url, { token, webhookSecret }), client, left };
}

for (const [name, way] of Object.entries(WAYS)) {
  test(`a_message_both_ways_by_${name}`, { skip, timeout: 30_000 }, async (t) => {
    const { server, client } = await start(t, way);
    await server.hello();
    const ann = client("ann");
    await ann.open();
    for (const qos of [1, 2]) assert.deepEqual((await ann.send(1, { n: "ü" }, qos)).json(), { by: "ann", said: { n: "ü" } });
    for (const qos of [0, 1, 2]) {
      const sending = server.send("räume", { n: qos }, { msgtype: 7, qos });
      const message = await ann.next();
      assert.deepEqual([message.type, message.qos, message.json()], [7, qos, { n: qos }]);
      const { connections, targets } = await sending;
      if (qos > 0) assert.deepEqual([connections, targets], [1, 1]);
    }
    await assert.rejects(ann.send(3, {}, 2), { code: "refused", status: 422 });
    await assert.rejects(ann.send(99, {}, 1), { code: "refused", status: 404 });
    await ann.send(2);
    assert.equal((await server.channel("room")).connections, 0);
    const { connections, identities } = await server.channel("räume");
    assert.deepEqual([connections, identities.length], [1, 1]);
    const [identity] = identities;
    const mine = await server.channel(undefined, { user: "ann" });
    assert.deepEqual([mine.identities, mine.users], [[identity], { [identity]: "ann" }]);
    assert.equal((await server.send({ user: "ann" }, "for you", { qos: 0 })).connections, 1);
    assert.equal((await ann.next()).text, "for you");
    await server.sub(identity, "late");
    assert.deepEqual((await server.channel("late")).identities, [identity]);
    await server.unsub(identity, "late");
    await server.broadcast(["late", "räume"], "x", { qos: 0 });
    assert.equal((await ann.next()).text, "x");
    assert.equal((await server.send({ channel: "räume" }, Uint8Array.of(0, 255), { qos: 1 })).connections, 1);
    assert.deepEqual([...(await ann.next()).bytes], [0, 255]);
    assert.ok("counters" in (await server.info()));
    const end = new Promise((resolve) => ann.on("close", resolve));
    await server.kick({ user: "ann" }, { reason: "bye" });
    assert.deepEqual(await end, { code: 4500, reason: "bye", retryIn: null });
    await assert.rejects(client("banned").open(), { code: "refused", closeCode: 4401, reason: "banned" });
    await assert.rejects(server.sub("0".repeat(64), "room"), { name: "CallRefused", message: /no such connection/ });
    await assert.rejects(new Rainbow(server.url, { token: "wrong" }).send("room", "x"), { name: "CallRefused", message: /signature/ });
  });
}

test("a_session_is_sent_to_once_per_message_id_looked_at_and_dropped", { skip, timeout: 30_000 }, async (t) => {
  const { server, client, left } = await start(t, WAYS.express, "sqlite");
  const ann = client("ann", { session: "ann" });
  await ann.open();
  assert.equal((await server.session("ann")).online, true);
  ann.close();
  assert.equal(await left, "ann");
  const first = await server.send({ session: "ann" }, "later", { messageId: "m1", wait: "stored", ttl: 60 });
  const again = await server.send({ session: "ann" }, "later", { messageId: "m1", wait: "stored", ttl: 60 });
  assert.deepEqual([first.stored, again.stored], [1, 1]);
  const { online, waiting, waitingBytes, oldestS, expiresS } = await server.session("ann");
  assert.deepEqual([online, waiting, waitingBytes > 0, oldestS >= 0, expiresS > 0], [false, 1, true, true, true]);
  const back = client("ann", { session: "ann" });
  await back.open();
  assert.equal((await back.next()).text, "later");
  back.close();
  await server.drop("ann");
  await assert.rejects(server.session("ann"), { name: "CallRefused" });
});
