// What the buttons of a node do: ask if need be, change it, say what came of it.

import { Refused, nodePath } from "./api.js";
import { askDisable, askDrain, askWeight } from "./dialogs.js";
import { tell } from "./results.js";

/** By verb: the order to give for a node, null for none. LAST: services that have no other node. */
const ORDERS = {
  async drain({ name }, last) {
    const entered = await askDrain(name, last);
    const body = entered && { timeout: `${Number(entered.timeout)}s`, sticky: entered.sticky };
    return entered && { method: "POST", path: nodePath(name, "drain"), body, done: "is draining" };
  },
  async disable({ name }, last) {
    if (last.length && !(await askDisable(name, last))) return null;
    return { method: "POST", path: nodePath(name, "disable"), body: {}, done: "is disabled" };
  },
  async ready({ name }) {
    return { method: "POST", path: nodePath(name, "ready"), body: {}, done: "is ready" };
  },
  async weight(node) {
    const entered = await askWeight(node);
    const weight = entered?.weight === undefined ? null : Number(entered.weight);
    const done = weight === null ? "has its weight as configured" : `has weight ${weight}`;
    return entered && { method: "PATCH", path: nodePath(node.name), body: { weight }, done };
  },
};

export class Changes {
  ended = 0; // how many; what was looked at before is not the newest then

  /** NODES: see nodes.js. FAILED: told of errors that are not about the change. */
  constructor(api, nodes, failed) {
    this.api = api;
    this.nodes = nodes;
    this.failed = failed;
  }

  /** Do what a button says for a NODE as it was shown. */
  async make(verb, node) {
    const order = await ORDERS[verb](node, this.nodes.lastIn(node.name));
    if (!order) return;
    this.nodes.setBusy(node.name, true);
    try {
      this.#now(await this.api.change(order.method, order.path, order.body, node.version));
      tell("ok", `${node.name} ${order.done}.`);
    } catch (error) {
      await this.#explain(node.name, error);
    } finally {
      this.nodes.setBusy(node.name, false);
    }
  }

  #now(node) {
    this.ended += 1;
    this.nodes.showOne(node);
  }

  async #explain(name, error) {
    if (error instanceof Refused && error.status === 412) {
      const now = await this.api.get(nodePath(name)).catch(() => null);
      if (now) this.#now(now);
      const state = now ? ` It is ${now.state} now, with weight ${now.sources?.weight?.value ?? "unknown"}.` : "";
      tell("warn", `${name} was not changed: somebody else has changed it meanwhile.${state}`);
      return;
    }
    tell("bad", `${name} was not changed: ${error.message}.`);
    this.failed(error);
  }
}
