// Documents of page/documents.py into rows of charts, and into words.

import { DEFAULTS, LISTS, REPORT, state } from "./asked.js";
import { Chart, colour } from "./charts.js";
import { $, digits, loss, make, percent, span, time, times, ttft, why, withinTime } from "./numbers.js";

export const charts = Object.fromEntries([...document.querySelectorAll("[data-chart]")].map((one) => [one.dataset.chart, new Chart(one)]));
const PARTS = [["compute", "compute_ms"], ["codec", "codec_ms"], ["exposed wire", "wire_ms"], ["waiting", "waiting_ms"]];
const ROW = 27; // pixels of a scheme
const GROUPS = { usable: 0, unknown: 1, beyond: 1, floor: 2 };
const narrow = () => charts.ttft.figure.clientWidth < 480;

export function showBars(answer) {
  const small = narrow(), words = small ? 70 : 190; // pixels, of what is written behind the longest bar
  const able = answer.rows.filter((row) => row.ttft_ms != null);
  able.sort((a, b) => (GROUPS[a.standing] ?? 1) - (GROUPS[b.standing] ?? 1) || a.ttft_ms - b.ttft_ms);
  const parts = [], rows = [];
  able.forEach((row, order) => {
    const common = { label: row.scheme, order, opacity: row.standing === "usable" ? 1 : 0.35, why: why(row), whole: ttft(row) };
    const mark = row.best ? " · best" : `${row.chosen ? " · chosen" : ""}${row.standing === "usable" ? "" : ` · ${row.standing}`}`;
    rows.push({ ...common, low: row.interval_ms[0], high: row.interval_ms[1], best: row.best, said: small ? ttft(row) : `${ttft(row)} · ${times(row.speedup)}${mark}` });
    let start = 0;
    for (const [part, key] of PARTS) parts.push({ ...common, part, start, end: (start += row[key]), text: time(row[key]) });
  });
  const room = Math.max(2 * words, charts.ttft.figure.clientWidth - 140);
  const unable = answer.rows.filter((row) => row.ttft_ms == null).map((row) => row.scheme);
  const cell = (row, text) => (row.ttft_ms == null ? "" : text(row));
  return charts.ttft.put({
    data: { rows, parts }, height: ROW * rows.length, signals: { most: Math.max(...rows.map((row) => row.high)) / (1 - words / room), columns: small ? 2 : 4 },
    said: `Whiskers are the 90 % interval${small ? "" : `; × is how many times as soon as ${answer.baseline}`}. Faded: over the limit (${answer.limit}), never measured, or a floor that is not to be had.`
      + (unable.length ? ` Does not run here: ${unable.join(", ")}.` : ""),
    table: answer.rows.map((row) => ({
      scheme: row.scheme, TTFT: cell(row, ttft), "90 %": cell(row, span),
      ...Object.fromEntries(PARTS.map(([part, key]) => [part, cell(row, () => time(row[key]))])), "times as soon": times(row.speedup),
      "bits a value": row.bits.map((one) => digits(one, 3)).join(" + "), perplexity: row.perplexity == null ? "" : loss(row.perplexity),
      "look-ups lost": row.lookups_lost == null ? "" : `${digits(row.lookups_lost, 2)} points`, standing: why(row),
    })),
  });
}

const LINES = ["accent", "exposed", "codec", "second", "waiting", "compute"];
const DASHES = [[6, 3], [2, 2], [8, 3, 2, 3], [4, 2], [1, 3], [1, 0]];
/** A colour and a dash for each scheme: the baseline in ink, the best in green, whoever else in turn. */
function stylesOf(names, answer) {
  const best = answer.rows.find((row) => row.best)?.scheme;
  const others = names.filter((name) => name !== answer.baseline && name !== best);
  return Object.fromEntries(names.map((name) => {
    const i = others.indexOf(name);
    const [ink, dash] = i >= 0 ? [LINES[i % LINES.length], DASHES[i % DASHES.length]] : [name === best ? "best" : "ink", [1, 0]];
    return [name, { colour: colour(ink), dash, weight: name === state.now.scheme || name === best ? 2.75 : 1.75 }];
  }));
}
function swatch({ colour: stroke, dash, weight }) {
  const svg = (tag, given) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(given)) node.setAttribute(key, value);
    return node;
  };
  const line = svg("svg", { viewBox: "0 0 28 8", "aria-hidden": "true" });
  line.append(svg("path", { d: "M1 4H27", stroke, "stroke-width": weight, "stroke-dasharray": dash.join(" ") }));
  return line;
}

