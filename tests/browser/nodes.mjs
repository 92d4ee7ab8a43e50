/**
 * Two demos are two nodes: whoever is at the page of one sees and hears who is at the other's. One is killed, and its people are
 * missed at the other page alone.
 *
 *     RAINBOW_BIN=target/release/rainbow-server node tests/browser/nodes.mjs
 */

import { join } from "node:path";
import { Person, answers, check, faults, freePorts, inTime, kill, play, start, step, until, work } from "./stage.mjs";

const CLUSTER = { RAINBOW_CLUSTER: "auto", RAINBOW_CLUSTER_NAME: `browser-${process.pid}` };

let one, other, ann, bob;

async function startDemo(name) {
  const ports = await freePorts("rainbow", "backend", "admin");
  const child = start([
    "demo", "-p", `${ports.rainbow}`, "--page", `${ports.backend}`, "--admin", `${ports.admin}`, "--data-dir", join(work, name),
  ], CLUSTER);
  await answers(child, `http://127.0.0.1:${ports.backend}/`);
  return { child, ports };
}

async function story(browser) {
  await step("two demos find each other", async () => {
    one = await startDemo("one");
    other = await startDemo("other");
    for (const { child } of [one, other]) await until("it is said", () => child.printed.includes("Another node was found"));
  });

  await step("people at both see each other", async () => {
    ann = await Person.enter(browser, one.ports, "Ann");
    await ann.say("is nobody here?", 2);
    await ann.isMine("is nobody here?", "acknowledged");
    bob = await Person.enter(browser, other.ports, "Bob");
    const all = [ann, bob].map(async (person) => {
      await person.sees("Ann", "Bob");
      await person.page.locator("#headcount", { hasText: "2 people" }).waitFor();
    });
    // Long before the houses say by themselves whom they know.
    await inTime(10_000, Promise.all(all));
    await bob.hears("is nobody here?");
  });

  await step("they chat, whatever the quality of service", async () => {
    for (const qos of [0, 1, 2]) {
      await ann.say(`from Ann at ${qos}.`, qos);
      await bob.hears(`from Ann at ${qos}.`);
      await bob.say(`from Bob at ${qos}.`, qos);
      await ann.hears(`from Bob at ${qos}.`);
      await ann.hasOnce(`from Ann at ${qos}.`, `from Bob at ${qos}.`);
    }
  });

  await step("one is killed, and the other goes on", async () => {
    await kill(other.child, "SIGKILL");
    await bob.isState("waiting");
    await ann.say("still here", 2);
    await ann.isMine("still here", "acknowledged");
    check((await ann.losses()) === 0, "Ann has lost her connection");
  });

  await step("no page had a fault", async () => check(faults.length === 0, faults.join("\n")));
}

await play(story);
