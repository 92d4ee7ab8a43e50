// — The clock of the page: what it asks when —

/** Plain figures; what costs the server a walk over its channels, or its peers an answer, comes less often. */
const BRIEF_MS = 1000, WHOLE_MS = 10_000;

let before = null, heardAt = 0, wholeAt = 0, dayAt = 0, timer = null, whole = null;

async function poll() {
  clearTimeout(timer);
  // Nobody looks: the server is asked again when somebody does.
  if (document.hidden) return;
  try {
    const isWhole = performance.now() - wholeAt >= WHOLE_MS || whole === null;
    const info = await look("info/", isWhole ? {} : { brief: 1 });
    if (isWhole) {
      [wholeAt, whole] = [performance.now(), info];
      await ask();
    }
    show({ ...whole, ...info }, isWhole);
    heardAt = performance.now();
    $("#alarm").hidden = true;
    pill($("#live"), "ok", "live");
  } catch (error) {
    complain(error);
  }
  clearTimeout(timer);
  timer = setTimeout(poll, BRIEF_MS);
}

function complain(error) {
  if (error instanceof Forbidden && !isForbidden(error)) return;
  const silent = Math.round((performance.now() - heardAt) / 1000);
  const isAway = error.name === "TypeError" || error.name === "TimeoutError";
  pill($("#live"), "bad", heardAt === 0 ? "no figures" : `no figures for ${silent} s`);
  const text = isAway ? "The server does not answer. Asking again every second." : error.message;
  // Read out once, not every second.
  if ($("#alarm").textContent !== text) $("#alarm").textContent = text;
  $("#alarm").hidden = false;
  if (isForbidden(error) && $("#login").hidden) {
    token = "";
    showLogin(true);
  }
}

/** The past: what came since the last answer, or all of it. */
async function ask() {
  const ring = SPANS[span].ring, known = past.hour?.node === whole.node ? past.hour.last : undefined;
  remember("hour", await look("info/history/", { span: "hour", ...(known === undefined ? {} : { after: known }) }));
  if (ring === "day" && (past.day?.node !== whole.node || performance.now() - dayAt > 60_000)) {
    past.day = await look("info/history/", { span: "day" });
    dayAt = performance.now();
  }
}

/** At once, and with everything. */
function refresh() {
  whole = null;
  poll();
}

function show(info, isWhole) {
  const now = performance.now();
  const rates = before && before.info.pid === info.pid ? compare(before.info, info, (now - before.at) / 1000) : null;
  showAbout(info);
  showFigures(info, rates);
  showBackend(info.backend ?? []);
  showAnswers(info.backend ?? []);
  showStore(info);
  showWorkers(info.workers ?? [], rates);
  showCounters(info.counters ?? {}, before?.info.counters);
  if (isWhole) {
    showHooks(info.hooks ?? []);
    showNodes(info);
    showConfig(info.config ?? [], info.config_changed ?? []);
    if (!isSearched) showLargest();
    drawAll();
  }
  $("#foot").textContent = `Figures of this node, once a second. Times are of this browser: ${Intl.DateTimeFormat().resolvedOptions().timeZone}.`;
  before = { info, at: now };
}

/** Of this node: those of all nodes are asked for at a press. */
function showLargest() {
  const channels = (whole.largest_channels ?? []).map(({ name, members }) => ({ channel: name, connections: members }));
  showChannels(channels, { title: whole.nodes ? "Largest channels of this node" : "Largest channels" });
}

function compare(old, info, seconds) {
  const rate = (a, b) => Math.max(0, ((b ?? 0) - (a ?? 0)) / seconds);
  const workers = new Map((old.workers ?? []).map((worker) => [worker.id, worker]));
  return {
    in: rate(old.messages_in, info.messages_in),
    out: rate(old.messages_out, info.messages_out),
    // Microseconds per second are millionths of a core.
    cpu: rate(old.cpu_us, info.cpu_us) / 1e4,
    worker: (worker, key) => (workers.has(worker.id) ? rate(workers.get(worker.id)[key], worker[key]) : null),
  };
}

for (const choice of document.querySelectorAll("[data-span]")) {
  choice.onclick = async () => {
    span = choice.dataset.span;
    for (const other of document.querySelectorAll("[data-span]")) other.setAttribute("aria-pressed", other === choice);
    drawAll();
    await ask().catch(complain);
    drawAll();
  };
}
$("#zeros").onclick = (event) => {
  event.target.setAttribute("aria-pressed", $("#counters").classList.toggle("all"));
  if (before) showCounters(before.info.counters ?? {}, null);
};
addEventListener("resize", drawAll);
document.addEventListener("visibilitychange", poll);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
poll();
