// — Tables and lists: one function per section of the page —

/** A heading with * belongs to a column of numbers. On a narrow screen each cell shows its heading itself. */
function table(element, headings, rows, nothing) {
  element.setAttribute("role", "table");
  if (rows.length === 0) {
    element.replaceChildren(make("caption", "nothing", nothing));
    return;
  }
  const body = make("tbody"), head = make("thead"), titles = make("tr");
  for (const text of headings) {
    const heading = make("th", text.startsWith("*") ? "number" : "", text.replace("*", ""));
    heading.scope = "col";
    heading.setAttribute("role", "columnheader");
    titles.append(heading);
  }
  for (const cells of rows) {
    const row = make("tr");
    row.setAttribute("role", "row");
    cells.forEach((cell, index) => {
      cell.setAttribute("role", "cell");
      cell.dataset.label = headings[index].replace("*", "");
    });
    row.append(...cells);
    body.append(row);
  }
  head.append(titles);
  element.replaceChildren(head, body);
}

function cell(text, className = "") { return make("td", className, String(text ?? "–")); }
function hot(value, text = count(value)) { return cell(text, value > 0 ? "number hot" : "number"); }
function number(value) { return cell(count(value), "number"); }

function bar(part) {
  const element = make("td", "bar"), track = make("i");
  track.style.setProperty("--part", Number.isFinite(part) ? part : 0);
  element.append(track);
  return element;
}

function stateCell(tone, text) {
  const element = make("td");
  element.append(pill(make("span", "pill"), tone, text));
  return element;
}

function linkCell(text, run, title = "") {
  const element = make("td", "name");
  element.append(link(text, run, title));
  return element;
}
function link(text, run, title = "") {
  const element = button(text, run, "link name");
  if (title) element.title = title;
  return element;
}

// — Each second —

function showAbout(info) {
  const parts = [make("b", "", info.cluster_name ?? ""), ` on ${info.listen ?? "–"} · up ${duration(info.uptime_s)} · version ${info.version ?? "–"} · pid ${info.pid ?? "–"} · node ${info.node ?? "–"}`];
  $("#about").replaceChildren(...parts);
  document.title = `${plural(info.connections, "connection")} · Rainbow`;
}

function showFigures(info, rates) {
  const cores = info.workers?.length ?? 0;
  const perConnection = info.connections >= 100 && info.memory_bytes !== undefined ? info.memory_bytes / info.connections : null;
  const [p50, p99] = ["latency_p50_us", "latency_p99_us"].map((name) => past.hour?.figures[name]?.at(-1) ?? 0);
  const isDown = (info.backend ?? []).some(({ state }) => state === "down");
  figure("connections", count(info.connections));
  figure("channels", `in ${plural(info.channels, "channel")}`);
  figure("messages_in", rates ? rateText(rates.in) : "–");
  figure("messages_in_total", `${count(info.messages_in)} in all`);
  figure("messages_out", rates ? rateText(rates.out) : "–");
  figure("messages_out_total", `${count(info.messages_out)} in all`);
  figure("latency", isDown ? "down" : p50 > 0 ? micros(p50) : (info.backend ?? []).length === 0 ? "none" : "idle");
  figure("latency_under", p50 > 0 ? `p99 ${micros(p99)}, last 10 s` : "nothing asked in the last 10 s");
  figure("cpu", rates ? `${rates.cpu.toFixed(rates.cpu < 10 ? 1 : 0)} %` : "–");
  figure("cpu_under", cores > 0 ? `of ${cores * 100} % on ${plural(cores, "worker")}` : "");
  figure("memory", bytes(info.memory_bytes));
  figure("memory_under", perConnection !== null ? `${bytes(perConnection)} per connection` : "resident");
}

function showBackend(backends) {
  const tones = { up: "ok", unknown: "warn", down: "bad" };
  table($("#backend"), ["Upstream", "State", "*Connections", "*Under way", "*Waiting, all together", "*Failures, all together"], backends.map((backend) => [
    cell(backend.url, "name"), stateCell(tones[backend.state] ?? "warn", backend.state === "unknown" ? "has not answered yet" : backend.state ?? "unknown"),
    number(backend.connections), number(backend.outstanding), hot(backend.waiting), hot(backend.failures),
  ]), "No business server is configured: every client is let in, and nobody hears what it says.");
}

