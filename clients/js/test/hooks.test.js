/** Hooks by Express, node:http and Fetch: what handlers see, and what goes back. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, request as httpRequest } from "node:http";
import { test } from "node:test";
import express from "express";
import { Hooks, WebhookKey, query2014 } from "rainbow-client/server";

const TOKEN = "testtoken";
const SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const IDENTITY = { RAINBOWCLIENTIDENTITY: "1".repeat(64) };

/** The URL under which a listener's hooks hang. */
async function listen(t, listener, prefix = "") {
  const server = createServer(listener).listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close() && server.closeAllConnections());
  return `http://127.0.0.1:${server.address().port}${prefix}`;
}

/** How to put hooks behind HTTP: each takes `hooks`, and resolves with what calls them. */
const FRAMEWORKS = {
  async express(t, hooks) {
    const app = express();
    app.use("/rainbow", hooks.node);
    app.use(express.json());
    app.post("/else/", (request, response) => response.json({ you: request.body }));
    app.use((error, request, response, next) => response.status(500).send(error.message));
    return over(await listen(t, app, "/rainbow"));
  },
  async node(t, hooks) {
    return over(await listen(t, hooks.node));
  },
  async fetch(t, hooks) {
    return (method, target, headers, body) => hooks.fetch(new Request(`http://rainbow${target}`, { method, headers, body }));
  },
};

/** By node's own client: `fetch` would rewrite the target. */
function over(base) {
  return (method, target, headers, body) =>
    new Promise((resolve, reject) => {
      const url = new URL(base);
      const { hostname, port } = url;
      const path = url.pathname.replace(/\/$/, "") + target;
      const signed = typeof headers === "function" ? headers(path) : headers;
      const request = httpRequest({ hostname, port, method, path, headers: signed }, async (response) => {
        const parts = await response.toArray();
        resolve(new Response(Buffer.concat(parts), { status: response.statusCode, headers: response.headers }));
      });
      request.on("error", reject).end(body);
    });
}

const signed = (target) => `${target}?${new URLSearchParams(query2014(TOKEN))}`;

/** Header values as UTF-8. */
const utf8 = (response, name) => Buffer.from(response.headers.get(name) ?? "", "latin1").toString();

for (const [name, framework] of Object.entries(FRAMEWORKS)) {
  test(`${name}_brings_hooks_in_and_answers_out`, async (t) => {
    const errors = [];
    const hooks = new Hooks({ token: TOKEN, onError: (error) => errors.push(error) });
    const call = await framework(t, hooks);
    const closed = [];
    hooks
      .rainbowConnect((request) => {
        if (request.device === "banned") request.rainbow.refuse("banned");
        request.sub("room", "räume");
        request.unsub("lobby");
        request.cookie = { n: 1 };
        [request.session, request.sessionExpiry, request.user] = ["ann/phone", 60, 7];
      })
      .rainbow(1, async (request) => ({ said: request.data, by: request.context, key: request.idempotencyKey }))
      .rainbow(2, (request) => request.refuse("not you", { status: 422 }))
      .rainbow(3, () => Promise.reject(new Error("as the test wants it")))
      .rainbow(4, (request) => Uint8Array.from(request.body).reverse())
      .rainbowClose((request) => void closed.push([request.closeCode, request.closeReason, request.cookie]));

    const connected = await call("GET", signed("/connect/"), { ...IDENTITY, "X-DEVICEID": "ann" });
    assert.equal(connected.status, 200);
    assert.deepEqual(await connected.json(), { status: "success" });
    assert.equal(utf8(connected, "RAINBOWCLIENTCHANNEL"), "room;;räume");
    const told = ["CHANNELUNSUB", "COOKIE", "SESSION", "SESSIONEXPIRY", "USER"].map((name) => connected.headers.get(`RAINBOWCLIENT${name}`));
    assert.deepEqual(told, ["lobby", btoa('{"n":1}'), "ann/phone", "60", "7"]);
    const banned = await call("GET", signed("/connect/"), { ...IDENTITY, "X-DEVICEID": "banned" });
    assert.deepEqual([banned.status, await banned.json()], [200, { status: "failed", reason: "banned" }]);

    const cookie = { ...IDENTITY, RAINBOWCLIENTCOOKIE: btoa('{"n":1}'), "Idempotency-Key": "k1" };
    const answer = await call("POST", signed("/message/1/"), cookie, '{"text":"ü"}');
    assert.deepEqual(await answer.json(), { said: { text: "ü" }, by: { n: 1 }, key: "k1" });
    assert.equal(answer.headers.get("RAINBOWCLIENTCOOKIE"), null);
    const raw = await call("POST", signed("/message/4"), cookie, Uint8Array.of(0, 1, 255));
    assert.deepEqual([...new Uint8Array(await raw.arrayBuffer())], [255, 1, 0]);
    const statuses = [["1/", "{"], ["2/", ""], ["3/", ""], ["99/", ""]];
    for (const [index, [type, body]] of statuses.entries()) {
      const { status } = await call("POST", signed(`/message/${type}`), cookie, body);
      assert.equal(status, [400, 422, 500, 404][index]);
    }
    assert.deepEqual(errors.map(({ message }) => message), ["as the test wants it"]);

    await call("GET", signed("/close/"), { ...cookie, RAINBOWCLOSECODE: "1001", RAINBOWCLOSEREASON: "gone" });
    assert.deepEqual(closed, [[1001, "gone", { n: 1 }]]);
    assert.equal((await call("POST", signed("/receipt/"), {}, "{}")).status, 200);
  });

  test(`${name}_lets_nothing_unsigned_or_unclear_reach_a_handler`, async (t) => {
    const hooks = new Hooks({ token: TOKEN, onError: () => {} });
    const call = await framework(t, hooks);
    hooks.rainbow(1, () => assert.fail("it was called")).rainbowConnect(() => assert.fail("it was called"));
    for (const [method, target, headers, status, code] of [
      ["GET", "/connect/", IDENTITY, 401, "60001"],
      ["GET", signed("/connect/"), {}, 400, "60002"],
      ["GET", signed("/message/1/"), IDENTITY, 405, "60003"],
    ]) {
      const response = await call(method, target, headers);
      assert.deepEqual([response.status, response.headers.get("RAINBOWREQUESTINVALID")], [status, code]);
    }
    assert.equal((await call("GET", "/elsewhere", {})).status, 404);
    assert.equal((await call("POST", signed("/message/65536/"), IDENTITY, "")).status, 404);
  });

  test(`${name}_checks_webhooks_over_the_target_as_it_was_sent`, async (t) => {
    const hooks = new Hooks({ webhookSecrets: [SECRET], requireWebhook: true, onError: () => {} });
    const call = await framework(t, hooks);
    hooks.rainbow(1, (request) => request.query.name);
    const target = "/message/1/?name='|a&name=b";
    const headers = (path) => ({ ...IDENTITY, ...new WebhookKey(SECRET).headers(`POST ${path}`, "hi") });
    const own = name === "fetch" ? headers(target) : headers;
    assert.equal(await (await call("POST", target, own, "hi")).text(), "'|a");
    assert.equal((await call("POST", target, own, "ho")).status, 401);
    const other = () => headers("/message/1/?name=c");
    assert.equal((await call("POST", target, name === "fetch" ? other() : other, "hi")).status, 401);
  });
}