export const CURVES = { input_tokens: "length", link: "link", tp: "degree" };
const AT = {
  input_tokens: (x) => `${Number(x.toPrecision(x % 1 ? 2 : 9)).toLocaleString("en")} tokens`, link: (x) => `links ×${digits(x, 2)}`, tp: (x) => `TP ${x}`,
};

/** Round values within a range, for an axis in logarithms: few decades have more. */
function levels(values) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const within = most / least > 300 ? [1] : most / least > 30 ? [1, 3] : [1, 2, 5];
  const decades = [-2, -1, 0, 1, 2, 3, 4, 5, 6, 7];
  return decades.flatMap((power) => within.map((one) => one * 10 ** power)).filter((level) => level >= least && level <= most);
}

export function showCurve(curve, answer) {
  const chart = charts[CURVES[curve.axis]];
  const style = stylesOf(curve.series.map((one) => one.scheme), answer);
  const { scheme } = state.now;
  const rows = [], band = [];
  for (const one of curve.series) {
    curve.x.forEach((x, i) => {
      if (one.ttft_ms[i] == null) return;
      const [low, high] = [one.low_ms[i], one.high_ms[i]];
      rows.push({ scheme: one.scheme, x, at: AT[curve.axis](x), ttft: one.ttft_ms[i], said: time(one.ttft_ms[i], (high - low) / 2), ...style[one.scheme] });
      if (one.scheme === scheme) band.push({ x, low, high, colour: style[scheme].colour });
    });
  }
  const mine = rows.filter((row) => row.scheme === scheme);
  const log = curve.axis === "input_tokens";
  chart.section.hidden = false;
  const places = curve.x.filter((x, i) => curve.series.some((one) => one.ttft_ms[i] != null));
  if (places.length < 2) {
    const only = places.length ? `Only ${AT[curve.axis](places[0])} can be` : "Nothing can be";
    return chart.say(`${only} here${mine.length ? `: ${scheme} takes ${mine[0].said}` : ""}.`);
  }
  return chart.put({
    data: { rows, band, here: [{ x: curve.axis === "tp" ? curve.now : Number(state.now[curve.axis]) }], crossings: curve.crossovers.map((one) => ({ x: one.x, ttft: one.ttft_ms, text: one.text })) },
    signals: { axis: curve.axis, ticks: curve.axis === "tp" ? places : curve.x, levels: log ? levels(rows.map((row) => row.ttft)) : [] },
    said: mine.length ? `${scheme}: ${mine[0].said} at ${mine[0].at}, ${mine.at(-1).said} at ${mine.at(-1).at}` : "",
    change: (spec) => {
      const { y } = spec.layer[0].encoding;
      if (curve.axis === "tp") for (const { mark } of spec.layer) if (mark.type === "line") mark.interpolate = "linear"; // between degrees there is nothing
      if (log) Object.assign(y, { scale: { type: "log", nice: false }, axis: { ...y.axis, values: { expr: "levels" } } });
      return spec;
    },
    table: curve.x.map((x, i) => ({
      [curve.label]: log ? String(x) : curve.axis === "link" ? `×${digits(x, 3)} (${curve.marks[i]})` : String(x),
      ...Object.fromEntries(curve.series.map((one) => [one.scheme, one.ttft_ms[i] == null ? "" : time(one.ttft_ms[i])])),
    })),
  });
}
/** What the three have in common: what the lines are, and where they cross. */
export function showLines(curves, answer) {
  const names = [...new Set(curves.flatMap((curve) => curve.series.map((one) => one.scheme)))];
  const style = stylesOf(names, answer);
  $("lines").replaceChildren(...names.map((name) => make("li", {}, swatch(style[name]), name)));
  const all = curves.flatMap((curve) => curve.crossovers.map((one) => one.text));
  $("crossovers").textContent = all.length ? `Dots mark where one scheme overtakes another: ${all.slice(0, 3).join("; ")}${all.length > 3 ? "; …" : "."}`
    : "No scheme overtakes another within these ranges. The dashed line is where you are, the band the 90 % interval of the chosen scheme.";
}
/** The line that says where one is, before anything is computed. */
export function showHere(axis, x) {
  const chart = charts[CURVES[axis]];
  if (!chart?.data) return;
  chart.data.here = [{ x }];
  chart.dirty = true;
  chart.draw();
}

