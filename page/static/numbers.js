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
/** The power of ten that the last digit of a number of seconds is worth, as edge/quantities.py has it: what is said in the
 * headline and what stands below it agree. half: of its interval, or of what it is off by; none: three digits. */
function powerOf(seconds, half) {
  const bare = half == null || !(half > 0) || !Number.isFinite(half), most = half == null ? 3 : 4;
  const first = seconds ? Math.floor(Math.log10(Math.abs(Number(seconds.toExponential(most - 1))))) : 0;
  const finest = seconds ? first - most + 1 : 0;
  if (bare) return finest;
  const allowed = Math.floor(Math.log10(half / 9) + 1e-9);
  return seconds ? Math.max(Math.min(allowed, first), finest) : allowed;
}
/** The same of a time that has an interval: three digits at least, beside it stand others. */
const timePower = (seconds, half) => (half == null ? powerOf(seconds) : Math.min(powerOf(seconds, half), powerOf(seconds)));
const UNITS = [[0, "s"], [-3, "ms"], [-6, "µs"], [-9, "ns"]];
function unitOf(seconds, power) {
  const size = Math.max(Math.abs(seconds), Math.abs(Math.round(seconds / 10 ** power) * 10 ** power));
  return UNITS.find(([one]) => size >= 10 ** one * (1 - 1e-12)) ?? UNITS.at(-1);
}
function inUnit(seconds, [unit], power) {
  const value = seconds / 10 ** unit, last = power - unit;
  return last >= 0 ? String(Math.round(value / 10 ** last) * 10 ** last) : value.toFixed(Math.min(9, -last));
}
/** Milliseconds as "1.17 s" or "430 ms", to the digits that half an interval allows. */
export function time(ms, half = null) {
  if (ms === 0) return "0";
  const seconds = ms / 1e3, power = timePower(seconds, half == null ? null : half / 1e3), unit = unitOf(seconds, power);
  return `${inUnit(seconds, unit, power)} ${unit[1]}`;
}
/** Several as the first, which decides on unit and digits. */
export function timesAs(ms, half, others) {
  const power = powerOf(ms / 1e3, half / 1e3), unit = unitOf(ms / 1e3, power);
  return { unit: unit[1], texts: others.map((one) => inUnit(one / 1e3, unit, power)) };
}
/** "431 ms ± 9" of a simulation; "431 ms" where nothing says how far chance alone is off. */
export function withinTime(ms, plusMinus) {
  if (!plusMinus) return time(ms);
  const { unit, texts } = timesAs(ms, plusMinus, [ms, plusMinus]);
  return `${texts[0]} ± ${texts[1]} ${unit}`;
}
export const halfOf = (row) => (row.interval_ms[1] - row.interval_ms[0]) / 2;
export const ttft = (row) => time(row.ttft_ms, halfOf(row));
export function span(row) {
  const [seconds, half, high] = [row.ttft_ms / 1e3, halfOf(row) / 1e3, row.interval_ms[1] / 1e3];
  const power = timePower(seconds, half), unit = unitOf(seconds, power);
  const coarse = Math.min(powerOf(seconds, half), Math.max(power, powerOf(high)));
  return `${row.interval_ms.map((one) => inUnit(one / 1e3, unit, coarse)).join(" to ")} ${unit[1]}`;
}
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
