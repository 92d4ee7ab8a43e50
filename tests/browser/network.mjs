/**
 * A page in a real Chromium whose network fails in the ways that a browser knows: a reload in the middle of QoS 2, a frozen page, a
 * sleep of ten minutes, offline and online, a line that is silently dead, and a token that is good for one connection.
 *
 *     RAINBOW_BIN=target/release/rainbow-server node tests/browser/network.mjs
 *
 * The page keeps what it was given in localStorage: each message must be there once. Each step has a time limit of its own.
 */

import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer as createHttpServer } from "node:http";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import { Hooks, Rainbow } from "../../clients/js/server/index.js";
import { answers, check, faults, freePorts, inTime, play, start, step, until, work } from "./stage.mjs";

const CLIENT = readFileSync(new URL("../../clients/js/rainbow.js", import.meta.url));
/** The server's ping interval, which the greeting says, and the page's patience after it. */
const [HEARTBEAT_MS, PONG_MS] = [1_000, 3_000];
const SLACK_MS = 2_000;

const PAGE = `<!doctype html><title>Network</title><script type="module">
  import { Rainbow } from "/rainbow.js";
  const options = Object.fromEntries(new URLSearchParams(location.search));
  window.given = () => JSON.parse(localStorage.given ?? "[]");
  window.opens = [], window.closes = [];
  const rainbow = window.rainbow = new Rainbow("ws://127.0.0.1:" + options.port + "/connect/", {
    session: true, deviceId: options.device, pongTimeout: ${PONG_MS}, random: () => 1,
    backoffMin: Number(options.backoff ?? 100), backoffMax: Number(options.backoff ?? 500),
    params: async () => {
      const response = await fetch("/token");
      if (!response.ok) throw new Error("no token");
      return { token: await response.text() };
    },
  });
  rainbow.on("message", (message) => { localStorage.given = JSON.stringify([...given(), message.text]); });
  rainbow.on("open", (opened) => opens.push(opened)).on("close", (closed) => closes.push(closed)).on("error", () => {});
  rainbow.open();
</script>`;

// — The line —

/** Relays TCP; what is done to it is done to the connections that are open now, but for `refuse`. */
class Relay {
  #pairs = new Set();
  #isRefusing = false;
  opened = 0;

  static async start(target) {
    const relay = new Relay();
    relay.server = createServer((page) => relay.#relay(page, target)).listen(0, "127.0.0.1");
    await once(relay.server, "listening");
    relay.port = relay.server.address().port;
    return relay;
  }

  #relay(page, target) {
    page.on("error", () => {});
    if (this.#isRefusing) return page.resetAndDestroy();
    this.opened += 1;
    const server = connect(target, "127.0.0.1").on("error", () => {});
    const pair = { page, server, isDead: false, isHeldDown: false, isHeldUp: false, holdsAfter: false };
    this.#pairs.add(pair);
    page.on("data", (data) => {
      if (pair.isDead || pair.isHeldUp) return;
      // Longer than a PING.
      if (pair.holdsAfter && data.length >= 9) [pair.holdsAfter, pair.isHeldDown] = [false, true];
      server.write(data);
    });
    server.on("data", (data) => pair.isDead || pair.isHeldDown || page.write(data));
    for (const [one, other] of [[page, server], [server, page]]) {
      one.on("close", () => {
        this.#pairs.delete(pair);
        // Of a dead line nobody hears.
        if (!pair.isDead) other.destroy();
      });
    }
  }

  #each(change) {
    for (const pair of this.#pairs) change(pair);
  }

  cut() {
    this.#each(({ page, server }) => [page, server].forEach((socket) => socket.resetAndDestroy()));
  }

  refuse(isRefusing) {
    this.#isRefusing = isRefusing;
  }

  /** Nothing passes, and nobody is told. */
  blackhole() {
    this.#each((pair) => (pair.isDead = true));
  }

  /** What the page says is lost. */
  holdUp() {
    this.#each((pair) => (pair.isHeldUp = true));
  }

  /** What the server says after the page's next packet is lost. */
  holdDownAfterNext() {
    this.#each((pair) => (pair.holdsAfter = true));
  }
}

// — The business server —

class Business {
  tokens = new Set();
  /** Tokens that clients have come with. */
  shown = [];
  /** How many of the next tokens are refused. */
  tokenFaults = 0;
  /** What clients sent: [key, text]. */
  handled = [];
  /** While it is a promise, messages wait for it. */
  gate = undefined;

