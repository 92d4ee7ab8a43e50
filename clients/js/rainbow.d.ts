/** Rainbow's client: one WebSocket, messages of QoS 0, 1 and 2 in both directions, reconnection. See rainbow.js. */

/**
 * - "timeout": no answer in time;
 * - "too_large": more bytes than the server takes;
 * - "closed": there is no connection, and none will come by itself;
 * - "full": too many unanswered messages, or a congested line;
 * - "protocol": the server said what it must not;
 * - "storage": ids will not survive a reload of the page;
 * - "refused": the business server has refused the message (`status`, `body`), or this client (`closeCode` 4401, `reason`).
 */
export type ErrorCode = "timeout" | "too_large" | "closed" | "full" | "protocol" | "storage" | "refused";

export class RainbowError extends Error {
  constructor(code: ErrorCode, message: string);
  readonly name: "RainbowError";
  readonly code: ErrorCode;
  /** Of a refused message: the business server's HTTP status. */
  readonly status?: number;
  /** Of a refused message: the business server's answer. */
  readonly body?: Body;
  /** After a final close: the server's code, */
  readonly closeCode?: number;
  /** and its reason. */
  readonly reason?: string;
}

/** What a packet carries. `T` is what its JSON is believed to be; nothing checks it. */
export class Body<T = unknown> {
  constructor(bytes: Uint8Array);
  readonly bytes: Uint8Array;
  get text(): string;
  /** `undefined` for an empty body; throws on anything else that is not JSON. */
  json(): T | undefined;
  toString(): string;
}

export type QoS = 0 | 1 | 2;

/** A message from the server. */
export class Message<T = unknown> extends Body<T> {
  constructor(packet: Packet & { name?: string });
  readonly type: number;
  /** The type's in `types`. */
  readonly name: string | undefined;
  readonly qos: QoS;
  /** The packet's; undefined with QoS 0. */
  readonly id: number | undefined;
  readonly dup: boolean;
}

/** Text, bytes, or anything that JSON can say. */
export type Data = string | ArrayBuffer | ArrayBufferView | object | number | boolean | null | undefined;

export type State = "closed" | "waiting" | "connecting" | "open";

/** What the server says when the connection is open. */
export interface Opened {
  /** The durable session's name, or null. */
  session: string | null;
  sessionId?: string | null;
  resumed: boolean;
  /** Messages that were kept for us. */
  waiting: number;
}

export interface Closed {
  code: number;
  reason: string;
  /** Milliseconds until the next attempt; null when none follows. */
  retryIn: number | null;
}

/** What the reply to a message of QoS 1 or 2 is made of. */
export type Reply = Data | void;

export interface Events {
  open: (opened: Opened) => void;
  message: (message: Message) => Reply | Promise<Reply>;
  close: (closed: Closed) => void;
  /** A `RainbowError`, or what a handler or `params` threw. */
  error: (error: unknown) => void;
}

export type Params = Record<string, string | number | boolean>;

/** Both synchronous. */
export interface Storage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem?(key: string): void;
}

/** As much of a WebSocket as is used: a browser's, Node's, or the class of the package `ws`. */
export interface Socket {
  binaryType: string;
  readonly protocol: string;
  readonly readyState: number;
  readonly bufferedAmount: number;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(data: Uint8Array<ArrayBuffer>): void;
  close(code?: number, reason?: string): void;
}

export interface Timers {
  /** Milliseconds. */
  now(): number;
  setTimeout(what: () => void, delay: number): unknown;
  clearTimeout(timer: any): void;
  setInterval(what: () => void, delay: number): unknown;
  clearInterval(timer: any): void;
}

/**
 * What is said with a named type, each part optional: `send` and the `answer` to it, what is received (`receive`) and the
 * `reply` to that. `new Rainbow<{ chat: { send: { text: string } } }>(url, { types: { chat: 1 } })`
 */
export interface Exchange {
  send?: unknown;
  answer?: unknown;
  receive?: unknown;
  reply?: unknown;
}

