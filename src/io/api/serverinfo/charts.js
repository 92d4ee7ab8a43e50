// — Charts: each shows the points of a span, has axes of its own, and says in words what it shows —

/** What an operator wants to be zero. Named as in /info/; those that never moved are not drawn. */
const REASONS = [
  "forwards_dropped_qos0", "outbox_dropped_qos0", "messages_timed_out", "forwards_failed", "forwards_refused", "fanout_refused", "fanout_late",
  "memory_full", "pong_timeouts", "idle_timeouts", "ws_violations", "packet_violations", "closed_policy", "closed_too_slow", "closed_panic", "rate_closes",
  "subscriptions_refused", "keeps_refused", "messages_expired", "answers_cut", "http_refused", "http_timeouts", "bodies_refused", "proxy_refused",
  "connect_refused", "connect_failed", "origin_refused", "calls_refused", "signatures_refused", "mail_full", "panics", "timers_late",
  "answers_not_taken", "accept_errors", "backend_invalid", "backend_redirects", "backend_unreadable", "moves_failed", "closes_given_up", "receipts_dropped",
  "backend_no_address", "backend_refused", "backend_out_of_descriptors", "backend_reset", "backend_timeout", "backend_rubbish", "backend_too_large",
  "backend_4xx", "backend_5xx", "backend_poison", "dead_letters_lost", "backend_line_full", "refused_full", "refused_address",
  "handshakes_refused", "handshakes_refused_address", "store_refused", "store_damaged", "store_expired",
];
const SPANS = {
  minutes: { ring: "hour", ms: 600_000, text: "the last 10 minutes" },
  hour: { ring: "hour", ms: 3_600_000, text: "the last hour" },
  day: { ring: "day", ms: 86_400_000, text: "the last 24 hours" },
};
/** `least`: the top of an axis is never lower, so that its marks are different numbers. */
const CHARTS = {
  messages_in: { title: "From clients, messages per second", least: 1, lines: [{ name: "messages_in", as: "rate", tone: "--in", text: "from clients" }], show: rateText },
  messages_out: { title: "To clients, messages per second", least: 1, lines: [{ name: "messages_out", as: "rate", tone: "--out", text: "to clients" }], show: rateText },
  latency: {
    title: "How long the business server takes", least: 1000, show: (value) => (value > 0 ? micros(value) : "0"),
    lines: [{ name: "latency_p99_us", tone: "--latency", text: "p99" }, { name: "latency_p50_us", tone: "--in", text: "p50" }],
  },
  connections: { title: "Connections", least: 2, lines: [{ name: "connections", tone: "--connections", text: "open" }], show: (value) => count(Math.round(value)) },
  errors: { title: "Errors and drops per interval, by reason", least: 2, show: rateText },
};
const MARGIN = { left: 58, right: 8, top: 10, bottom: 24 };

/** The rings of the server, as far as they were asked for. */
const past = { hour: null, day: null };
let span = "minutes";

/** Adds what an answer of /info/history/ has to a ring, or begins it anew. */
function remember(ring, answer) {
  const before = past[ring];
  const isNext = before && before.node === answer.node && answer.known === undefined;
  if (!isNext) {
    past[ring] = answer;
    return;
  }
  // Of two answers to the same question the second one has nothing new.
  const added = Math.min(answer.last - before.last, answer.covers_ms.length);
  if (added <= 0) return;
  const length = before.covers_ms.length, most = ring === "hour" ? 360 : 288;
  const names = new Set([...Object.keys(before.figures), ...Object.keys(answer.figures)]);
  const figures = {};
  for (const name of names) {
    const old = before.figures[name] ?? new Array(length).fill(0), fresh = answer.figures[name]?.slice(-added) ?? new Array(added).fill(0);
    figures[name] = [...old, ...fresh].slice(-most);
  }
  past[ring] = { ...answer, known: before.known, figures, covers_ms: [...before.covers_ms, ...answer.covers_ms.slice(-added)].slice(-most) };
}

/** When each point ends, oldest first, and what covers it; those of the span only. */
function slots() {
  const history = past[SPANS[span].ring];
  if (!history) return [];
  const { covers_ms: covers, end_unix_ms: end, interval_ms: interval } = history;
  const first = Math.max(0, covers.length - SPANS[span].ms / interval);
  return covers.slice(first).map((ms, index) => ({ at: end - (covers.length - 1 - first - index) * interval, covers: ms, index: first + index }));
}

