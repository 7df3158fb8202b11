// The page: controls and the address say what is asked; answers, from the server or from a report's grid, become charts.
// One plain module, no library but vega-embed. Names are the users': they become text nodes, never HTML.

const $ = (id) => document.getElementById(id);
const START = JSON.parse($("thinwire-data").textContent);
const REPORT = START.mode === "report";
const DEFAULTS = START.options.defaults;
const SLIDERS = Object.fromEntries(START.options.sliders.map((one) => [one.key, one]));
const LISTS = { model: START.options.models, cluster: START.options.machines, scheme: START.options.schemes };
const form = $("question");

const make = (tag, given = {}, ...inside) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(given)) {
    if (key in node) node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...inside);
  return node;
};

// ---- numbers as people read them

const digits = (value, count) => Number(value.toPrecision(count)).toString();
/** Milliseconds as "0.43 s" or "431 ms", to the digits that half an interval allows (two of the half's). */
function time(ms, half = ms / 50) {
  const [value, unit, scale] = ms >= 1000 ? [ms / 1000, "s", 1000] : ms >= 1 ? [ms, "ms", 1] : [ms * 1000, "µs", 0.001];
  const places = Math.min(3, Math.max(0, 1 - Math.floor(Math.log10(Math.max(half / scale, 1e-3)))));
  return `${value.toFixed(half > 0 ? places : 2)} ${unit}`;
}
const spanText = (row) => {
  const [low, high] = row.interval_ms;
  const half = (high - low) / 2;
  return half > 0 ? `${time(low, half)} to ${time(high, half)}` : time(low);
};
const ttft = (row) => time(row.ttft_ms, (row.interval_ms[1] - row.interval_ms[0]) / 2);
const times = (value) => (value == null ? "" : `${value.toFixed(2)}×`);
const percent = (share) => `${digits(100 * share, 2)} %`;
const loss = (ratio) => (ratio == null ? "not measured" : `${ratio >= 1 ? "+" : "−"}${Math.abs(100 * (ratio - 1)).toFixed(2)} %`);
const WHY = {
  usable: "usable", floor: "a floor: no all-reduce at all, not to be had", beyond: "beyond the accuracy limit",
  unknown: "accuracy never measured", cannot: "does not run here",
};
const whyOf = (row) => (row.best ? "the best that is usable" : row.why || WHY[row.standing] || row.standing);

// ---- what is asked: one object of strings, the same keys as the address has

let state = { ...DEFAULTS, ...START.state, ...Object.fromEntries(new URLSearchParams(REPORT ? location.hash.slice(1) : location.search)) };
const query = (given = state) => {
  const kept = Object.entries(given).filter(([key, value]) => value !== "" && value !== DEFAULTS[key]);
  return new URLSearchParams(kept).toString();
};
let writing = 0;
function remember() {
  clearTimeout(writing);
  writing = setTimeout(() => {
    const said = query();
    history.replaceState(null, "", REPORT ? `#${said}` : `${location.pathname}${said ? "?" + said : ""}`);
  }, 150);
}
function ask(changes, from = "control") {
  state = { ...state, ...changes };
  remember();
  showControls(from);
  refresh();
}

// ---- where answers come from: the server, or the grid of a report