  static async start(port) {
    const business = new Business();
    const hooks = new Hooks({ token: "testtoken" });
    hooks.rainbowConnect((request) => business.#letIn(request)).rainbow(1, async (request) => {
      business.handled.push([request.idempotencyKey, request.text]);
      await business.gate;
      return `done: ${request.text}`;
    });
    business.server = createHttpServer((request, response) => business.#respond(request, response, hooks)).listen(port, "127.0.0.1");
    await once(business.server, "listening");
    return business;
  }

  #letIn(request) {
    const { token } = request.query;
    this.shown.push(token);
    // Good for one connection.
    if (!this.tokens.delete(token)) request.refuse("an old token");
    request.session = request.device;
    request.sessionExpiry = 3600;
  }

  #respond(request, response, hooks) {
    const path = request.url.split("?")[0];
    if (path.startsWith("/rainbow/")) return hooks.node(request, response);
    if (path === "/token") return this.#giveToken(response);
    const [type, body] = { "/": ["text/html", PAGE], "/rainbow.js": ["text/javascript", CLIENT] }[path] ?? ["text/plain", ""];
    response.setHeader("content-type", type).end(body);
  }

  #giveToken(response) {
    if (this.tokenFaults > 0) {
      this.tokenFaults -= 1;
      return response.writeHead(503).end();
    }
    const token = crypto.randomUUID();
    this.tokens.add(token);
    response.setHeader("cache-control", "no-store").end(token);
  }
}

// — The story —

let ports, business, server, relay, context;

/** A step that must end in time. */
function timed(name, limit, run) {
  return step(name, () => inTime(limit, run()));
}

async function story(browser) {
  ports = await freePorts("rainbow", "business");
  await timed("the servers start", 15_000, async () => {
    business = await Business.start(ports.business);
    const hooks = `http://127.0.0.1:${ports.business}/rainbow`;
    const file = join(work, "rainbow.toml");
    writeFileSync(file, [
      'listen = "127.0.0.1"', 'security_token = "testtoken"', 'cluster = "off"', 'ping_interval = "1s"', 'pong_timeout = "1s"', 'ack_timeout = "500ms"',
      `connect_url = "${hooks}/connect/"`, `forward_url = "${hooks}/message/{message_type}/"`, `close_url = "${hooks}/close/"`,
      "[store]", 'kind = "sqlite"', `data_dir = "${work}/data"`, 'patience = "300ms"', "",
    ].join("\n"));
    const child = start(["-f", file, "-p", `${ports.rainbow}`]);
    await answers(child, `http://127.0.0.1:${ports.rainbow}/hello/`);
    server = new Rainbow(`http://127.0.0.1:${ports.rainbow}`, { token: "testtoken" });
    relay = await Relay.start(ports.rainbow);
    context = await browser.newContext();
  });
  await reloads();
  await sleeps();
  await failures();
  await timed("no page had a fault", 1_000, async () => check(faults.length === 0, faults.join("\n")));
  business.server.close();
  relay.server.close();
}

/** A page of a session of its own. */
async function come(device, options = {}) {
  const page = await context.newPage();
  page.setDefaultTimeout(10_000);
  page.on("pageerror", (error) => faults.push(`${device}: ${error.stack}`));
  page.device = device;
  if (options.hasClock) await page.clock.install();
  const query = new URLSearchParams({ port: relay.port, device, ...options.query });
  await page.goto(`http://127.0.0.1:${ports.business}/?${query}`);
  await page.evaluate(() => (localStorage.given = "[]"));
  await isState(page, "open");
  return page;
}

function isState(page, state) {
  return page.waitForFunction((state) => window.rainbow?.state === state, state, { polling: 20 });
}

function send(page, text) {
  return server.send({ session: page.device }, text, { wait: "stored" });
}

async function isGiven(page, texts) {
  await page.waitForFunction((count) => given().length >= count, texts.length, { polling: 20 });
  // Nothing is under way any more: a second copy would have come before.
  await until("nothing waits", async () => (await server.session(page.device)).waiting === 0);
  const found = await page.evaluate(() => given());
  check(JSON.stringify(found) === JSON.stringify(texts), `given: ${JSON.stringify(found)}`);
}