/** A figure's values; null where nobody sampled. */
function valuesOf({ name, as }) {
  const points = past[SPANS[span].ring]?.figures[name];
  return slots().map(({ covers, index }) => {
    if (covers === 0) return null;
    const value = points?.[index] ?? 0;
    return as === "rate" ? (value * 1000) / covers : value;
  });
}

function helpOf(name) { return (past.hour ?? past.day)?.known?.[name]?.help ?? ""; }
function color(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

function drawAll() {
  for (const canvas of document.querySelectorAll("canvas[data-spark]")) {
    canvas.parentElement.title = helpOf(canvas.dataset.spark);
    spark(canvas);
  }
  for (const section of document.querySelectorAll("[data-chart]")) drawChart(section);
}

/** A canvas's context in CSS pixels, cleared. */
function prepare(canvas) {
  const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
  if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** Lines with a soft area below; a gap is left open. `xs` and `ys` are pixels, a null is a gap. */
function area(context, xs, ys, bottom, tone) {
  let run = [];
  const flush = () => {
    if (run.length > 0) runOf(context, run, bottom, tone);
    run = [];
  };
  ys.forEach((y, index) => (y === null ? flush() : run.push([xs[index], y])));
  flush();
}

function runOf(context, run, bottom, tone) {
  const path = new Path2D();
  run.forEach(([x, y], index) => (index === 0 ? path.moveTo(x, y) : path.lineTo(x, y)));
  if (run.length === 1) path.lineTo(run[0][0] + 1.5, run[0][1]);
  context.strokeStyle = tone;
  context.lineWidth = 1.8;
  context.lineJoin = "round";
  context.stroke(path);
  path.lineTo(run.at(-1)[0], bottom);
  path.lineTo(run[0][0], bottom);
  context.fillStyle = `color-mix(in srgb, ${tone} 14%, transparent)`;
  context.fill(path);
}

const SPARK_TONES = { connections: "--connections", messages_in: "--in", messages_out: "--out", latency_p50_us: "--latency", cpu_us: "--cpu", memory_bytes: "--memory" };

function spark(canvas) {
  const { context, width, height } = prepare(canvas), name = canvas.dataset.spark;
  const isCounted = past.hour?.known?.[name]?.merge === "sum";
  const values = valuesOf({ name, as: isCounted ? "rate" : "" });
  const known = values.filter((value) => value !== null);
  if (known.length < 2) return;
  const least = Math.min(...known), most = Math.max(...known);
  // From a little below the least, so that a small change is seen; but never so close that noise fills the card.
  const spread = Math.max(most - least, most * 0.08, 1e-9), low = Math.max(0, least - spread * 0.6), high = most + spread * 0.3;
  const xs = values.map((_, index) => (index / (values.length - 1)) * width);
  const ys = values.map((value) => (value === null ? null : height - ((value - low) / (high - low)) * (height - 4)));
  area(context, xs, ys, height, color(SPARK_TONES[name]));
}

function niceCeiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 8, 10].find((step) => step * power >= value) * power;
}

// — A chart with axes —

/** The parts of a chart's section, made once. */
function partsOf(section) {
  if (section.parts) return section.parts;
  const { title, lines = [] } = CHARTS[section.dataset.chart];
  const heading = make("h2", "", title), legend = make("span", "legend"), canvas = make("canvas"), hint = make("div", "hint");
  for (const { tone, text } of lines.length > 1 ? lines : []) {
    const entry = make("span", "", text);
    entry.style.setProperty("--tone", `var(${tone})`);
    legend.append(entry);
  }
  heading.append(legend);
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  hint.setAttribute("role", "status");
  hint.hidden = true;
  const reasons = make("ul", "reasons");
  section.append(heading, canvas, hint, reasons);
  section.title = lines.map(({ name, text }) => `${text}: ${helpOf(name)}`).join("\n");
  section.parts = { canvas, hint, reasons, at: null };
  listen(section);
  return section.parts;
}

/** The figures under the pointer; with the arrow keys without one. */
function listen(section) {
  const { canvas } = section.parts;
  const move = (at) => { section.parts.at = at; drawChart(section); };
  canvas.onpointermove = (event) => move({ x: event.offsetX });
  canvas.onpointerleave = () => move(null);
  canvas.onblur = () => move(null);
  canvas.onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") return move(null);
    if (step === undefined) return;
    event.preventDefault();
    const last = slots().length - 1, index = section.parts.at?.index ?? last + 1;
    move({ index: Math.min(last, Math.max(0, index + step)) });
  };
}

