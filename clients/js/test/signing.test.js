/** Signatures, as clients/vectors says. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { inspect } from "node:util";
import { BadSignature, Verifier, WebhookKey, query2014, sign2014 } from "rainbow-client/server";

const vectors = JSON.parse(readFileSync(new URL("../../vectors/signatures.json", import.meta.url), "utf8"));
const { token, secret, now, window } = vectors;

/** Throws anything but what the vector expects. */
function judge({ name, valid }, options, request) {
  const verify = () => new Verifier({ window, clock: () => now + 0.9, ...options }).verify(request);
  if (valid) assert.doesNotThrow(verify, name);
  else assert.throws(verify, BadSignature, name);
}

test("signatures_of_2014_are_as_the_vectors_say", () => {
  for (const { signature, ...parts } of vectors.sign_2014) assert.equal(sign2014(parts.token, parts.timestamp, parts.nonce), signature);
});

for (const vector of vectors.targets_2014) {
  test(`a_target_${vector.name}`, () => judge(vector, { token }, { method: "GET", target: vector.target, headers: {}, body: Buffer.alloc(0) }));
}

for (const vector of vectors.webhooks) {
  test(`a_webhook_${vector.name}`, () => judge(vector, { webhookSecrets: [secret] }, { ...vector, body: Buffer.from(vector.body, "hex") }));
}

test("what_is_signed_here_verifies_here", () => {
  const target = `/?${new URLSearchParams(query2014(token))}`;
  new Verifier({ token }).verify({ method: "GET", target, headers: {}, body: "" });
  const headers = new WebhookKey(secret).headers("POST /send/?channel=a", "text");
  const request = { method: "POST", target: "/send/?channel=a", headers, body: Buffer.from("text") };
  const verifier = new Verifier({ webhookSecrets: [`whsec_${Buffer.alloc(24, "k").toString("base64")}`, secret], requireWebhook: true });
  verifier.verify(request);
  assert.throws(() => verifier.verify({ method: "GET", target, headers: {}, body: "" }), /no webhook/);
});

test("a_verifier_without_keys_is_not_made_by_accident", () => {
  assert.throws(() => new Verifier({}), /token/);
  assert.throws(() => new Verifier({ token, requireWebhook: true }), /webhookSecrets/);
  assert.throws(() => new WebhookKey("secret"), /whsec_/);
  assert.throws(() => new WebhookKey("whsec_AAAA"), /24/);
  new Verifier({ insecure: true }).verify({ method: "GET", target: "/", headers: {}, body: "" });
  for (const told of [inspect(new Verifier({ token, webhookSecrets: [secret] })), inspect(new WebhookKey(secret))]) {
    assert.ok(!told.includes(token) && !told.includes(secret.slice(6)), told);
  }
});