async function fetched(path, more = {}) {
  const answer = await fetch(path, more);
  const said = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
  if (!answer.ok) throw new Error(said.error || `the server answered ${answer.status}`);
  return said;
}
const withQuery = (path) => `${path}?${query()}`;
const served = {
  answer: () => fetched(withQuery("api/answer")),
  everything: (signal) => fetched(withQuery("api/all"), { signal }),
  curves: (signal) => fetched(withQuery("api/curves"), { signal }).then((found) => found.curves),
  serve: (signal) => fetched(withQuery("api/serve"), { signal }),
  plan: () => fetched(withQuery("api/plan")),
};
async function opened(grid) {
  const bytes = Uint8Array.from(atob(grid), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const found = await new Response(stream).json();
  const keys = ["batch", "input_tokens", "link"];
  const at = () => keys.map((key) => nearest(found.axes[key], Number(state[key])));
  return {
    axes: found.axes,
    answer: async () => {
      const answer = found.answers[at().join()];
      const rows = answer.rows.map((row) => ({ ...row, chosen: row.scheme === state.scheme }));
      return { ...answer, rows, detail: found.details[state.scheme] ?? Object.values(found.details)[0] };
    },
    everything: async () => null,
    curves: async () => {
      const [batch, length, link] = at();
      const names = [`input_tokens:${batch},${link}`, `link:${batch},${length}`, `tp:${batch},${length},${link}`];
      return names.map((name) => found.curves[name]).filter(Boolean);
    },
    serve: async () => found.serve,
    plan: async () => found.plan,
  };
}
const nearest = (values, wanted) =>
  values.reduce((best, value, i) => (Math.abs(Math.log(value / wanted)) < Math.abs(Math.log(values[best] / wanted)) ? i : best), 0);

// ---- charts: specs in charts/*.json, colours from page.css, data put into views that stay

const probe = document.body.appendChild(make("span", { hidden: true }));
function colour(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}
const look = () => ({
  background: colour("paper"), font: getComputedStyle(document.body).fontFamily, padding: { left: 2, right: 6, top: 4, bottom: 4 },
  view: { stroke: null },
  axis: {
    labelColor: colour("soft"), titleColor: colour("soft"), gridColor: colour("line"), domainColor: colour("strong"),
    tickColor: colour("strong"), labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", titlePadding: 8, tickSize: 4,
  },
  axisY: { domain: false, ticks: false, labelPadding: 6 },
  axisYQuantitative: { gridDash: [2, 3] },
  axisXQuantitative: { gridDash: [2, 3] },
  legend: {
    labelColor: colour("soft"), titleColor: colour("soft"), labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal",
    symbolSize: 110, offset: 10, columnPadding: 14,
  },
  text: { color: colour("ink"), font: getComputedStyle(document.body).fontFamily },
});

class Chart {
  constructor(section) {
    this.section = section;
    this.name = section.dataset.chart;
    this.figure = section.querySelector("figure");
    this.title = section.querySelector("h2, h3").textContent;
    this.lead = section.querySelector(".lead");
    this.lead.id = `lead-${this.name}`;
    this.figure.setAttribute("role", "img");
    this.table = make("div", { className: "scroll", tabIndex: 0, role: "region" });
    this.table.setAttribute("aria-label", `${this.title}: a table`);
    this.folded = make("details", {}, make("summary", {}, "As a table"), this.table);
    this.folded.addEventListener("toggle", () => this.fill());
    const save = make("button", { type: "button" }, "PNG");
    save.setAttribute("aria-label", `${this.title}: as a PNG`);
    save.addEventListener("click", () => this.save());
    this.figure.after(make("div", { className: "under" }, this.folded, save));
    this.seen = false;
    new IntersectionObserver(([entry]) => {
      this.seen = entry.isIntersecting;
      if (this.seen) this.draw();
    }, { rootMargin: "150px" }).observe(this.figure);
  }

  /** data: rows by name; signals: numbers; said: a summary in words; table: rows for those who cannot see the chart. */
  put({ data, signals = {}, said = "", table = [], change = (spec) => spec }) {
    Object.assign(this, { data, signals, rows: table, change, dirty: true });
    if (this.lead.textContent !== said) this.lead.textContent = said;
    this.figure.setAttribute("aria-label", `${this.title}. ${said}`);
    this.fill();
    return this.draw();
  }

  async draw(whole = false) {
    if (!this.data || !(this.dirty || whole) || !(this.seen || whole) || this.section.hidden) return;
    if (this.busy) return this.busy.then(() => this.draw());
    this.dirty = false;
    this.busy = (this.view ? this.update() : this.embed()).finally(() => (this.busy = null));
    return this.busy;
  }

  async embed() {
    const text = JSON.stringify(START.charts[this.name] ?? START.charts.curve);
    const spec = this.change(JSON.parse(text.replace(/"\$([a-z]+)"/g, (_, name) => JSON.stringify(colour(name)))));
    spec.datasets = { ...spec.datasets, ...this.data };
    for (const one of spec.params ?? []) if (one.name in this.signals) one.value = this.signals[one.name];
    const drawn = await window.vegaEmbed(this.figure, spec, {
      actions: false, renderer: "svg", ast: true, config: look(), logLevel: 1, defaultStyle: false,
      tooltip: { disableDefaultStyle: true },
    });
    this.view = drawn.view;
    this.finish = drawn.finalize;
  }

  async update() {
    for (const [name, value] of Object.entries(this.signals)) this.view.signal(name, value);
    for (const [name, rows] of Object.entries(this.data)) this.view.data(name, rows);
    await this.view.runAsync();
  }

  /** Anew, in other colours. */
  again() {
    this.finish?.();
    this.view = null;
    this.dirty = true;
    return this.draw();
  }

  fill() {
    if (!this.folded.open || !this.rows) return;
    const names = Object.keys(this.rows[0] ?? {});
    const numeric = (value) => (/^[−+]?[\d.]/.test(String(value)) ? "number" : "");
    const head = make("tr", {}, ...names.map((name) => make("th", { scope: "col", className: numeric(this.rows[0][name]) }, name)));
    const body = this.rows.map((row) =>
      make("tr", {}, ...names.map((name, i) => make(i ? "td" : "th", i ? { className: numeric(row[name]) } : { scope: "row" }, String(row[name] ?? "")))));
    this.table.replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
  }

  async save() {
    await this.draw(true);
    if (this.view) download(await this.view.toImageURL("png", 2), `thinwire-${this.name}.png`);
  }
}

function download(address, name) {
  make("a", { href: address, download: name }).click();
}
const charts = Object.fromEntries([...document.querySelectorAll("[data-chart]")].map((s) => [s.dataset.chart, new Chart(s)]));
const paired = [["compute", "compute_ms"], ["codec", "codec_ms"], ["exposed wire", "wire_ms"], ["waiting", "waiting_ms"]];

function showBars(answer) {
  const groups = { usable: 0, unknown: 1, beyond: 1, floor: 2 };
  const run = answer.rows.filter((row) => row.ttft_ms != null);
  run.sort((a, b) => (groups[a.standing] ?? 1) - (groups[b.standing] ?? 1) || a.ttft_ms - b.ttft_ms);
  const parts = [], rows = [];
  run.forEach((row, order) => {
    const common = { label: row.scheme, order, opacity: row.standing === "usable" ? 1 : 0.38, why: whyOf(row), whole: ttft(row) };
    const [low, high] = row.interval_ms;
    const mark = row.best ? " · best" : row.chosen ? " · chosen" : row.standing === "usable" ? "" : ` · ${row.standing}`;
    rows.push({ ...common, low, high, best: row.best, said: `${ttft(row)} · ${times(row.speedup)}${mark}` });
    let start = 0;
    for (const [part, key] of paired) {
      parts.push({ ...common, part, start, end: (start += row[key]), text: time(row[key]) });
    }
  });
  const width = Math.max(160, charts.ttft.figure.clientWidth - 130);
  const most = Math.max(...rows.map((row) => row.high)) / (1 - Math.min(0.6, 175 / width));
  const none = answer.rows.filter((row) => row.ttft_ms == null).map((row) => row.scheme);
  const said = `Whiskers are the 90 % interval; figures, times as soon as ${answer.baseline}. Faded: ${answer.limit} not kept or not known, or a floor.`
    + (none.length ? ` Does not run here: ${none.join(", ")}.` : "");
  return charts.ttft.put({
    data: { rows, parts }, signals: { most }, said,
    table: answer.rows.map((row) => ({
      scheme: row.scheme, TTFT: row.ttft_ms == null ? "" : ttft(row), "90 %": row.ttft_ms == null ? "" : spanText(row),
      ...Object.fromEntries(paired.map(([part, key]) => [part, row.ttft_ms == null ? "" : time(row[key])])), "times as soon": times(row.speedup),
      bits: row.bits.map((one) => digits(one, 3)).join(" + "), perplexity: row.perplexity == null ? "" : loss(row.perplexity),
      "look-ups lost": row.lookups_lost == null ? "" : `${digits(row.lookups_lost, 2)} points`, standing: whyOf(row),
    })),
  });
}

const LINES = ["accent", "exposed", "codec", "second", "waiting", "compute"];
const DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 2], [1, 3]];
/** A colour and a dash for each scheme of the curves: the baseline in ink, the best in green, whoever else in turn. */
function styles(names, answer) {
  const best = answer.rows.find((row) => row.best)?.scheme;
  const others = names.filter((name) => name !== answer.baseline && name !== best);
  return Object.fromEntries(names.map((name) => {
    const i = others.indexOf(name);
    const chosen = name === state.scheme;
    const [ink, dash] = name === answer.baseline ? ["ink", [1, 0]] : name === best ? ["best", [1, 0]] : [LINES[i % LINES.length], DASHES[(i + 1) % DASHES.length]];
    return [name, { ink, colour: colour(ink), dash, weight: chosen || name === best ? 2.75 : 1.75 }];
  }));
}
const AXES = { input_tokens: ["length", (x) => `${x} tokens`], link: ["link", (x) => `×${digits(x, 3)}`], tp: ["degree", (x) => `TP ${x}`] };

