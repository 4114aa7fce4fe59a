// The few things that are done to the page. What comes from the API is only ever set as text.

export const byId = (id) => document.getElementById(id);

/** Set the text of ELEMENT, if it is another one. */
export function say(element, text) {
  const only = element.firstChild;
  if (only === null || only.nextSibling !== null || only.nodeType !== Node.TEXT_NODE) element.textContent = text;
  else if (only.data !== text) only.data = text;
}

/** Set or remove (null) an attribute, if that is a change. */
export function mark(element, name, value) {
  if (element.getAttribute(name) === value) return;
  if (value === null) element.removeAttribute(name);
  else element.setAttribute(name, value);
}

/** Say TEXT with a sign, which is not a colour alone: "ok", "warn", "bad", "off". */
export function sign(element, kind, text) {
  mark(element, "data-sign", kind);
  say(element, text);
}

export function show(element, shown) {
  if (element.hidden === shown) element.hidden = !shown;
}

/** A copy of a template: [its first element, its parts by name]. */
export function stamp(id) {
  const root = byId(id).content.firstElementChild.cloneNode(true);
  return [root, partsOf(root)];
}

export function partsOf(root) {
  return Object.fromEntries([...root.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part]));
}

/** Text in full for those who point at it, where it may be cut. */
export function sayCut(element, text) {
  say(element, text);
  mark(element, "title", text || null);
}

/**
 * Views of a list, by key, in its order and in place.
 *
 * make: returns a new view of a key, which has `root` and, if it holds anything, `close`.
 */
export class Views {
  #views = new Map();

  constructor(parent, make) {
    this.parent = parent;
    this.make = make;
  }

  /** Have one view for each of these [key, thing], and call UPDATE(view, thing) on each. */
  show(things, update) {
    this.#keep(new Set(things.map(([key]) => key)));
    let place = this.parent.firstElementChild;
    for (const [key, thing] of things) {
      const view = this.#views.get(key) ?? this.make(key);
      this.#views.set(key, view);
      update(view, thing);
      if (view.root === place) place = place.nextElementSibling;
      else this.parent.insertBefore(view.root, place);
    }
  }

  #keep(keys) {
    for (const [key, view] of this.#views) {
      if (keys.has(key)) continue;
      this.#views.delete(key);
      view.root.remove();
      view.close?.();
    }
  }

  [Symbol.iterator]() {
    return this.#views.values();
  }
}