/** Rows that no other beats in both: cost rising, gain rising. */
function frontier(rows, cost, gain) {
  let best = -Infinity;
  return [...rows].sort((a, b) => cost(a) - cost(b) || gain(b) - gain(a)).filter((row) => gain(row) > best && (best = gain(row), true));
}
/** Of points in order of importance, those whose names do not run into one another. */
function apart(points, x, y, dx, dy) {
  const kept = [];
  for (const one of points) if (kept.every((other) => Math.abs(x(one) - x(other)) > dx || Math.abs(y(one) - y(other)) > dy)) kept.push(one);
  return new Set(kept);
}

export function showPareto(answer) {
  const limit = 100 * (Number(state.now.max_perplexity) - 1);
  const most = Math.max(2 * limit, 2);
  const lost = (row) => 100 * (row.perplexity - 1);
  const gain = (row) => row.speedup;
  const crossed = (row) => row.standing === "beyond" && lost(row) <= limit; // for the look-ups that it loses
  const known = answer.rows.filter((row) => row.ttft_ms != null && row.perplexity != null && row.standing !== "floor");
  const inside = known.filter((row) => lost(row) <= most);
  const edge = frontier(inside, lost, gain);
  const tall = Math.max(...inside.map(gain)) - Math.min(...inside.map(gain));
  const named = apart([...inside.filter((row) => row.best || row.scheme === answer.baseline), ...edge.reverse()], lost, gain, most / 3.5, tall / 15);
  const rows = inside.map((row) => ({
    scheme: row.scheme, loss: lost(row), speedup: row.speedup, lookups_text: row.lookups_lost == null ? "not asked" : `${digits(Math.max(0, row.lookups_lost), 2)} of 100`, speed_text: times(row.speedup), loss_text: loss(row.perplexity), ttft_text: ttft(row), why: why(row),
    low: 100 * ((row.perplexity_interval?.[0] ?? row.perplexity) - 1), high: Math.min(most, 100 * ((row.perplexity_interval?.[1] ?? row.perplexity) - 1)),
    colour: colour(row.best ? "best" : row.chosen ? "accent" : row.standing === "usable" ? "ink" : "soft"), size: row.best || row.chosen ? 150 : 60,
    shape: row.best ? "diamond" : crossed(row) ? "cross" : "circle", opacity: row.best || row.chosen ? 1 : row.standing === "usable" ? 0.75 : 0.4, named: named.has(row) && !row.chosen, below: row.chosen,
  }));
  const beyond = known.length - inside.length;
  const by = known.find((row) => row.measured_on)?.measured_on;
  return charts.pareto.put({
    data: { rows, frontier: edge.map((row) => ({ loss: lost(row), speedup: row.speedup })), limits: [{ from: limit, to: most }] },
    signals: { most, least: Math.min(0, ...rows.map((row) => row.low)) },
    said: `Up and left is better; the line joins what nothing else beats. Shaded: over the limit of perplexity${inside.some(crossed) ? "; a cross: within it, but over the limit of look-ups" : ""}.${by ? ` Perplexity as measured on ${by}.` : ""}`
      + (beyond ? ` ${beyond} more lose over ${digits(most, 3)} % and are not drawn.` : ""),
    table: known.map((row) => ({ scheme: row.scheme, perplexity: loss(row.perplexity), "look-ups lost": row.lookups_lost == null ? "" : `${digits(row.lookups_lost, 2)} points`, "times as soon": times(row.speedup), TTFT: ttft(row), standing: why(row) })),
  });
}