function showCurves(curves, answer) {
  const names = [...new Set(curves.flatMap((curve) => curve.series.map((one) => one.scheme)))];
  const style = styles(names, answer);
  $("lines").replaceChildren(...names.map((name) => {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    line.setAttribute("viewBox", "0 0 28 8");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    for (const [key, value] of [["d", "M1 4H27"], ["stroke", style[name].colour], ["stroke-width", style[name].weight], ["stroke-dasharray", style[name].dash.join(" ")]]) path.setAttribute(key, value);
    line.append(path);
    return make("li", {}, line, name);
  }));
  const all = curves.flatMap((curve) => curve.crossovers.map((one) => one.text));
  $("crossovers").textContent = all.length ? `Dots mark where one scheme overtakes another. ${all.slice(0, 3).join("; ")}.` : "No scheme overtakes another within these ranges.";
  for (const curve of curves) {
    const [name, shown] = AXES[curve.axis];
    const rows = [], band = [];
    for (const one of curve.series) {
      curve.x.forEach((x, i) => {
        if (one.ttft_ms[i] == null) return;
        const half = (one.high_ms[i] - one.low_ms[i]) / 2;
        rows.push({ scheme: one.scheme, x, at: curve.marks[i] ?? shown(x), ttft: one.ttft_ms[i], said: time(one.ttft_ms[i], half), ...style[one.scheme] });
        if (one.scheme === state.scheme) band.push({ x, low: one.low_ms[i], high: one.high_ms[i], colour: style[one.scheme].colour });
      });
    }
    const least = rows.filter((row) => row.scheme === state.scheme);
    charts[name]?.put({
      data: { rows, band, here: [{ x: curve.now }], crossings: curve.crossovers.map((one) => ({ x: one.x, ttft: one.ttft_ms, text: one.text })) },
      signals: { axis: curve.axis, ticks: curve.x, now: curve.now },
      said: least.length ? `${state.scheme}: ${least[0].said} at ${least[0].at}, ${least.at(-1).said} at ${least.at(-1).at}.` : "",
      change: (spec) => {
        spec.layer[0].encoding.y.scale = curve.axis === "input_tokens" ? { type: "log", nice: false } : { zero: true, nice: true };
        return spec;
      },
      table: curve.x.map((x, i) => ({
        [curve.label]: curve.marks[i] ?? shown(x), ...Object.fromEntries(curve.series.map((one) => [one.scheme, one.ttft_ms[i] == null ? "" : time(one.ttft_ms[i])])),
      })),
    });
  }
  for (const [axis, [name]] of Object.entries(AXES)) charts[name].section.hidden = !curves.some((curve) => curve.axis === axis);
}

/** Rows that no other beats in both: cost rising, gain rising. */
function frontier(rows, cost, gain) {
  let best = -Infinity;
  return [...rows].sort((a, b) => cost(a) - cost(b) || gain(b) - gain(a)).filter((row) => gain(row) > best && (best = gain(row), true));
}

