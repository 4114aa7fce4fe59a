// The nodes: what an operator decides by, and the buttons to decide with. Updated in place.

import { Views, byId, mark, say, sayCut, show, sign, stamp } from "./dom.js";
import { EndpointView, isChanged, isEligible, origin } from "./endpoints.js";
import { duration, listed, several } from "./format.js";

const STATES = { ready: "ok", drain: "warn", disabled: "off" };
const STATE_WORDS = { ready: "ready", drain: "draining", disabled: "disabled" };
const OUTCOMES = {
  empty: "drained: nothing was open any more",
  deadline: "drained: what was open at the deadline was ended",
};
const VERBS = ["drain", "disable", "ready", "weight"];
const MANY = 12; // from here on only what is on the screen is laid out
const OPEN = { requests: "request", tunnels: "tunnel", sessions: "session" };

export class Nodes {
  #nodes = [];
  #mayChange = false;
  #busy = new Set();
  #at = 0;

  /** ACT: called with a verb and the node that a button was pressed for. */
  constructor(act) {
    this.views = new Views(byId("nodes"), (name) => new NodeView(name, (verb) => this.#press(verb, name, act)));
    for (const id of ["node-filter", "node-trouble"]) byId(id).addEventListener("input", () => this.#draw());
  }

  /** Show these NODES, as they are AT a moment. */
  show(nodes, at) {
    [this.#nodes, this.#at] = [nodes, at];
    this.#draw(at);
  }

  /** Show what is known of one NODE now. */
  showOne(node) {
    this.#nodes = this.#nodes.map((one) => (one.name === node.name ? node : one));
    this.#draw();
  }

  find(name) {
    return this.#nodes.find((node) => node.name === name);
  }

  /** The services of which this node is the last one that may get new clients. */
  lastIn(name) {
    return Object.entries(this.find(name)?.services ?? {})
      .filter(([label, endpoint]) => isEligible(this.find(name), endpoint) && !this.#others(name, label))
      .map(([label]) => label);
  }

  #others(name, label) {
    return this.#nodes.some(
      (node) => node.name !== name && node.services[label] && isEligible(node, node.services[label]),
    );
  }

  allow(mayChange) {
    this.#mayChange = mayChange;
    this.#draw();
  }

  /** A change of NAME is under way, or over. */
  setBusy(name, busy) {
    if (busy) this.#busy.add(name);
    else this.#busy.delete(name);
    this.#draw();
  }

  #press(verb, name, act) {
    const node = this.find(name);
    if (node && this.#mayChange && !this.#busy.has(name) && makesSense(verb, node)) act(verb, node);
  }

  /** AT: when NODES were looked at, if they just were. */
  #draw(at = null) {
    const wanted = this.#nodes.filter((node) => matches(node));
    this.views.show(this.#nodes.map((node) => [node.name, node]), (view, node) => {
      if (at !== null) view.look(node, at);
      view.update(node, this.#mayChange, this.#busy.has(node.name));
      show(view.root, wanted.includes(node));
    });
    this.#count(wanted.length);
  }

  #count(shown) {
    const all = this.#nodes.length;
    byId("nodes").classList.toggle("many", all > MANY);
    say(byId("nodes-count"), shown === all ? several(all, "node") : `${shown} of ${several(all, "node")}`);
    say(byId("nodes-empty"), all ? "No node is like that." : "There are no nodes.");
    show(byId("nodes-empty"), shown === 0);
  }
}

function matches(node) {
  const text = byId("node-filter").value.trim().toLowerCase();
  const named = !text || node.name.toLowerCase().includes(text);
  return named && (!byId("node-trouble").checked || inTrouble(node));
}

function inTrouble(node) {
  const sick = (endpoint) => endpoint.health !== "up" || endpoint.ejected || endpoint.recent?.errors > 0;
  return node.state !== "ready" || Object.values(node.services).some(sick);
}

const makesSense = (verb, node) =>
  ({ drain: node.state !== "disabled", disable: node.state !== "disabled", ready: node.state !== "ready" })[verb] ?? true;

class NodeView {
  #whole = 0; // seconds that the drain under way had at first

  constructor(name, press) {
    [this.root, this.parts] = stamp("node-template");
    sayCut(this.parts.name, name);
    mark(this.root, "aria-label", name);
    mark(this.parts.table, "aria-label", `Services of ${name}`);
    for (const verb of VERBS) {
      say(this.parts[`for-${verb}`], ` ${name}`);
      this.parts[verb].addEventListener("click", () => press(verb));
    }
    this.endpoints = new Views(this.parts.rows, (label) => new EndpointView(label));
  }

  /** Take its endpoints, as they are AT a moment. */
  look(node, at) {
    this.endpoints.show(Object.entries(node.services), (view, endpoint) => view.update(node, endpoint, at));
    const rows = Object.keys(node.services).length;
    this.root.style.setProperty("--rows", Math.max(rows, 1)); // how high it is about, until it is seen
    show(this.parts.empty, rows === 0);
  }

  update(node, mayChange, busy) {
    mark(this.root, "data-state", node.state);
    mark(this.root, "aria-busy", busy ? "true" : null);
    sign(this.parts.state, STATES[node.state] ?? "off", STATE_WORDS[node.state] ?? node.state);
    this.#drain(node);
    this.#changes(node);
    this.#buttons(node, mayChange);
  }

  #drain({ state, drain, left }) {
    const seconds = drain?.seconds_left;
    const lasts = Number.isFinite(seconds);
    this.#whole = lasts ? Math.max(this.#whole, seconds) : 0;
    show(this.parts.progress, lasts);
    this.parts.progress.value = lasts && this.#whole ? 1 - seconds / this.#whole : 0;
    const outcome = state === "disabled" ? (OUTCOMES[drain?.outcome] ?? "") : "";
    const words = lasts ? `${duration(seconds)} left; ${openWords(left)}` : outcome;
    say(this.parts.left, words);
    show(this.parts.left, words !== "");
  }

  #changes({ sources = {} }) {
    const lines = Object.entries(sources).filter(([, source]) => isChanged(source)).map(changeWords);
    const list = this.parts.changes;
    while (list.children.length > lines.length) list.lastElementChild.remove();
    while (list.children.length < lines.length) list.append(document.createElement("li"));
    lines.forEach((line, index) => say(list.children[index], line));
    show(list, lines.length > 0);
  }

  #buttons(node, mayChange) {
    const weight = node.sources?.weight;
    say(this.parts.share, `${weight?.value ?? ""}${isChanged(weight) ? "*" : ""}`);
    for (const verb of VERBS) {
      this.parts[verb].disabled = !mayChange;
      mark(this.parts[verb], "aria-disabled", mayChange && !makesSense(verb, node) ? "true" : null);
    }
  }

  close() {
    this.endpoints.show([], () => {});
  }
}

function openWords(left) {
  const open = Object.entries(OPEN).filter(([kind]) => left[kind]);
  return open.length ? `${listed(open.map(([kind, word]) => several(left[kind], word)))} open` : "nothing open";
}

function changeWords([key, source]) {
  const what = { state: STATE_WORDS[source.value] ?? source.value, address: "added" }[key];
  return `${what ?? `${key.replaceAll("_", " ")} ${source.value}`}*: ${origin(key === "state" ? { ...source, configured: null } : source)}`;
}
