/** Rainbow from a business server in Node.js: calls (`Rainbow`) and hooks (`Hooks`). Times are in seconds. See index.js. */

/** Bytes and text as they are, nothing as nothing, anything else as JSON. */
export type Data = string | ArrayBuffer | ArrayBufferView | object | number | boolean | null | undefined;

// — Calls —

export interface RainbowOptions {
  /** The server's `security_token`. */
  token?: string;
  /** One of its `webhook_secrets`: signs by Standard Webhooks instead. */
  webhookSecret?: string;
  /** How long an answer may take beyond what the call itself allows: 5 s. */
  timeout?: number;
  /** How long a send with a `messageId` is repeated when the server cannot be reached: 30 s. Other calls are never repeated. */
  retryFor?: number;
  /** By default the global one. */
  fetch?: (url: URL, init: RequestInit) => Promise<Response>;
}

export interface SendOptions {
  /** 0-65534; 1 by default. */
  msgtype?: number;
  /** 2 by default. */
  qos?: 0 | 1 | 2;
  /** How long the clients have to answer: 10 s. */
  timeout?: number;
  /** How long it is kept for durable sessions. */
  ttl?: number;
  /** The caller's own id: the server sends a message of one id once, so that the call may be repeated, by this library too. */
  messageId?: string;
  /** "stored": answer as soon as each target has acknowledged it or it is stored. */
  wait?: "stored";
}

/** A figure is null where the server did not say it. */
export interface SendResult {
  /** How many the message was for. */
  targets: number | null;
  /** How many have acknowledged it. */
  connections: number | null;
  /** For how many durable sessions it is kept. */
  stored: number | null;
  /** How many will not get it. */
  refused: number | null;
  /** Of how many it is not known; the time was over. */
  undecided: number | null;
  /** Nodes of the cluster that did not answer. */
  unreachable: number | null;
  /** What one of the clients replied, as text. */
  data: string | null;
  /** Query parameters that the server did not know. */
  ignored: string[];
  raw: Record<string, unknown>;
}

export interface ChannelResult {
  channel: string | null;
  connections: number | null;
  identities: string[];
  /** Whose they are, by identity, where the business server has named the user. */
  users: Record<string, string>;
  raw: Record<string, unknown>;
}

export interface SessionResult {
  session: string;
  user: string | null;
  online: boolean | null;
  identity: string | null;
  channels: string[];
  waiting: number | null;
  waitingBytes: number | null;
  /** Age of the oldest message that waits, and when the session ends if nobody comes back. */
  oldestS: number | null;
  expiresS: number | null;
  raw: Record<string, unknown>;
}

/** A channel's name, or one of these. */
export type To = string | { channel: string } | { session: string } | { user: string };
/** A client's identity, or one of these. */
export type Whom = string | { identity: string } | { channel: string } | { user: string };

/** The server, from a business server's side. */
export class Rainbow {
  /** `url`: where Rainbow (its `admin_listen`, if it has one) listens. */
  constructor(url: string | URL, options?: RainbowOptions);
  get url(): string;
  /** Rejects with `SendIncomplete` if some will not get it. */
  send(to: To, data?: Data, options?: SendOptions): Promise<SendResult>;
  /** Sends to everyone in several channels, once each. */
  broadcast(channels: readonly string[], data?: Data, options?: SendOptions): Promise<SendResult>;
  /** `occupy`: everyone else is unsubscribed first. */
  sub(identity: string, channel: string, options?: { occupy?: boolean }): Promise<void>;
  unsub(identity: string, channel: string): Promise<void>;
  /** They return on 4000-4499, not on 4500-4999; 4500 by default. */
  kick(whom: Whom, options?: { code?: number; reason?: string }): Promise<void>;
  channel(name?: string, options?: { user?: string; offset?: number; limit?: number }): Promise<ChannelResult>;
  session(name: string): Promise<SessionResult>;
  /** Ends a session and all that waits for it. */
  drop(session: string): Promise<void>;
  info(): Promise<Record<string, unknown>>;
  hello(): Promise<void>;
}

// — Hooks —

export interface VerifierOptions {
  /** The server's `security_token`. */
  token?: string;
  /** The server's `webhook_secrets`. */
  webhookSecrets?: readonly string[];
  /** How old a signature may be: 10 s. */
  window?: number;
  /** Takes Standard Webhooks only. */
  requireWebhook?: boolean;
  /** Takes everything: for a closed network, or a test. */
  insecure?: boolean;
  /** Seconds since 1970. */
  clock?: () => number;
}

export interface HooksOptions extends VerifierOptions {
  /** Hears what a handler threw, and of wrong signatures; by default `console.error`. */
  onError?: (error: unknown, hook?: Hook) => void;
}

export type Result = Data | void;
export type HookHandler = (request: Hook) => Result | Promise<Result>;

