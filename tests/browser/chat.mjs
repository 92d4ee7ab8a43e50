/**
 * Two people chat in real Chromium over a real rainbow-server, while its business server is killed and started again.
 *
 *     RAINBOW_BIN=target/release/rainbow-server node tests/browser/chat.mjs
 *
 * RAINBOW_BIN names the server (default: what cargo built last), CHROMIUM the browser (default: Debian's). Screenshots go
 * to `out/`. Prints "N passed, N failed"; the exit code is 0 only when all steps passed. Everything it starts, it ends.
 */

import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const OUT = join(HERE, "out");
const TOKEN = "browser-test-token";
/** Said at QoS 0, 1 and 2. */
const DIALOGUE = [
  ["Morning Bob! Is the new release out?", "Almost. I am about to restart the business server."],
  ["While people are chatting?", "That is the point. Nobody loses a connection."],
  ["And what we say meanwhile?", "Arrives once it is back. Exactly once, if you ask for it."],
];
/** For one step; a reconnection with its backoff fits in several times. */
const PATIENCE = 30_000;

/** Variables named RAINBOW_… would configure the server, RAINBOW_BIN first of all. */
const ENVIRONMENT = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("RAINBOW_")));

const started = new Set();
const faults = [];
const work = mkdtempSync(join(tmpdir(), "rainbow-browser-"));
let passed = 0;
let failed = 0;

/** Steps build on each other: after the first failure the rest would only say the same. */
async function step(name, run) {
  const began = Date.now();
  try {
    await run();
    passed += 1;
    console.log(`ok      ${name} (${Date.now() - began} ms)`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}\n${error.stack}`);
    throw error;
  }
}

function check(holds, what) {
  if (!holds) throw new Error(what);
}

/** Asks until the answer is true; for what has no event to wait for. */
async function until(what, ask) {
  const deadline = Date.now() + PATIENCE;
  while (!(await ask())) {
    check(Date.now() < deadline, `not within ${PATIENCE} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

// — Processes —

function serverBinary() {
  if (process.env.RAINBOW_BIN) return process.env.RAINBOW_BIN;
  const built = ["release", "debug"].map((profile) => join(HERE, "../../target", profile, "rainbow-server")).filter(existsSync);
  check(built.length > 0, "no rainbow-server: build it, or name it in RAINBOW_BIN");
  return built.sort((a, b) => statSync(b).mtimeMs - statSync(a).mtimeMs)[0];
}

/** A process whose output is kept for the case that something fails. */
function start(args) {
  const child = spawn(serverBinary(), args, { stdio: ["ignore", "pipe", "pipe"], env: ENVIRONMENT });
  child.said = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (data) => (child.said = (child.said + data).slice(-20_000)));
  child.ended = new Promise((resolve) => child.once("exit", (code, signal) => resolve({ code, signal })));
  child.once("error", (error) => (child.said += error.stack));
  started.add(child);
  child.ended.then(() => started.delete(child));
  return child;
}

async function kill(child, signal) {
  process.kill(child.pid, signal);
  return child.ended;
}

async function startBackend(ports) {
  const child = start(["demo-backend", "-p", `${ports.backend}`, "--rainbow", `${ports.rainbow}`, "--token", TOKEN]);
  await answers(child, `http://127.0.0.1:${ports.backend}/`);
  return child;
}

async function startRainbow(ports) {
  const hooks = `http://127.0.0.1:${ports.backend}/rainbow`;
  const file = join(work, "rainbow.ini");
  writeFileSync(file, [
    "[main]",
    `connect_url = ${hooks}/connect/`,
    `security_token = ${TOKEN}`,
    `forward_url = ${hooks}/message/{message_type}/`,
    `close_url = ${hooks}/close/`,
    "cluster_name = browser-test",
    "",
  ].join("\n"));
  const child = start(["-f", file, "-p", `${ports.rainbow}`]);
  await answers(child, `http://127.0.0.1:${ports.rainbow}/hello/`);
  return child;
}

async function answers(child, url) {
  let ended = null;
  child.ended.then((end) => (ended = end));
  await until(`${url} answers`, async () => {
    check(ended === null, `it ended: ${JSON.stringify(ended)}\n${child.said}`);
    return fetch(url).then((response) => response.ok, () => false);
  });
}

/** Both must keep their number over a restart, so the system chooses once. */
async function freePorts(...names) {
  const holders = await Promise.all(names.map(() => new Promise((resolve) => {
    const holder = createServer().listen(0, "127.0.0.1", () => resolve(holder));
  })));
  const ports = Object.fromEntries(names.map((name, index) => [name, holders[index].address().port]));
  await Promise.all(holders.map((holder) => new Promise((resolve) => holder.close(resolve))));
  return ports;
}

// — People —

class Person {
  static async enter(browser, ports, name, options = {}) {
    const context = await browser.newContext({ viewport: { width: 1180, height: 760 }, colorScheme: "light", ...options });
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE);
    page.on("pageerror", (error) => faults.push(`${name}: ${error.stack}`));
    // A refused connection is Chromium's own message, and belongs to the steps that refuse it.
    page.on("console", (message) => {
      if (message.type() === "error" && !/WebSocket|ERR_CONNECTION/.test(message.text())) faults.push(`${name}: ${message.text()}`);
    });
    const person = new Person(name, page);
    await page.goto(`http://127.0.0.1:${ports.backend}/`);
    await page.locator("dialog input[name=name]").fill(name);
    await page.locator("dialog button").click();
    await person.isState("open");
    // From here on every lost connection is counted.
    await page.evaluate(() => {
      window.losses = 0;
      const status = document.querySelector("#status");
      new MutationObserver(() => (window.losses += status.dataset.state === "waiting")).observe(status, { attributeFilter: ["data-state"] });
    });
    return person;
  }

  constructor(name, page) {
    this.name = name;
    this.page = page;
  }

  async isState(state) {
    await this.page.locator(`#status[data-state=${state}]`).waitFor();
  }

  async say(text, qos = 1) {
    await this.page.locator("#composer select").selectOption(`${qos}`);
    await this.page.locator("#composer textarea").fill(text);
    await this.page.locator("#composer textarea").press("Enter");
  }

  line(text) {
    return this.page.locator(".line", { hasText: text });
  }

  async isMine(text, state) {
    await this.page.locator(`.line.mine[data-state=${state}]`, { hasText: text }).waitFor();
  }

  async hears(text) {
    await this.page.locator(".line:not(.mine)", { hasText: text }).waitFor();
  }

  async hasOnce(...texts) {
    for (const text of texts) check((await this.line(text).count()) === 1, `${this.name} has "${text}" ${await this.line(text).count()} times`);
  }

  async sees(...names) {
    for (const name of names) await this.page.locator("#people li", { hasText: name }).waitFor();
  }

  losses() {
    return this.page.evaluate(() => window.losses);
  }

  async shoot(name) {
    await this.page.mouse.move(0, 0);
    await this.page.screenshot({ path: join(OUT, `${name}.png`), animations: "disabled" });
  }
}

