// — Requests, the token, and what an operator looks at and does —

/** Nowhere else than here. */
let token = "";
/** Below whatever path a proxy has put the server. */
const base = location.pathname.replace(/[^/]*\/?$/, "");

/** A viewer may have come with a signature of 2014 in the address; it goes along with what is only looked at. */
function target(path, parameters = {}, isLook = true) {
  const query = new URLSearchParams(isLook ? location.search : "");
  for (const [name, value] of Object.entries(parameters)) query.set(name, value);
  return `${base}${path}${query.size > 0 ? `?${query}` : ""}`;
}

async function fetchAllowed(url, options) {
  const sent = token, headers = sent === "" ? {} : { Authorization: `Bearer ${sent}` };
  const response = await fetch(url, { cache: "no-store", ...options, headers });
  if (response.status === 401) throw new Forbidden(sent);
  return response;
}

async function request(url, options = {}) {
  const response = await fetchAllowed(url, { signal: AbortSignal.timeout(15_000), ...options });
  const text = await response.text();
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    throw new Error(`The server answers ${response.status}: ${text.slice(0, 200)}`);
  }
  if (!response.ok) throw new Error(body.msg ?? body.detail ?? `The server answers ${response.status}.`);
  return body;
}

class Forbidden extends Error {
  constructor(sent) {
    super(whyForbidden(sent));
    this.sent = sent;
  }
}

/** What was sent before somebody logged in says nothing of the token that is there now. */
function isForbidden(error) { return error instanceof Forbidden && error.sent === token; }

function whyForbidden(sent) {
  if (sent !== "") return "The server does not know this admin token. Log in with the one in its configuration (admin_token).";
  const isSigned = new URLSearchParams(location.search).has("signature");
  return isSigned ? "The signature in this page's address is not valid any more. Open the page without it, and log in with the admin token (admin_token)."
    : "Not allowed from here without the admin token (admin_token in the configuration): log in, or open this page on the admin listener (admin_listen).";
}

/** Looks at something; what is refused becomes an error. */
async function look(path, parameters) {
  const body = await request(target(path, parameters));
  if (body.status !== 0 && body.unreachable === undefined) throw new Error(body.msg);
  return body;
}

/** Does something; the server logs it in its audit. */
async function act(path, parameters, body) {
  const answer = await request(target(path, parameters, false), { method: "POST", body });
  if (answer.status === 0) return answer;
  // As in 2014 a call without a signature is refused with status 200.
  const isUnsigned = token === "" && /^(timestamp|nonce|signature|webhook)/.test(answer.msg);
  throw new Error(isUnsigned ? "That takes the admin token: log in at the top of the page first." : reasonOf(answer));
}

/** A refusal of a part says how far it got. */
function reasonOf({ msg, connections }) { return connections > 0 ? `${msg} (${plural(connections, "connection")} reached)` : msg; }

// — Logging in —

function showLogin(isShown) {
  $("#login").hidden = !isShown;
  $("#enter").setAttribute("aria-expanded", isShown);
  $("#enter").textContent = token === "" ? "Log in" : "Log out";
}
$("#enter").onclick = () => {
  const wasIn = token !== "";
  token = "";
  showLogin(!wasIn && $("#login").hidden);
  if (!$("#login").hidden) $("#login input").focus();
};
$("#login").onsubmit = (event) => {
  event.preventDefault();
  token = $("#login input").value;
  $("#login input").value = "";
  showLogin(false);
  refresh();
};

// — The dialog of details —

const trail = [];

