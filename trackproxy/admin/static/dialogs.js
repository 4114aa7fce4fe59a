// Questions before something is changed. A native modal dialog keeps the focus, Escape says no.

import { byId, partsOf, say, show } from "./dom.js";
import { isChanged, origin } from "./endpoints.js";
import { listed } from "./format.js";

const asking = new Map(); // by dialog: how to end the question that it asks

/** What was entered, by name; null if nothing is to be done. PREPARE: called with the dialog's parts and fields. */
function ask(id, prepare) {
  const dialog = byId(id);
  if (dialog.open) return Promise.resolve(null);
  asking.get(dialog)?.(null);
  const [parts, form] = [partsOf(dialog), dialog.querySelector("form")];
  form.reset();
  prepare(parts, form.elements);
  return new Promise((resolve) => {
    const over = new AbortController();
    const on = (target, kind, heard) => target?.addEventListener(kind, heard, { signal: over.signal });
    const end = (entered) => {
      over.abort();
      asking.delete(dialog);
      dialog.close();
      resolve(entered);
    };
    asking.set(dialog, end);
    on(form, "submit", (event) => {
      event.preventDefault(); // the form goes nowhere
      end(Object.fromEntries(new FormData(form)));
    });
    on(parts.cancel, "click", () => end(null));
    on(parts.reset, "click", () => end({}));
    on(dialog, "cancel", () => end(null)); // Escape
    on(dialog, "close", () => dialog.open || end(null)); // if open: it was the last question's
    dialog.showModal();
    form.querySelector("input:not([type=radio])")?.select();
  });
}

/** {timeout: seconds, sticky}; LAST: services that have no other node. */
export function askDrain(name, last) {
  return ask("drain-dialog", (parts) => {
    say(parts.node, name);
    warn(parts.last, last);
  });
}

/** {} if NAME is to be disabled although it is the LAST node of these services. */
export function askDisable(name, last) {
  return ask("disable-dialog", (parts) => {
    say(parts.node, name);
    warn(parts.last, last);
  });
}

function warn(element, last) {
  say(element, `It is the last node that takes new clients of ${listed(last)}: nobody else will.`);
  show(element, last.length > 0);
}

/** {weight} or {}, which is "as configured". */
export function askWeight(node) {
  const source = node.sources?.weight;
  return ask("weight-dialog", (parts, { weight }) => {
    say(parts.node, node.name);
    say(parts.source, isChanged(source) ? `Changed: ${origin(source)}.` : "It is as configured.");
    parts.reset.disabled = !isChanged(source);
    weight.value = source?.value ?? "";
  });
}

/** {token}; WHY it is asked for. */
export function askToken(why) {
  return ask("token-dialog", (parts) => say(parts.why, why));
}
