/**
 * The operator's page in a real Chromium: the past survives a reload, one finds a member, a connection and a session, logs in,
 * sends, kicks, drops, and sees what a reload would change before it happens. Screenshots of a screen and a phone, light and dark.
 *
 *     RAINBOW_BIN=target/release/rainbow-server node tests/browser/operator.mjs
 */

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { OUT, Person, answers, check, faults, freePorts, play, start, step, until, work } from "./stage.mjs";

const TOKEN = "operator-test-token", ADMIN_TOKEN = "operator-admin-token";
const FILE = join(work, "rainbow.toml");
const SCREENS = [["screen", { width: 1280, height: 900 }], ["phone", { width: 390, height: 844 }]];
const LOBBY = "room:lobby";

let ports, rainbow, browser, ann, bob, page;

function configure(more = "") {
  const hooks = `http://127.0.0.1:${ports.backend}/rainbow`;
  writeFileSync(FILE, [
    `connect_url = "${hooks}/connect/"`,
    `forward_url = "${hooks}/message/{message_type}/"`,
    `close_url = "${hooks}/close/"`,
    `security_token = "${TOKEN}"`,
    `admin_token = "${ADMIN_TOKEN}"`,
    more,
    "[store]",
    'kind = "sqlite"',
    `data_dir = "${join(work, "data")}"`,
    "",
  ].join("\n"));
}

async function story(given) {
  browser = given;
  ports = await freePorts("backend", "rainbow");
  await theyChatAndSomethingFails();
  await thePastIsThere();
  await oneFindsWhoIsThere();
  await oneLooksOn();
  await oneLogsIn();
  await oneActs();
  await theFileIsReread();
  await thePageLooksRight();
  await aClusterIsSeen();
  await step("a drain takes two presses, and ends the server", async () => {
    await page.getByRole("button", { name: "Drain this node" }).click();
    await page.getByRole("button", { name: "Drain this node? Press again" }).click();
    await page.locator("#drained", { hasText: "draining: clients are told to go" }).waitFor();
    await audited("Drain");
    await until("it has ended", async () => fetch(at("hello/")).then(() => false, () => true));
  });
  await step("no page had a fault", async () => check(faults.length === 0, faults.join("\n")));
}

async function theyChatAndSomethingFails() {
  await step("two people chat, and a stranger's calls are refused", async () => {
    configure();
    const backend = start(["demo-backend", "-p", `${ports.backend}`, "--rainbow", `${ports.rainbow}`, "--token", TOKEN, "--sessions"]);
    await answers(backend, `http://127.0.0.1:${ports.backend}/`);
    rainbow = start(["-f", FILE, "-p", `${ports.rainbow}`]);
    await answers(rainbow, at("hello/"));
    ann = await Person.enter(browser, ports, "Ann");
    bob = await Person.enter(browser, ports, "Bob");
    await bob.say("Who watches this?");
    await ann.hears("Who watches this?");
    for (let call = 0; call < 5; call++) await fetch(at(`send/?channel=${LOBBY}`), { method: "POST", body: "x" });
  });
}

function at(path) { return `http://127.0.0.1:${ports.rainbow}/${path}`; }

/** A page of its own, logged in. */
async function opens(options = {}) {
  const context = await browser.newContext({ viewport: SCREENS[0][1], colorScheme: "light", ...options });
  const opened = await context.newPage();
  opened.setDefaultTimeout(30_000);
  opened.on("pageerror", (error) => faults.push(`the page: ${error.stack}`));
  await opened.goto(at("serverinfo/"));
  await logIn(opened);
  return opened;
}

async function logIn(opened) {
  await opened.getByLabel("Admin token").fill(ADMIN_TOKEN);
  await opened.getByLabel("Admin token").press("Enter");
  await opened.locator("#live[data-tone=ok]").waitFor();
  check(!(await opened.getByLabel("Admin token").isVisible()), "it asks for the token although it has it");
}

function chart(opened, name) { return opened.locator(`[data-chart=${name}] canvas`); }
async function says(opened, name, what) {
  await until(`the chart ${name} says ${what}`, async () => what.test(await chart(opened, name).getAttribute("aria-label")));
}

