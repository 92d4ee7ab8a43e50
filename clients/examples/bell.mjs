/**
 * A bell that rings in every window of a user, and keeps what comes while there is none. One command: clients/examples/start.sh bell
 *
 *     curl 'http://127.0.0.1:8000/notify?user=ann' -d 'Your parcel is here'
 *
 * bell.jsx is bundled in memory when this starts: nothing to build.
 */

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { Hooks, Rainbow } from "rainbow-client/server";

const { EXAMPLE_PORT = 8000, EXAMPLE_RAINBOW_PORT = 1984 } = process.env;
const [RING, READ] = [1, 2];
const HERE = fileURLToPath(new URL(".", import.meta.url));

const hooks = new Hooks({ token: "testtoken" });
const server = new Rainbow(`http://127.0.0.1:${EXAMPLE_RAINBOW_PORT}`, { token: "testtoken" });
/** How many each user has read. */
const read = new Map();

hooks.rainbowConnect((request) => {
  // Here a real application asks who that is: a signed token in the query, say.
  const { user } = request.query;
  if (!user) request.refuse("who are you?");
  request.cookie = { user };
  request.session = `bell:${user}:${request.device}`;
  request.sessionExpiry = 7 * 24 * 3600;
  request.sub(`bell:${user}`);
});

hooks.rainbow(READ, (request) => {
  const { user } = request.cookie;
  read.set(user, (read.get(user) ?? 0) + request.data.count);
  return { read: read.get(user) };
});

/** To all windows and devices of a user; each gets it once, now or when it comes back. */
async function notify(request, response, user) {
  const text = Buffer.concat(await request.toArray()).toString();
  const { connections, stored } = await server.send(`bell:${user}`, { text, at: Date.now() }, { msgtype: RING, ttl: 7 * 24 * 3600, wait: "stored" });
  response.setHeader("content-type", "application/json").end(JSON.stringify({ connections, stored }));
}

const { outputFiles } = await build({
  entryPoints: [`${HERE}bell.jsx`],
  bundle: true,
  write: false,
  format: "esm",
  jsx: "automatic",
  define: { "process.env.NODE_ENV": '"production"' },
  // One React for the page and for rainbow-client, which is a link to its own folder here.
  alias: { react: `${HERE}node_modules/react` },
});
const page = await readFile(`${HERE}bell.html`);

createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, "http://localhost");
  try {
    if (pathname.startsWith("/rainbow/")) await hooks.node(request, response);
    else if (pathname === "/notify" && request.method === "POST") await notify(request, response, searchParams.get("user"));
    else if (pathname === "/bell.js") response.setHeader("content-type", "text/javascript").end(outputFiles[0].contents);
    else if (pathname === "/") response.setHeader("content-type", "text/html; charset=utf-8").end(page);
    else response.writeHead(404).end();
  } catch (error) {
    response.writeHead(502).end(error.message);
  }
}).listen(EXAMPLE_PORT, "127.0.0.1");