function showPareto(answer) {
  const limit = 100 * (Number(state.max_perplexity) - 1);
  const most = Math.max(4 * limit, 2);
  const known = answer.rows.filter((row) => row.ttft_ms != null && row.perplexity != null);
  const inside = known.filter((row) => 100 * (row.perplexity - 1) <= most);
  const edge = frontier(inside.filter((row) => row.standing !== "floor"), (row) => row.perplexity, (row) => row.speedup);
  const rows = inside.map((row) => ({
    scheme: row.scheme, loss: 100 * (row.perplexity - 1), speedup: row.speedup, speed_text: times(row.speedup), loss_text: loss(row.perplexity),
    low: 100 * ((row.perplexity_interval ?? [row.perplexity])[0] - 1), high: Math.min(most, 100 * ((row.perplexity_interval ?? [row.perplexity]).at(-1) - 1)),
    ttft_text: ttft(row), why: whyOf(row), colour: colour(row.best ? "best" : row.chosen ? "accent" : row.standing === "usable" ? "ink" : "waiting"),
    size: row.best || row.chosen ? 150 : 70, shape: row.best ? "diamond" : "circle", opacity: row.standing === "usable" ? 1 : 0.7,
    named: row.best || row.chosen || edge.includes(row),
  }));
  const beyond = known.length - inside.length;
  const by = known.find((row) => row.measured_on)?.measured_on;
  return charts.pareto.put({
    data: {
      rows, frontier: edge.map((row) => ({ loss: 100 * (row.perplexity - 1), speedup: row.speedup })), limits: [{ from: limit, to: most }],
    },
    signals: { most, least: Math.min(0, ...rows.map((row) => row.low)) },
    said: `Up and left is better; shaded: over the limit.${by ? ` Perplexity as measured on ${by}.` : ""}` + (beyond ? ` ${beyond} more cost over ${digits(most, 3)} % and are not drawn.` : ""),
    table: known.map((row) => ({ scheme: row.scheme, perplexity: loss(row.perplexity), "times as soon": times(row.speedup), standing: whyOf(row) })),
  });
}

function showPlan(plan) {
  const run = plan.deployments.filter((one) => one.cost_per_hour != null && one.ttft_ms != null);
  const shown = (one) => `${one.replicas > 1 ? `${one.replicas} × ` : ""}${one.machine}, TP ${one.tp}`;
  const price = (one) => `${one.cost_per_hour.toFixed(2)} ${plan.currency}`;
  const rows = run.map((one) => ({
    cost: one.cost_per_hour, ttft: one.ttft_ms, what: shown(one), scheme: one.scheme, cost_text: price(one), ttft_text: time(one.ttft_ms),
    why: one.best ? "the cheapest that keeps the target" : one.why || (one.kept ? "keeps the target" : "misses the target"),
    colour: colour(one.best ? "best" : one.kept ? "ink" : "waiting"), size: one.best ? 160 : 70, opacity: one.kept ? 1 : 0.6, named: one.best || one.frontier,
  }));
  const edge = run.filter((one) => one.frontier).sort((a, b) => a.cost_per_hour - b.cost_per_hour);
  return charts.cost.put({
    data: { rows, frontier: edge.map((one) => ({ cost: one.cost_per_hour, ttft: one.ttft_ms })), target: [{ ttft: plan.target_ms }] },
    said: `${plan.verdict} ${plan.note}`.trim(),
    change: (spec) => {
      spec.encoding.x.title = `${plan.currency} an hour`;
      return spec;
    },
    table: plan.deployments.map((one) => ({
      deployment: shown(one), scheme: one.scheme, "an hour": one.cost_per_hour == null ? "" : price(one), TTFT: one.ttft_ms == null ? "" : time(one.ttft_ms), standing: one.why || (one.kept ? "keeps the target" : ""),
    })),
  });
}

function showServe(serve) {
  const rows = [], spans = [];
  serve.rows.forEach((row, order) => {
    if (!row.ttft.length) return;
    const values = row.ttft.map((one) => one.value_ms);
    spans.push({ scheme: row.scheme, order, low: Math.min(...values), high: Math.max(...values) });
    row.ttft.forEach((one, rank) => rows.push({ scheme: row.scheme, order, percentile: one.name, rank, ttft: one.value_ms, said: `${time(one.value_ms, one.plus_minus_ms || undefined)} ± ${time(one.plus_minus_ms)}` }));
  });
  const full = serve.rows.filter((row) => row.saturated).map((row) => row.scheme);
  const target = Number(state.slo_ttft_ms);
  const far = 1.6 * Math.max(...rows.map((row) => row.ttft));
  return charts.serve.put({
    data: { rows, spans, target: target < far ? [{ ttft: target }] : [] },
    said: `One replica at ${digits(serve.rate, 3)} requests a second, ${serve.requests} requests. ${serve.note}` + (full.length ? ` Saturated: ${full.join(", ")}.` : ""),
    table: serve.rows.map((row) => ({
      scheme: row.scheme, ...Object.fromEntries(row.ttft.map((one) => [`TTFT ${one.name}`, time(one.value_ms)])),
      ...Object.fromEntries(row.tpot.map((one) => [`per token ${one.name}`, time(one.value_ms)])),
      headroom: row.headroom == null ? "" : `${digits(row.headroom, 2)}×`, "keeps the target": row.kept == null ? "" : percent(row.kept), note: row.why ?? (row.saturated ? "saturated" : ""),
    })),
  });
}

