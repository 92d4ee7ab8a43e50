/**
 * Rainbow in React 18 and newer: a component that uses a client keeps it open, and hears its events.
 *
 *     const rainbow = new Rainbow("/connect/", { types: { chat: 1 } });    // outside of components
 *
 *     function Chat() {
 *       const state = useRainbow(rainbow);
 *       const [lines, setLines] = useState([]);
 *       useRainbowEvent(rainbow, "chat", (message) => setLines((lines) => [...lines, message.text]));
 *       return <button disabled={state !== "open"} onClick={() => rainbow.send("chat", "hi")}>{lines.length}</button>;
 *     }
 */

import { useCallback, useEffect, useRef, useSyncExternalStore } from "react";

/** How many components use each client. */
const users = new WeakMap();

function use(rainbow, change) {
  users.set(rainbow, (users.get(rainbow) ?? 0) + change);
  return users.get(rainbow);
}

/** Opens the client with the first component that uses it, closes it after the last one; its state, as of its last event. */
export function useRainbow(rainbow) {
  useEffect(() => {
    // What goes wrong is said by events.
    if (use(rainbow, 1) === 1) rainbow.open().catch(() => {});
    // A component that is replaced, or mounted twice by StrictMode, is back at once.
    return () => void (use(rainbow, -1) || queueMicrotask(() => users.get(rainbow) === 0 && rainbow.close()));
  }, [rainbow]);
  const subscribe = useCallback(
    (changed) => {
      for (const event of ["open", "close"]) rainbow.on(event, changed);
      return () => ["open", "close"].forEach((event) => rainbow.off(event, changed));
    },
    [rainbow],
  );
  return useSyncExternalStore(subscribe, () => rainbow.state, () => "closed");
}

/** Calls the newest handler at each event, or message of a named type, while the component is there; it may be a closure. */
export function useRainbowEvent(rainbow, event, handler) {
  const newest = useRef(handler);
  useEffect(() => void (newest.current = handler));
  useEffect(() => {
    const handle = (value) => newest.current(value);
    rainbow.on(event, handle);
    return () => void rainbow.off(event, handle);
  }, [rainbow, event]);
}
