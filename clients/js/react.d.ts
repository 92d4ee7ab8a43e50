/** Rainbow in React 18 and newer. See react.js. */

import type { Events, Handler, Rainbow, State } from "./rainbow.js";

/** Opens the client with the first component that uses it, closes it after the last one; its state, as of its last event. */
export function useRainbow<M>(rainbow: Rainbow<M>): State;

/** Calls the newest handler at each event, or message of a named type, while the component is there. */
export function useRainbowEvent<M, E extends keyof Events>(rainbow: Rainbow<M>, event: E, handler: Events[E]): void;
export function useRainbowEvent<M, N extends keyof M & string>(rainbow: Rainbow<M>, name: N, handler: Handler<M[N]>): void;