function showTimeline(detail) {
  const lane = (bar) => `${bar.rank} ${bar.stream === "compute" ? "compute" : "comm"}`;
  const streams = { compute: 0 };
  const rows = detail.timeline.bars.map((bar) => ({
    lane: lane(bar), order: 2 * bar.rank + (streams[bar.stream] ?? 1), kind: bar.kind, name: bar.name, start: bar.start_us, end: bar.end_us,
    said: time((bar.end_us - bar.start_us) / 1000), at: time(bar.start_us / 1000),
  }));
  window_.whole = [0, detail.timeline.layer_us];
  if (window_.of !== detail.timeline.layer_us) Object.assign(window_, { of: detail.timeline.layer_us, from: 0, to: detail.timeline.layer_us });
  return charts.timeline.put({
    data: { rows }, signals: { from: window_.from, to: window_.to },
    said: `Layer ${detail.timeline.layer} of ${detail.timeline.layers} under ${detail.scheme}: ${time(detail.timeline.layer_us / 1000)}.${elsewhere(detail)} ${detail.timeline.note}`.trim(),
    table: rows.map((row) => ({ "rank and stream": row.lane, kind: row.kind, name: row.name, from: row.at, takes: row.said })),
  });
}
/** In a report the details are of the prompt asked for, whatever the sliders say. */
function elsewhere(detail) {
  const off = ["batch", "input_tokens", "link"].filter((key) => Number(detail.at[key] ?? DEFAULTS[key]) !== Number(state[key]));
  return off.length ? ` At batch ${detail.at.batch}, ${detail.at.input_tokens} tokens${detail.at.link ? `, links ×${detail.at.link}` : ""}.` : "";
}

const window_ = { whole: [0, 1], of: 0, from: 0, to: 1 };
function zoom(factor, share = 0.5, move = 0) {
  const [least, most] = window_.whole;
  const span = Math.min(most - least, Math.max((most - least) / 400, (window_.to - window_.from) * factor));
  let from = window_.from + ((window_.to - window_.from) - span) * share + move * span;
  from = Math.min(Math.max(least, from), most - span);
  Object.assign(window_, { from, to: from + span });
  const chart = charts.timeline;
  if (!chart.view) return;
  Object.assign(chart.signals, { from, to: from + span });
  chart.view.signal("from", from).signal("to", from + span).runAsync();
}
function zoomable(figure) {
  const share = (event) => {
    const box = figure.getBoundingClientRect();
    const left = 78;
    return Math.min(1, Math.max(0, (event.clientX - box.left - left) / (box.width - left - 8)));
  };
  // Plain scrolling scrolls the page; with Ctrl or Cmd, or once zoomed in by it, it zooms.
  figure.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoom(event.deltaY < 0 ? 0.8 : 1.25, share(event));
  }, { passive: false });
  let held = null;
  figure.addEventListener("pointerdown", (event) => {
    if (event.button === 0 && event.pointerType !== "touch") held = event.clientX;
  });
  addEventListener("pointerup", () => (held = null));
  addEventListener("pointermove", (event) => {
    if (held == null) return;
    zoom(1, 0.5, (held - event.clientX) / (figure.clientWidth - 86));
    held = event.clientX;
  });
  figure.addEventListener("dblclick", () => zoom(Infinity));
  const keys = { in: [0.5], out: [2], left: [1, 0.5, -0.4], right: [1, 0.5, 0.4], all: [Infinity] };
  for (const button of document.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => zoom(...keys[button.dataset.zoom]));
}

const NODES = { gpu: ["square", "best", 520], switch: ["square", "compute", 420], host_bridge: ["square", "codec", 420], nic: ["diamond", "second", 260] };
function showCluster(detail) {
  const { drawing } = detail;
  const at = Object.fromEntries(drawing.nodes.map((node) => [node.name, node]));
  const links = drawing.links.filter((link) => at[link.source] && at[link.target]).map((link) => ({
    x: at[link.source].x, y: at[link.source].y, x2: at[link.target].x, y2: at[link.target].y, busy: 100 * link.utilisation,
    weight: 1.5 + 6 * Math.min(1, link.utilisation), link: `${link.source} – ${link.target}`, rate: `${digits(link.gb_per_s, 3)} GB/s`,
    sent: `${digits(link.mb / 1000, 3)} GB`, busy_text: percent(link.utilisation),
  })).sort((a, b) => a.busy - b.busy);
  const crowd = {};
  for (const node of drawing.nodes) crowd[node.y] = (crowd[node.y] ?? 0) + 1;
  const nodes = drawing.nodes.map((node) => {
    const [shape, ink, size] = NODES[node.kind] ?? ["circle", "strong", 200];
    const full = crowd[node.y] > 10;
    const unused = node.kind === "gpu" && node.rank == null;
    return { ...node, shape, size: full ? size / 2 : size, colour: colour(unused ? "faded" : ink), below: node.kind === "gpu" ? 24 : -20, label: full && node.rank != null ? String(node.rank) : node.name, is: node.rank ?? "unused" };
  });
  const wires = [...drawing.links, ...drawing.pools].sort((a, b) => b.utilisation - a.utilisation);
  const busiest = wires[0];
  return charts.cluster.put({
    data: { links, nodes }, signals: { across: drawing.width, down: drawing.height },
    said: (busiest ? `Under ${detail.scheme} the busiest is ${busiest.target ? `${busiest.source} – ${busiest.target}` : busiest.source}: ${percent(busiest.utilisation)} of what it could carry in the prefill.` : "") + `${elsewhere(detail)} ${drawing.note}`,
    table: wires.map((link) => ({ link: link.target ? `${link.source} – ${link.target}` : link.source, rate: `${digits(link.gb_per_s, 3)} GB/s`, sent: `${digits(link.mb / 1000, 3)} GB`, busy: percent(link.utilisation) })),
  });
}

// ---- words