/** Opens what `show` puts into the dialog; Back leads to what was there before. */
async function openDetail(title, show, { isBack = false } = {}) {
  const dialog = $("#detail");
  if (!dialog.open) {
    trail.length = 0;
    dialog.showModal();
  }
  if (!isBack) trail.push({ title, show });
  $("#back").hidden = trail.length < 2;
  $("#detail-title").textContent = title;
  $("#detail-body").replaceChildren(make("p", "nothing", "loading"));
  tell("");
  try {
    const parts = await show();
    if (trail.at(-1)?.show === show) $("#detail-body").replaceChildren(...parts);
  } catch (error) {
    if (trail.at(-1)?.show === show) $("#detail-body").replaceChildren(make("p", "", error.message));
  }
  $("#detail-title").focus();
}
function reopen() {
  const { title, show } = trail.at(-1);
  return openDetail(title, show, { isBack: true });
}
$("#back").onclick = () => { trail.pop(); reopen(); };
$("#close").onclick = () => $("#detail").close();

function tell(text, tone = "ok") {
  $("#outcome").textContent = text;
  $("#outcome").dataset.tone = tone;
}

/** Carries an action out, says what became of it, and keeps the button from being pressed twice. */
async function perform(run, done) {
  tell("");
  try {
    tell(done(await run()));
  } catch (error) {
    tell(error.name === "TimeoutError" ? "No answer within 15 seconds: it may have been done." : error.message, "bad");
    if (isForbidden(error) || token === "") showLogin(true);
  }
}

function facts(pairs) {
  const list = make("dl", "facts");
  for (const [name, value] of pairs) {
    const text = make("dd");
    text.append(value ?? "–");
    list.append(make("dt", "", name), text);
  }
  return list;
}

function group(title, ...parts) {
  const set = make("fieldset"), row = make("div", "row");
  row.append(...parts);
  set.append(make("legend", "", title), row);
  return set;
}

function channelLinks(channels) {
  const chips = make("span", "chips");
  chips.append(...channels.map((channel) => link(channel, () => openChannel(channel))));
  return channels.length > 0 ? chips : "none";
}

// — A channel, a connection, a session —

function openChannel(name, offset = 0) {
  return openDetail(`Channel ${name}`, async () => {
    const page = await look("channel/", { channel: name, offset, limit: MEMBERS_PAGE, counts: 1 });
    const members = make("table"), pages = make("div", "pager");
    const row = (identity) => [linkCell(short(identity), () => openConnection(identity), identity), cell(page.users[identity], "name")];
    table(members, ["Member", "User"], page.identities.map(row), "Nobody of it is online.");
    pager(pages, { offset, limit: MEMBERS_PAGE, total: page.connections }, (next) => { trail.pop(); openChannel(name, next); });
    const warning = page.msg ? [make("p", "hot", `A part is missing: ${page.msg}`)] : [];
    return [...warning, facts([["Online", count(page.connections)], ["Messages", channelRates(name, page)]]), members, pages, sendForm({ channel: name }), traceForm({ channel: name }), kickForm({ channel: name }, "Close all its connections")];
  });
}

/** How many messages come to a channel and leave it, while the dialog shows it: only then does the server count them. */
function channelRates(name, first) {
  const box = make("span", "", "being counted");
  let before = first, at = performance.now();
  const tick = async () => {
    if (!box.isConnected || !$("#detail").open) return;
    try {
      const now = document.hidden ? before : await look("channel/", { channel: name, limit: 0, counts: 1 });
      const seconds = (performance.now() - at) / 1000, rate = (figure) => rateText((now[figure] - before[figure]) / seconds);
      // It counts from 0 again when nobody has looked for a while.
      const isKnown = now.messages >= before.messages && now.deliveries >= before.deliveries;
      box.textContent = isKnown ? `${rate("messages")}/s in, ${rate("deliveries")}/s out` : now.messages === undefined ? "not counted: too many channels are looked at" : "being counted";
      [before, at] = [now, performance.now()];
    } catch (error) {
      box.textContent = error.message;
    }
    setTimeout(tick, RATES_MS);
  };
  setTimeout(tick, RATES_MS);
  return box;
}

