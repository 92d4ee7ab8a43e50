/**
 * Both signature schemes, both ways: 2014's (SHA-1 over token, timestamp and nonce) and Standard Webhooks.
 *
 * Rainbow adds a header `webhook-target` (`POST /send/?channel=a`) to the second one. Where it is sent it is the first
 * part of what is signed: `target.id.timestamp.body`.
 */

import { createHash, createHmac, randomBytes, randomInt, timingSafeEqual } from "node:crypto";
import { BadSignature } from "./errors.js";

/** 40 lower-case hex digits: SHA-1 over the three strings, sorted as bytes and joined. */
export function sign2014(token, timestamp, nonce) {
  const parts = [token, timestamp, nonce].map((text) => Buffer.from(text)).sort(Buffer.compare);
  return createHash("sha1").update(Buffer.concat(parts)).digest("hex");
}

/** The three query parameters of a signed call. `now` is in seconds. */
export function query2014(token, now = Date.now() / 1000) {
  const timestamp = String(Math.floor(now));
  const nonce = String(randomInt(10 ** 12));
  return { timestamp, nonce, signature: sign2014(token, timestamp, nonce) };
}

/** A Standard Webhooks secret: `whsec_` and 24 to 64 bytes in base64. */
export class WebhookKey {
  #key;

  constructor(secret) {
    const [, encoded] = /^whsec_([A-Za-z0-9+/]*)=*$/.exec(secret.trim()) ?? [];
    if (encoded === undefined || encoded.length % 4 === 1) throw new TypeError("a webhook secret is whsec_ and base64");
    this.#key = Buffer.from(encoded, "base64");
    const { length } = this.#key;
    if (length < 24 || length > 64) throw new RangeError(`a webhook secret has 24 to 64 bytes, this one has ${length}`);
  }

  mac(target, id, timestamp, body) {
    const head = `${id}.${timestamp}.`;
    return createHmac("sha256", this.#key).update(target === undefined ? head : `${target}.${head}`).update(body).digest();
  }

  /** The headers of a signed request. `now` is in seconds. */
  headers(target, body, { id = `msg_${randomBytes(16).toString("hex")}`, now = Date.now() / 1000 } = {}) {
    const timestamp = String(Math.floor(now));
    const mac = this.mac(target, id, timestamp, body).toString("base64");
    const headers = { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": `v1,${mac}` };
    return target === undefined ? headers : { ...headers, "webhook-target": target };
  }
}

/**
 * Checks that a hook comes from Rainbow. Any of the schemes that have a key here will do; `requireWebhook` accepts Standard
 * Webhooks only, `insecure` everything: for a closed network, or a test.
 */
export class Verifier {
  #token;
  #keys;
  #options;

  constructor({ token, webhookSecrets = [], window = WINDOW_S, requireWebhook = false, insecure = false, clock = () => Date.now() / 1000 } = {}) {
    this.#token = token;
    this.#keys = webhookSecrets.map((secret) => new WebhookKey(secret));
    this.#options = { window, requireWebhook, insecure, clock };
    if (!token && this.#keys.length === 0 && !insecure) {
      throw new TypeError("pass token or webhookSecrets, as they stand in Rainbow's configuration");
    }
    if (requireWebhook && this.#keys.length === 0) throw new TypeError("requireWebhook needs webhookSecrets");
  }

  /** Throws `BadSignature`. `target` is path and query as in the request line; header names are lower-case. */
  verify({ method, target, headers, body }) {
    if (this.#options.insecure) return;
    if (this.#keys.length > 0 && headers["webhook-signature"] !== undefined) {
      return this.#verifyWebhook(`${method} ${target}`, headers, body);
    }
    if (this.#options.requireWebhook || !this.#token) throw new BadSignature("no webhook signature");
    this.#verify2014(target);
  }

  #verify2014(target) {
    // The client's own parameters come first; Rainbow appends the signature, so the last one counts.
    const { timestamp = "", nonce = "", signature = "" } = Object.fromEntries(new URLSearchParams(query(target)));
    this.#checkTime(timestamp);
    // Where one part ends and the next begins is not signed, so a nonce must not be able to hold letters.
    if (!/^[0-9.-]{1,64}$/.test(nonce)) throw new BadSignature("nonce is not a number");
    const expected = Buffer.from(sign2014(this.#token, timestamp, nonce));
    if (!isEqual(expected, Buffer.from(signature.toLowerCase()))) throw new BadSignature("signature does not match");
  }

  #verifyWebhook(here, headers, body) {
    const { "webhook-id": id = "", "webhook-timestamp": timestamp = "", "webhook-target": target } = headers;
    if (!/^[!-\-/-~]{1,256}$/.test(id)) throw new BadSignature("webhook-id is not one");
    if (target !== undefined && target !== here) {
      throw new BadSignature("webhook-target is not this request's method and target");
    }
    this.#checkTime(timestamp);
    const expected = this.#keys.map((key) => key.mac(target, id, timestamp, body));
    for (const entry of headers["webhook-signature"].split(/\s+/).slice(0, SIGNATURES_MAX)) {
      const [version, encoded = ""] = entry.split(",", 2);
      if (version !== "v1" || !/^[A-Za-z0-9+/]{43}=$/.test(encoded)) continue;
      const sent = Buffer.from(encoded, "base64");
      if (expected.some((mac) => isEqual(mac, sent))) return;
    }
    throw new BadSignature("signature does not match");
  }

  #checkTime(timestamp) {
    if (!/^[0-9]{1,20}$/.test(timestamp)) throw new BadSignature("timestamp is not a number of seconds");
    const distance = Math.abs(Number(timestamp) - Math.floor(this.#options.clock()));
    if (distance > this.#options.window) {
      throw new BadSignature(`timestamp is ${distance} s away, more than ${this.#options.window} s`);
    }
  }
}

/** What follows the first question mark. */
export function query(target) {
  const mark = target.indexOf("?");
  return mark < 0 ? "" : target.slice(mark + 1);
}

function isEqual(one, other) {
  return one.length === other.length && timingSafeEqual(one, other);
}

const WINDOW_S = 10;
const SIGNATURES_MAX = 16;