function showWords(answer) {
  const best = answer.rows.find((row) => row.best);
  const chosen = answer.rows.find((row) => row.chosen);
  const base = answer.rows.find((row) => row.scheme === answer.baseline);
  document.title = `${answer.title} · thinwire`;
  $("asked").textContent = answer.title;
  $("verdict").textContent = answer.verdict;
  const tiles = [];
  const tile = (name, value, small) => tiles.push(make("div", {}, make("dt", {}, name), make("dd", {}, value, make("small", {}, small))));
  const told = best ?? base;
  tile(best ? "Best usable scheme" : "No scheme is usable; uncompressed", told.scheme, `${told.bits.map((one) => digits(one, 3)).join(" + ")} bits a value`);
  tile("Time to first token", ttft(told), `${spanText(told)} (90 %)`);
  tile(`As soon as ${answer.baseline}`, times(told.speedup), base && told !== base ? `${ttft(base)} without` : "the baseline itself");
  tile("Perplexity", loss(told.perplexity), told.lookups_lost == null ? `limit +${digits(100 * (Number(state.max_perplexity) - 1), 3)} %` : `${digits(told.lookups_lost, 2)} points of look-ups lost`);
  if (chosen && chosen !== told && chosen !== base && chosen.ttft_ms != null) tile(`Chosen: ${chosen.scheme}`, ttft(chosen), `${times(chosen.speedup)}, ${whyOf(chosen)}`);
  $("figures").replaceChildren(...tiles);
  $("notes").replaceChildren(...answer.notes.map((note) => make("li", {}, note)));
}

const ground = (one) =>
  make("li", {}, make("span", { className: "kind", "data-kind": one.kind }, one.kind),
    make("span", {}, one.text, ...(one.share > 0 ? [" ", make("span", { className: "share" }, `${percent(one.share)} of the interval`)] : [])));
function showGrounds(detail) {
  const [first, rest] = [detail.rests_on.slice(0, 3), detail.rests_on.slice(3)];
  $("rests-lead").textContent = `${detail.scheme}: what most of the interval comes from, and of what class its source is.${elsewhere(detail)}`;
  $("grounds").replaceChildren(...first.map(ground));
  const more = $("more-grounds");
  more.hidden = !rest.length;
  more.querySelector("summary").textContent = `${rest.length} more`;
  more.querySelector("ul").replaceChildren(...rest.map(ground));
}

// ---- asking, again and again, the latest last

let running = false, again = false, later = null, answer = null, curves = null, drawn = 0;

async function refresh() {
  if (running) {
    again = true;
    return;
  }
  running = true;
  later?.abort();
  do {
    again = false;
    try {
      answer = await source.answer();
      fault("");
      await showBars(answer);
      showWords(answer);
      document.dispatchEvent(new CustomEvent("thinwire-drawn", { detail: ++drawn }));
      await new Promise(requestAnimationFrame);
      if (!again) await showRest();
    } catch (error) {
      fault(error.message);
    }
  } while (again);
  running = false;
  follow();
}
function showRest() {
  const { detail } = answer;
  $("command").textContent = detail ? `${answer.command}\n${detail.command}` : answer.command;
  $("python").textContent = detail ? `${answer.python}\n${detail.python.split("\n").slice(1).join("\n")}` : answer.python;
  const shown = [showPareto(answer)];
  if (detail) {
    shown.push(showTimeline(detail), showCluster(detail));
    showGrounds(detail);
  }
  return Promise.all(shown);
}
/** What takes longer, once the sliders rest: curves, then the load, then the other schemes. */
async function follow() {
  const mine = (later = new AbortController());
  const still = () => !mine.signal.aborted;
  const asked = answer;
  try {
    if (!asked) return;
    curves = await source.curves(mine.signal);
    if (!still()) return;
    showCurves(curves, asked);
    await new Promise((done) => setTimeout(done, 250));
    if (!still()) return;
    $("heard").textContent = asked.verdict;
    const all = await source.everything(mine.signal);
    if (all && still()) await showPareto(all);
    const load = await source.serve(mine.signal).catch((error) => (still() ? { error: error.message } : null));
    if (!still() || !load) return;
    charts.serve.section.hidden = false;
    if (load.error) charts.serve.lead.textContent = load.error;
    else showServe(load);
  } catch (error) {
    if (still()) fault(error.message);
  } finally {
    if (still()) document.documentElement.dataset.settled = String(drawn);
  }
}
function fault(text) {
  $("fault").hidden = !text;
  $("fault").textContent = text;
  $("answer").classList.toggle("stale", Boolean(text));
}

// ---- controls

const places = (key) => (REPORT && source.axes?.[key]) || SLIDERS[key].steps;
/** A place on a slider, between steps too, into a number of few digits. */
function valueAt(key, place) {
  const steps = places(key);
  const low = Math.floor(place), part = place - low;
  if (!part) return steps[low];
  const value = steps[low] * (steps[low + 1] / steps[low]) ** part;
  return SLIDERS[key].whole ? Math.round(value) : Number(value.toPrecision(3));
}
function placeOf(key, value) {
  const steps = places(key);
  const i = Math.max(0, Math.min(steps.length - 2, steps.findLastIndex((one) => one <= value)));
  return i + Math.log(value / steps[i]) / Math.log(steps[i + 1] / steps[i]);
}
const TEXTS = {
  batch: (v) => String(v),
  input_tokens: (v) => v.toLocaleString("en"),
  link: (v) => `×${digits(v, 3)}${answer ? ` · ${digits((answer.link_gb_per_s / Number(answer.state.link ?? 1)) * v, 3)} GB/s` : ""}`,
  max_perplexity: (v) => `+${digits(100 * (v - 1), 3)} %`,
};

