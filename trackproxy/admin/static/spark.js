// Small charts of the last two minutes, by uPlot. One is drawn only while it can be seen.

/* global uPlot */

const KEPT_S = 120;
const GAP_S = 5; // no look for so long: the line is broken

const charts = new Map(); // by the element that holds it
const seen = new IntersectionObserver(
  (entries) => entries.forEach((entry) => charts.get(entry.target)?.see(entry.isIntersecting)),
  { rootMargin: "100px" },
);
const sizes = new ResizeObserver((entries) => entries.forEach((entry) => charts.get(entry.target)?.fit()));

let colours = {};

/** Take the colours of the theme that holds now, and draw everything with them. */
export function recolour() {
  const probe = document.createElement("span");
  document.body.append(probe);
  for (const name of ["accent", "warn"]) {
    probe.className = `colour-${name}`;
    colours[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  for (const chart of charts.values()) chart.redraw();
}

const LINES = {
  rates: [{ stroke: () => colours.accent, width: 1.5, fill: () => faint(colours.accent) }],
  latencies: [
    { stroke: () => colours.warn, width: 1, dash: [3, 2] },
    { stroke: () => colours.accent, width: 1.5 },
  ],
};

const faint = (colour) => colour.replace(/^rgb\((.*)\)$/, "rgba($1, 0.14)");

/** One chart in ELEMENT. kind: "rates" takes [rate], "latencies" [p99, p50]. */
export class Spark {
  #plot = null;
  #visible = false;
  #points;

  constructor(element, kind) {
    this.element = element;
    this.kind = kind;
    this.#points = [[], ...LINES[kind].map(() => [])];
    charts.set(element, this);
    seen.observe(element);
    sizes.observe(element);
  }

  /** What holds at a moment, in seconds; null is not known. */
  add(at, ...values) {
    const times = this.#points[0];
    if (times.length && at - times.at(-1) > GAP_S) this.#push(times.at(-1) + 1, values.map(() => null));
    this.#push(at, values.map((value) => (Number.isFinite(value) ? value : null)));
    const old = times.findIndex((time) => time >= at - KEPT_S);
    if (old > 0) this.#points.forEach((row) => row.splice(0, old));
    this.redraw();
  }

  #push(at, values) {
    [at, ...values].forEach((value, index) => this.#points[index].push(value));
  }

  see(visible) {
    this.#visible = visible;
    this.redraw();
  }

  fit() {
    const { width, height } = this.#size();
    if (this.#plot && width && height) this.#plot.setSize({ width, height });
  }

  redraw() {
    if (!this.#visible) return;
    if (this.#plot === null) this.#make();
    else this.#plot.setData(this.#points);
  }

  #size() {
    return { width: this.element.clientWidth, height: this.element.clientHeight };
  }

  #make() {
    const size = this.#size();
    if (!size.width || !size.height) return;
    const newest = () => this.#points[0].at(-1) ?? 0;
    this.#plot = new uPlot(
      {
        ...size,
        series: [{}, ...LINES[this.kind].map((line) => ({ ...line, points: { show: false } }))],
        scales: {
          x: { time: false, range: () => [newest() - KEPT_S, newest()] },
          y: { range: (_plot, _low, high) => [0, (high || 1) * 1.1] },
        },
        axes: [{ show: false }, { show: false }],
        legend: { show: false },
        cursor: { show: false },
        padding: [2, 0, 1, 0],
      },
      this.#points,
      this.element,
    );
  }

  close() {
    charts.delete(this.element);
    seen.unobserve(this.element);
    sizes.unobserve(this.element);
    this.#plot?.destroy();
  }
}
