// The list of events, newest first: streamed, or if that cannot be had asked for every few seconds.

import { Refused } from "./api.js";
import { byId, say, show, sign, stamp } from "./dom.js";
import { moment } from "./format.js";
import { eventsOf } from "./stream.js";

const KEPT = 500;
const SHOWN = 200;
const ASKED = 100;
const RETRY_MS = 3000;
const MISSING_MS = 30_000; // until we ask again whether there are events
const LEVELS = { info: ["off", 0], warning: ["warn", 1], error: ["bad", 2] };

export class EventList {
  #events = []; // newest first
  #kinds = new Set();

  constructor() {
    for (const id of ["event-kind", "event-level"]) byId(id).addEventListener("change", () => this.#redraw());
  }

  /** Take an EVENT, unless it is there already. Programs number anew from their start on. */
  take(event) {
    if (this.#events.some((one) => one.id === event.id && one.at === event.at)) return;
    this.#events.unshift(event);
    this.#events.length = Math.min(this.#events.length, KEPT);
    this.#offer(String(event.kind));
    if (!isWanted(event)) return;
    byId("events").prepend(row(event));
    if (byId("events").children.length > SHOWN) byId("events").lastElementChild.remove();
    show(byId("events-empty"), false);
  }

  #offer(kind) {
    if (this.#kinds.has(kind)) return;
    this.#kinds.add(kind);
    const next = [...byId("event-kind").options].find((option) => option.value > kind);
    byId("event-kind").add(new Option(kind.replaceAll("_", " "), kind), next ?? null);
  }

  #redraw() {
    const wanted = this.#events.filter(isWanted).slice(0, SHOWN);
    byId("events").replaceChildren(...wanted.map(row));
    show(byId("events-empty"), wanted.length === 0);
    say(byId("events-empty"), this.#events.length ? "No event is like that." : "No events yet.");
  }
}

function isWanted(event) {
  const kind = byId("event-kind").value;
  return (!kind || kind === event.kind) && rank(event.level) >= rank(byId("event-level").value);
}

const rank = (level) => (LEVELS[level] ?? LEVELS.info)[1];

function row(event) {
  const [root, parts] = stamp("event-template");
  say(parts.time, moment(event.at));
  parts.time.dateTime = Number.isFinite(event.at) ? new Date(event.at * 1000).toISOString() : "";
  sign(parts.level, (LEVELS[event.level] ?? LEVELS.info)[0], String(event.level));
  say(parts.kind, String(event.kind).replaceAll("_", " "));
  say(parts.text, String(event.text ?? ""));
  return root;
}

/** Keeps a list up to date while the page is seen; what was told before a restart stays in it. */
export class Following {
  #ending = new AbortController();
  #timer = 0;
  #newest = null; // the number of the last event that this program has told

  constructor(api, list) {
    this.api = api;
    this.list = list;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.stop() : this.start()));
  }

  /** Follow, from the event that was the last one. */
  start() {
    this.stop();
    this.#ending = new AbortController();
    if (!document.hidden) this.#follow(this.#ending);
  }

  stop() {
    clearTimeout(this.#timer);
    this.#ending.abort();
  }

  /** Another process tells them now. */
  restart() {
    this.#newest = null;
    this.start();
  }

  #take(event) {
    this.#newest = event.id;
    this.list.take(event);
  }

  async #follow(ending) {
    let pause = RETRY_MS;
    try {
      await this.#stream(ending);
    } catch (error) {
      if (ending.signal.aborted) return;
      pause = await this.#instead(error);
    }
    if (!ending.signal.aborted) this.#timer = setTimeout(() => this.#follow(this.#ending), pause);
  }

  async #stream(ending) {
    const headers = { Accept: "text/event-stream" };
    if (this.#newest !== null) headers["Last-Event-ID"] = String(this.#newest);
    const path = this.#newest === null ? `events?last=${ASKED}` : "events";
    const silence = new AbortController();
    const signal = AbortSignal.any([ending.signal, silence.signal]);
    const answer = await this.api.ask(path, { headers, signal });
    state("live");
    for await (const event of eventsOf(answer, () => silence.abort())) this.#take(event);
    state("interrupted");
  }

  /** Ask for them, since they are not streamed because of ERROR; how long to wait then. */
  async #instead(error) {
    if (!(error instanceof Refused)) state("interrupted");
    else if (error.status === 404) {
      state("not told by this trackproxy");
      return MISSING_MS;
    } else if (error.status !== 401) await this.#poll();
    return RETRY_MS;
  }

  async #poll() {
    try {
      const { events } = await this.api.get(`events?last=${ASKED}`);
      events.forEach((event) => this.#take(event));
      state("asked for every few seconds");
    } catch {
      state("interrupted");
    }
  }
}

function state(words) {
  say(byId("events-state"), words);
}
