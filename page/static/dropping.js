// Files: several at once, or one after the other. Dumps that were read stay with the page, so that one that says too
// little by itself is read together with those before it. Links to what was dropped last as long as the server does.

import { LISTS, REPORT, START, ask, fetched, query, state } from "./asked.js";
import { $, make } from "./numbers.js";

let kept = []; // dumps of a machine, this page's
const makers = {}; // by what is asked: the command that makes a file of what was dropped

/** lines: the first few in sight, the others folded. */
function say(text, { lines = [], bad = false } = {}) {
  const first = lines.slice(0, 4), more = lines.slice(4);
  const list = (some) => make("ul", {}, ...some.map((line) => make("li", {}, line)));
  $("dropped").replaceChildren(
    text, ...(first.length ? [list(first)] : []),
    ...(more.length ? [make("details", {}, make("summary", {}, `${more.length} more, and what is assumed`), list(more))] : []),
  );
  $("dropped").classList.toggle("bad", bad);
}

const sizeOf = (files) => files.reduce((sum, file) => sum + file.size, 0);
const namesOf = (files) => files.map((file) => file.name).join(", ");

/** gpu: where dumps do not say which it is of. */
async function drop(given, gpu = "") {
  const some = [...given], most = START.options.drop_bytes;
  if (!some.length) return;
  if (sizeOf(some) > most) return say(`${namesOf(some)}: ${sizeOf(some)} bytes; at most ${most} are read.`, { bad: true });
  say(`Reading ${namesOf(some)}…`);
  $("which").hidden = true;
  const names = new Set(some.map((file) => file.name));
  const before = kept.filter((file) => !names.has(file.name));
  const earlier = sizeOf([...before, ...some]) > most || before.length + some.length > 16 ? [] : before;
  const all = [...earlier, ...some];
  try {
    const found = await fetched(`api/drop?${query()}${gpu && `&gpu=${encodeURIComponent(gpu)}`}`, {
      method: "POST", body: new Blob(all),
      headers: { "X-Files": all.map((file) => `${encodeURIComponent(file.name)}:${file.size}`).join(), "X-Earlier": String(earlier.length) },
    });
    if (found.option) LISTS[found.key]?.unshift({ ...found.option, label: found.label });
    if (found.files) kept = found.files.length > some.length ? all : some;
    const together = found.files?.length > 1 ? `${found.label}, out of ${found.files.join(", ")}` : found.label;
    say(together, { lines: found.said });
    makers[found.value] = found.said.find((line) => line.startsWith("thinwire "))?.replace(/ writes it to a file$/, "");
    ask({ [found.key]: found.value, ...(found.key === "cluster" ? { tp: "", gpus: "", nodes: "", profile: "" } : {}) });
  } catch (error) {
    if (error.needs === "gpu") {
      kept = all; // the next file may say it
      $("which").hidden = false;
      $("gpu").value = "";
      $("gpu").onchange = ({ target }) => drop(all, target.value);
      $("gpu").focus();
    }
    say(error.message, { bad: true });
  }
}

export const forgetDrops = () => {
  kept = [];
  $("dropped").replaceChildren();
  $("which").hidden = true;
};

/** Whether what is asked lives in the server's memory alone. */
const passing = () => !REPORT && Object.values(state.now).some((value) => value.startsWith("drop:") || value.includes(",drop:"));

/** Said beside the button once a link is copied. command: `thinwire predict ...` of what is asked, or nothing. */
export function saidOfLink(command) {
  const said = $("lasts");
  said.hidden = !passing();
  if (said.hidden) return;
  const report = (command ?? "").split("\n").at(-1).replace("thinwire predict", "thinwire report").replace(/ --scale-link '\*=([\d.e+-]+)'/, " --link $1");
  const before = Object.values(state.now).map((value) => makers[value]).filter(Boolean);
  said.replaceChildren(
    "Copied. This link asks about a dropped file: it works only while this server runs. A page that lasts: ",
    make("code", {}, [...before, report ? `${report} --out page.html` : "thinwire report --out page.html"].join(" && ")),
  );
}

export function startDrops() {
  $("gpu").replaceChildren(...["", ...START.options.gpus].map((value) => make("option", { value }, value || "choose")));
  $("file").addEventListener("change", ({ target }) => drop(target.files));
  const over = (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    $("drop").classList.toggle("over", event.type === "dragover");
  };
  for (const type of ["dragover", "dragleave", "drop"]) addEventListener(type, over);
  addEventListener("drop", ({ dataTransfer }) => drop(dataTransfer?.files ?? []));
  $("reset").addEventListener("click", forgetDrops);
}