function drawChart(section) {
  const { canvas, hint } = partsOf(section), chart = CHARTS[section.dataset.chart];
  section.title ||= (chart.lines ?? []).map(({ name, text }) => `${text}: ${helpOf(name)}`).join("\n");
  const { context, width, height } = prepare(canvas), points = slots();
  const frame = { left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top, bottom: height - MARGIN.bottom };
  const end = points.length > 0 ? Math.min(points.at(-1).at, Date.now()) : Date.now(), begin = end - SPANS[span].ms;
  const x = (at) => frame.left + ((Math.min(at, end) - begin) / (end - begin)) * (frame.right - frame.left);
  const layers = chart.lines ? chart.lines.map((line) => ({ ...line, values: valuesOf(line) })) : reasonLayers(section);
  const isEmpty = !points.some(({ covers }) => covers > 0);
  const highest = Math.max(0, ...points.map((_, slot) => (chart.lines ? Math.max : add)(...layers.map(({ values }) => values[slot] ?? 0), 0)));
  const high = niceCeiling(Math.max(highest, chart.least)), y = (value) => frame.bottom - (value / high) * (frame.bottom - frame.top);
  axes(context, frame, { high, show: chart.show, begin, end, x });
  shadeGaps(context, points, frame, x);
  if (chart.lines) {
    for (const { values, tone } of layers) area(context, points.map(({ at }) => x(at)), values.map((value) => (value === null ? null : y(value))), frame.bottom, color(tone));
  } else {
    bars(context, points, layers, { x, y, frame });
  }
  const words = isEmpty ? "no points yet: the server keeps one every ten seconds" : layers.map(({ text, values }) => inWords(text, values, chart.show)).join("; ");
  canvas.setAttribute("aria-label", `${chart.title}, ${SPANS[span].text}: ${words || "nothing"}. Arrow keys move through the points.`);
  if (isEmpty) note(context, frame, "The first point comes ten seconds after the start");
  showHint(section, context, { points, layers, frame, x, y });
  if (hint.hidden && section.parts.at) section.parts.at = null;
}

/** When nobody sampled: the server stood still, or was busy with its own end. */
function shadeGaps(context, points, frame, x) {
  const first = points.findIndex(({ covers }) => covers > 0), interval = past[SPANS[span].ring]?.interval_ms ?? 1;
  context.fillStyle = color("--track");
  points.forEach(({ at, covers }, slot) => {
    if (covers === 0 && slot > first && first >= 0) context.fillRect(x(at - interval), frame.top, x(at) - x(at - interval) + 0.5, frame.bottom - frame.top);
  });
}

function add(...numbers) { return numbers.reduce((sum, number) => sum + number, 0); }

function inWords(text, values, show) {
  const known = values.filter((value) => value !== null);
  return known.length === 0 ? "" : `${text} now ${show(known.at(-1))}, highest ${show(Math.max(...known))}`;
}

function note(context, frame, text) {
  const [x, y] = [(frame.left + frame.right) / 2, (frame.top + frame.bottom) / 2], width = Math.min(context.measureText(text).width, frame.right - frame.left);
  // No grid through the words.
  context.fillStyle = color("--panel");
  context.fillRect(x - width / 2 - 6, y - 10, width + 12, 20);
  context.textAlign = "center";
  context.fillStyle = color("--faint");
  context.fillText(text, x, y, frame.right - frame.left);
}

function axes(context, frame, { high, show, begin, end, x }) {
  context.font = "11.5px system-ui, sans-serif";
  context.fillStyle = color("--faint");
  context.strokeStyle = color("--line");
  context.textBaseline = "middle";
  context.lineWidth = 1;
  for (const part of [0, 0.5, 1]) {
    const y = Math.round(frame.bottom - part * (frame.bottom - frame.top)) + 0.5;
    context.beginPath();
    context.moveTo(frame.left, y);
    context.lineTo(frame.right, y);
    context.stroke();
    context.textAlign = "right";
    context.fillText(show(high * part), frame.left - 8, y, frame.left - 10);
  }
  // Whole minutes or hours, as many as have room.
  const room = Math.max(1, Math.floor((frame.right - frame.left) / 64)), wanted = (end - begin) / room;
  const step = [60e3, 120e3, 300e3, 600e3, 900e3, 1800e3, 3600e3, 7200e3, 10_800e3, 14_400e3, 21_600e3, 43_200e3].find((step) => step >= wanted) ?? 86_400e3;
  const zone = new Date(end).getTimezoneOffset() * 60_000;
  context.textAlign = "center";
  for (let at = Math.ceil((begin - zone) / step) * step + zone; at <= end; at += step) {
    if (x(at) > frame.left + 16 && x(at) < frame.right - 16) context.fillText(clock(at), x(at), frame.bottom + 14);
  }
}

