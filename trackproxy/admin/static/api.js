// The admin API, as far as the page uses it.

const LIMIT_MS = 8000; // for an answer
const CHANGE_LIMIT_MS = 60_000; // a new generation of workers may have to start first

/** It was asked, and did not do it. status: of HTTP; the message is in words. */
export class Refused extends Error {
  constructor(status, words) {
    super(words);
    this.status = status;
  }
}

/** Nothing answers. */
export class Unreachable extends Error {}

export class Api {
  /** TOKEN: returns the token to use, or "". */
  constructor(token) {
    this.token = token;
  }

  /** The tree that PATH (below api/v1/) stands for. */
  async get(path) {
    return this.#told(await this.ask(path, { signal: AbortSignal.timeout(LIMIT_MS) }));
  }

  /** Change something, unless its version is another one than VERSION by now (then Refused 412). */
  async change(method, path, body = {}, version = undefined) {
    const headers = { "Content-Type": "application/json" };
    if (version) headers["If-Match"] = `"${version}"`;
    const signal = AbortSignal.timeout(CHANGE_LIMIT_MS);
    return this.#told(await this.ask(path, { method, headers, signal, body: JSON.stringify(body) }));
  }

  /** The answer, if it is a good one. */
  async ask(path, options) {
    const token = this.token();
    const headers = token ? { ...options.headers, Authorization: `Bearer ${token}` } : options.headers;
    let answer;
    try {
      answer = await fetch(`api/v1/${path}`, { ...options, headers, cache: "no-store", redirect: "error" });
    } catch (error) {
      if (options.signal.aborted && error.name === "AbortError") throw error;
      throw new Unreachable("trackproxy does not answer");
    }
    if (!answer.ok) throw new Refused(answer.status, await words(answer));
    return answer;
  }

  async #told(answer) {
    try {
      return await answer.json();
    } catch {
      throw new Unreachable("the answer of trackproxy broke off");
    }
  }
}

/** Why, as problem details (RFC 9457) say it. */
async function words(answer) {
  const problem = await answer.json().catch(() => ({}));
  const { detail, title, problems } = problem ?? {};
  const why = String(detail || title || answer.statusText || `status ${answer.status}`);
  const more = Array.isArray(problems) ? problems.map(String).filter((one) => !why.includes(one)) : [];
  return [why, ...more].join("; ");
}

export const nodePath = (name, verb = "") => `nodes/${encodeURIComponent(name)}${verb && `/${verb}`}`;
