/**
 * Two people chat in real Chromium over a real rainbow-server, while its business server is killed and started again.
 *
 *     RAINBOW_BIN=target/release/rainbow-server node tests/browser/chat.mjs
 *
 * Prints "N passed, N failed"; the exit code is 0 only when all steps passed. Everything it starts, it ends.
 */

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { OUT, Person, answers, check, faults, freePorts, kill, play, start, step, until, work } from "./stage.mjs";

const TOKEN = "browser-test-token";
const ADMIN_TOKEN = "browser-admin-token";
/** Said at QoS 0, 1 and 2. */
const DIALOGUE = [
  ["Morning Bob! Is the new release out?", "Almost. I am about to restart the business server."],
  ["While people are chatting?", "That is the point. Nobody loses a connection."],
  ["And what we say meanwhile?", "Arrives once it is back. Exactly once, if you ask for it."],
];

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
    `admin_token = ${ADMIN_TOKEN}`,
    `forward_url = ${hooks}/message/{message_type}/`,
    `close_url = ${hooks}/close/`,
    "cluster_name = browser-test",
    "",
  ].join("\n"));
  const child = start(["-f", file, "-p", `${ports.rainbow}`]);
  await answers(child, `http://127.0.0.1:${ports.rainbow}/hello/`);
  return child;
}

// — The story —

let ports, backend, rainbow, ann, bob;

async function story(browser) {
  ports = await freePorts("backend", "rainbow");

  await step("the servers start", async () => {
    backend = await startBackend(ports);
    rainbow = await startRainbow(ports);
  });
  await theyMeetAndChat(browser);
  await theBackendDiesAndReturns();
  await thePagesLookRight(browser);
  await theServerRestarts();
  await step("no page had a fault", async () => check(faults.length === 0, faults.join("\n")));
}

async function theyMeetAndChat(browser) {
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
}

async function theBackendDiesAndReturns() {
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
}

async function thePagesLookRight(browser) {
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
      await page.getByLabel("Admin token").fill(ADMIN_TOKEN);
      await page.getByLabel("Admin token").press("Enter");
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
      check(!page.url().includes("token"), "a token is in the address");
      check(!(await page.getByLabel("Admin token").isVisible()), "it asks for the token although it has it");
      await page.screenshot({ path: join(OUT, `serverinfo-${colorScheme}.png`), fullPage: true });
      await context.close();
    }
  });
}

async function theServerRestarts() {
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
}

await play(story);
