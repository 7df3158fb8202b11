// The page: asks again whenever something changes, the bars first, what takes longer when the sliders rest.

import { AXES, REPORT, START, address, ask, askAddress, askAnew, askFirst, ignored, onAsk, source, state } from "./asked.js";
import { download } from "./charts.js";
import { showControls, startControls } from "./controls.js";
import { saidOfLink, startDrops } from "./dropping.js";
import { $, make } from "./numbers.js";
import {
  CURVES, charts, showBars, showCluster, showCommands, showCurve, showGrounds, showHere, showLines, showPareto, showPlan, showServe, showTimeline, showWords, zoom,
} from "./shows.js";

const told = { answer: null, all: null, placement: null, curves: [], serve: null, plan: null };
let notShown = ""; // of what the address asks
let running = false, again = false, later = new AbortController(), drawn = 0;

/** One question at a time: what changes meanwhile is asked when the answer is there, and only the last of it. */
async function refresh() {
  again = true;
  later.abort();
  if (running) return;
  running = true;
  while (again) {
    again = false;
    try {
      told.answer = await source.answer();
      await showBars(told.answer);
      showWords(told.answer);
      fault(notShown, false);
      document.dispatchEvent(new CustomEvent("thinwire-drawn", { detail: ++drawn }));
      await new Promise(requestAnimationFrame); // painted, before the rest is worked at
      if (!again) await showRest();
    } catch (error) {
      if (told.answer || notShown) fault(error.message);
      else {
        notShown = `${error.message}${/[.?]$/.test(error.message) ? "" : "."} The link cannot be shown: below is the page's first question.`;
        askFirst();
        showControls();
        again = true;
      }
    }
  }
  running = false;
  follow((later = new AbortController()).signal);
}

function showRest() {
  const { answer } = told, { detail } = answer;
  showCommands(answer);
  if (detail) showGrounds(detail);
  return Promise.all([showPareto(answer), ...(detail ? [showTimeline(detail), showCluster(detail)] : [])]);
}

const placement = () => ["model", "cluster", "tp", "weights"].map((key) => state.now[key]).join();
/** The whole catalog may have a better one than the bars do: then that is asked for, too, from now on. */
async function wholeCatalog(signal) {
  told.all = await source.everything(signal);
  if (!told.all || signal.aborted) return;
  told.placement = placement();
  await showPareto(told.all);
  const best = told.all.rows.find((row) => row.best)?.scheme;
  if (best && !told.answer.rows.some((row) => row.scheme === best)) {
    ask({ also: [...new Set([best, ...(state.now.also ?? "").split(",")])].filter(Boolean).slice(0, 3).join(",") }, "also");
  }
}

/** Curves, then the schemes that the bars leave out, then the load where it is in sight. Given up when something changes;
 * begun late, for what the server has begun it ends, whoever still waits. */
async function follow(signal) {
  const { answer } = told;
  const rest = (ms) => new Promise((done) => setTimeout(done, REPORT ? 0 : ms));
  try {
    await rest(150);
    if (signal.aborted || !answer || $("answer").classList.contains("stale")) return;
    const before = told.placement === placement(); // then the best is among the bars, most likely, and curves come first
    if (!before) await wholeCatalog(signal);
    const found = [];
    for (const axis of AXES) {
      if (signal.aborted) return;
      const curve = await source.curve(axis, signal);
      if (signal.aborted) return;
      charts[CURVES[axis]].section.hidden = !curve;
      if (curve) found.push(curve);
      if (curve) await showCurve(curve, answer);
    }
    showLines((told.curves = found), answer);
    $("heard").textContent = answer.verdict; // once the sliders rest, not at every step
    if (before) await wholeCatalog(signal);
    if (signal.aborted) return;
    document.documentElement.dataset.settled = String(drawn);
    await rest(500);
    await charts.serve.sight();
    if (signal.aborted) return;
    told.serve = await source.serve(signal);
    charts.serve.section.hidden = !told.serve;
    if (told.serve && !signal.aborted) await showServe(told.serve);
  } catch (error) {
    if (!signal.aborted) fault(error.message);
    if (!signal.aborted) document.documentElement.dataset.settled = String(drawn);
  }
}

/** stale: what is below is of another question. */
function fault(text, stale = Boolean(text)) {
  $("fault").hidden = !text;
  $("fault").textContent = text;
  $("answer").classList.toggle("stale", stale);
}
const sayIgnored = () => (notShown = ignored.length ? `The link asks for another ${ignored.join(", ")}, which this report cannot show: it is as it was made. thinwire ui shows any.` : "");

async function recolour() {
  for (const chart of Object.values(charts)) chart.forget();
  if (!told.answer) return;
  await showBars(told.answer);
  await showRest();
  for (const curve of told.curves) await showCurve(curve, told.answer);
  showLines(told.curves, told.answer);
  if (told.all) await showPareto(told.all);
  if (told.serve) await showServe(told.serve);
  if (told.plan) await showPlan(told.plan);
}