/** Where the prices are from; and whether the machine that is asked about has one. */
function pricesOf(plan) {
  const { cluster } = state.now;
  const named = (name) => LISTS.cluster.find((one) => one.name === name)?.label.split(":")[0] ?? name;
  const prices = plan.prices.map((one) => `${named(one.name)} ${one.per_gpu_hour.toFixed(2)}`).join(", ");
  const sources = [...new Set(plan.prices.map((one) => one.source))].join("; ");
  const how = REPORT ? "--price MACHINE=NUMBER gives one" : "give one below";
  const left = plan.prices.some((one) => one.name === cluster) ? "" : ` ${named(cluster)} is not in this plan, for no price of it is known: ${how}.`;
  return `Of a GPU an hour, in ${plan.currency}: ${prices} (${sources}).${left}`;
}
export function showPlan(plan) {
  const shown = (one) => `${one.replicas > 1 ? `${one.replicas} × ` : ""}${one.machine}, TP ${one.tp}`;
  const price = (one) => `${one.cost_per_hour.toFixed(2)} ${plan.currency}`;
  const run = plan.deployments.filter((one) => one.cost_per_hour != null && one.ttft_ms != null);
  // Of cost and time alone: the plan's own frontier has what accuracy saves besides, and its line would go up and down.
  const edge = frontier(run.filter((one) => one.kept), (one) => one.cost_per_hour, (one) => -one.ttft_ms);
  const most = Math.max(...run.map((one) => one.cost_per_hour)), least = Math.min(...run.map((one) => one.cost_per_hour));
  const tall = Math.max(plan.target_ms, ...run.map((one) => one.ttft_ms));
  const beside = (one) => one.ttft_ms + (one.ttft_ms < 0.12 * tall ? 0.05 : -0.05) * tall; // where its name is
  const named = apart([...run.filter((one) => one.best), ...edge], (one) => one.cost_per_hour, beside, (most - least) / 2, tall / 20);
  const standing = (one) => (one.best ? "the cheapest that keeps the target" : one.why || (one.kept ? "keeps the target" : "misses the target"));
  return charts.cost.put({
    data: {
      rows: run.map((one) => ({
        cost: one.cost_per_hour, ttft: one.ttft_ms, what: shown(one), scheme: one.scheme, label: `${one.replicas > 1 ? `${one.replicas} × ` : ""}${one.machine}, ${one.scheme}`,
        cost_text: price(one), ttft_text: withinTime(one.ttft_ms, one.ttft_plus_minus_ms), why: standing(one), colour: colour(one.best ? "best" : one.kept ? "ink" : "soft"),
        size: one.best ? 160 : 70, shape: one.best ? "diamond" : "circle", opacity: one.kept ? 1 : 0.5, named: named.has(one), right: one.cost_per_hour > (most + least) / 2, beside: beside(one),
      })),
      frontier: edge.map((one) => ({ cost: one.cost_per_hour, ttft: one.ttft_ms })), target: [{ ttft: plan.target_ms }],
    },
    signals: { currency: plan.currency },
    said: `${plan.verdict} ${pricesOf(plan)} ${plan.note}.`,
    table: plan.deployments.map((one) => ({
      deployment: shown(one), scheme: one.scheme, "an hour": one.cost_per_hour == null ? "" : price(one),
      [`TTFT p${plan.percentile}`]: one.ttft_ms == null ? "" : withinTime(one.ttft_ms, one.ttft_plus_minus_ms), standing: standing(one),
    })),
  });
}

