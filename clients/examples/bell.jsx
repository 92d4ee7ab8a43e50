/** The bell: a hook for its state, a hook for what comes. */

import { useState } from "react";
import { createRoot } from "react-dom/client";
import { Rainbow } from "rainbow-client";
import { useRainbow, useRainbowEvent } from "rainbow-client/react";

const query = new URLSearchParams(location.search);
const user = query.get("user") ?? "ann";
const rainbow = new Rainbow(`ws://${location.hostname}:${query.get("rainbow") ?? 1984}/connect/`, {
  session: true,
  params: { user },
  types: { ring: 1, read: 2 },
});

function Bell() {
  const state = useRainbow(rainbow);
  const [rings, setRings] = useState([]);
  const [unread, setUnread] = useState(0);
  useRainbowEvent(rainbow, "ring", (message) => {
    setRings((rings) => [message.json(), ...rings]);
    setUnread((unread) => unread + 1);
  });
  const open = async () => {
    if (unread === 0) return;
    setUnread(0);
    await rainbow.send("read", { count: unread }, 2);
  };
  return (
    <>
      <button className="bell" onClick={open} title={state}>
        🔔{unread > 0 && <span className="unread">{unread}</span>}
      </button>
      <ul>{rings.map(({ text, at }, index) => <li key={rings.length - index}>{text} <small>{new Date(at).toLocaleTimeString()}</small></li>)}</ul>
    </>
  );
}

createRoot(document.querySelector("#root")).render(<Bell />);
