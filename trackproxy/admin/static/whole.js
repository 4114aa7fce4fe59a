// What is told of this trackproxy as a whole.

import { byId, say, sayCut, show, sign } from "./dom.js";
import { UNKNOWN, count, duration, moment } from "./format.js";

export function showStatus(status) {
  say(byId("version"), status.version);
  sayCut(byId("uptime"), duration(status.uptime_s));
  say(byId("generation"), String(status.generation ?? UNKNOWN));
  sayCut(byId("config"), status.config ?? "from the command line");
  sign(byId("welcoming"), status.welcoming ? "ok" : "warn", status.welcoming ? "welcome" : "not now");
  showWorkers(status.workers, status.generation);
  showReload(status.reload);
  showJournal(status.journal);
}

function showWorkers(workers, generation) {
  const older = workers.filter((worker) => worker.generation !== generation).length;
  const lags = workers.map((worker) => worker.lag_ms).filter(Number.isFinite);
  const lag = lags.length ? `, lag ${Math.max(...lags).toFixed(1)} ms` : "";
  say(byId("workers"), `${workers.length - older}${older ? ` + ${older} ending` : ""}${lag}`);
  const sum = (key) => workers.reduce((total, worker) => total + (worker[key] ?? 0), 0);
  const waiting = sum("waiting");
  say(byId("connections"), count(sum("connections")) + (waiting ? `, ${count(waiting)} waiting` : ""));
}

function showReload(reload) {
  const words = reload ? `${moment(reload.at)}: ${reload.outcome}` : "none yet";
  sign(byId("reload"), reload ? (reload.ok ? "ok" : "bad") : "off", words);
}

function showJournal(journal) {
  show(byId("journal"), journal !== null && journal !== undefined);
  const list = byId("journal-facts");
  const facts = Object.entries(journal ?? {});
  while (list.children.length > facts.length) list.lastElementChild.remove();
  while (list.children.length < facts.length) list.append(fact());
  facts.forEach(([name, value], index) => {
    const [term, told] = list.children[index].children;
    say(term, name.replaceAll("_", " "));
    say(told, typeof value === "object" ? JSON.stringify(value) : String(value));
  });
}

function fact() {
  const row = document.createElement("div");
  row.append(document.createElement("dt"), document.createElement("dd"));
  return row;
}