export function showServe(serve) {
  const rows = [], spans = [];
  serve.rows.forEach((row, order) => {
    const values = row.ttft.map((one) => one.value_ms);
    if (values.length) spans.push({ scheme: row.scheme, order, low: Math.min(...values), high: Math.max(...values) });
    for (const one of row.ttft) rows.push({ scheme: row.scheme, order, percentile: one.name, ttft: one.value_ms, said: withinTime(one.value_ms, one.plus_minus_ms) });
  });
  const full = serve.rows.filter((row) => row.saturated).map((row) => row.scheme);
  const target = Number(state.now.slo_ttft_ms), far = target >= 1.5 * Math.max(...rows.map((row) => row.ttft));
  $("rate").placeholder = digits(serve.rate, 3);
  return charts.serve.put({
    height: ROW * spans.length, data: { rows, spans, target: far ? [] : [{ ttft: target, said: `target, ${time(target)}` }] },
    said: `At ${digits(serve.rate, 3)} request${serve.rate === 1 ? "" : "s"} a second: ${serve.note}.` + (full.length ? ` Saturated: ${full.join(", ")}.` : "")
      + (far ? ` The target, ${time(target)}, is to the right of what is drawn.` : " Dashed: the target."),
    table: serve.rows.map((row) => ({
      scheme: row.scheme, ...Object.fromEntries(row.ttft.map((one) => [`TTFT ${one.name}`, withinTime(one.value_ms, one.plus_minus_ms)])),
      ...Object.fromEntries(row.tpot.map((one) => [`a token ${one.name}`, withinTime(one.value_ms, one.plus_minus_ms)])),
      "keeps the target": row.kept == null ? "" : percent(row.kept), "": row.why ?? (row.saturated ? "saturated" : ""),
    })),
  });
}

/** In a report the details are of the prompt asked for, wherever the sliders are. */
function elsewhere(detail) {
  const off = ["batch", "input_tokens", "link"].some((key) => Number(detail.at[key] ?? DEFAULTS[key]) !== Number(state.now[key]));
  return off ? ` This is at ${detail.at.batch} × ${detail.at.input_tokens} tokens${detail.at.link ? `, links ×${detail.at.link}` : ""}.` : "";
}

export const shown = { whole: 1, from: 0, to: 1 }; // microseconds of the timeline
export function showTimeline(detail) {
  const { timeline } = detail;
  const rows = timeline.bars.map((bar) => ({
    lane: `rank ${bar.rank} ${bar.stream === "compute" ? "compute" : "wire"}`, order: 2 * bar.rank + (bar.stream === "compute" ? 0 : 1), kind: bar.kind, name: bar.name,
    start: bar.start_us, end: bar.end_us, said: time((bar.end_us - bar.start_us) / 1000), at: time(bar.start_us / 1000),
  }));
  if (shown.whole !== timeline.layer_us) Object.assign(shown, { whole: timeline.layer_us, from: 0, to: timeline.layer_us });
  return charts.timeline.put({
    data: { rows }, height: 16 * new Set(rows.map((row) => row.lane)).size, signals: { from: shown.from, to: shown.to },
    said: `Layer ${timeline.layer} of ${timeline.layers} under ${detail.scheme} takes ${time(timeline.layer_us / 1000)}.${elsewhere(detail)}`, // the note says how it was folded
    table: rows.map((row) => ({ "rank, stream": row.lane, kind: row.kind, name: row.name, from: row.at, takes: row.said })),
  });
}
/** share: the place that stays, of the width; move: by how much of it. */
export function zoom(factor, share = 0.5, move = 0) {
  const before = shown.to - shown.from;
  const width = Math.min(shown.whole, Math.max(shown.whole / 500, before * factor));
  const from = Math.min(Math.max(0, shown.from + (before - width) * share + move * width), shown.whole - width);
  Object.assign(shown, { from, to: from + width });
  const chart = charts.timeline;
  Object.assign(chart.signals, { from, to: from + width });
  chart.dirty = true;
  return chart.draw();
}