const THEMES = [["", "auto", "as the system has them"], ["light", "light", "light"], ["dark", "dark", "dark"]];
function theme(name) {
  const [value, text, words] = THEMES.find((one) => one[0] === name) ?? THEMES[0];
  document.documentElement.dataset.theme = value;
  $("theme").textContent = `Colours: ${text}`;
  $("theme").setAttribute("aria-label", `Colours: ${words}`);
}
function remembered(value) {
  try {
    if (value !== undefined) localStorage.setItem("thinwire-theme", value);
    return localStorage.getItem("thinwire-theme") ?? "";
  } catch {
    return ""; // a browser that keeps nothing
  }
}

async function copy(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.body.appendChild(make("textarea", { value: text }));
    area.select();
    document.execCommand("copy"); // where there is no clipboard for pages out of a file
    area.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = before), 1500);
}

function csv(rows) {
  const cell = (value) => {
    const plain = typeof value === "string" && /^[=+@\-\t\r]/.test(value) ? `'${value}` : String(value ?? ""); // a sheet would run it
    return /[",\n\r]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
  };
  const flat = rows.map(({ interval_ms: [low_ms, high_ms], ...row }) => ({ ...row, low_ms, high_ms }));
  return [Object.keys(flat[0]), ...flat.map((row) => Object.values(row).map((one) => (Array.isArray(one) ? one.join(" ") : one)))].map((row) => row.map(cell).join(",")).join("\n");
}
function save(text, type, name) {
  const place = URL.createObjectURL(new Blob([text], { type }));
  download(place, name);
  setTimeout(() => URL.revokeObjectURL(place), 1000);
}

async function planned(button) {
  Object.assign(button, { disabled: true, textContent: "Planning…" });
  try {
    await showPlan((told.plan = await source.plan()));
  } catch (error) {
    charts.cost.lead.textContent = error.message;
  }
  Object.assign(button, { disabled: false, textContent: "Plan again" });
}

function startTimeline() {
  const { figure } = charts.timeline, left = 112; // pixels of the ranks' names
  const share = (x) => Math.min(1, Math.max(0, (x - figure.getBoundingClientRect().left - left) / (figure.clientWidth - left)));
  figure.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return; // a plain wheel scrolls the page
    event.preventDefault();
    zoom(event.deltaY < 0 ? 0.8 : 1.25, share(event.clientX));
  }, { passive: false });
  let held = null;
  figure.addEventListener("pointerdown", (event) => (held = event.pointerType === "touch" ? null : event.clientX));
  addEventListener("pointerup", () => (held = null));
  addEventListener("pointermove", ({ clientX }) => {
    if (held == null) return;
    zoom(1, 0.5, (held - clientX) / (figure.clientWidth - left));
    held = clientX;
  });
  figure.addEventListener("dblclick", () => zoom(Infinity));
  const steps = { in: [0.5], out: [2], left: [1, 0.5, -0.4], right: [1, 0.5, 0.4], all: [Infinity] };
  for (const button of document.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => zoom(...steps[button.dataset.zoom]));
}

function startButtons() {
  $("reset").addEventListener("click", askAnew);
  $("copy").addEventListener("click", async ({ target }) => {
    await copy(address(), target);
    saidOfLink(told.answer?.detail?.command);
  });
  for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy($(button.dataset.copy).textContent, button));
  $("csv").addEventListener("click", () => save(csv(told.answer.rows), "text/csv", "thinwire.csv"));
  $("json").addEventListener("click", () => save(JSON.stringify(told.answer, null, 1), "application/json", "thinwire.json"));
  $("png").addEventListener("click", () => charts.ttft.save());
  $("plan").addEventListener("click", ({ target }) => planned(target));
  $("theme").addEventListener("click", () => {
    const next = (THEMES.findIndex((one) => one[0] === document.documentElement.dataset.theme) + 1) % THEMES.length;
    theme(remembered(THEMES[next][0]) || THEMES[next][0]);
    recolour();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  addEventListener("beforeprint", () => Object.values(charts).forEach((chart) => chart.draw(true)));
  let width = innerWidth, soon = 0;
  addEventListener("resize", () => {
    clearTimeout(soon);
    soon = setTimeout(() => {
      if (width === innerWidth || !told.answer) return;
      width = innerWidth;
      showBars(told.answer); // its words need pixels, and the machine's boxes
      showRest();
    }, 200);
  });
}

theme(remembered());
startControls();
startButtons();
startTimeline();
onAsk((changes, from) => {
  if (from === "address") sayIgnored();
  else if (from !== "also") notShown = "";
  if (from !== "also" && told.placement && told.placement !== placement()) state.now = { ...state.now, also: "" };
  showControls(from);
  for (const axis of AXES) if (axis === from) showHere(axis, Number(state.now[axis]));
  refresh();
});
showControls();
$("asking").open = innerWidth > 640; // on a telephone the answer comes first
if (REPORT) {
  sayIgnored();
  for (const node of document.querySelectorAll(".live")) node.hidden = true;
  $("made").textContent = START.made;
  addEventListener("hashchange", askAddress);
  told.plan = await source.plan();
  charts.cost.section.hidden = !told.plan;
  if (told.plan) showPlan(told.plan);
} else {
  $("made").textContent = `thinwire ${START.version}, on this machine and nowhere else`;
  startDrops();
}
refresh();
