// — Text and elements: how figures read, and how they get into the page —

const $ = (selector) => document.querySelector(selector);

function count(value) { return typeof value === "number" ? value.toLocaleString("en") : "–"; }
function plural(number, one, many = `${one}s`) { return `${count(number)} ${number === 1 ? one : many}`; }
function rateText(value) {
  if (value >= 1e6) return `${(value / 1e6).toPrecision(3)}M`;
  if (value >= 10_000) return `${(value / 1000).toFixed(value >= 100_000 ? 0 : 1)}k`;
  if (value >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
  return value >= 10 ? value.toFixed(1) : Number(value.toPrecision(2)).toString();
}
function micros(value) {
  if (!(value > 0)) return "–";
  if (value < 1000) return `${Math.round(value)} µs`;
  return value < 1e6 ? `${Number((value / 1000).toPrecision(3))} ms` : `${Number((value / 1e6).toPrecision(3))} s`;
}
function bytes(value) {
  if (typeof value !== "number") return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, value)) / 10));
  const scaled = value / 1024 ** power;
  return `${scaled < 100 && power > 0 ? scaled.toFixed(1) : Math.round(scaled)} ${units[power]}`;
}
function duration(seconds) {
  if (typeof seconds !== "number") return "–";
  const days = Math.floor(seconds / 86_400), hours = Math.floor(seconds / 3600) % 24, minutes = Math.floor(seconds / 60) % 60;
  if (days > 0) return `${days} d ${hours} h`;
  return hours > 0 ? `${hours} h ${minutes} min` : minutes > 0 ? `${minutes} min ${Math.floor(seconds % 60)} s` : `${Math.floor(seconds)} s`;
}
function clock(ms, withSeconds) {
  return new Date(ms).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", ...(withSeconds ? { second: "2-digit" } : {}) });
}
/** An identity has 64 digits: the first and the last are enough to tell two apart; the whole one is in the title. */
function short(identity) { return `${identity.slice(0, 10)}…${identity.slice(-6)}`; }

function figure(name, text) { $(`[data-figure=${name}]`).textContent = text; }
function pill(element, tone, text) { element.dataset.tone = tone; element.textContent = text; return element; }

function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== "") element.textContent = text;
  return element;
}
function button(text, run, className = "") {
  const element = make("button", className, text);
  element.type = "button";
  element.onclick = run;
  return element;
}
/** For what cannot be undone: the first press asks, the second one within five seconds does it. */
function confirmed(text, run) {
  const element = button(text, () => {
    if (element.classList.toggle("armed")) {
      element.textContent = `${text}? Press again`;
      element.timer = setTimeout(disarm, 5000);
      return;
    }
    disarm();
    run();
  }, "danger");
  const disarm = () => {
    clearTimeout(element.timer);
    element.classList.remove("armed");
    element.textContent = text;
  };
  return element;
}
function labelled(text, input, className = "") {
  const label = make("label", className, text);
  label.append(" ", input);
  return label;
}
function field(name, { value = "", type = "text", ...rest } = {}) {
  return Object.assign(document.createElement("input"), { name, type, value, autocomplete: "off", ...rest });
}
