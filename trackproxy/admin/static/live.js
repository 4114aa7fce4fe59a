// Looking again and again: once a second while the page is seen, more rarely while nothing answers.

const BEAT_MS = 1000;
const MOST_MS = 15_000; // between two looks, however often it has failed

/** LOOK: asynchronous, raises what went wrong; FAILED is told of that. */
export class Beat {
  #timer = 0;
  #running = false;
  #again = false;
  #pause = BEAT_MS;

  constructor(look, failed) {
    this.look = look;
    this.failed = failed;
    this.stopped = false;
    document.addEventListener("visibilitychange", () => this.now());
  }

  /** Look now, unless nobody would see it. */
  now() {
    clearTimeout(this.#timer);
    this.#again = this.#running;
    if (!this.#running && !document.hidden && !this.stopped) this.#turn();
  }

  stop() {
    this.stopped = true;
    clearTimeout(this.#timer);
  }

  go() {
    this.stopped = false;
    this.#pause = BEAT_MS;
    this.now();
  }

  async #turn() {
    const begun = performance.now();
    this.#running = true;
    try {
      await this.look();
      this.#pause = BEAT_MS;
    } catch (error) {
      this.#pause = Math.min(this.#pause * 2, MOST_MS);
      this.failed(error);
    }
    this.#running = false;
    const took = performance.now() - begun;
    if (!document.hidden && !this.stopped) {
      const pause = this.#again ? 0 : Math.max(this.#pause - took, BEAT_MS / 4);
      this.#timer = setTimeout(() => this.#turn(), pause);
    }
    this.#again = false;
  }
}
