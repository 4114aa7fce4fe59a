// The table of services: one row for each, updated in place.

import { Views, byId, say, sayCut, show, sign, stamp } from "./dom.js";
import { count, latencies, rate, several } from "./format.js";
import { Spark } from "./spark.js";

const STATUS = { up: "ok", degraded: "warn", down: "bad" };
export const ERRORS = ["connect_failures", "lost", "silent", "malformed", "status_5xx"];

const rows = new Views(byId("service-rows"), () => new ServiceView());

/** Show these SERVICES, as they are AT a moment. */
export function showServices(services, at) {
  rows.show(services.map((service) => [service.name, service]), (view, service) => view.update(service, at));
  show(byId("services-empty"), services.length === 0);
  say(byId("services-empty"), "There are no services.");
  say(byId("services-count"), services.length ? several(services.length, "service") : "");
}

/** How many of all those totals stand for something that went wrong. */
export const failures = (totals) => ERRORS.reduce((sum, kind) => sum + (totals[kind] ?? 0), 0);

/** p50 and p99 in words: [value, unit]; what there is to say while there are none. */
export function latencyWords(recent, totals) {
  if (!totals.requests) return ["", "no traffic yet"];
  if (!recent) return ["…", ""];
  return recent.p50_ms === null ? ["", "idle"] : latencies(recent.p50_ms, recent.p99_ms);
}

class ServiceView {
  constructor() {
    [this.root, this.parts] = stamp("service-template");
    this.rates = new Spark(this.parts.rates, "rates");
    this.latencies = new Spark(this.parts.latencies, "latencies");
  }

  update(service, at) {
    this.#name(service);
    this.#status(service);
    this.#traffic(service);
    const recent = service.recent;
    this.rates.add(at, recent?.rate);
    this.latencies.add(at, recent?.p99_ms, recent?.p50_ms);
  }

  #name({ name, protocol, listen }) {
    sayCut(this.parts.name, name);
    say(this.parts.protocol, protocol);
    sayCut(this.parts.listen, listen.join(", "));
  }

  #status({ status, panic, nodes }) {
    sign(this.parts.status, STATUS[status] ?? "off", status);
    say(this.parts.panic, panic ? "panic: probes are not believed" : "");
    say(this.parts.nodes, `${nodes.eligible}/${nodes.total}`);
    say(this.parts.up, `${nodes.up} up`);
  }

  #traffic({ recent, totals, gauges, connections, waiting }) {
    const parts = this.parts;
    const [value, unit] = latencyWords(recent, totals);
    say(parts.rate, recent ? rate(recent.rate) : "…");
    say(parts.total, `${count(totals.requests)} in all`);
    say(parts.active, count(gauges.active));
    const clients = Number.isFinite(connections) ? several(connections, "client") : "";
    say(parts.waiting, waiting ? `${clients}, ${count(waiting)} waiting` : clients);
    say(parts.latency, value);
    say(parts.unit, unit);
    say(parts.errors, recent ? rate(recent.errors) : "…");
    say(parts.failed, `${count(failures(totals))} in all`);
  }

  close() {
    this.rates.close();
    this.latencies.close();
  }
}
