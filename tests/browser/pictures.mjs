/**
 * Takes README.md's pictures of the demo, as a visitor and an operator see it: `tests/browser/pictures/*.webp`, light and dark.
 *
 *     RAINBOW_BIN=target/release/rainbow-server node tests/browser/pictures.mjs
 *
 * Nothing is drawn: the pages are those of a demo in which people talk and a program sends, for as long as the charts need to
 * show something. Chromium makes WebP of them.
 */

import { mkdirSync, statSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Person, answers, check, faults, freePorts, play, start, step } from "./stage.mjs";

const PICTURES = fileURLToPath(new URL("./pictures/", import.meta.url));
const SIZE_MAX = 150_000;
const SCHEMES = ["light", "dark"];
/** Of ten seconds each, as the page's past has them. */
const POINTS = 12;
const GUESTS = ["Cleo", "Dan", "Eve", "Finn"];
const LOBBY = "room:lobby";
const DIALOGUE = [
  ["Morning Bob! Is the new release out?", "Almost. I am about to restart the business server."],
  ["While people are chatting?", "That is the point. Nobody loses a connection."],
  ["And what we say meanwhile?", "Arrives once it is back. Exactly once, if you ask for it."],
];

async function story(browser) {
  const ports = await freePorts("rainbow", "backend", "admin");
  const at = (path) => `http://127.0.0.1:${ports.admin}/${path}`;
  mkdirSync(PICTURES, { recursive: true });

  const people = [];
  await step("two people talk", async () => {
    const demo = start(["demo", "-p", `${ports.rainbow}`, "--page", `${ports.backend}`, "--admin", `${ports.admin}`]);
    await answers(demo, `http://127.0.0.1:${ports.backend}/`);
    for (const [index, name] of ["Ann", "Bob"].entries()) {
      people.push(await Person.enter(browser, ports, name, { colorScheme: SCHEMES[index], viewport: { width: 900, height: 620 } }));
    }
    const [ann, bob] = people;
    for (const [qos, [question, answer]] of DIALOGUE.entries()) {
      await ann.say(question, qos);
      await bob.hears(question);
      await bob.say(answer, qos);
      await ann.hears(answer);
      await bob.isMine(answer, "acknowledged");
    }
  });

  for (const [index, scheme] of SCHEMES.entries()) {
    await step(`the chat, ${scheme}`, async () => {
      await people[index].page.mouse.move(0, 0);
      await picture(people[index].page, `chat-${scheme}`);
    });
  }

  await step("more people come, and all talk for a while", async () => {
    const context = await browser.newContext({ viewport: { width: 400, height: 400 } });
    for (let point = 0; point < POINTS; point++) {
      if (point % 3 === 0) people.push(await Person.open(context, GUESTS[point / 3], `http://127.0.0.1:${ports.backend}/?name=${GUESTS[point / 3]}`));
      // Busier and quieter by turns.
      const each = 10_000 / (4 + 3 * Math.sin(point)) / people.length;
      for (const end = Date.now() + 10_000; Date.now() < end; ) {
        for (const [index, person] of people.entries()) {
          await person.say(`Line ${point}.${index}`, index % 3);
          await fetch(at(`send/?channel=${LOBBY}&qos=0`), { method: "POST", body: "a program speaks" });
          await new Promise((resolve) => setTimeout(resolve, Math.min(each, 500)));
        }
      }
    }
  });

  for (const scheme of SCHEMES) {
    await step(`the operator's page, ${scheme}`, async () => {
      const context = await browser.newContext({ viewport: { width: 1100, height: 900 }, colorScheme: scheme });
      const page = await context.newPage();
      await page.goto(at("serverinfo/"));
      await page.locator("#live[data-tone=ok]").waitFor();
      await page.locator("#channels").getByRole("button", { name: LOBBY }).waitFor();
      await picture(page, `page-${scheme}`);
      await context.close();
    });
  }
  await step("no page had a fault", async () => check(faults.length === 0, faults.join("\n")));
}

/** What the page shows, as WebP: a canvas encodes what Chromium has drawn. */
async function picture(page, name) {
  const drawn = (await page.screenshot({ animations: "disabled" })).toString("base64");
  const canvas = await page.context().newPage();
  const encoded = await canvas.evaluate(async (png) => {
    const bitmap = await createImageBitmap(await (await fetch(`data:image/png;base64,${png}`)).blob());
    const surface = new OffscreenCanvas(bitmap.width, bitmap.height);
    surface.getContext("2d").drawImage(bitmap, 0, 0);
    const blob = await surface.convertToBlob({ type: "image/webp", quality: 0.9 });
    return Array.from(new Uint8Array(await blob.arrayBuffer()));
  }, drawn);
  await canvas.close();
  const file = `${PICTURES}${name}.webp`;
  writeFileSync(file, Buffer.from(encoded));
  check(statSync(file).size < SIZE_MAX, `${file} has ${statSync(file).size} bytes`);
}

await play(story);