function showControls(from = "") {
  for (const key of Object.keys(TEXTS)) {
    const input = form.elements[key];
    if (from !== key && places(key).length > 1) input.value = placeOf(key, Number(state[key]));
    const said = TEXTS[key](Number(state[key]));
    input.setAttribute("aria-valuetext", said);
    form.querySelector(`output[for="${key}"]`).textContent = said;
  }
  for (const key of ["model", "cluster", "scheme"]) if (from !== `typing ${key}`) form.elements[key].value = nameOf(key, state[key]);
  for (const key of ["rate", "slo_ttft_ms"]) if (from !== key) form.elements[key].value = state[key] ?? "";
  const machine = LISTS.cluster.find((one) => one.name === state.cluster);
  const degrees = [...new Set([...(machine?.tp ?? []), ...(state.tp ? [Number(state.tp)] : [])])].sort((a, b) => a - b);
  form.elements.tp.replaceChildren(...[["", `all ${machine?.gpus ?? ""}`], ...degrees.map((n) => [String(n), String(n)])].map(([value, text]) => make("option", { value, selected: value === (state.tp ?? "") }, text)));
  form.elements.weights.value = state.weights ?? DEFAULTS.weights ?? "auto";
}
/** drop:3 has a name of its own. */
const nameOf = (key, value) => (value?.startsWith("drop:") ? (LISTS[key].find((one) => one.name === value)?.label ?? value) : value);

function slider(key) {
  const input = form.elements[key];
  const steps = places(key);
  Object.assign(input, { min: 0, max: Math.max(1, steps.length - 1), step: REPORT ? 1 : 0.25, disabled: steps.length < 2 });
  let frame = 0;
  input.addEventListener("input", () => {
    cancelAnimationFrame(frame);
    const value = String(valueAt(key, Number(input.value)));
    frame = requestAnimationFrame(() => ask({ [key]: value }, key));
  });
}

/** A combobox as the ARIA practices have it: type to search, arrows and Enter to choose, Escape to leave as it was. */
function combobox(key) {
  const input = form.elements[key];
  const list = make("ul", { className: "choices", id: `choices-${key}`, role: "listbox", hidden: true });
  list.setAttribute("aria-label", input.labels[0].textContent);
  for (const [name, value] of [["role", "combobox"], ["aria-autocomplete", "list"], ["aria-expanded", "false"], ["aria-controls", list.id]]) input.setAttribute(name, value);
  input.after(list);
  let at = -1;
  const words = (one) => [one.name, one.label, one.gpu, ...(one.ids ?? [])].join(" ").toLowerCase();
  const point = (to) => {
    at = to;
    [...list.children].forEach((node, i) => node.setAttribute("aria-selected", String(i === at)));
    if (at >= 0) list.children[at].scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", at < 0 ? "" : list.children[at].id);
  };
  const open = (typed) => {
    const wanted = typed.toLowerCase().split(/\s+/);
    const found = LISTS[key].filter((one) => wanted.every((word) => words(one).includes(word)));
    list.replaceChildren(...found.map((one, i) => {
      const small = one.label.startsWith(one.name) ? one.label.slice(one.name.length).replace(/^[:\s]+/, "").replace(/^\((.*)\)$/, "$1") : one.label;
      const node = make("li", { id: `choices-${key}-${i}`, role: "option", "aria-selected": "false" }, nameOf(key, one.name), ...(one.name.startsWith("drop:") ? [] : [make("small", {}, small)]));
      node.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        choose(one.name);
      });
      return node;
    }));
    list.found = found;
    list.hidden = !found.length;
    input.setAttribute("aria-expanded", String(!list.hidden));
    point(typed ? -1 : found.findIndex((one) => one.name === state[key]));
  };
  const close = () => {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.setAttribute("aria-activedescendant", "");
  };
  const choose = (name) => {
    close();
    if (name === state[key] || !name) return showControls();
    const machine = key === "cluster" && LISTS.cluster.find((one) => one.name === name);
    const tp = machine && state.tp && Number(state.tp) > machine.gpus ? { tp: "" } : {};
    ask({ [key]: name, ...tp }, key);
  };
  const typed = () => LISTS[key].find((one) => nameOf(key, one.name) === input.value.trim())?.name ?? input.value.trim();
  input.addEventListener("focus", () => input.select());
  input.addEventListener("click", () => open(""));
  input.addEventListener("input", () => open(input.value.trim()));
  input.addEventListener("blur", () => {
    if (!list.hidden || typed() !== state[key]) choose(LISTS[key].some((one) => one.name === typed()) || key === "scheme" ? typed() : state[key]);
  });
  input.addEventListener("keydown", (event) => {
    const last = list.children.length - 1;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) open("");
      else point(event.key === "ArrowDown" ? Math.min(last, at + 1) : Math.max(0, at - 1));
    } else if (event.key === "Enter") {
      event.preventDefault();
      choose(!list.hidden && at >= 0 ? list.found[at].name : !list.hidden && list.found.length === 1 ? list.found[0].name : typed());
    } else if (event.key === "Escape") {
      close();
      showControls();
    }
  });
}

async function drop(file) {
  const said = (text, bad) => {
    $("dropped").textContent = text;
    $("dropped").classList.toggle("bad", bad);
  };
  if (file.size > START.options.drop_bytes) return said(`${file.name} has ${file.size} bytes; at most ${START.options.drop_bytes} are read`, true);
  try {
    const found = await fetched("api/drop", { method: "POST", body: file, headers: { "X-Filename": encodeURIComponent(file.name) } });
    const list = LISTS[found.key];
    if (list && found.option) list.unshift({ ...found.option, label: found.label });
    said([`${found.label}.`, ...found.said].join(" "), false);
    ask({ [found.key]: found.value, ...(found.key === "cluster" ? { tp: "" } : {}) });
  } catch (error) {
    said(error.message, true);
  }
}