// — Errors and drops —

/** The five reasons that were counted most in the span, and the rest together. */
function reasonLayers(section) {
  const counted = REASONS.map((name) => ({ name, text: name.replaceAll("_", " "), values: valuesOf({ name }) }))
    .map((layer) => ({ ...layer, total: add(...layer.values.map((value) => value ?? 0)) }))
    .filter(({ total }) => total > 0).sort((a, b) => b.total - a.total);
  counted.forEach((layer, index) => (layer.tone = `--r${Math.min(index, 5) + 1}`));
  showReasons(section.parts.reasons, counted);
  const rest = counted.slice(5);
  const others = { text: "others", tone: "--r6", values: slots().map((_, slot) => add(...rest.map(({ values }) => values[slot] ?? 0))) };
  return rest.length > 0 ? [...counted.slice(0, 5), others] : counted;
}

/** Rewritten only when it changed: what was opened stays open. */
function showReasons(list, counted) {
  const shown = JSON.stringify([span, counted.map(({ name, total }) => [name, total])]);
  if (list.shown === shown) return;
  list.shown = shown;
  const open = new Set([...list.querySelectorAll("details[open]")].map(({ dataset }) => dataset.name));
  list.replaceChildren(...counted.map(({ name, text, total, tone }) => {
    const entry = make("li"), details = explained(name, text, count(total));
    details.style.setProperty("--tone", `var(${tone})`);
    details.open = open.has(name);
    entry.append(details);
    return entry;
  }));
  if (counted.length === 0 && slots().length > 0) list.append(make("li", "nothing", `Nothing was dropped or refused in ${SPANS[span].text}.`));
}

/** A figure whose explanation opens at a press, and is the tooltip too. */
function explained(name, text, value) {
  const details = make("details"), summary = make("summary"), help = helpOf(name);
  details.dataset.name = name;
  details.title = help;
  summary.append(make("span", "", text), make("b", "", value));
  details.append(summary, make("p", "", help || "No more is known of it."));
  return details;
}

/** Stacked; several points share a bar where there is no room for one each. */
function bars(context, points, layers, { x, y, frame }) {
  const interval = past[SPANS[span].ring]?.interval_ms ?? 1, width = points.length > 1 ? Math.abs(x(points.at(-1).at) - x(points.at(-1).at - interval)) : 4;
  points.forEach(({ at }, slot) => {
    let below = frame.bottom, sum = 0;
    for (const { values, tone } of layers) {
      sum += values[slot] ?? 0;
      const top = y(sum);
      context.fillStyle = color(tone);
      if (below - top > 0) context.fillRect(x(at) - width + 0.5, top, Math.max(1.5, width - 1), below - top);
      below = top;
    }
  });
}

function showHint(section, context, { points, layers, frame, x, y }) {
  const { hint, at, canvas } = section.parts;
  const nearest = (pixel) => points.reduce((best, point, slot) => (Math.abs(x(point.at) - pixel) < Math.abs(x(points[best].at) - pixel) ? slot : best), 0);
  const slot = at === null || points.length === 0 ? -1 : at.index ?? nearest(at.x);
  hint.hidden = slot < 0 || slot >= points.length;
  if (hint.hidden) return;
  const point = points[slot], show = CHARTS[section.dataset.chart].show;
  context.strokeStyle = color("--faint");
  context.beginPath();
  context.moveTo(x(point.at), frame.top);
  context.lineTo(x(point.at), frame.bottom);
  context.stroke();
  const lines = layers.filter(({ values }) => values[slot] > 0 || CHARTS[section.dataset.chart].lines);
  const text = point.covers === 0 ? ["nobody sampled"] : lines.map(({ text, values }) => `${show(values[slot])} ${text}`);
  hint.textContent = [clock(point.at, true), ...(text.length > 0 ? text : ["nothing"])].join("\n");
  const half = hint.offsetWidth / 2, middle = canvas.offsetLeft + x(point.at);
  hint.style.left = `${Math.min(Math.max(middle, half + 4), section.clientWidth - half - 4)}px`;
  hint.style.top = `${canvas.offsetTop + frame.top + 4}px`;
}
