/** The package as its users get it: what bundlers, Node and TypeScript see. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const FOLDER = fileURLToPath(new URL("..", import.meta.url));
const GZIPPED_MAX = 6_000;

/** The bundle of a module that a user might write. */
async function bundle(contents) {
  const stdin = { contents, resolveDir: FOLDER };
  const { outputFiles } = await build({ stdin, bundle: true, minify: true, format: "esm", target: "es2022", write: false, logLevel: "error" });
  return outputFiles[0].contents;
}

test("the_client_is_small", async () => {
  const bytes = gzipSync(await bundle('export { Rainbow } from "rainbow-client"'), { level: 9 }).length;
  assert.ok(bytes > 1_000 && bytes < GZIPPED_MAX, `${bytes} bytes`);
});

test("who_uses_nothing_of_it_gets_nothing_of_it", async () => {
  assert.equal((await bundle('import "rainbow-client"')).length, 0);
});

test("types_come_first_and_every_file_is_in_the_package", async () => {
  const { exports, files, main, types } = JSON.parse(await readFile(`${FOLDER}package.json`, "utf8"));
  const parts = Object.values(exports).filter((part) => typeof part === "object");
  for (const part of parts) assert.equal(Object.keys(part)[0], "types");
  const paths = [main, types, ...parts.flatMap((part) => [part.types, part.default])];
  for (const path of paths) assert.ok(files.includes(path.slice(2)), path);
});

for (const [tool, ...args] of [["publint", "--strict"], ["attw", "--pack", ".", "--profile", "esm-only"]]) {
  test(`${tool}_finds_nothing`, async () => {
    const outcome = await promisify(execFile)(`node_modules/.bin/${tool}`, args, { cwd: FOLDER }).catch((error) => error);
    assert.equal(outcome.code ?? 0, 0, outcome.stdout);
  });
}

test("it_is_found_by_name_and_needs_no_globals_at_import", async () => {
  const script = `
    for (const name of ["WebSocket", "window", "document", "localStorage", "crypto"]) {
      Object.defineProperty(globalThis, name, { get() { throw new Error(name + " is touched at import"); } });
    }
    const { Rainbow } = await import("rainbow-client");
    console.log(typeof Rainbow);`;
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", script], { cwd: FOLDER });
  assert.equal(stdout, "function\n");
});

for (const [module, resolution] of [["nodenext", "nodenext"], ["esnext", "bundler"]]) {
  test(`a_strict_compiler_accepts_what_is_right_and_nothing_else_with_${resolution}`, async () => {
    const options = ["--strict", "--noEmit", "--target", "es2022", "--lib", "es2024,dom", "--module", module];
    const args = ["node_modules/typescript/bin/tsc", ...options, "--moduleResolution", resolution, "test/types.ts", "test/types.server.ts"];
    const outcome = await promisify(execFile)(process.execPath, args, { cwd: FOLDER }).catch((error) => error);
    assert.equal(outcome.stdout, "");
  });
}