type Name<M> = keyof M & string;
type Part<E, P extends keyof Exchange, Otherwise> = E extends { [part in P]: infer T } ? T : Otherwise;
/** May be left out where it may be undefined. */
type Sent<E, More extends unknown[]> =
  undefined extends Part<E, "send", Data>
    ? [data?: Part<E, "send", Data>, ...more: More]
    : [data: Part<E, "send", Data>, ...more: More];
type Answer<E> = Body<Part<E, "answer", unknown>>;
export type Handler<E> = (message: Message<Part<E, "receive", unknown>>) => Part<E, "reply", Reply> | Promise<Part<E, "reply", Reply>>;

/** Times are milliseconds. */
export interface Options<M = {}> {
  /** Names for message types (0–65535). */
  types?: { [N in keyof M]: number };
  /** Who connects; by default a random id that the browser keeps. */
  deviceId?: string;
  /** The platform; by default "web" or "node". */
  os?: string;
  /** Further query parameters for the business server. A function is called for each attempt; one that throws fails it. */
  params?: Params | (() => Params | undefined | Promise<Params | undefined>);
  /** By default the global one. */
  WebSocket?: new (url: string, protocols?: string[]) => Socket;
  /** Of a send: 10 s. */
  timeout?: number;
  /** Between repeats: 3 s. */
  repeat?: number;
  /** Unanswered sends: 1024. */
  pendingMax?: number;
  /** Bytes that may wait in the socket before QoS 0 is rejected: 4 MiB. */
  bufferedMax?: number;
  /** 500 ms. */
  backoffMin?: number;
  /** 30 s. */
  backoffMax?: number;
  /** A connection that lasted so long ends a row of failures: 5 s. */
  stable?: number;
  /** An attempt that is not open by then has failed: 10 s. */
  openTimeout?: number;
  /** 10 s. */
  pongTimeout?: number;
  /** Offer durable sessions (`rainbow.2`). */
  session?: boolean;
  /** Where the session's ids survive a reload: by default localStorage. null: nothing survives. */
  storage?: Storage | null;
  /** By default the global ones, as they are at each call. For tests. */
  timers?: Timers;
  /** The source of jitter. */
  random?: () => number;
}

/** `M`: an `Exchange` for each name of `types`; without it the names alone are checked. */
export class Rainbow<M = {}> {
  constructor(url: string | URL, options?: Options<M>);
  get state(): State;
  get deviceId(): string;
  /** Sends that still wait for an answer. */
  get pending(): number;

  on<E extends keyof Events>(event: E, handler: Events[E]): this;
  on<N extends Name<M>>(name: N, handler: Handler<M[N]>): this;
  off<E extends keyof Events>(event: E, handler: Events[E]): this;
  off<N extends Name<M>>(name: N, handler: Handler<M[N]>): this;

  /** Resolves when open for the first time. Rejects when refused for good, or closed before. */
  open(): Promise<void>;
  close(code?: number, reason?: string): void;

  /** QoS 0: resolves when written. */
  send(type: number, data: Data, qos: 0): Promise<undefined>;
  /** Resolves with the business server's answer. `timeout` 0 or Infinity waits for ever. */
  send(type: number, data?: Data, qos?: 1 | 2, timeout?: number): Promise<Body>;
  send(type: number, data: Data, qos: QoS, timeout?: number): Promise<Body | undefined>;
  send<N extends Name<M>>(name: N, data: Part<M[N], "send", Data>, qos: 0): Promise<undefined>;
  send<N extends Name<M>>(name: N, ...rest: Sent<M[N], [qos?: 1 | 2, timeout?: number]>): Promise<Answer<M[N]>>;
}

// — Packets, for tests and tools —

export const SEND: 1;
export const ACK: 2;
export const REC: 3;
export const REL: 4;
export const COM: 5;
export const PING: 6;
export const PONG: 7;

export interface Packet {
  command: number;
  dup?: boolean;
  qos?: QoS;
  type?: number;
  id?: number;
  /** Makes an ACK or REC a refusal. */
  status?: number;
  body?: Uint8Array;
}

export function encodePacket(packet: Packet): Uint8Array;
/** null for what is no packet. `refusals`: the sender speaks `rainbow.2`. */
export function decodePacket(bytes: Uint8Array, refusals?: boolean): Packet | null;
