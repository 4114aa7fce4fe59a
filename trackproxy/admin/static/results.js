// What came of a change, said where screen readers hear it too.

import { byId, sign } from "./dom.js";

const MOST = 3; // at once
const STAYS_MS = { ok: 8000, warn: 20_000, bad: 20_000 };

/** KIND: "ok", "warn" or "bad". */
export function tell(kind, text) {
  const result = document.createElement("div");
  const words = document.createElement("span");
  const close = document.createElement("button");
  result.className = "result";
  words.className = "sign";
  sign(words, kind, text);
  close.type = "button";
  close.textContent = "Close";
  close.addEventListener("click", () => result.remove());
  result.append(words, close);
  byId("results").append(result);
  if (byId("results").children.length > MOST) byId("results").firstElementChild.remove();
  setTimeout(() => result.remove(), STAYS_MS[kind]);
}