async function thePastIsThere() {
  await step("the bare address leads to the page, which asks for the token and keeps it to itself", async () => {
    const context = await browser.newContext({ viewport: SCREENS[0][1] });
    const stranger = await context.newPage();
    await stranger.goto(at(""));
    check(stranger.url() === at("serverinfo/"), stranger.url());
    await stranger.locator("#alarm", { hasText: "admin token" }).waitFor();
    await stranger.getByLabel("Admin token").fill("a wrong one");
    await stranger.getByLabel("Admin token").press("Enter");
    await stranger.locator("#alarm", { hasText: "does not know this admin token" }).waitFor();
    await logIn(stranger);
    const kept = await stranger.evaluate(() => [document.cookie, JSON.stringify(localStorage), JSON.stringify(sessionStorage), location.href].join());
    check(!kept.includes(ADMIN_TOKEN) && !(await stranger.content()).includes(ADMIN_TOKEN), kept);
    await context.close();
  });

  await step("the charts have the past, errors with their reasons", async () => {
    page = await opens();
    for (let line = 0; line < 12; line++) await ann.say(`Traffic ${line}`);
    await says(page, "messages_in", /from clients now .*highest (?!0$)/);
    await says(page, "latency", /p99 now .*s.*; p50 now .*s/);
    await says(page, "errors", /calls refused|signatures refused/);
    await page.locator("#answers td", { hasText: "200" }).first().waitFor();
    const reason = page.locator(".reasons details", { hasText: "signatures refused" });
    check((await reason.getAttribute("title")) === "Calls refused for their signature.", await reason.getAttribute("title"));
    await reason.locator("summary").press("Enter");
    await reason.locator("p", { hasText: "Calls refused for their signature." }).waitFor();
  });

  await step("the past survives a reload of the page", async () => {
    await page.reload();
    await logIn(page);
    const first = /highest (?!0)\d/;
    await says(page, "messages_in", first);
    await says(page, "errors", /signatures refused/);
    await page.getByRole("button", { name: "24 hours" }).click();
    await says(page, "messages_in", /the last 24 hours: .*highest (?!0)\d/);
    await page.getByRole("button", { name: "1 hour" }).click();
    await says(page, "messages_in", /the last hour: .*highest (?!0)\d/);
    await page.getByRole("button", { name: "10 min" }).click();
  });

  await step("arrow keys move through a chart's points", async () => {
    await chart(page, "connections").focus();
    await page.keyboard.press("ArrowLeft");
    await page.locator("[data-chart=connections] .hint", { hasText: /\d\d:\d\d:\d\d\n2 open/ }).waitFor();
    await page.keyboard.press("Escape");
    await page.locator("[data-chart=connections] .hint").waitFor({ state: "hidden" });
  });
}

function detail(text) { return page.locator("#detail", { hasText: text }); }

async function oneFindsWhoIsThere() {
  await step("from a channel to a member, to its session, and back", async () => {
    await page.getByLabel("Channel, session or identity").fill("LOBBY".toLowerCase());
    await page.getByRole("button", { name: "Channels", exact: true }).click();
    await page.locator("#channels-title", { hasText: "1 channel with “lobby”" }).waitFor();
    await page.locator("#channels").getByRole("button", { name: LOBBY }).click();
    await detail("Online2").waitFor();
    check((await page.locator("#detail tbody tr").count()) === 2, "not two members");
    await page.locator("#detail tbody button").first().click();
    await detail("Address127.0.0.1").waitFor();
    await detail(LOBBY).waitFor();
    await page.locator("#detail dd button").first().click();
    await detail("Online").waitFor();
    await page.locator("#detail-title", { hasText: "Session" }).waitFor();
    await page.getByRole("button", { name: "Back", exact: true }).click();
    await detail("Address127.0.0.1").waitFor();
    await page.keyboard.press("Escape");
    await page.locator("#detail").waitFor({ state: "hidden" });
  });

  await step("whom nobody knows is said to be nobody", async () => {
    await page.getByLabel("Channel, session or identity").fill("nobody at all");
    await page.getByRole("button", { name: "Session", exact: true }).click();
    await detail("no such session").waitFor();
    await page.getByRole("button", { name: "Close", exact: true }).click();
    await page.getByRole("button", { name: "Connection", exact: true }).click();
    await detail("64 hex digits").waitFor();
    await page.getByRole("button", { name: "Close", exact: true }).click();
    await page.getByRole("button", { name: "Channels", exact: true }).click();
    await page.locator("#channels", { hasText: "No channel has that in its name." }).waitFor();
    await page.getByRole("button", { name: "Back to the largest" }).click();
    await page.locator("#channels").getByRole("button", { name: LOBBY }).waitFor();
  });
}

async function outcome(text) { await page.locator("#outcome", { hasText: text }).waitFor(); }