async function reloads() {
  await timed("a reload after a message was handed over, before Rainbow knows (REC is lost): it is given once", 15_000, async () => {
    const page = await come("before-rec");
    relay.holdUp();
    await send(page, "one");
    await page.waitForFunction(() => given().length === 1);
    await page.reload();
    await isState(page, "open");
    await send(page, "two");
    await isGiven(page, ["one", "two"]);
    check((await page.evaluate(() => opens[0].resumed)) === true, "the session was not resumed");
    await page.close();
  });

  await timed("a reload between REC and REL: it is given once", 15_000, async () => {
    const page = await come("before-rel");
    relay.holdDownAfterNext();
    await send(page, "one");
    await page.waitForFunction(() => given().length === 1);
    await page.reload();
    await isState(page, "open");
    await send(page, "two");
    await isGiven(page, ["one", "two"]);
    await page.close();
  });

  await timed("a reload while the business server works on the page's message: it is handled once, and the next is another", 15_000, async () => {
    const page = await come("up");
    let open;
    business.gate = new Promise((resolve) => (open = resolve));
    await page.evaluate(() => void rainbow.send(1, "pay", 2).catch(() => {}));
    await until("it works on it", () => business.handled.length === 1);
    await page.reload();
    await isState(page, "open");
    const again = page.evaluate(async () => (await rainbow.send(1, "again", 2)).text);
    business.gate = undefined;
    open();
    check((await again) === "done: again", `it heard ${await again}`);
    check(business.handled.map(([, text]) => text).join() === "pay,again", JSON.stringify(business.handled));
    check(business.handled[0][0] !== business.handled[1][0], "they have one key");
    await page.close();
  });
}

async function sleeps() {
  await timed("a frozen page whose line has died meanwhile comes back, and is given all once", 25_000, async () => {
    const page = await come("frozen");
    const cdp = await context.newCDPSession(page);
    await cdp.send("Page.setWebLifecycleState", { state: "frozen" });
    relay.blackhole();
    for (const text of ["one", "two", "three"]) await send(page, text);
    await until("the server has noticed", async () => (await server.session(page.device)).online === false);
    const woken = Date.now();
    await cdp.send("Page.setWebLifecycleState", { state: "active" });
    await isGiven(page, ["one", "two", "three"]);
    const limit = HEARTBEAT_MS + PONG_MS + SLACK_MS;
    check(Date.now() - woken <= limit, `it took ${Date.now() - woken} ms`);
    await page.close();
  });

  await timed("a laptop that slept for ten minutes notices that its line is dead, and is given all once", 20_000, async () => {
    const page = await come("asleep", { hasClock: true });
    relay.blackhole();
    await send(page, "one");
    const woken = Date.now();
    await page.clock.fastForward("10:00");
    await isGiven(page, ["one"]);
    const limit = HEARTBEAT_MS + PONG_MS + SLACK_MS;
    check(Date.now() - woken <= limit, `it took ${Date.now() - woken} ms`);
    await page.close();
  });
}

async function failures() {
  await timed("a line that is silently dead is noticed within heartbeat and pong time, and nothing is lost", 20_000, async () => {
    const page = await come("blackhole");
    relay.blackhole();
    const began = Date.now();
    await send(page, "one");
    const up = page.evaluate(async () => (await rainbow.send(1, "up", 2)).text);
    await page.waitForFunction(() => closes.length === 1, undefined, { polling: 20 });
    const took = Date.now() - began;
    check(took <= HEARTBEAT_MS + PONG_MS + SLACK_MS, `it took ${took} ms`);
    await isGiven(page, ["one"]);
    check((await up) === "done: up", `it heard ${await up}`);
    check(business.handled.filter(([, text]) => text === "up").length === 1, "it was handled twice");
    await page.close();
  });

  await timed("offline, then online: it does not wait for the end of its backoff", 15_000, async () => {
    const page = await come("offline", { query: { backoff: 60_000 } });
    relay.refuse(true);
    await context.setOffline(true);
    relay.cut();
    await isState(page, "waiting");
    await send(page, "one");
    relay.refuse(false);
    const began = Date.now();
    await context.setOffline(false);
    await isState(page, "open");
    check(Date.now() - began <= SLACK_MS, `it took ${Date.now() - began} ms`);
    await isGiven(page, ["one"]);
    await page.close();
  });

  await timed("each reconnection has a token of its own, and waits where there is none", 20_000, async () => {
    const before = business.shown.length;
    const page = await come("token");
    for (let number = 1; number <= 3; number++) {
      business.tokenFaults = number - 1;
      relay.cut();
      await page.waitForFunction((count) => opens.length > count, number, { polling: 20 });
      check(business.tokenFaults === 0, "it came without a token");
    }
    const shown = business.shown.slice(before);
    check(shown.length === 4 && new Set(shown).size === 4, `tokens: ${shown}`);
    check((await page.evaluate(() => closes.every(({ code }) => code !== 4401))) === true, "it was refused");
    await send(page, "one");
    await isGiven(page, ["one"]);
    await page.close();
  });
}

await play(story);
