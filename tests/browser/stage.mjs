/**
 * What the browser tests share: steps, processes that are ended whatever happens, people with a page in a real Chromium.
 *
 * RAINBOW_BIN names the server (default: what cargo built last), CHROMIUM the browser (default: Debian's). Screenshots go
 * to `out/`. `play` prints "N passed, N failed"; the exit code is 0 only when all steps passed.
 */

import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const HERE = fileURLToPath(new URL(".", import.meta.url));
export const OUT = join(HERE, "out");
/** For one step; a reconnection with its backoff fits in several times. */
const PATIENCE = 30_000;

/** Variables named RAINBOW_… would configure the server, RAINBOW_BIN first of all. */
// Each server is alone: those of others on this machine would be its peers.
export const ENVIRONMENT = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("RAINBOW_")));
ENVIRONMENT.RAINBOW_CLUSTER = "off";

const started = new Set();
export const faults = [];
export const work = mkdtempSync(join(tmpdir(), "rainbow-browser-"));
let passed = 0;
let failed = 0;

/** Steps build on each other: after the first failure the rest would only say the same. */
export async function step(name, run) {
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

export function check(holds, what) {
  if (!holds) throw new Error(what);
}

/** Asks until the answer is true; for what has no event to wait for. */
export async function until(what, ask) {
  const deadline = Date.now() + PATIENCE;
  while (!(await ask())) {
    check(Date.now() < deadline, `not within ${PATIENCE} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Rejects when `promise` takes longer. */
export function inTime(limit, promise) {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`not within ${limit} ms`)), limit)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// — Processes —

export function serverBinary() {
  if (process.env.RAINBOW_BIN) return process.env.RAINBOW_BIN;
  const built = ["release", "debug"].map((profile) => join(HERE, "../../target", profile, "rainbow-server")).filter(existsSync);
  check(built.length > 0, "no rainbow-server: build it, or name it in RAINBOW_BIN");
  return built.sort((a, b) => statSync(b).mtimeMs - statSync(a).mtimeMs)[0];
}

/** A process whose output is kept for the case that something fails. */
export function start(args, more = {}) {
  return watch(spawn(serverBinary(), args, { stdio: ["ignore", "pipe", "pipe"], env: { ...ENVIRONMENT, ...more } }));
}

/** A shell that types on: what it has put into the background ends with it. */
export function startShell(folder) {
  const shell = watch(spawn("bash", [], { stdio: "pipe", env: ENVIRONMENT, cwd: folder, detached: true }));
  shell.group = -shell.pid;
  return shell;
}

function watch(child) {
  child.said = "";
  // Without what a program says on the side.
  child.printed = "";
  child.stdout.on("data", (data) => (child.printed += data));
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (data) => (child.said = (child.said + data).slice(-20_000)));
  child.ended = new Promise((resolve) => child.once("exit", (code, signal) => resolve({ code, signal })));
  child.once("error", (error) => (child.said += error.stack));
  started.add(child);
  child.ended.then(() => started.delete(child));
  return child;
}

export async function kill(child, signal) {
  process.kill(child.group ?? child.pid, signal);
  return child.ended;
}

export async function answers(child, url) {
  let ended = null;
  child.ended.then((end) => (ended = end));
  await until(`${url} answers`, async () => {
    check(ended === null, `it ended: ${JSON.stringify(ended)}\n${child.said}`);
    return fetch(url).then((response) => response.ok, () => false);
  });
}

/** Each must keep its number over a restart, so the system chooses once. */
export async function freePorts(...names) {
  const holders = await Promise.all(names.map(() => new Promise((resolve) => {
    const holder = createServer().listen(0, "127.0.0.1", () => resolve(holder));
  })));
  const ports = Object.fromEntries(names.map((name, index) => [name, holders[index].address().port]));
  await Promise.all(holders.map((holder) => new Promise((resolve) => holder.close(resolve))));
  return ports;
}

// — People —

export class Person {
  /** A new browser profile, which comes in by the dialog. */
  static async enter(browser, ports, name, options = {}) {
    const context = await browser.newContext({ viewport: { width: 1180, height: 760 }, colorScheme: "light", ...options });
    const person = await Person.open(context, name, `http://127.0.0.1:${ports.backend}/`);
    await person.page.locator("dialog input[name=name]").fill(name);
    await person.page.locator("dialog button").click();
    await person.isState("open");
    // From here on every lost connection is counted.
    await person.page.evaluate(() => {
      window.losses = 0;
      const status = document.querySelector("#status");
      new MutationObserver(() => (window.losses += status.dataset.state === "waiting")).observe(status, { attributeFilter: ["data-state"] });
    });
    return person;
  }

  /** A window of a profile. */
  static async open(context, name, url) {
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE);
    page.on("pageerror", (error) => faults.push(`${name}: ${error.stack}`));
    // A refused connection is Chromium's own message, and belongs to the steps that refuse it.
    page.on("console", (message) => {
      if (message.type() === "error" && !/WebSocket|ERR_CONNECTION/.test(message.text())) faults.push(`${name}: ${message.text()}`);
    });
    await page.goto(url);
    return new Person(name, page);
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

// — The play —

/** Runs `story(browser)` and ends everything that it has started. */
export async function play(story) {
  mkdirSync(OUT, { recursive: true });
  let browser;
  try {
    browser = await chromium.launch({
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync",
      ],
    });
    await story(browser);
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