function openConnection(identity) {
  return openDetail(`Connection ${short(identity)}`, async () => {
    const info = await look("connection/", { identity });
    const address = info.address === null ? "–" : `${info.address}${info.is_secure ? ", encrypted" : ""}`;
    return [
      facts([
        ["Identity", make("span", "name", identity)],
        ["Address", address],
        ["User", info.user],
        ["Session", info.session === null ? "none" : link(info.session, () => openSession(info.session))],
        ["Since", duration(info.since_s)],
        ["Last heard", info.silent_ms < 1000 ? "just now" : `${duration(info.silent_ms / 1000)} ago`],
        ["Not acknowledged", plural(info.in_flight, "message")],
        ["Queued for it", `${bytes(info.queued_bytes)}, and ${bytes(info.outbox_bytes)} its socket has not taken`],
        ["Queued from it", `${plural(info.forward_queue, "message")}, ${bytes(info.forward_queue_bytes)}${info.is_forwarding ? "; the business server has one" : ""}`],
        ["Is read", info.is_paused ? "no: its messages wait for the business server" : "yes"],
        ["Cookie", info.cookie_bytes > 0 ? bytes(info.cookie_bytes) : "none"],
        ["Channels", channelLinks(info.channels)],
      ]),
      button("Look again", reopen), traceForm({ identity }), kickForm({ identity }, "Close it"),
    ];
  });
}

function openSession(name) {
  return openDetail(`Session ${name}`, async () => {
    const info = await look("session/", { session: name });
    const drop = confirmed("Drop the session", () => perform(() => act("session/drop/", { session: name }), () => "The session is dropped, with all that waited for it."));
    return [
      facts([
        ["User", info.user],
        ["Online", info.online ? link(short(info.identity), () => openConnection(info.identity), info.identity) : "no"],
        ["Waiting", `${plural(info.waiting, "message")}, ${bytes(info.waiting_bytes)}`],
        ["Oldest", info.oldest_s === null ? "–" : `${duration(info.oldest_s)} old`],
        ["Ends", info.expires_s === null ? "not while it is online" : `in ${duration(info.expires_s)}`],
        ["Channels", channelLinks(info.channels)],
      ]),
      button("Look again", reopen), sendForm({ session: name }), traceForm({ session: name }), group("End it, and lose what waits for it", drop),
    ];
  });
}

/** A page of sessions, as the form says: at a press, since it costs every worker a walk. */
async function listSessions(offset = 0) {
  const form = new FormData($("#sessions-form")), title = $("#sessions-title");
  title.hidden = false;
  try {
    const page = await look("sessions/", { ...Object.fromEntries(form), offset, limit: SESSIONS_PAGE });
    title.textContent = `${plural(page.total, "session")}${whole.nodes ? " of all nodes" : ""}${page.msg ? `; a part is missing: ${page.msg}` : ""}`;
    table($("#sessions"), ["Session", "User", "Online", "*Waiting", "*Oldest", "*Ends in", ""], page.sessions.map((one) => [
      linkCell(one.session, () => openSession(one.session)), cell(one.user, "name"),
      one.online ? linkCell(short(one.identity), () => openConnection(one.identity), one.identity) : cell("no"),
      hot(one.waiting, `${count(one.waiting)}, ${bytes(one.waiting_bytes)}`),
      cell(one.oldest_s === null ? "–" : duration(one.oldest_s), "number"), cell(one.expires_s === null ? "–" : duration(one.expires_s), "number"), dropCell(one.session),
    ]), "No such session.");
    pager($("#sessions-pager"), { offset, limit: SESSIONS_PAGE, total: Math.min(page.total, SESSIONS_MOST) }, listSessions);
  } catch (error) {
    title.textContent = error.message;
    $("#sessions").replaceChildren();
    $("#sessions-pager").replaceChildren();
  }
}
$("#sessions-form").onsubmit = (event) => {
  event.preventDefault();
  listSessions();
};

function dropCell(name) {
  const element = make("td", "act");
  element.append(confirmed("Drop", async () => {
    try {
      await act("session/drop/", { session: name });
      element.replaceChildren("dropped");
    } catch (error) {
      element.replaceChildren(make("span", "hot", error.message));
      if (isForbidden(error) || token === "") showLogin(true);
    }
  }));
  return element;
}