/** As much of `http.IncomingMessage` and Express's `Request` as is used. */
export interface NodeRequest {
  method?: string | undefined;
  url?: string | undefined;
  headers: Record<string, string | string[] | undefined>;
}

/** As much of `http.ServerResponse` and Express's `Response` as is used. */
export interface NodeResponse {
  writeHead(status: number, headers?: Record<string, string>): any;
  end(body?: any): any;
}

export class Hooks {
  constructor(options: HooksOptions);
  /** Answers messages of this type. */
  rainbow(msgType: number, handler: HookHandler): this;
  /** Decides who is let in: everybody whom it does not `refuse`. */
  rainbowConnect(handler: HookHandler): this;
  /** Hears the end of each connection. */
  rainbowClose(handler: HookHandler): this;
  /** Hears, in `data`, which stored messages have reached which sessions. */
  rainbowReceipt(handler: HookHandler): this;
  /** For Express (`app.use("/rainbow", hooks.node)`, before any body parser) and node:http (`createServer(hooks.node)`). */
  node(this: void, request: NodeRequest, response: NodeResponse, next?: (error?: any) => void): Promise<void>;
  /** For servers and frameworks of Request and Response. */
  fetch(this: void, request: Request): Promise<Response>;
  handle(request: Incoming): Promise<Answer>;
}

export interface Incoming {
  method: string;
  /** Path and query as in the request line: the signature may cover it. */
  target: string;
  headers: Record<string, string>;
  body: Uint8Array;
}

export interface Answer {
  status: number;
  headers: Record<string, string>;
  body: Uint8Array;
}

/** One call of Rainbow about one client, and what the answer does to that client. */
export class Hook {
  private constructor();
  readonly kind: "connect" | "message" | "close" | "receipt";
  /** 0-65534; null unless the client sent a message. */
  readonly messageType: number | null;
  get msgType(): number | null;
  readonly request: Incoming;
  readonly identity: string;
  readonly device: string;
  readonly os: string;
  /** The client's address as Rainbow saw it; empty when Rainbow does not say it. */
  readonly address: string;
  readonly origin: string;
  /** The same over all repeats of one message; null with QoS 0. */
  readonly idempotencyKey: string | null;
  readonly closeCode: number | null;
  readonly closeReason: string;
  /** "expired" or "dropped" where a session has ended. */
  readonly sessionEnded: string | null;
  /** What Rainbow keeps for this client and brings with every later call: JSON, or bytes. null: nothing yet. */
  cookie: any;
  /** 2014's name for `cookie`. */
  context: any;
  get rainbow(): this;
  get body(): Uint8Array;
  get text(): string;
  /** The body as JSON; null when it is empty. What is no JSON is refused with 400. */
  get data(): any;
  /** Names are lower-case. */
  get headers(): Record<string, string>;
  /** The first of each name counts. */
  get query(): Record<string, string>;
  sub(...channels: string[]): void;
  unsub(...channels: string[]): void;
  /** The durable session of this client. Set it, and `sessionExpiry`, in a connect handler. */
  get session(): string | null;
  set session(name: string);
  get sessionExpiry(): number | null;
  set sessionExpiry(seconds: number);
  /** Who this is, for `send({ user })`, `kick({ user })` and /channel/. Set it in a connect handler. */
  get user(): string | null;
  set user(name: string | number);
  /** Does not let the client in, or refuses its message for good (403, or another final 4xx). */
  refuse(reason?: string, options?: { status?: number }): never;
}

// — Signatures —

export function sign2014(token: string, timestamp: string, nonce: string): string;
export function query2014(token: string, now?: number): { timestamp: string; nonce: string; signature: string };

/** A Standard Webhooks secret: `whsec_` and 24 to 64 bytes in base64. */
export class WebhookKey {
  constructor(secret: string);
  /** The headers of a signed request. `target`: `POST /send/?channel=a`. */
  headers(target: string | undefined, body: string | Uint8Array, options?: { id?: string; now?: number }): Record<string, string>;
}

export class Verifier {
  constructor(options: VerifierOptions);
  /** Throws `BadSignature`. Header names are lower-case. */
  verify(request: Incoming): void;
}

// — Errors —

export class RainbowError extends Error {}

/** No usable answer came from the server. */
export class Unreachable extends RainbowError {
  /** The call may have been carried out all the same. */
  readonly maybeDone: boolean;
}

export class CallRefused extends RainbowError {
  /** The server's reason. */
  readonly msg: string;
  readonly httpStatus: number;
}

/** A send that some of its targets will not get, or whose outcome is not known. */
export class SendIncomplete extends CallRefused {
  readonly result: SendResult;
}

/** A request is not signed by a key that is known here, or is too old. */
export class BadSignature extends RainbowError {}

/** Thrown by `refuse()` in a handler. */
export class Refused extends RainbowError {
  constructor(reason?: string, options?: { status?: number });
  readonly reason: string;
  readonly status: number;
}
