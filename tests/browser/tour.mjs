/**
 * Takes the README's five-minute tour as it stands: its commands in a shell, its pages in a real Chromium.
 *
 *     RAINBOW_BIN=target/release/rainbow-server node tests/browser/tour.mjs
 *
 * Only the ports become free ones, and the server is the one that RAINBOW_BIN names. Then what the tour claims beyond
 * its commands: a reload, a second window, a server that is killed while people talk.
 */

import { readFileSync } from "node:fs";
import { Person, answers, check, faults, freePorts, play, serverBinary, startShell, step, until, work } from "./stage.mjs";

const README = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
const TOUR = README.split(/^## /m).find((section) => section.startsWith("A five-minute tour"));
const TEXTS = ["one", "two", "three"];

/** The tour's commands, block by block. */
function blocks() {
  const found = [...(TOUR ?? "").matchAll(/^```sh\n(.*?)^```$/gms)].map((match) => match[1]);
  check(found.length === 4, `the README's tour has ${found.length} blocks of commands, not 4`);
  return found;
}

/** A reader with a terminal. */
class Reader {
  #ports;
  #blocks = 0;

  constructor(ports) {
    this.#ports = ports;
    this.shell = startShell(work);
  }

  url(name) {
    const url = TOUR.match(new RegExp(`<(http\\S+name=${name})>`))?.[1];
    check(url !== undefined, `the tour does not say where to open ${name}'s page`);
    return this.#own(url);
  }

  #own(text) {
    return text.replaceAll("1983", this.#ports.admin).replaceAll("1984", this.#ports.rainbow).replaceAll("1985", this.#ports.page);
  }

  /** Types a block, and returns what it has printed when all of it is done. */
  async types(block) {
    const { rainbow, page, admin } = this.#ports;
    const demo = `'${serverBinary()}' demo -p ${rainbow} --page ${page} --admin ${admin} &`;
    const commands = this.#own(block)
      .replace("cargo build --release\n", "")
      .replace("target/release/rainbow-server demo &", demo);
    const done = `— block ${++this.#blocks} is done`;
    const before = this.shell.printed.length;
    this.shell.stdin.write(`${commands}\necho '${done}'\n`);
    await until(`the shell has done\n${commands}`, () => this.shell.printed.includes(done));
    return this.shell.printed.slice(before).split(done)[0];
  }

  async demoAnswers() {
    await answers(this.shell, `http://127.0.0.1:${this.#ports.page}/`);
    await answers(this.shell, `http://127.0.0.1:${this.#ports.rainbow}/hello/`);
  }
}

/** Each line that is an answer of Rainbow's. */
function answersIn(printed) {
  return printed.split("\n").filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
}

function line(person, text) {
  return person.page.locator(".line .bubble", { hasText: new RegExp(`^${text}\\d\\d:\\d\\d`) });
}

async function hasEachOnce(person, texts) {
  for (const text of texts) await line(person, text).first().waitFor();
  for (const text of texts) check((await line(person, text).count()) === 1, `${person.name} has "${text}" ${await line(person, text).count()} times`);
}

let commands, reader, opens, ann, bob;

async function story(browser) {
  const ports = await freePorts("rainbow", "page", "admin");
  const [start, hello, away, again] = blocks();
  commands = { start, hello, away, again };
  reader = new Reader(ports);
  const context = await browser.newContext({ viewport: { width: 1180, height: 760 }, colorScheme: "light" });
  opens = async (name) => {
    const person = await Person.open(context, name, reader.url(name));
    await person.isState("open");
    return person;
  };

  await theDemoIsTried();
  await messagesWaitForBoth();
  await windowsAndCrashes();
  await step("no page had a fault", async () => check(faults.length === 0, faults.join("\n")));
}

async function theDemoIsTried() {
  await step("the demo starts, and two windows talk", async () => {
    await reader.types(commands.start);
    await reader.demoAnswers();
    [ann, bob] = [await opens("Ann"), await opens("Bob")];
    await ann.sees("Ann", "Bob");
    await ann.say("Can you hear me?", 2);
    await bob.hears("Can you hear me?");
  });

  await step("a shell speaks to the room", async () => {
    const [answer] = answersIn(await reader.types(commands.hello));
    check(answer?.status === 0 && answer.connections === 2, `curl heard ${JSON.stringify(answer)}`);
    for (const person of [ann, bob]) await hasEachOnce(person, ["hello from a shell"]);
  });
}

async function messagesWaitForBoth() {
  await step("the windows are closed, three messages are sent, the server is killed and started", async () => {
    for (const person of [ann, bob]) await person.page.close();
    const heard = answersIn(await reader.types(commands.away));
    check(heard.length === 3, `curl heard ${JSON.stringify(heard)}`);
    for (const answer of heard) check(answer.status === 0 && answer.stored === 2, `curl heard ${JSON.stringify(answer)}`);
    await reader.types(commands.again);
    await reader.demoAnswers();
  });

  await step("the three are there, once", async () => {
    ann = await opens("Ann");
    await ann.page.locator(".note.waited", { hasText: "3 waited for you" }).waitFor();
    await hasEachOnce(ann, TEXTS);
    await ann.shoot("tour-waited");
    check((await ann.page.locator(".note.waited").count()) === 1, "they are announced once");
  });

  await step("a reload shows them once more, and nothing waits", async () => {
    await ann.page.reload();
    await ann.isState("open");
    await hasEachOnce(ann, [...TEXTS, "hello from a shell"]);
    check((await ann.page.locator(".note.waited").count()) === 0, "something waited");
  });

  await step("what waits for the other has not gone with the first", async () => {
    bob = await opens("Bob");
    await bob.page.locator(".note.waited", { hasText: "3 waited for you" }).waitFor();
    await hasEachOnce(bob, TEXTS);
  });
}

async function windowsAndCrashes() {
  await step("a second window of the same person takes over, and gives back", async () => {
    const other = await opens("Ann");
    await ann.page.locator("#banner", { hasText: "another window" }).waitFor();
    await ann.shoot("tour-taken-over");
    await bob.say("To whichever window", 2);
    await hasEachOnce(other, ["To whichever window"]);
    await ann.page.locator("#banner button").click();
    await ann.isState("open");
    await other.page.locator("#banner", { hasText: "another window" }).waitFor();
    await other.page.close();
    await bob.say("To the first one again", 2);
    await hasEachOnce(ann, ["To the first one again"]);
  });

  await step("what is said while the server is dead arrives once", async () => {
    // The block's own `kill` without its start: the line is down until the block is typed again.
    await reader.types("kill -9 $!; wait $!\n");
    await ann.isState("waiting");
    await ann.say("Said to nobody", 2);
    await ann.isMine("Said to nobody", "waiting");
    await reader.types(commands.again.replace(/^kill.*\n/, ""));
    await reader.demoAnswers();
    await hasEachOnce(bob, ["Said to nobody"]);
    await ann.isMine("Said to nobody", "acknowledged");
    await hasEachOnce(ann, ["Said to nobody"]);
  });
}

await play(story);
