/** For the compiler only: what a user may write, and, marked as errors, what not. */

import { Body, Message, Rainbow, RainbowError, decodePacket, encodePacket, SEND } from "rainbow-client";
import { useRainbow, useRainbowEvent } from "rainbow-client/react";

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

// Names alone.
const named = new Rainbow("/", { types: { chat: 1, typing: 2 } });
named.on("chat", (message) => message.text).on("message", ({ name }) => name);
export const named_answer: Promise<Body> = named.send("chat", { anything: true });
named.send("typing");
named.send("typing", undefined, 0);
// @ts-expect-error: no such name.
named.send("shout", "x");
// @ts-expect-error: no such name.
named.on("shout", () => {});

// Typed end to end.
interface Chat {
  chat: { send: { text: string }; answer: { number: number }; receive: { from: string; text: string }; reply: { seen: boolean } };
  typing: { receive: string };
}
const chat = new Rainbow<Chat>("/", { types: { chat: 1, typing: 2 } });
chat.on("chat", async (message) => ({ seen: message.json()?.from !== "me" }));
chat.on("typing", (message) => void message.json()?.toUpperCase());
export async function say(): Promise<number | undefined> {
  chat.send("typing");
  chat.send("chat", { text: "x" }, 0);
  return (await chat.send("chat", { text: "x" }, 2, 1_000)).json()?.number;
}
// @ts-expect-error: a name without a number.
new Rainbow<Chat>("/", { types: { chat: 1 } });
// @ts-expect-error: not what is sent with it.
chat.send("chat", { txt: "x" });
// @ts-expect-error: not what is sent with it.
chat.send("chat");
// @ts-expect-error: not what is received with it.
chat.on("chat", (message) => ({ seen: message.json()?.nobody === "me" }));
// @ts-expect-error: not what is replied to it.
chat.on("chat", () => ({ heard: true }));

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

// In React.
export function Component(): string {
  const state = useRainbow(chat);
  useRainbowEvent(chat, "chat", (message) => ({ seen: message.json()?.from === "ann" }));
  useRainbowEvent(chat, "close", ({ code }) => console.log(code.toFixed()));
  // @ts-expect-error: no such name.
  useRainbowEvent(chat, "shout", () => {});
  // @ts-expect-error: the reply of chat is another.
  useRainbowEvent(chat, "chat", () => ({ sen: true }));
  return state;
}