async function oneLogsIn() {
  await step("without the token nothing is done, and it says what is missing", async () => {
    await page.locator("#channels").getByRole("button", { name: LOBBY }).click();
    await page.locator("#detail textarea").fill("Nobody will hear this");
    await page.evaluate(() => document.querySelector("#enter").click());
    await page.getByRole("button", { name: "Send", exact: true }).click();
    await outcome("That takes the admin token");
    await page.getByRole("button", { name: "Close", exact: true }).click();
    await logIn(page);
  });

  await step("a refusal of what was sent before the login does not log out", async () => {
    const press = () => page.evaluate(() => document.querySelector("#enter").click());
    let pass;
    const isHeld = new Promise((resolve) => {
      page.route("**/info/**", async (route) => {
        if (!pass && !route.request().headers().authorization) {
          const passed = new Promise((go) => (pass = go));
          resolve();
          await passed;
        }
        await route.continue();
      });
    });
    await press();
    await isHeld;
    await press();
    await logIn(page);
    const refused = page.waitForResponse((response) => response.status() === 401);
    pass();
    await (await refused).finished();
    await page.waitForResponse((response) => response.url().includes("/info/") && response.ok());
    check(!(await page.getByLabel("Admin token").isVisible()), "it asks for the token although it has it");
    check((await page.locator("#enter").textContent()) === "Log out", "it has forgotten the token");
    await page.unroute("**/info/**");
  });
}

async function oneActs() {
  await step("a message to a channel reaches everybody", async () => {
    await page.locator("#channels").getByRole("button", { name: LOBBY }).click();
    await page.locator("#detail textarea").fill("The operator says hello");
    await page.getByRole("button", { name: "Send", exact: true }).click();
    await outcome("Acknowledged by 2 connections");
    await ann.page.locator("body", { hasText: "The operator says hello" }).waitFor();
    await audited("The operator", false);
    await audited("Send");
  });

  await step("a kick takes two presses, and closes one connection", async () => {
    await page.locator("#detail tbody button").first().click();
    await detail("Address127.0.0.1").waitFor();
    await page.getByLabel("Close code").fill("4000");
    await page.getByRole("button", { name: "Kick" }).click();
    check((await ann.losses()) + (await bob.losses()) === 0, "one press was enough");
    await page.getByRole("button", { name: "Kick? Press again" }).click();
    await outcome("Closed 1 connection");
    await until("one of them has lost the connection", async () => (await ann.losses()) + (await bob.losses()) === 1);
    await audited("Kick");
    await page.getByRole("button", { name: "Look again" }).click();
    await detail("no such connection").waitFor();
    await page.keyboard.press("Escape");
  });

  await step("a session that is away shows what waits, and is dropped", async () => {
    const names = await sessions();
    await bob.page.goto("about:blank");
    const name = await awayOf(names);
    await ann.say("Bob will not hear this");
    await until("one message waits", async () => {
      await page.getByLabel("Channel, session or identity").fill(name);
      await page.getByRole("button", { name: "Session", exact: true }).click();
      await page.locator("#detail dl").waitFor();
      const text = await page.locator("#detail dl").textContent();
      if (/Waiting[1-9]/.test(text) && text.includes("Onlineno")) return true;
      await page.getByRole("button", { name: "Close", exact: true }).click();
      return false;
    });
    await page.getByRole("button", { name: "Drop the session" }).click();
    await page.getByRole("button", { name: "Drop the session? Press again" }).click();
    await outcome("The session is dropped");
    await audited("DropSession");
    await page.getByRole("button", { name: "Look again" }).click();
    await detail("no such session").waitFor();
    await page.keyboard.press("Escape");
  });
}

async function oneLooksOn() {
  await step("a channel that is looked at shows how many messages come and go", async () => {
    await page.locator("#channels").getByRole("button", { name: LOBBY }).click();
    await detail("Messages0/s in, 0/s out").waitFor();
    await until("a message to two is counted", async () => {
      await ann.say("This is counted");
      return /Messages(?!0\/)[\d.,]+\/s in, (?!0\/)[\d.,]+\/s out/.test(await page.locator("#detail dl").textContent());
    });
    await page.keyboard.press("Escape");
  });

  await step("a trace shows who sends what, as it happens, until it is stopped", async () => {
    await page.locator("#channels").getByRole("button", { name: LOBBY }).click();
    await page.getByRole("button", { name: "Trace for a minute" }).click();
    await detail("Following").waitFor();
    await until("a message is seen", async () => {
      await ann.say("Somebody follows this");
      return (await page.locator(".trace li", { hasText: "sends type" }).count()) > 0;
    });
    await page.locator(".trace li", { hasText: "gets type" }).first().waitFor();
    await page.locator(".trace li", { hasText: "acknowledges" }).first().waitFor();
    check(!(await page.locator(".trace").textContent()).includes("Somebody follows this"), "it shows the body");
    await page.getByRole("button", { name: "Stop" }).click();
    await detail("Stopped").waitFor();
    await page.keyboard.press("Escape");
  });

  await step("sessions are listed by state, and lead to one", async () => {
    await page.getByRole("button", { name: "List", exact: true }).click();
    await page.locator("#sessions-title", { hasText: "2 sessions" }).waitFor();
    check((await page.locator("#sessions tbody tr").count()) === 2, "not two rows");
    await page.getByLabel("Show").selectOption("away");
    await page.getByRole("button", { name: "List", exact: true }).click();
    await page.locator("#sessions", { hasText: "No such session." }).waitFor();
    await page.getByLabel("Show").selectOption("online");
    await page.getByLabel("Order").selectOption("oldest");
    await page.getByRole("button", { name: "List", exact: true }).click();
    await page.locator("#sessions tbody button").first().click();
    await page.locator("#detail-title", { hasText: "Session" }).waitFor();
    await page.keyboard.press("Escape");
  });
}