// — The story —

async function story(browser, ports) {
  let backend, rainbow, ann, bob;

  await step("the servers start", async () => {
    backend = await startBackend(ports);
    rainbow = await startRainbow(ports);
  });

  await step("two people come in and see each other", async () => {
    ann = await Person.enter(browser, ports, "Ann Archer");
    bob = await Person.enter(browser, ports, "Bob", { colorScheme: "dark" });
    await ann.sees("Ann Archer", "Bob");
    await bob.sees("Ann Archer", "Bob");
    await ann.page.locator(".note", { hasText: "Bob joined" }).waitFor();
  });

  await step("they chat both ways with every quality of service", async () => {
    for (const [qos, [question, answer]] of DIALOGUE.entries()) {
      await ann.say(question, qos);
      await bob.hears(question);
      await bob.say(answer, qos);
      await ann.hears(answer);
      await ann.isMine(question, "acknowledged");
      await bob.isMine(answer, "acknowledged");
    }
  });

  await step("a new name and a new room are seen", async () => {
    await bob.page.locator("#me input").fill("Bobby");
    await bob.page.locator("#me input").press("Enter");
    await ann.page.locator(".note", { hasText: "Bob is now Bobby" }).waitFor();
    await bob.page.locator("#rooms button", { hasText: "garden" }).click();
    await bob.page.locator("#room", { hasText: "garden" }).waitFor();
    await ann.page.locator(".note", { hasText: "Bobby left" }).waitFor();
    await ann.say("Gone for a coffee, it seems.");
    await ann.isMine("Gone for a coffee, it seems.", "acknowledged");
    await bob.say("Is anybody in the garden?");
    await bob.isMine("Is anybody in the garden?", "acknowledged");
    await bob.page.locator("#rooms button", { hasText: "lobby" }).click();
    // What was said meanwhile is in the history; what was said elsewhere is not.
    await bob.hears("Gone for a coffee, it seems.");
    await ann.sees("Bobby");
    check((await ann.line("Is anybody in the garden?").count()) === 0, "a line crossed rooms");
    check((await bob.line("Is anybody in the garden?").count()) === 0, "a line crossed rooms");
  });

  await step("markup in a message is text", async () => {
    await bob.say("Is <b>markup</b> shown as text? <img src=x onerror=alert(1)>");
    await ann.hears("Is <b>markup</b> shown as text? <img src=x onerror=alert(1)>");
  });

  await step("the business server is killed, and nobody loses a connection", async () => {
    const { signal } = await kill(backend, "SIGKILL");
    check(signal === "SIGKILL", `it ended by ${signal}`);
    await ann.say("One tick only. It must be down now.", 1);
    await bob.say("Let us see when this arrives.", 2);
    await ann.page.locator("#banner[data-kind=info]", { hasText: "does not answer" }).waitFor();
    await ann.isMine("One tick only. It must be down now.", "sent");
    await bob.isMine("Let us see when this arrives.", "sent");
    await ann.shoot("chat-backend-down");
    check((await ann.losses()) + (await bob.losses()) === 0, "a connection was lost");
  });

  await step("it comes back, and what was said meanwhile arrives", async () => {
    backend = await startBackend(ports);
    await bob.hears("One tick only. It must be down now.");
    await ann.hears("Let us see when this arrives.");
    await ann.isMine("One tick only. It must be down now.", "acknowledged");
    await bob.isMine("Let us see when this arrives.", "acknowledged");
    await ann.page.locator("#banner").waitFor({ state: "hidden" });
  });

  await step("both still chat, over the same connections, and know each other", async () => {
    await ann.say("And there it is again.");
    await bob.hears("And there it is again.");
    await bob.say("Same connections, nothing lost, nothing twice.");
    await ann.hears("Same connections, nothing lost, nothing twice.");
    await ann.sees("Ann Archer", "Bobby");
    await bob.sees("Ann Archer", "Bobby");
    check((await ann.losses()) + (await bob.losses()) === 0, "a connection was lost");
    for (const person of [ann, bob]) {
      await person.hasOnce("One tick only. It must be down now.", "Let us see when this arrives.", "And there it is again.");
    }
  });

  await step("the pages look as they should", async () => {
    await ann.shoot("chat-light");
    await bob.shoot("chat-dark");
    const phone = { viewport: { width: 390, height: 780 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
    const eve = await Person.enter(browser, ports, "Eve", phone);
    await eve.hears("And there it is again.");
    await eve.shoot("chat-phone");
    const overflow = await eve.page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
    check(!overflow, "the phone scrolls sideways");
    await eve.page.context().close();
    await ann.page.locator(".note", { hasText: "Eve left" }).waitFor();
  });

  await step("serverinfo shows live figures", async () => {
    for (const colorScheme of ["light", "dark"]) {
      const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, colorScheme });
      const page = await context.newPage();
      page.on("pageerror", (error) => faults.push(`serverinfo: ${error.stack}`));
      await page.goto(`http://127.0.0.1:${ports.rainbow}/serverinfo/`);
      const value = (name) => page.locator(`[data-figure=${name}]`).textContent();
      await until("two connections are shown", async () => (await value("connections")) === "2");
      const rates = [];
      for (let line = 0; line < 6; line++) {
        await ann.say(`Traffic ${colorScheme} ${line}`);
        await bob.hears(`Traffic ${colorScheme} ${line}`);
        rates.push(await value("messages_in"));
        await page.waitForTimeout(500);
      }
      check(rates.some((rate) => parseFloat(rate) > 0), `no messages per second: ${rates}`);
      check((await page.locator("#channels tr", { hasText: "room:lobby" }).count()) === 1, "the lobby is not among the channels");
      check(!(await page.content()).includes(TOKEN), "the token is shown");
      await page.screenshot({ path: join(OUT, `serverinfo-${colorScheme}.png`), fullPage: true });
      await context.close();
    }
  });

  await step("the server is stopped and started, and everyone comes back by themselves", async () => {
    const { code, signal } = await kill(rainbow, "SIGTERM");
    check(code === 0, `rainbow-server ended with ${code ?? signal}\n${rainbow.said}`);
    await ann.isState("waiting");
    await ann.page.locator("#banner", { hasText: "econnecting" }).waitFor();
    await ann.say("Said without a connection");
    await ann.isMine("Said without a connection", "waiting");
    await ann.shoot("chat-reconnecting");
    rainbow = await startRainbow(ports);
    await ann.isState("open");
    await bob.isState("open");
    await bob.hears("Said without a connection");
    await ann.isMine("Said without a connection", "acknowledged");
    await bob.say("Welcome back");
    await ann.hears("Welcome back");
    await ann.hasOnce("Welcome back", "Said without a connection");
  });

  await step("no page had a fault", async () => check(faults.length === 0, faults.join("\n")));
}

async function main() {
  mkdirSync(OUT, { recursive: true });
  const ports = await freePorts("backend", "rainbow");
  let browser;
  try {
    browser = await chromium.launch({
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync",
      ],
    });
    await story(browser, ports);
  } catch (error) {
    if (failed === 0) {
      failed += 1;
      console.log(`FAILED  before the first step\n${error.stack}`);
    }
    for (const [index, context] of (browser?.contexts() ?? []).entries()) {
      for (const page of context.pages()) await page.screenshot({ path: join(OUT, `failed-${index}.png`) }).catch(() => {});
    }
    for (const child of started) console.log(`— ${child.spawnargs.join(" ")}\n${child.said}`);
    if (faults.length > 0) console.log(`— faults of pages\n${faults.join("\n")}`);
  } finally {
    await browser?.close();
    for (const child of [...started]) await kill(child, "SIGKILL");
    rmSync(work, { recursive: true, force: true });
  }
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed === 0 ? 0 : 1;
}

await main();
