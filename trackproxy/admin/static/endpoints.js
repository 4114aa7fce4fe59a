// One endpoint: a node as one service sees it.

import { mark, say, sayCut, sign, stamp } from "./dom.js";
import { count, duration, moment, rate } from "./format.js";
import { failures, latencyWords } from "./services.js";
import { Spark } from "./spark.js";

const HEALTH = { up: "ok", starting: "warn", down: "bad" };

/** Whether it may get new clients. */
export function isEligible(node, endpoint) {
  return node.state === "ready" && endpoint.health !== "down" && !endpoint.ejected && endpoint.weight > 0;
}

/** Whether a run-time value holds; SOURCE: as the API has it. */
export const isChanged = (source) => source?.source === "run time";

/** "configured 1, by alice, 14:03:22" */
export function origin({ configured, changed_by: who, changed_at: at }) {
  const before = configured === null || configured === undefined ? "" : `configured ${configured}, `;
  return `${before}by ${who ?? "somebody"}, ${moment(at)}`;
}

export class EndpointView {
  constructor(label) {
    [this.root, this.parts] = stamp("endpoint-template");
    this.latencies = new Spark(this.parts.latencies, "latencies");
    sayCut(this.parts.label, label);
  }

  /** Show an endpoint of a NODE, as it is AT a moment. */
  update(node, endpoint, at) {
    this.#health(endpoint, node.state !== "disabled");
    this.#traffic(endpoint);
    this.#weight(endpoint);
    this.#probe(endpoint.probe, at);
    this.latencies.add(at, endpoint.recent?.p99_ms, endpoint.recent?.p50_ms);
  }

  #health({ address, health, ejected }, probed) {
    sayCut(this.parts.address, address);
    if (!probed) sign(this.parts.health, "off", `was ${health}`);
    else if (ejected) sign(this.parts.health, "bad", "ejected");
    else sign(this.parts.health, HEALTH[health] ?? "off", health);
    say(this.parts.ejected, ejected && probed ? `by live traffic; ${health} by probes` : "");
  }

  #traffic({ recent, totals, gauges }) {
    const parts = this.parts;
    const [value, unit] = latencyWords(recent, totals);
    say(parts.rate, recent ? rate(recent.rate) : "…");
    say(parts.total, `${count(totals.requests)} in all`);
    say(parts.active, count(gauges.active));
    say(parts.idle, gauges.idle ? `${count(gauges.idle)} idle` : "");
    say(parts.latency, value);
    say(parts.unit, unit);
    say(parts.errors, recent ? rate(recent.errors) : "…");
    say(parts.failed, `${count(failures(totals))} in all`);
  }

  #weight({ weight, priority, sources }) {
    const changed = isChanged(sources?.weight);
    say(this.parts.weight, changed ? `${weight}*` : String(weight));
    say(this.parts.source, changed ? `configured ${sources.weight.configured}` : priority ? `priority ${priority}` : "");
    mark(this.parts.source, "title", changed ? origin(sources.weight) : null);
  }

  #probe(probe, at) {
    if (!probe) {
      sign(this.parts.probe, "off", "none");
      sayCut(this.parts.reason, "");
      return;
    }
    const when = Number.isFinite(probe.at) ? `, ${duration(at - probe.at)} ago` : "";
    sign(this.parts.probe, probe.passed ? "ok" : "bad", (probe.passed ? "passed" : "failed") + when);
    sayCut(this.parts.reason, probe.reason);
  }

  close() {
    this.latencies.close();
  }
}