/** The server's audit says it, in a line of its own. */
async function audited(what, isThere = true) {
  const has = () => rainbow.said.split("\n").some((line) => line.includes("rainbow::audit") && line.includes(what));
  if (isThere) await until(`the audit says ${what}`, async () => has());
  else check(!has(), `the audit says ${what}`);
}

async function ask(path, parameters) {
  const query = new URLSearchParams(parameters);
  return (await fetch(at(`${path}?${query}`), { headers: { Authorization: `Bearer ${ADMIN_TOKEN}` } })).json();
}

/** The demo makes each person of the lobby a session. */
async function sessions() {
  let names;
  await until("both have one", async () => {
    const { identities } = await ask("channel/", { channel: LOBBY });
    names = await Promise.all(identities.map(async (identity) => (await ask("connection/", { identity })).session));
    return names.length === 2 && names.every((name) => name);
  });
  return names;
}

async function awayOf(names) {
  let away;
  await until("one of them is away", async () => {
    const states = await Promise.all(names.map((session) => ask("session/", { session })));
    away = states.find(({ online }) => !online)?.session;
    return away !== undefined;
  });
  return away;
}

async function theFileIsReread() {
  await step("a dry run shows what a reload would change, and changes nothing", async () => {
    configure('ping_interval = "77s"\nworkers = 1');
    await page.getByRole("button", { name: "What would a reload change?" }).click();
    await page.locator("#reload tr", { hasText: "ping_interval" }).filter({ hasText: "77s" }).filter({ hasText: "with the reload" }).waitFor();
    await page.locator("#reload tr", { hasText: "workers" }).filter({ hasText: "after a restart" }).waitFor();
    check((await page.locator("#config", { hasText: "ping_interval" }).count()) === 0, "it was changed");
    await page.locator("section", { has: page.locator("#reload") }).screenshot({ path: join(OUT, "operator-dry-run.png") });
    await audited("UpdateConfig, dry run");
  });

  await step("a reload takes it, and what differs from the defaults comes first", async () => {
    await page.getByRole("button", { name: "Reload now" }).click();
    await page.getByRole("button", { name: "Reload now? Press again" }).click();
    await page.locator("#reload", { hasText: "configuration reread: changed ping_interval" }).waitFor();
    await page.locator("#config div", { hasText: "ping_interval" }).filter({ hasText: "77s" }).filter({ hasText: "default:" }).waitFor();
    check(!(await page.locator("#defaults").isVisible()), "the defaults are in the way");
  });

  await step("a file with a mistake is refused in words", async () => {
    configure("ping_intervall = 3");
    await page.getByRole("button", { name: "What would a reload change?" }).click();
    await page.locator("#reload", { hasText: "ping_intervall" }).waitFor();
    configure();
  });
}