const INKS = { gpu: "best", switch: "compute", host_bridge: "soft", nic: "second" }; // none of those that say how busy
/** Where nodes are drawn: as the document says, but GPUs that are linked one to one stand in a ring, or their links would
 * lie on one another. */
function placed(drawing) {
  const { nodes, width, height } = drawing;
  if (nodes.length < 3 || nodes.some((node) => node.kind !== "gpu")) return { nodes, width, height };
  const turn = (i) => ((i + 0.5) / nodes.length) * 2 * Math.PI - Math.PI / 2;
  return { width, height: 4, nodes: nodes.map((node, i) => ({ ...node, x: width * (0.5 + 0.25 * Math.cos(turn(i))), y: 2 + 1.5 * Math.sin(turn(i)) })) };
}
/** What links share, in words; its names are those of topologies/generators.py. */
function pooled(name) {
  const said = [[/^(.*)\.duplex$/, "$1, sending and receiving together"], [/^(.*)\.memory$/, "$1, the host's memory"], [/^socket(\d+)-(\d+)$/, "between sockets $1 and $2, both ways"], [/^(bridge\d+)$/, "$1, all that passes it"]];
  const found = said.find(([shape]) => shape.test(name));
  return found ? name.replace(...found) : name;
}
export function showCluster(detail) {
  const { drawing } = detail, { nodes: points, width, height } = placed(drawing);
  const at = Object.fromEntries(points.map((node) => [node.name, node]));
  const unit = charts.cluster.figure.clientWidth / Math.max(1, width);
  const gpu = (name) => at[name].kind === "gpu";
  const both = (link) => `${link.source} – ${link.target}`;
  const drawn = drawing.links.filter((link) => at[link.source] && at[link.target]);
  const told = drawn.filter((link) => !gpu(link.source) && !gpu(link.target) && link.utilisation > 0);
  const links = drawn.map((link) => ({
    x: at[link.source].x, y: at[link.source].y, x2: at[link.target].x, y2: at[link.target].y, busy: 100 * link.utilisation, weight: 1.5 + 7 * Math.min(1, link.utilisation),
    link: both(link), rate: `${digits(link.gb_per_s, 3)} GB/s`, sent: `${digits(link.mb / 1000, 3)} GB`, busy_text: percent(link.utilisation),
    mx: (at[link.source].x + at[link.target].x) / 2, my: (at[link.source].y + at[link.target].y) / 2,
    said: told.length <= 6 && told.includes(link) ? percent(link.utilisation) : "",
  })).sort((a, b) => a.busy - b.busy);
  const nodes = points.map((node) => {
    const room = unit * Math.min(2, ...points.filter((other) => other !== node && other.y === node.y).map((other) => Math.abs(other.x - node.x)));
    const idle = node.kind === "gpu" && node.rank == null;
    const label = node.kind === "gpu" ? String(node.rank ?? "") : node.name.split(".").at(-1);
    const side = Math.min(15, Math.max(5, 0.38 * room)); // half of it, in pixels
    const wide = node.kind === "gpu" ? side : Math.min(0.44 * room, Math.max(side, 3.4 * label.length + 7));
    const high = node.kind === "gpu" ? side : Math.min(side, 12);
    return {
      name: node.name, kind: node.kind.replace("_", " "), x: node.x, y: node.y, is: node.rank ?? (idle ? "not used" : ""),
      shape: `M${-wide},${-high}H${wide}V${high}H${-wide}Z`, colour: colour(idle ? "faded" : INKS[node.kind] ?? "strong"), label: wide >= 3.2 * label.length ? label : "",
    };
  });
  const wires = [...drawing.links, ...drawing.pools].sort((a, b) => b.utilisation - a.utilisation);
  const name = (wire) => (wire.target ? both(wire) : pooled(wire.source));
  return charts.cluster.put({
    data: { links, nodes }, signals: { across: width, down: height }, height: Math.round(40 + 85 * height),
    said: (wires.length ? `Under ${detail.scheme} the busiest is ${name(wires[0])}, ${percent(wires[0].utilisation)} of what it could carry in the time of the prefill. Numbers are ranks.` : drawing.note) + elsewhere(detail),
    table: wires.map((wire) => ({ link: name(wire), rate: `${digits(wire.gb_per_s, 3)} GB/s`, sent: `${digits(wire.mb / 1000, 3)} GB`, busy: percent(wire.utilisation) })),
  });
}