function sendForm(to) {
  const type = field("msgtype", { type: "number", value: "1", min: 0, max: 65_534, required: true });
  const qos = make("select"), text = make("textarea");
  for (const [value, what] of [["0", "0, at most once"], ["1", "1, at least once"], ["2", "2, exactly once"]]) qos.add(new Option(what, value));
  qos.value = "1";
  const form = make("form");
  form.append(group("Send a message", labelled("Message type", type), labelled("QoS", qos), labelled("Text", text, "wide"), make("button", "", "Send")));
  form.onsubmit = (event) => {
    event.preventDefault();
    const parameters = { ...to, msgtype: type.value, qos: qos.value, timeout: 5 };
    perform(() => act("send/", parameters, text.value), ({ connections, stored }) => {
      return `${qos.value === "0" ? "Sent to" : "Acknowledged by"} ${plural(connections ?? 0, "connection")}${stored > 0 ? `, stored for ${plural(stored, "session")}` : ""}.`;
    });
  };
  return form;
}

function kickForm(whom, title) {
  const code = field("code", { type: "number", value: "4500", min: 1000, max: 4999 }), reason = field("reason", { maxLength: 123, value: "closed by the operator" });
  const kick = confirmed("Kick", () => {
    const body = JSON.stringify({ ...whom, code: Number(code.value), reason: reason.value });
    perform(() => act("kick/", {}, body), ({ connections }) => `Closed ${plural(connections ?? 1, "connection")}.`);
  });
  code.title = "4500–4999: a client of ours stays away. 4000–4499: it comes back.";
  return group(title, labelled("Close code", code), labelled("Reason", reason, "grow"), kick);
}

// — Following somebody —

/** Lines of a trace as they come, for a minute at most; closing the dialog or leaving what it shows ends it. */
function traceForm(whom) {
  const list = make("ol", "trace"), state = make("p", "nothing");
  list.setAttribute("aria-label", "What happens");
  let stop = null;
  const press = button("Trace for a minute", async () => {
    if (stop) return stop.abort();
    stop = new AbortController();
    press.textContent = "Stop";
    list.replaceChildren();
    state.textContent = "Following.";
    try {
      state.textContent = await follow(whom, stop, list, state);
    } catch (error) {
      state.textContent = error.name === "AbortError" ? "Stopped." : error.message;
      if (isForbidden(error)) showLogin(true);
    }
    stop = null;
    press.textContent = "Trace for a minute";
  });
  return group("Who sends what, as it happens on this node", press, state, list);
}

async function follow(whom, stop, list, state) {
  const response = await fetchAllowed(target("trace/", { ...whom, seconds: 60 }), { signal: stop.signal });
  // A refusal is one object, not entries.
  if (!response.headers.get("content-type").includes("ndjson")) throw new Error((await response.json()).msg);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ;) {
    const { done, value } = await reader.read();
    if (!list.isConnected || !$("#detail").open) stop.abort();
    if (done) return "The trace was cut off.";
    const entries = (text + value).split("\n");
    text = entries.pop();
    for (const entry of entries.filter((entry) => entry !== "").map((entry) => JSON.parse(entry))) {
      if (entry.lost > 0) state.textContent = `${plural(entry.lost, "line")} lost: too much happens.`;
      if (entry.what === "end") return entry.lost > 0 ? state.textContent : "The minute is over.";
      list.append(traceLine(entry));
    }
    while (list.childElementCount > TRACE_ENTRIES) list.firstElementChild.remove();
  }
}

const TRACED = {
  opened: "has connected", closed: "has gone", from_client: "sends", answered: "is answered", refused: "is refused", failed: "is not heard: its repeat tries again",
  to_client: "gets", acknowledged: "acknowledges", called: "a call sends",
};

