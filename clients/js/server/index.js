/** Rainbow from a business server in Node.js: calls (`Rainbow`) and hooks (`Hooks`). The browser's client is "rainbow-client". */

export { Rainbow } from "./calls.js";
export { BadSignature, CallRefused, RainbowError, Refused, SendIncomplete, Unreachable } from "./errors.js";
export { Hook, Hooks } from "./hooks.js";
export { Verifier, WebhookKey, query2014, sign2014 } from "./signing.js";