async function copy(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.body.appendChild(make("textarea", { value: text }));
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = before), 1500);
}

function csv(rows) {
  const cell = (value) => {
    const text = String(value ?? "");
    const plain = typeof value === "string" && /^[=+@\-\t\r]/.test(text) ? `'${text}` : text; // a sheet would run it
    return /[",\n\r]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
  };
  const flat = rows.map((row) => Object.fromEntries(Object.entries(row).flatMap(([key, value]) =>
    key === "interval_ms" ? [["low_ms", value[0]], ["high_ms", value[1]]] : [[key, Array.isArray(value) ? value.join(" ") : value]])));
  return [Object.keys(flat[0]), ...flat.map(Object.values)].map((row) => row.map(cell).join(",")).join("\r\n");
}
function file(text, type, name) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  download(address, name);
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

const THEMES = [["", "Auto", "as the system has them"], ["light", "Light", "light"], ["dark", "Dark", "dark"]];
function theme(name) {
  const [value, text, long] = THEMES.find((one) => one[0] === name) ?? THEMES[0];
  document.documentElement.dataset.theme = value;
  $("theme").textContent = text;
  $("theme").setAttribute("aria-label", `Colours: ${long}`);
}
function recolour() {
  for (const chart of Object.values(charts)) chart.again();
  if (answer) showRest();
  if (curves && answer) showCurves(curves, answer);
}
const kept = {
  get: () => { try { return localStorage.getItem("thinwire-theme") ?? ""; } catch { return ""; } },
  set: (value) => { try { localStorage.setItem("thinwire-theme", value); } catch { /* a browser that keeps nothing */ } },
};

function wire() {
  Object.keys(TEXTS).forEach(slider);
  ["model", "cluster", "scheme"].forEach(combobox);
  form.elements.weights.replaceChildren(...START.options.weights.map((name) => make("option", { value: name }, name)));
  for (const key of ["tp", "weights"]) form.elements[key].addEventListener("change", (event) => ask({ [key]: event.target.value }, key));
  for (const key of ["rate", "slo_ttft_ms"]) form.elements[key].addEventListener("change", (event) => ask({ [key]: event.target.value }, key));
  form.addEventListener("submit", (event) => event.preventDefault());
  $("reset").addEventListener("click", () => ask(Object.fromEntries(Object.keys(state).map((key) => [key, (REPORT ? START.state[key] : null) ?? DEFAULTS[key] ?? ""]))));
  $("copy").addEventListener("click", (event) => {
    const said = query();
    copy(location.href.replace(/[?#].*$/, "") + (said ? (REPORT ? "#" : "?") + said : ""), event.target);
  });
  $("theme").addEventListener("click", () => {
    const next = THEMES[(THEMES.findIndex((one) => one[0] === (document.documentElement.dataset.theme ?? "")) + 1) % THEMES.length][0];
    theme(next);
    kept.set(next);
    recolour();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy($(button.dataset.copy).textContent, button));
  $("csv").addEventListener("click", () => file(csv(answer.rows), "text/csv", "thinwire.csv"));
  $("json").addEventListener("click", () => file(JSON.stringify(answer, null, 1), "application/json", "thinwire.json"));
  $("png").addEventListener("click", () => charts.ttft.save());
  zoomable(charts.timeline.figure);
  addEventListener("beforeprint", () => Object.values(charts).forEach((chart) => chart.draw(true)));
  let width = innerWidth, resized = 0;
  addEventListener("resize", () => {
    clearTimeout(resized);
    if (width !== innerWidth && answer) resized = setTimeout(() => ((width = innerWidth), showBars(answer)), 200);
  });
  if (REPORT) {
    for (const node of document.querySelectorAll(".live")) node.hidden = true;
    for (const key of START.fixed ?? []) {
      const input = form.elements[key];
      if (input) Object.assign(input, { disabled: true, title: "fixed in a report; thinwire ui moves it" });
    }
    $("made").textContent = START.made;
    addEventListener("hashchange", () => ask(Object.fromEntries(new URLSearchParams(location.hash.slice(1)))));
    return;
  }
  $("made").textContent = `thinwire ${START.version}, on this machine alone`;
  addEventListener("popstate", () => location.reload());
  $("file").addEventListener("change", (event) => event.target.files[0] && drop(event.target.files[0]));
  const over = (on) => (event) => {
    if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
    event.preventDefault();
    $("drop").classList.toggle("over", on);
  };
  addEventListener("dragover", over(true));
  addEventListener("dragleave", over(false));
  addEventListener("drop", (event) => {
    over(false)(event);
    const [first] = event.dataTransfer.files;
    if (first) drop(first);
  });
  $("plan").addEventListener("click", async (event) => {
    const button = event.target;
    button.disabled = true;
    button.textContent = "Planning…";
    try {
      await showPlan(await source.plan());
    } catch (error) {
      charts.cost.lead.textContent = error.message;
    }
    button.disabled = false;
    button.textContent = "Plan again";
  });
}

const source = REPORT ? await opened(START.grid) : served;
theme(kept.get());
wire();
showControls();
await refresh();
showControls();
if (REPORT) {
  const plan = await source.plan();
  charts.cost.section.hidden = !plan;
  if (plan) showPlan(plan);
}