function traceLine(entry) {
  const element = make("li"), who = entry.user ?? entry.session ?? (entry.identity ? short(entry.identity) : "");
  const facts = [["type", entry.type], ["qos", entry.qos], ["id", entry.id], ["", entry.bytes === undefined ? undefined : bytes(entry.bytes)]];
  const text = facts.filter(([, value]) => value !== undefined).map(([name, value]) => `${name} ${value}`.trim()).join(", ");
  const time = new Date(entry.at_ms), ms = String(time.getMilliseconds()).padStart(3, "0");
  element.append(make("span", "name", `${clock(time, true)}.${ms}`), ` ${who} ${TRACED[entry.what] ?? entry.what} ${text}${entry.dup ? ", again" : ""}`);
  if (entry.body !== undefined) element.append(" ", make("q", "name", entry.body));
  return element;
}

// — Looking somebody up —

$("#find").onsubmit = async (event) => {
  event.preventDefault();
  const text = $("#find input").value.trim(), kind = event.submitter?.value ?? "channel";
  if (kind === "session") return openSession(text);
  if (kind === "connection") return openConnection(text.toLowerCase());
  try {
    const found = await look("channel/", { find: text, limit: FOUND_MOST, ...where() });
    isSearched = true;
    const most = found.channels.length === FOUND_MOST ? ", the largest" : "", missing = found.msg ? `; a part is missing: ${found.msg}` : "";
    showChannels(found.channels, { title: `${plural(found.channels.length, "channel")}${ofWhere()} with “${text}”${most}${missing}`, nothing: "No channel has that in its name." });
  } catch (error) {
    showChannels([], { title: "Search", nothing: error.message });
  }
};
let isSearched = false;

/** Which node's channels are meant; none is all. */
function where() {
  const node = $("#where select").value;
  return node === "" ? {} : { node };
}
function ofWhere() { return !whole.nodes ? "" : where().node ? ` of node ${where().node}` : " of all nodes"; }

/** Once, at a press: it costs every node a walk over its channels. */
async function showMany() {
  isSearched = true;
  try {
    const { channels, msg } = await look("channel/", { limit: MANY, ...where() });
    const which = channels.length < MANY ? "All channels" : `The ${MANY} largest channels`;
    const title = `${which}${ofWhere()}${msg ? `; a part is missing: ${msg}` : ""}`;
    showChannels(channels, { title });
  } catch (error) {
    showChannels([], { title: "Largest channels", nothing: error.message });
  }
}

// — Draining, and reload —

const drainButton = confirmed("Drain this node", async () => {
  try {
    $("#drained").textContent = (await act("drain/", {})).msg;
  } catch (error) {
    $("#drained").textContent = error.message;
    if (isForbidden(error) || token === "") showLogin(true);
  }
});
$("#drain").append(drainButton);

$("#preview").onclick = async () => {
  const box = $("#reload");
  box.replaceChildren("reading the file");
  try {
    const { msg, changes } = await act("updateconfig/", { dry_run: 1 });
    const list = make("table");
    table(list, ["Key", "In force", "In the file", "Takes effect"], changes.map(({ key, from, to, needs_restart: waits }) => [
      cell(key, "name"), cell(from || "not set"), cell(to || "not set"), cell(waits ? "after a restart" : "with the reload", waits ? "hot" : ""),
    ]), "The file says what is in force.");
    const reload = confirmed("Reload now", async () => {
      try {
        box.replaceChildren((await act("updateconfig/", {})).msg);
        refresh();
      } catch (error) {
        box.replaceChildren(error.message);
      }
    });
    box.replaceChildren(make("p", "", msg), list, ...(changes.some((change) => !change.needs_restart) ? [reload] : []));
  } catch (error) {
    box.replaceChildren(error.message);
    if (isForbidden(error)) showLogin(true);
  }
};

const MEMBERS_PAGE = 20, MANY = 1000, SESSIONS_PAGE = 20, SESSIONS_MOST = 5000, TRACE_ENTRIES = 500, FOUND_MOST = 200, RATES_MS = 2000;
