// Numbers as people read them, and nodes made of text. Names are the users': they become text, never HTML.

export const $ = (id) => document.getElementById(id);
export function make(tag, given = {}, ...inside) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(given)) {
    if (key in node && !key.includes("-")) node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...inside);
  return node;
}

export const digits = (value, count) => Number(value.toPrecision(count)).toString();
/** Milliseconds as "1.17 s" or "431 ms", to the digits that half an interval allows: two of the half's. */
export function time(ms, half = ms / 50) {
  const [unit, in_ms] = ms >= 1000 ? ["s", 1000] : ms >= 1 || ms === 0 ? ["ms", 1] : ["µs", 0.001];
  const after = half > 0 ? 1 - Math.floor(Math.log10(half / in_ms)) : 2;
  return ms === 0 ? "0" : `${(ms / in_ms).toFixed(Math.min(3, Math.max(0, after)))} ${unit}`;
}
export const halfOf = (row) => (row.interval_ms[1] - row.interval_ms[0]) / 2;
export const ttft = (row) => time(row.ttft_ms, halfOf(row));
export const span = (row) => row.interval_ms.map((end) => time(end, halfOf(row))).join(" to ");
export const times = (value) => (value == null ? "" : `${value.toFixed(2)}×`);
export const percent = (share) => `${digits(100 * share, 2)} %`;
export function loss(ratio) {
  return ratio == null ? "not measured" : `${ratio < 1 ? "−" : "+"}${Math.abs(100 * (ratio - 1)).toFixed(2)} %`;
}
const STANDINGS = {
  usable: "usable", floor: "a floor: no all-reduce at all, not to be had", beyond: "beyond the accuracy limit",
  unknown: "its accuracy was never measured", cannot: "does not run here",
};
export const why = (row) => (row.best ? "the best that is usable" : row.why || STANDINGS[row.standing] || row.standing);
