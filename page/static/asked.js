// What is asked: one object of strings with the keys that the address has; and where answers come from, which is the
// server, or the grid that a report carries.

export const START = JSON.parse(document.getElementById("thinwire-data").textContent);
export const REPORT = START.mode === "report";
export const DEFAULTS = START.options.defaults;
export const SLIDERS = Object.fromEntries(START.options.sliders.map((one) => [one.key, one]));
export const LISTS = { model: START.options.models, cluster: START.options.machines, scheme: START.options.schemes };
export const AXES = ["input_tokens", "link", "tp"];
const GRID = ["batch", "input_tokens", "link"];

export const START_STATE = { ...DEFAULTS, ...START.state };
/** What a link says that is not shown: in a report everything but a scheme and the points of its grid is its own. */
export let ignored = [];
function fromAddress() {
  const given = Object.entries(Object.fromEntries(new URLSearchParams(REPORT ? location.hash.slice(1) : location.search)));
  if (!REPORT) return Object.fromEntries(given);
  const shown = ([key, value]) => (GRID.includes(key) ? Number(value) > 0 : key === "scheme" && LISTS.scheme.some((one) => one.name === value));
  ignored = given.filter(([key, value]) => !shown([key, value]) && value !== START_STATE[key]).map(([key]) => key);
  return Object.fromEntries(given.filter(shown));
}
/** The one thing that changes: `now` is replaced, never altered, so whoever holds it holds what was asked. */
export const state = { now: { ...START_STATE, ...fromAddress() } };

const said = (left) => new URLSearchParams(Object.entries(state.now).filter(([key, value]) => value !== "" && !left(key, value))).toString();
/** For the server, which has the defaults too. */
export const query = () => said((key, value) => value === DEFAULTS[key]);
/** For people: what a page without it would not show anyway. A served one says which model and machine it is about. */
export function address() {
  const text = REPORT ? said((key, value) => value === START_STATE[key]) : said((key, value) => value === DEFAULTS[key] && key !== "model" && key !== "cluster");
  return location.href.replace(/[?#].*$/, "") + (text ? (REPORT ? "#" : "?") + text : "");
}

let writing = 0;
const listeners = [];
/** told: called with the keys that changed and what changed them. */
export const onAsk = (told) => listeners.push(told);
export function ask(changes, from = "") {
  state.now = snapped({ ...state.now, ...changes });
  clearTimeout(writing);
  writing = setTimeout(() => history.replaceState(null, "", address()), 150); // browsers refuse a hundred in a moment
  for (const told of listeners) told(changes, from);
}
export const askAnew = () => {
  const blank = Object.fromEntries(Object.keys(state.now).map((key) => [key, ""]));
  ask({ ...blank, ...(REPORT ? START_STATE : DEFAULTS) });
};
export const askAddress = () => ask({ ...START_STATE, ...fromAddress() }, "address");
/** What the address asked cannot be: the page's first question instead, and the address as it is. */
export function askFirst() {
  const blank = Object.fromEntries(Object.keys(state.now).map((key) => [key, ""]));
  state.now = snapped({ ...blank, ...(REPORT ? START_STATE : DEFAULTS) });
}

export async function fetched(path, more = {}) {
  const answer = await fetch(path, more);
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(found.error || `the server answered ${answer.status}`), { needs: found.needs });
  return found;
}

/** Each gives a document of page/documents.py, or null where there is none. */
const served = {
  answer: () => fetched(`api/answer?${query()}`),
  everything: (signal) => fetched(`api/all?${query()}`, { signal }),
  curve: async (axis, signal) => (await fetched(`api/curves?axis=${axis}&${query()}`, { signal })).curves[0] ?? null,
  serve: (signal) => fetched(`api/serve?${query()}`, { signal }),
  plan: () => fetched(`api/plan?${query()}`),
};

async function opened(packed) {
  const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  const grid = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  const at = () => Object.fromEntries(GRID.map((key) => [key, nearest(grid.axes[key], Number(state.now[key]))]));
  const place = (keys) => keys.map((key) => at()[key]).join();
  return {
    axes: grid.axes,
    answer: async () => {
      const { scheme } = state.now;
      const key = place(GRID), answer = grid.answers[key];
      if (!answer) throw new Error(grid.refused[key]);
      const rows = answer.rows.map((row) => ({ ...row, chosen: row.scheme === scheme }));
      return { ...answer, rows, detail: grid.details[scheme] ?? Object.values(grid.details)[0] };
    },
    everything: async () => null,
    curve: async (axis) => grid.curves[`${axis}:${place(GRID.filter((key) => key !== axis))}`] ?? null,
    serve: async () => grid.serve,
    plan: async () => grid.plan,
  };
}
const off = (value, wanted) => Math.abs(Math.log(value / wanted));
const nearest = (values, wanted) => values.reduce((best, value, i) => (off(value, wanted) < off(values[best], wanted) ? i : best), 0);

export const source = REPORT ? await opened(START.grid) : served;
/** In a report there is nothing between the points of the grid. */
function snapped(given) {
  const found = Object.entries(source.axes ?? {}).map(([key, values]) => [key, String(values[nearest(values, Number(given[key]))])]);
  return { ...given, ...Object.fromEntries(found) };
}
state.now = snapped(state.now);
