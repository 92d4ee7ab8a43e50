/** For the compiler only: what a user may write, and, marked as errors, what not. */

import { Body, Message, Rainbow, RainbowError, decodePacket, encodePacket, SEND } from "rainbow-client";

const rainbow = new Rainbow("/connect/", { session: true, params: async () => ({ token: "t", page: 1 }) });
new Rainbow(new URL("ws://localhost/"), { WebSocket, storage: localStorage, deviceId: "d" });

rainbow.on("message", (message) => (message.type === 7 ? { answer: 42 } : undefined));
rainbow.on("message", async (message: Message) => message.text);
rainbow.on("close", ({ code, retryIn }) => console.log(code + (retryIn ?? 0)));
rainbow.on("error", (error) => error instanceof RainbowError && error.code === "timeout").off("open", () => {});

export async function talk(): Promise<string> {
  await rainbow.open();
  const nothing: undefined = await rainbow.send(1, "text", 0);
  const answer: Body = await rainbow.send(1, { text: "hello" });
  await rainbow.send(1);
  await rainbow.send(1, new Uint8Array(3), 2, Infinity);
  const json: unknown = answer.json();
  const packet = decodePacket(encodePacket({ command: SEND, qos: 0 }));
  return answer.text + String(json) + packet?.id + nothing + rainbow.state.length;
}

// @ts-expect-error: there is no such event.
rainbow.on("mesage", () => {});
// @ts-expect-error: there is no such QoS.
rainbow.send(1, "x", 3);
// @ts-expect-error: a type is a number.
rainbow.send("chat", "x");
// @ts-expect-error: JSON cannot say it.
rainbow.send(1, 1n);
// @ts-expect-error: an option that does not exist.
new Rainbow("/", { sesion: true });
// @ts-expect-error: what JSON says is not known before it is looked at.
rainbow.on("message", (message) => message.json().text);
// @ts-expect-error: no code of ours.
export const isRefused = (error: RainbowError) => error.code === "forbidden";
