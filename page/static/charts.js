// Charts: specs of Vega-Lite (charts/*.json) in the colours of page.css. A view is made once and then given rows; only
// charts in sight are drawn.

import { START } from "./asked.js";
import { make } from "./numbers.js";

const probe = document.body.appendChild(make("span", { hidden: true }));
/** A variable of page.css as the colour that it is now, by day or by night. */
export function colour(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

function look() {
  const [soft, strong, font] = [colour("soft"), colour("strong"), getComputedStyle(document.body).fontFamily];
  const words = { labelColor: soft, titleColor: soft, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" };
  return {
    background: colour("paper"), font, padding: { left: 2, right: 8, top: 4, bottom: 4 }, view: { stroke: null },
    axis: { ...words, gridColor: colour("line"), domainColor: strong, tickColor: strong, titlePadding: 8, tickSize: 4 },
    axisY: { domain: false, ticks: false, labelPadding: 6 },
    legend: { ...words, symbolSize: 110, offset: 10, columnPadding: 14 },
    text: { color: colour("ink"), font },
  };
}

export function download(address, name) {
  make("a", { href: address, download: name }).click();
}

/** A section with a heading, a lead and a figure: its chart, the same as a table, and the button for a PNG. */
export class Chart {
  constructor(section) {
    this.section = section;
    this.name = section.dataset.chart;
    this.figure = section.querySelector("figure");
    this.title = section.querySelector("h2, h3").textContent;
    this.lead = section.querySelector(".lead");
    this.inside = make("div");
    this.figure.append(this.inside);
    this.figure.setAttribute("role", "img");
    this.table = make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": `${this.title}: a table` });
    this.folded = make("details", {}, make("summary", {}, "As a table"), this.table);
    this.folded.addEventListener("toggle", () => this.fill());
    const save = make("button", { type: "button", "aria-label": `${this.title}: as a PNG` }, "PNG");
    save.addEventListener("click", () => this.save());
    this.under = make("div", { className: "under", hidden: true }, this.folded, save);
    this.figure.after(this.under);
    this.seen = false;
    this.waiting = [];
    const told = ([entry]) => {
      this.seen = entry.isIntersecting;
      if (!this.seen) return;
      for (const done of this.waiting.splice(0)) done();
      this.draw();
    };
    new IntersectionObserver(told, { rootMargin: "150px" }).observe(this.figure);
  }

  /** data: rows by the spec's names; signals: its parameters; said: a summary; table: rows of text; height: in pixels;
   * change: what a spec needs before it is drawn for the first time. */
  put({ data, signals = {}, said = "", table = [], height = null, change = (spec) => spec }) {
    Object.assign(this, { data, signals, rows: table, height, change, dirty: true });
    this.under.hidden = this.inside.hidden = false;
    this.lead.textContent = said;
    this.figure.setAttribute("aria-label", `${this.title}. ${said}`);
    this.fill();
    return this.draw();
  }

  /** Words alone, where there is nothing to draw. */
  say(text) {
    Object.assign(this, { data: null, rows: [] });
    this.under.hidden = this.inside.hidden = true;
    this.lead.textContent = text;
    this.figure.setAttribute("aria-label", `${this.title}. ${text}`);
  }

  /** When it is in sight. */
  sight() {
    return this.seen ? null : new Promise((done) => this.waiting.push(done));
  }

  /** forced: out of sight too. */
  async draw(forced = false) {
    await this.busy;
    if (!window.vegaEmbed) this.folded.open = true; // a report without the library: its tables
    if (!window.vegaEmbed || !this.data || !this.dirty || this.section.hidden || !(this.seen || forced)) return;
    this.dirty = false;
    this.busy = this.view ? this.update() : this.embed();
    await this.busy;
  }

  async embed() {
    const text = JSON.stringify(START.charts[this.name] ?? START.charts.curve);
    const spec = this.change(JSON.parse(text.replace(/"\$([a-z]+)"/g, (_, name) => JSON.stringify(colour(name)))));
    spec.datasets = { ...spec.datasets, ...this.data };
    if (this.height) spec.height = this.height;
    for (const one of spec.params ?? []) one.value = this.signals[one.name] ?? one.value;
    const drawn = await window.vegaEmbed(this.inside, spec, {
      actions: false, renderer: "svg", ast: true, config: look(), logLevel: 1, defaultStyle: false,
      tooltip: { disableDefaultStyle: true },
    });
    this.view = drawn.view;
    this.finish = drawn.finalize;
  }

  async update() {
    for (const [name, value] of Object.entries(this.signals)) this.view.signal(name, value);
    for (const [name, rows] of Object.entries(this.data)) this.view.data(name, rows);
    if (this.height) this.view.height(this.height);
    await this.view.runAsync();
  }

  /** Anew, in other colours. */
  forget() {
    this.finish?.();
    this.view = null;
    this.dirty = true;
  }

  fill() {
    if (!this.folded.open || !this.rows?.length) return;
    const names = Object.keys(this.rows[0]);
    const kind = (name) => (/^[−+×]?[\d.]/.test(this.rows.map((row) => row[name]).find((text) => text) ?? "") ? "number" : "");
    const kinds = names.map((name, i) => (i ? kind(name) : ""));
    const head = names.map((name, i) => make("th", { scope: "col", className: kinds[i] }, name));
    const cells = (row) => names.map((name, i) => (i ? make("td", { className: kinds[i] }, row[name] ?? "") : make("th", { scope: "row" }, row[name])));
    const body = this.rows.map((row) => make("tr", {}, ...cells(row)));
    this.table.replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body)));
  }

  async save() {
    await this.draw(true);
    if (this.view) download(await this.view.toImageURL("png", 2), `thinwire-${this.name}.png`);
  }
}
