// Controls: sliders that go evenly in logarithms, and lists that are searched.

import { DEFAULTS, LISTS, REPORT, SLIDERS, START, ask, source, state } from "./asked.js";
import { $, digits, loss, make } from "./numbers.js";

const form = document.getElementById("question");
const stepsOf = (key) => source.axes?.[key] ?? SLIDERS[key]?.steps ?? []; // a report has fewer

/** A place on a slider, between steps too, as a number of few digits. */
function valueAt(key, place) {
  const steps = stepsOf(key);
  const low = Math.floor(place), part = place - low;
  const value = part ? steps[low] * (steps[low + 1] / steps[low]) ** part : steps[low];
  return SLIDERS[key].whole ? Math.round(value) : Number(value.toPrecision(3));
}
function placeOf(key, value) {
  const steps = stepsOf(key);
  const low = Math.max(0, Math.min(steps.length - 2, steps.findLastIndex((one) => one <= value)));
  return low + Math.log(Math.max(value, steps[0]) / steps[low]) / Math.log(steps[low + 1] / steps[low]);
}

const machine = () => LISTS.cluster.find((one) => one.name === state.now.cluster);
const TEXTS = {
  batch: (value) => String(value),
  input_tokens: (value) => value.toLocaleString("en"),
  link: (value) => [`×${digits(value, 3)}`, ...(machine() ? [`${digits(machine().link_gb_per_s * value, 3)} GB/s`] : [])].join(", "),
  max_perplexity: loss,
  max_lookups_lost: (value) => `${digits(value, 3)} of 100`,
};
const SEARCHED = ["model", "cluster", "scheme"];
const PLAIN = ["tp", "weights", "rate", "slo_ttft_ms"];
/** What was dropped is drop:3 in the address, and has a label here. */
const nameOf = (key, value) => (value?.startsWith("drop:") ? (LISTS[key].find((one) => one.name === value)?.label ?? value) : value);

/** Prices of a GPU an hour, by machine. */
const prices = () => Object.fromEntries((state.now.price ?? "").split(",").filter(Boolean).map((one) => [one.slice(0, one.lastIndexOf(":")), one.slice(one.lastIndexOf(":") + 1)]));
function showPrice() {
  $("priced").textContent = nameOf("cluster", state.now.cluster);
  if (document.activeElement !== $("own-price")) $("own-price").value = prices()[state.now.cluster] ?? "";
}
function startPrice() {
  $("own-price").addEventListener("change", ({ target }) => {
    const all = { ...prices(), [state.now.cluster]: target.value };
    ask({ price: Object.entries(all).filter(([, price]) => Number(price) > 0).map((one) => one.join(":")).join(",") }, "price");
  });
}

/** The controls as the state has them. from: the one that is being moved, which is left alone. */
export function showControls(from = "") {
  for (const [key, text] of Object.entries(TEXTS)) {
    const input = form.elements[key], value = Number(state.now[key]), said = text(value);
    if (key !== from && stepsOf(key).length > 1) input.value = placeOf(key, value);
    input.setAttribute("aria-valuetext", said);
    form.querySelector(`output[for="${key}"]`).textContent = stepsOf(key).length > 1 ? said : `${said} (fixed)`;
  }
  for (const key of SEARCHED) form.elements[key].value = nameOf(key, state.now[key]);
  showPrice();
  const chosen = state.now.tp ? [Number(state.now.tp)] : [];
  const degrees = [...new Set([...(machine()?.tp ?? []), ...chosen])].sort((a, b) => a - b).map(String);
  const offered = [["", `all ${machine()?.gpus ?? ""}`], ...degrees.map((degree) => [degree, degree])];
  form.elements.tp.replaceChildren(...offered.map(([value, text]) => make("option", { value }, text)));
  for (const key of PLAIN) if (key !== from) form.elements[key].value = state.now[key] || (DEFAULTS[key] ?? (key === "weights" ? "auto" : ""));
}

function slider(key) {
  const input = form.elements[key], most = stepsOf(key).length - 1;
  input.hidden = most < 1; // of a report's grid: what has one place is said, and not moved
  Object.assign(input, { min: 0, max: Math.max(1, most), step: REPORT ? 1 : 0.25, disabled: most < 1 });
  input.addEventListener("input", () => ask({ [key]: String(valueAt(key, Number(input.value))) }, key));
}

