/**
 * The demo's page when it has much to show: 1,000 messages that waited are there within a second, its log begins at its end, and its
 * button restarts the business server.
 *
 *     RAINBOW_BIN=target/release/rainbow-server node tests/browser/waiting.mjs
 */

import { availableParallelism, loadavg } from "node:os";
import { Person, answers, check, faults, freePorts, inTime, play, start, step, until, work } from "./stage.mjs";

const WAITING = 1_000;
const SHOWN_MS = 1_000;
// The slowest machines take three times as long as the fastest.
const SLOWEST = 3;

let ports, ann, bob;

async function story(browser) {
  ports = await freePorts("rainbow", "backend", "admin");
  await step("the demo starts, Ann comes and goes", async () => {
    const demo = start(["demo", "-p", `${ports.rainbow}`, "--page", `${ports.backend}`, "--admin", `${ports.admin}`, "--data-dir", work]);
    await answers(demo, `http://127.0.0.1:${ports.backend}/`);
    ann = await Person.enter(browser, ports, "Ann");
    await ann.page.goto("about:blank");
  });
  await theyWait();
  await theBusinessServerRestarts(browser);
  await step("no page had a fault", async () => check(faults.length === 0, faults.join("\n")));
}

async function say(number) {
  const url = `http://127.0.0.1:${ports.admin}/send/?channel=room:lobby&wait=stored`;
  const answer = await (await fetch(url, { method: "POST", body: `waiting ${number}.` })).json();
  check(answer.stored === 1, JSON.stringify(answer));
}

async function theyWait() {
  await step(`${WAITING} messages are sent to her`, async () => {
    await say(1);
    // In order but for the last one: some are under way at once.
    for (let number = 2; number < WAITING; number += 50) {
      const some = Array.from({ length: Math.min(50, WAITING - number) }, (_, index) => say(number + index));
      await Promise.all(some);
    }
    await say(WAITING);
  });

  await step(`they are all there within ${SHOWN_MS * SLOWEST} ms of her return, the last one in sight`, async () => {
    await ann.page.addInitScript(() => {
      // From the connection to the frame that shows the last of them.
      const { WebSocket } = window;
      window.WebSocket = class extends WebSocket {
        constructor(...args) {
          super(...args);
          this.addEventListener("open", () => (window.openedAt ??= performance.now()));
        }
      };
      window.shownAt = new Promise((resolve) => {
        new MutationObserver((_, observer) => {
          if (document.querySelectorAll(".line").length < 1_000) return;
          observer.disconnect();
          requestAnimationFrame(() => setTimeout(() => resolve(performance.now())));
        }).observe(document, { childList: true, subtree: true });
      });
    });
    const cdp = await ann.page.context().newCDPSession(ann.page);
    await cdp.send("Performance.enable", { timeDomain: "threadTicks" });
    await ann.page.goto(`http://127.0.0.1:${ports.backend}/?name=Ann`);
    const { took, lines, gap } = await inTime(20_000, ann.page.evaluate(async () => {
      const took = (await shownAt) - openedAt;
      const log = document.querySelector("#log");
      const lines = [...document.querySelectorAll(".line .bubble")].map((bubble) => bubble.firstChild.data);
      return { took, lines, gap: log.scrollHeight - log.scrollTop - log.clientHeight };
    }));
    const { metrics } = await cdp.send("Performance.getMetrics");
    const cpu = metrics.find(({ name }) => name === "TaskDuration").value * 1_000;
    const figures = `${Math.round(took)} ms, of which the page had the processor for ${Math.round(cpu)} ms`;
    console.log(`        ${WAITING} lines shown after ${figures}`);
    // Where others have the processors, the clock says nothing of the page.
    const isBusy = loadavg()[0] > availableParallelism();
    check((isBusy ? cpu : took) <= SHOWN_MS * SLOWEST, `it took ${figures}`);
    check(new Set(lines).size === WAITING && lines.length === WAITING, `${lines.length} lines, ${new Set(lines).size} of them different`);
    check(lines[0] === "waiting 1." && lines.at(-1) === `waiting ${WAITING}.`, `from ${lines[0]} to ${lines.at(-1)}`);
    check(gap < 2, `the log ends ${gap} px below`);
    check((await ann.page.locator(".note.waited").count()) === 1, "they are not announced once");
  });

  await step("a reload shows the newest of them, the last one in sight", async () => {
    await ann.page.reload();
    await ann.isState("open");
    await ann.page.locator(".line", { hasText: `waiting ${WAITING}.` }).waitFor();
    const gap = () => ann.page.evaluate(() => { const log = document.querySelector("#log"); return log.scrollHeight - log.scrollTop - log.clientHeight; });
    await until("the log is at its end", async () => (await gap()) < 2);
  });
}

async function theBusinessServerRestarts(browser) {
  await step("the button restarts the business server, and nothing is lost", async () => {
    bob = await Person.enter(browser, ports, "Bob");
    await ann.sees("Bob");
    await bob.page.getByRole("button", { name: "Restart the business server" }).click();
    await until("it is down", () => fetch(`http://127.0.0.1:${ports.backend}/`).then(() => false, () => true));
    await bob.say("Said while it is down", 2);
    await bob.isMine("Said while it is down", "sent");
    await bob.page.locator("#banner[data-kind=info]").waitFor();
    await bob.shoot("chat-restart");
    const gap = await bob.page.evaluate(() => document.querySelector("#composer").getBoundingClientRect().top - [...document.querySelectorAll(".line")].at(-1).getBoundingClientRect().bottom);
    check(gap >= 0 && gap < 40, `a short log ends ${gap} px above the composer`);
    await ann.hears("Said while it is down");
    await bob.isMine("Said while it is down", "acknowledged");
    await bob.page.locator("#banner").waitFor({ state: "hidden" });
    check((await bob.losses()) === 0, "a connection was lost");
    await ann.say("And back again", 2);
    await bob.hears("And back again");
    await bob.hasOnce("Said while it is down", "And back again");
    await ann.hasOnce("Said while it is down", "And back again");
    await bob.sees("Ann", "Bob");
  });

  await step("a page of another site cannot press it", async () => {
    const headers = { "sec-fetch-site": "cross-site" };
    const { status } = await fetch(`http://127.0.0.1:${ports.backend}/restart`, { method: "POST", headers });
    check(status === 403, `it was answered ${status}`);
    check((await fetch(`http://127.0.0.1:${ports.backend}/restart`)).status === 405, "a GET restarts it");
  });

  await step("a link leads to the server's figures", async () => {
    const link = bob.page.getByRole("link", { name: "Server figures" });
    check((await link.getAttribute("href")) === `http://127.0.0.1:${ports.admin}/serverinfo/`, await link.getAttribute("href"));
    const [popup] = await Promise.all([bob.page.waitForEvent("popup"), link.click()]);
    await popup.locator("[data-figure=connections]", { hasText: "2" }).waitFor();
  });
}

await play(story);