async function thePageLooksRight() {
  await bob.page.goBack();
  for (const [screen, viewport] of SCREENS) {
    for (const colorScheme of ["light", "dark"]) {
      await step(`nothing is cut on a ${screen}, ${colorScheme}`, async () => {
        const opened = await opens({ viewport, colorScheme });
        await says(opened, "errors", /refused/);
        await opened.locator("#channels").getByRole("button", { name: LOBBY }).waitFor();
        await seen(opened, `operator-${screen}-${colorScheme}`, { fullPage: true });
        await opened.locator("#channels").getByRole("button", { name: LOBBY }).click();
        await opened.locator("#detail tbody button").first().waitFor();
        await seen(opened, `operator-${screen}-${colorScheme}-channel`);
        await opened.locator("#detail tbody button").first().click();
        await opened.locator("#detail", { hasText: "Address127.0.0.1" }).waitFor();
        await seen(opened, `operator-${screen}-${colorScheme}-connection`);
        await opened.locator("#detail dd button").first().click();
        await opened.locator("#detail-title", { hasText: "Session" }).waitFor();
        await opened.locator("#detail dl").waitFor();
        await seen(opened, `operator-${screen}-${colorScheme}-session`);
        await opened.getByRole("button", { name: "Trace for a minute" }).click();
        await opened.locator("#detail", { hasText: "Following" }).waitFor();
        await until("something happens", async () => {
          await ann.say("Who follows me?");
          return (await opened.locator(".trace li").count()) > 5;
        });
        await opened.locator(".trace").scrollIntoViewIfNeeded();
        await seen(opened, `operator-${screen}-${colorScheme}-trace`);
        await opened.keyboard.press("Escape");
        await opened.getByRole("button", { name: "List", exact: true }).click();
        await opened.locator("#sessions tbody tr").first().waitFor();
        await opened.locator("#durable").scrollIntoViewIfNeeded();
        await seen(opened, `operator-${screen}-${colorScheme}-sessions`);
        await opened.context().close();
      });
    }
  }
}

async function aClusterIsSeen() {
  await step("a cluster's nodes and links are seen, and the channels of all of them", async () => {
    const { one, two } = await freePorts("one", "two"), name = `operator-${process.pid}`;
    for (const [port, seed] of [[one, two], [two, one]]) {
      const file = join(work, `node-${port}.toml`);
      const keys = [`listen = "127.0.0.1"`, `security_token = "${name}"`, `admin_token = "${ADMIN_TOKEN}"`, `cluster_name = "${name}"`, `cluster_seeds = ["127.0.0.1:${seed}"]`];
      writeFileSync(file, keys.join("\n"));
      await answers(start(["-f", file, "-p", `${port}`], { RAINBOW_CLUSTER: "auto" }), `http://127.0.0.1:${port}/hello/`);
    }
    for (const [screen, viewport] of SCREENS) {
      for (const colorScheme of ["light", "dark"]) {
        const context = await browser.newContext({ viewport, colorScheme });
        const opened = await context.newPage();
        opened.on("pageerror", (error) => faults.push(`the cluster's page: ${error.stack}`));
        await opened.goto(`http://127.0.0.1:${one}/serverinfo/`);
        await logIn(opened);
        await opened.locator("#nodes tr", { hasText: "together" }).waitFor();
        await opened.locator("#links tr", { hasText: `127.0.0.1:${two}` }).filter({ hasText: "live" }).filter({ hasText: "up" }).waitFor();
        await opened.getByRole("button", { name: "More" }).click();
        await opened.locator("#channels-title", { hasText: "of all nodes" }).waitFor();
        const nodes = await opened.getByRole("combobox", { name: "Channels of" }).locator("option").allTextContents();
        check(nodes.length === 3 && nodes.filter((node) => node.includes("(this node)")).length === 1, `${nodes}`);
        await opened.getByRole("combobox", { name: "Channels of" }).selectOption({ index: 2 });
        await opened.getByLabel("Channel, session or identity").fill("room");
        await opened.getByRole("button", { name: "Channels", exact: true }).click();
        await opened.locator("#channels-title", { hasText: /^0 channels of node [0-9a-f]{8} with “room”$/ }).waitFor();
        await seen(opened, `operator-cluster-${screen}-${colorScheme}`, { fullPage: true });
        await context.close();
      }
    }
  });
}

/** A picture of it, in which nothing is cut. */
async function seen(opened, name, options = {}) {
  await shoot(opened, name, options);
  const cut = await cutOff(opened);
  check(cut.length === 0, `${name}: beside the screen: ${cut}`);
}

async function shoot(opened, name, options = {}) {
  await opened.screenshot({ path: join(OUT, `${name}.png`), animations: "disabled", ...options });
}

/** Elements with text that reach over the edge of the screen, or of what holds them. */
function cutOff(opened) {
  return opened.evaluate(() => {
    const isSeen = (element) => element.checkVisibility() && element.getBoundingClientRect().width > 1 && !element.closest(".skip, thead");
    const all = [...document.querySelectorAll("body *")].filter((element) => element.childElementCount === 0 && element.textContent !== "" && isSeen(element));
    const reaches = (element) => element.getBoundingClientRect().right > innerWidth + 1 || element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).overflowX !== "visible";
    const wide = document.documentElement.scrollWidth > innerWidth ? ["the page"] : [];
    return [...wide, ...all.filter(reaches).map((element) => element.textContent.slice(0, 60))];
  });
}

await play(story);
