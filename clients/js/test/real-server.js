/** The real server for tests: RAINBOW_BIN, or what cargo has built. */

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const built = ["release", "debug"].map((kind) => join(ROOT, "target", kind, "rainbow-server"));
/** A server that was named must be there. */
export const binary = process.env.RAINBOW_BIN ?? built.find(existsSync);
/** For tests that need it: why they are skipped. */
export const skip = binary ? false : "NO SERVER: build rainbow-server, or set RAINBOW_BIN";

/** Starts it until the end of the test. `hooks`: where connect/ and the rest hang. Resolves with its HTTP URL. */
export async function startServer(t, hooks, { keys = {}, store = "none" } = {}) {
  const folder = await mkdtemp(join(tmpdir(), "rainbow-js-"));
  const settings = {
    listen: "127.0.0.1",
    http_port: 0,
    workers: 1,
    // Other tests' servers have the same token.
    cluster: "off",
    security_token: "testtoken",
    connect_url: `${hooks}connect/`,
    forward_url: `${hooks}message/{message_type}/`,
    close_url: `${hooks}close/`,
    shutdown_timeout: "3s",
    ...keys,
  };
  const lines = Object.entries(settings).map(([name, value]) => `${name} = ${JSON.stringify(value)}\n`);
  await writeFile(join(folder, "rainbow.toml"), `${lines.join("")}[store]\nkind = "${store}"\ndata_dir = "${folder}/data"\n`);
  // The server refuses variables that look like its own and are not.
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("RAINBOW_")));
  const child = spawn(binary, ["-f", join(folder, "rainbow.toml")], { env, stdio: ["ignore", "pipe", "pipe"] });
  const exit = new Promise((resolve) => child.on("exit", resolve));
  t.after(async () => {
    child.kill();
    await exit;
    await rm(folder, { recursive: true });
  });
  return new Promise((resolve, reject) => {
    let told = "";
    const read = (data) => {
      told += data;
      const found = /listening.*?listen=(\S+:\d+)/.exec(told.replace(/\x1b\[[0-9;]*m/g, ""));
      if (found) resolve(`http://${found[1]}`);
    };
    child.stdout.on("data", read);
    child.stderr.on("data", read);
    child.on("error", reject);
    exit.then(() => reject(new Error(`the server has ended:\n${told}`)));
  });
}