/** A combobox as the ARIA practices have it: type to search, arrows and Enter to choose, Escape to leave it as it was. */
function combobox(key) {
  const input = form.elements[key];
  const list = make("ul", { className: "choices", id: `choices-${key}`, role: "listbox", hidden: true, "aria-label": input.labels[0].textContent });
  const says = (name, value) => input.setAttribute(`aria-${name}`, value);
  input.setAttribute("role", "combobox");
  says("autocomplete", "list");
  says("expanded", "false");
  says("controls", list.id);
  input.after(list);
  let at = -1, found = [];
  const point = (to) => {
    at = to;
    [...list.children].forEach((node, i) => node.setAttribute("aria-selected", String(i === at)));
    list.children[at]?.scrollIntoView({ block: "nearest" });
    says("activedescendant", list.children[at]?.id ?? "");
  };
  const close = () => {
    list.hidden = true;
    says("expanded", "false");
    says("activedescendant", "");
  };
  const choose = (name) => {
    close();
    if (!name || name === state.now[key]) return showControls();
    const one = key === "cluster" ? LISTS.cluster.find((other) => other.name === name) : null;
    return ask({ [key]: name, ...(one && Number(state.now.tp) > one.gpus ? { tp: "" } : {}) });
  };
  const item = (one, i) => {
    const more = one.label.startsWith(one.name) ? one.label.slice(one.name.length).replace(/^[:\s]+/, "").replace(/^\((.*)\)$/, "$1") : one.label;
    const named = nameOf(key, one.name);
    const node = make("li", { id: `choices-${key}-${i}`, role: "option" }, named, ...(more === named ? [] : [make("small", {}, more)]));
    node.addEventListener("pointerdown", (event) => {
      event.preventDefault(); // the focus stays in the field
      choose(one.name);
    });
    return node;
  };
  const open = (typed) => {
    const words = typed.toLowerCase().split(/\s+/);
    const text = (one) => [one.name, one.label, one.gpu, ...(one.ids ?? [])].join(" ").toLowerCase();
    found = LISTS[key].filter((one) => words.every((word) => text(one).includes(word)));
    list.replaceChildren(...found.map(item));
    list.hidden = !found.length;
    says("expanded", String(!list.hidden));
    list.scrollTop = 0;
    point(typed ? -1 : found.findIndex((one) => one.name === state.now[key]));
  };
  /** The name that was typed; of schemes any that the catalog can read, such as flash-int4+spd-50. */
  const typed = () => LISTS[key].find((one) => nameOf(key, one.name) === input.value.trim())?.name ?? input.value.trim();
  input.addEventListener("focus", () => input.select());
  input.addEventListener("click", () => open(""));
  input.addEventListener("input", () => open(input.value.trim()));
  input.addEventListener("blur", () => {
    const name = typed();
    if (!list.hidden || name !== state.now[key]) choose(key === "scheme" || LISTS[key].some((one) => one.name === name) ? name : state.now[key]);
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) open("");
      else point(Math.min(found.length - 1, Math.max(0, at + (event.key === "ArrowDown" ? 1 : -1))));
    } else if (event.key === "Enter") {
      event.preventDefault();
      const pointed = list.hidden ? null : (found[at] ?? (found.length === 1 ? found[0] : null));
      choose(pointed?.name ?? typed());
    } else if (event.key === "Escape") {
      close();
      showControls();
    }
  });
}

export function startControls() {
  Object.keys(TEXTS).forEach(slider);
  SEARCHED.forEach(combobox);
  startPrice();
  form.elements.weights.replaceChildren(...START.options.weights.map((value) => make("option", { value }, value)));
  for (const key of PLAIN) form.elements[key].addEventListener("change", (event) => ask({ [key]: event.target.value }, key));
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const key of START.fixed ?? []) {
    if (form.elements[key]) Object.assign(form.elements[key], { disabled: true, title: "Fixed in a report; thinwire ui moves it." });
  }
}