test("beside_hooks_express_goes_on_and_says_when_they_come_too_late", async (t) => {
  const app = express();
  const hooks = new Hooks({ token: TOKEN });
  hooks.rainbow(1, () => "heard");
  app.use("/raw", express.raw({ type: "*/*" }), hooks.node);
  app.use(express.json(), hooks.node);
  app.post("/else/", (request, response) => response.json(request.body));
  app.use((error, request, response, next) => response.status(500).send(error.message));
  const call = over(await listen(t, app));
  const json = { ...IDENTITY, "content-type": "application/json" };
  assert.deepEqual(await (await call("POST", "/else/", json, '{"a":1}')).json(), { a: 1 });
  assert.equal(await (await call("POST", signed("/raw/message/1/"), json, "{}")).text(), "heard");
  const late = await call("POST", signed("/message/1/"), json, "{}");
  assert.deepEqual([late.status, /before express\.json/.test(await late.text())], [500, true]);
});

test("a_handler_sets_a_session_at_connect_only_and_names_cannot_smuggle_others", async () => {
  const hooks = new Hooks({ insecure: true, onError: () => {} });
  hooks.rainbowConnect((request) => {
    for (const name of ["a;;b", "a\r\nX: y", "", " a"]) assert.throws(() => request.sub(name), /channels/);
    assert.throws(() => (request.session = "ü"), /printable/);
    assert.throws(() => request.refuse("later", { status: 429 }), RangeError);
    return false;
  });
  hooks.rainbow(1, (request) => assert.throws(() => (request.user = "late"), /later/));
  const headers = IDENTITY;
  const connect = await hooks.handle({ method: "GET", target: "/connect/", headers, body: Buffer.alloc(0) });
  assert.equal(JSON.parse(connect.body).status, "failed");
  const message = await hooks.handle({ method: "POST", target: "/message/1/", headers, body: Buffer.alloc(0) });
  assert.equal(message.status, 200);
  assert.throws(() => hooks.rainbow(1, () => {}), /two handlers/);
  assert.throws(() => hooks.rainbow(65535, () => {}), /65534/);
});

test("what_is_too_large_is_not_kept", async () => {
  const hooks = new Hooks({ insecure: true });
  const answer = await hooks.fetch(new Request("http://h/message/1/", { method: "POST", headers: IDENTITY, body: new Uint8Array((64 << 20) + 1) }));
  assert.equal(answer.status, 413);
});
