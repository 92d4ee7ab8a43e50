/** Calls: what is requested, how answers are read, and what is repeated. */

import assert from "node:assert/strict";
import { createServer } from "node:net";
import { once } from "node:events";
import { test } from "node:test";
import { CallRefused, Rainbow, SendIncomplete, Unreachable, Verifier } from "rainbow-client/server";

const SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/** A server whose every answer is the next of `answers`: an Error, or [status, JSON, headers]. `requests` are what came. */
function answering(answers, options = { token: "testtoken" }) {
  const requests = [];
  const fetch = async (url, init) => {
    requests.push({ url, target: url.pathname + url.search, query: Object.fromEntries(url.searchParams), ...init });
    const answer = answers.length > 1 ? answers.shift() : answers[0];
    if (answer instanceof Error) throw answer;
    const [status, body, headers] = answer;
    return new Response(typeof body === "string" ? body : JSON.stringify(body), { status, headers });
  };
  return { server: new Rainbow("http://rainbow/", { ...options, fetch }), requests };
}

const failed = (code) => Object.assign(new TypeError("fetch failed"), { cause: Object.assign(new Error(code), { code }) });
const OK = [200, { status: 0 }];

test("a_send_is_signed_and_its_figures_are_read", async () => {
  const { server, requests } = answering([[200, { status: 0, connections: 2, targets: 3, data: "yes", ignored: ["x"], unreachable: ["n"] }]]);
  const result = await server.send("a b&c", { text: "ü" }, { msgtype: 7, qos: 1, timeout: 2.5, ttl: 60 });
  const [{ method, target, query, body, headers }] = requests;
  new Verifier({ token: "testtoken" }).verify({ method, target, headers: {}, body });
  const { timestamp, nonce, signature, ...rest } = query;
  assert.deepEqual(rest, { channel: "a b&c", msgtype: "7", qos: "1", timeout: "2.5", ttl: "60" });
  assert.equal(body.toString(), '{"text":"ü"}');
  assert.equal(headers["content-type"], "application/octet-stream");
  const { connections, targets, data, ignored, stored, refused, undecided, unreachable } = result;
  assert.deepEqual([connections, targets, data, ignored, stored, refused, undecided, unreachable], [2, 3, "yes", ["x"], null, null, null, 1]);
});

test("a_webhook_secret_signs_target_and_body", async () => {
  const { server, requests } = answering([OK], { webhookSecret: SECRET });
  await server.send("räume und 'mehr'!", Uint8Array.of(0, 255), { qos: 0 });
  await server.sub("1".repeat(64), "a", { occupy: true });
  await server.session("a/b c");
  await server.kick({ user: "7" }, { code: 4000, reason: "bye" });
  for (const request of requests) {
    assert.ok(!("signature" in request.query));
    new Verifier({ webhookSecrets: [SECRET], requireWebhook: true }).verify({ ...request, body: request.body ?? "" });
  }
  assert.deepEqual([...requests[0].body], [0, 255]);
  assert.deepEqual(JSON.parse(requests[1].body), { identity: "1".repeat(64), channel: "a", occupy: 1 });
  assert.deepEqual(JSON.parse(requests[3].body), { user: "7", code: 4000, reason: "bye" });
});

test("a_refusal_has_the_servers_words", async () => {
  const { server } = answering([[200, { status: 1, msg: "no such connection" }]]);
  await assert.rejects(server.sub("1", "a"), (error) => error instanceof CallRefused && error.msg === "no such connection" && error.httpStatus === 200);
  await assert.rejects(answering([[502, "<html>"]]).server.info(), { name: "CallRefused", message: "<html>", httpStatus: 502 });
  await assert.rejects(answering([[302, ""]]).server.info(), { name: "Unreachable", maybeDone: true });
});

test("an_incomplete_send_has_the_figures", async () => {
  const { server } = answering([[200, { status: 1, msg: "the disk is full", connections: 1, stored: 3, refused: 2, undecided: 1 }]]);
  await assert.rejects(server.send("a"), ({ message, result, constructor }) => {
    assert.deepEqual([constructor, message, result.connections, result.stored, result.refused, result.undecided], [SendIncomplete, "the disk is full", 1, 3, 2, 1]);
    return true;
  });
});

test("only_a_send_with_a_message_id_is_repeated", async () => {
  const { server, requests } = answering([failed("ECONNRESET")]);
  const calls = [() => server.send("a"), () => server.broadcast(["a"]), () => server.sub("1", "a"), () => server.drop("s"), () => server.kick("1")];
  for (const call of calls) await assert.rejects(call(), { name: "Unreachable", maybeDone: true });
  assert.equal(requests.length, calls.length);
});

test("a_send_with_a_message_id_is_repeated_until_answered", async () => {
  const busy = [503, { status: 1, msg: "too many calls are waiting" }];
  const { server, requests } = answering([failed("ECONNRESET"), busy, [200, { status: 0, connections: 1 }]]);
  assert.equal((await server.send("a", "x", { messageId: "order-7" })).connections, 1);
  assert.deepEqual(requests.map(({ query }) => query.message_id), ["order-7", "order-7", "order-7"]);
});

test("retry_after_is_heeded_and_repeats_end_with_their_time", async () => {
  const { server, requests } = answering([[503, { status: 1, msg: "busy" }, { "retry-after": "2" }]], { token: "t", retryFor: 1 });
  await assert.rejects(server.send("a", "x", { messageId: "1" }), CallRefused);
  assert.equal(requests.length, 1);
  const refused = answering([[401, { status: 1, msg: "signature does not match" }]]);
  await assert.rejects(refused.server.send("a", "x", { messageId: "1" }), CallRefused);
  assert.equal(refused.requests.length, 1);
});

test("what_cannot_be_meant_is_not_sent", async () => {
  const { server, requests } = answering([OK]);
  for (const to of [undefined, null, {}, { chanel: "a" }, { channel: "a", session: "b" }]) await assert.rejects(server.send(to), TypeError);
  await assert.rejects(server.send("a", "x", { qos: 3 }), /qos/);
  await assert.rejects(server.send("a", "x", { msgtype: 65535 }), /msgtype/);
  await assert.rejects(server.broadcast(["a;;b"]), /channels/);
  await assert.rejects(server.kick(), TypeError);
  assert.throws(() => new Rainbow("ws://rainbow", { token: "t" }), /http/);
  assert.equal(requests.length, 0);
});

test("a_server_that_is_not_there_or_silent_is_told_apart", { timeout: 10_000 }, async () => {
  const silent = createServer((socket) => socket.resume().on("error", () => {})).listen(0, "127.0.0.1");
  await once(silent, "listening");
  const url = `http://127.0.0.1:${silent.address().port}`;
  const server = new Rainbow(url, { token: "t", timeout: 0.1 });
  await assert.rejects(server.send("a", "x", { qos: 0 }), { name: "Unreachable", maybeDone: true });
  await new Promise((resolve) => silent.close(resolve));
  await assert.rejects(new Rainbow(url, { token: "t" }).send("a", "x"), (error) => error instanceof Unreachable && !error.maybeDone);
});