// ---- words

export function showWords(answer) {
  const best = answer.rows.find((row) => row.best);
  const chosen = answer.rows.find((row) => row.chosen);
  const base = answer.rows.find((row) => row.scheme === answer.baseline);
  const told = best ?? base;
  document.title = `${answer.title} · thinwire`;
  $("asked").textContent = answer.title;
  $("verdict").textContent = answer.verdict;
  const tiles = [];
  const tile = (name, value, small) => tiles.push(make("div", {}, make("dt", {}, name), make("dd", {}, value, make("small", {}, small))));
  tile(best ? "Best usable scheme" : "None is usable: uncompressed", told.scheme, `${told.bits.map((one) => digits(one, 3)).join(" + ")} bits a value`);
  tile("Time to first token", ttft(told), `${span(told)} (90 %)`);
  tile("Times as soon", times(told.speedup), told === base ? "it is what others are held against" : `${ttft(base)} under ${answer.baseline}`);
  tile("Perplexity", loss(told.perplexity), `limit ${loss(Number(state.now.max_perplexity))}`);
  const lookups = told.lookups_lost == null ? "not asked" : `${digits(Math.max(0, told.lookups_lost), 2)} of 100`;
  tile("Look-ups lost", told === base ? "none" : lookups, `facts in a long prompt not found again; limit ${answer.limit.match(/([\d.]+) points/)?.[1] ?? ""}`);
  if (chosen && chosen !== told && chosen !== base && chosen.ttft_ms != null) tile(`Chosen: ${chosen.scheme}`, ttft(chosen), `${times(chosen.speedup)}, ${why(chosen)}`);
  $("figures").replaceChildren(...tiles);
  $("notes").replaceChildren(...answer.notes.map((note) => make("li", {}, note)));
}

function ground(one) {
  const share = one.share > 0 ? [" ", make("span", { className: "share" }, `${percent(one.share)} of the interval`)] : [];
  return make("li", {}, make("span", { className: "kind", "data-kind": one.kind }, one.kind), make("span", {}, one.text, ...share));
}
export function showGrounds(detail) {
  const twice = detail.rests_on.reduce((sum, one) => sum + one.share, 0) > 1.005 ? " Sentences about the same part of the interval each say its whole share, so shares add up to more than one." : "";
  const most = detail.rests_on.slice(0, 3), rest = detail.rests_on.slice(3);
  $("rests-lead").textContent = `${detail.scheme}, what matters most first, each with the class of its source.${twice}${elsewhere(detail)}`;
  $("grounds").replaceChildren(...most.map(ground));
  $("more-grounds").hidden = !rest.length;
  $("more-grounds").querySelector("summary").textContent = `${rest.length} more`;
  $("more-grounds").querySelector("ul").replaceChildren(...rest.map(ground));
}
export function showCommands(answer) {
  const { detail } = answer;
  $("command").textContent = [answer.command, detail?.command].filter(Boolean).join("\n");
  $("python").textContent = [answer.python, ...(detail?.python ?? "").split("\n").slice(1)].join("\n");
}