function showAnswers(backends) {
  const rows = backends.flatMap((backend) => (backend.last_answers ?? []).map((answer) => [
    cell(answer.hook.replaceAll("_", " ")), cell(backend.url, "name"), stateCell(answer.status < 400 ? "ok" : "bad", answer.status),
    cell(answer.age_s < 1 ? "just now" : `${duration(answer.age_s)} ago`, "number"), cell(answer.error || "–", "name"),
  ]));
  table($("#answers"), ["Hook", "Upstream", "Status", "*When", "An error's first words"], rows, "No answer yet.");
}

function showStore({ store, sessions }) {
  $("#durable").hidden = !store;
  if (!store) return;
  table($("#store"), ["Store", "State", "*Sessions", "*Messages kept", "*Bytes", "*Queued", "*Under way", "*Commit, mean", "*Longest"], [[
    cell(store.kind), stateCell(store.state === "ready" ? "ok" : "bad", store.why ?? store.state ?? "unknown"),
    number(sessions), number(store.messages), cell(bytes(store.bytes), "number"), hot(store.queued),
    hot(store.under_way), cell(micros(store.commit_us_mean), "number"), cell(micros(store.commit_us_max), "number"),
  ]], "");
}

function showWorkers(workers, rates) {
  const most = Math.max(1, ...workers.map((worker) => worker.connections ?? 0));
  const rate = (worker, key) => { const value = rates?.worker(worker, key); return cell(value == null ? "–" : rateText(value), "number"); };
  table($("#workers"), ["Worker", "State", "*Connections", "Share", "*Channels", "*In /s", "*Out /s", "*Timers", "*Calls", "*Mailbox", "*Turn, p99", "*Last turn"], workers.map((worker) => [
    cell(`${worker.id} on ${worker.core === null ? "any core" : `core ${worker.core}`}`), stateCell(worker.stuck ? "bad" : "ok", worker.stuck ? "stuck" : "turns"),
    number(worker.connections), bar(worker.connections / most), number(worker.channels), rate(worker, "messages_in"), rate(worker, "messages_out"),
    number(worker.timers), number(worker.calls), hot(worker.mailbox), cell(`≤ ${micros(worker.turn_p99_us)}`, "number"),
    // Up to a second while all is well.
    cell(worker.silent_ms > 1500 ? `${duration(worker.silent_ms / 1000)} ago` : "just now", worker.silent_ms > 1500 ? "number hot" : "number"),
  ]), "No figures of workers.");
}

/** Those that count something first; one that moved since the last answer stands out. */
function showCounters(counters, before) {
  const entries = Object.entries(counters).sort(([a, x], [b, y]) => (y > 0) - (x > 0) || a.localeCompare(b));
  const list = $("#counters"), key = `${past.hour !== null} ${entries.map(([name]) => name)}`;
  if (list.key !== key) {
    // Anew only when their order changes: what was opened stays open.
    list.key = key;
    list.replaceChildren(...entries.map(([name, value]) => explained(name, name.replaceAll("_", " "), count(value))));
  }
  entries.forEach(([name, value], index) => {
    const row = list.children[index], shown = row.querySelector("b");
    row.className = value > 0 ? "" : "zero";
    shown.textContent = count(value);
    shown.className = before && value > (before[name] ?? 0) ? "moving" : "";
  });
  const zeros = entries.filter(([, value]) => !(value > 0)).length;
  $("#zeros").textContent = list.classList.contains("all") ? "Hide what is zero" : `Show ${zeros} that are zero`;
  $("#zeros").hidden = zeros === 0;
}

// — Every ten seconds —

function showHooks(hooks) {
  table($("#hooks"), ["Hook", "Upstream", "*Attempts", "*Mean", "*p50", "*p99"], hooks.map((hook) => [
    cell(hook.hook.replaceAll("_", " ")), cell(hook.upstream, "name"), number(hook.answers), cell(micros(hook.mean_us), "number"),
    cell(`≤ ${micros(hook.p50_us)}`, "number"), cell(`≤ ${micros(hook.p99_us)}`, "number"),
  ]), "No hook was asked yet.");
}

/** The nodes that answer, and their sum. */
function showNodes({ node: own, nodes, peers }) {
  $("#cluster").hidden = !nodes;
  if (!nodes) return;
  showWhere(nodes.map(({ node }) => node), own);
  const rows = nodes.map((node) => {
    const peer = (peers ?? []).find((peer) => peer.node === node.node);
    const state = node.node === own ? "this node" : peer?.state ?? "live";
    return [
      cell(node.node, "name"), cell(peer?.address ?? node.listen, "name"), stateCell(state === "this node" || state === "live" ? "ok" : "warn", state),
      number(node.connections), number(node.channels), number(node.sessions), number(node.sessions_moving), cell(bytes(node.memory_bytes), "number"), cell(duration(node.uptime_s), "number"), cell(node.version),
    ];
  });
  const sum = (name) => nodes.reduce((all, node) => all + (node[name] ?? 0), 0);
  if (rows.length > 1) rows.push([cell("together"), cell(""), cell(""), number(sum("connections")), cell(""), number(sum("sessions")), number(sum("sessions_moving")), cell(bytes(sum("memory_bytes")), "number"), cell(""), cell("")]);
  table($("#nodes"), ["Node", "Address", "State", "*Connections", "*Channels", "*Sessions", "*Moving", "*Memory", "*Up", "Version"], rows, "");
  const tones = { live: "ok", left: "warn", joining: "warn" };
  table($("#links"), ["Node", "Address", "State", "Link", "*Round trip", "*Queued", "*Since"], (peers ?? []).map((peer) => [
    cell(peer.node, "name"), cell(peer.address, "name"), stateCell(tones[peer.state] ?? "bad", peer.state === "live" ? "live" : `${peer.state}: ${peer.reason}`),
    cell(peer.is_linked ? "up" : "none", peer.is_linked ? "" : "hot"), cell(typeof peer.round_trip_ms === "number" ? `${peer.round_trip_ms} ms` : "–", "number"),
    cell(bytes(peer.queued_bytes), "number"), cell(duration(peer.since_s), "number"),
  ]), "This node is alone.");
}

/** Whose channels are looked for: a choice where there are several nodes. What was chosen stays, as long as it is there. */
function showWhere(nodes, own) {
  const choice = $("#where select"), known = [...choice.options].slice(1).map(({ value }) => value);
  $("#where").hidden = nodes.length < 2;
  if (known.join() === nodes.join()) return;
  const chosen = nodes.includes(choice.value) ? choice.value : "";
  choice.replaceChildren(new Option("all nodes", ""), ...nodes.map((node) => new Option(node === own ? `${node} (this node)` : node, node)));
  choice.value = chosen;
}

/** What is not at its default first. Rewritten only when it changed, so that it can be marked and copied. */
function showConfig(config, changed) {
  const shown = JSON.stringify([config, changed]);
  if ($("#config").shown === shown) return;
  $("#config").shown = shown;
  const defaults = new Map(changed);
  const row = ([key, value]) => {
    const element = make("div");
    element.append(make("span", "name", key), make("b", value === "" ? "unset" : "", value === "" ? "not set" : String(value)));
    if (defaults.has(key)) element.append(make("small", "", `default: ${defaults.get(key) || "not set"}`));
    return element;
  };
  const [set, unset] = [true, false].map((isSet) => config.filter(([key]) => defaults.has(key) === isSet).map(row));
  $("#config").replaceChildren(...(set.length > 0 ? set : [make("div", "nothing", "Everything is at its default.")]));
  $("#defaults").replaceChildren(...unset);
}

/** A page of channels: the largest, or those that were looked for. */
function showChannels(channels, { title, offset = 0, nothing = "Nobody is in a channel." }) {
  const page = channels.slice(offset, offset + CHANNELS_PAGE), most = Math.max(1, ...channels.map((channel) => channel.connections));
  $("#channels-title").textContent = title;
  table($("#channels"), ["Channel", "Share", "*Online"], page.map((channel) => [
    linkCell(channel.channel, () => openChannel(channel.channel)), bar(channel.connections / most), number(channel.connections),
  ]), nothing);
  pager($("#channels-pager"), { offset, limit: CHANNELS_PAGE, total: channels.length }, (next) => showChannels(channels, { title, offset: next, nothing }));
  if (isSearched) $("#channels-pager").append(button("Back to the largest", () => { isSearched = false; refresh(); }));
  else if (whole.channels > channels.length || whole.nodes) $("#channels-pager").append(button("More", showMany));
}

/** Nothing where all fits on one page. */
function pager(element, { offset, limit, total }, turn) {
  element.replaceChildren();
  if (total <= limit && offset === 0) return;
  const back = button("Previous", () => turn(Math.max(0, offset - limit))), on = button("Next", () => turn(offset + limit));
  back.disabled = offset === 0;
  on.disabled = offset + limit >= total;
  element.append(back, make("span", "", `${count(total === 0 ? 0 : offset + 1)}–${count(Math.min(offset + limit, total))} of ${count(total)}`), on);
}

const CHANNELS_PAGE = 12;
