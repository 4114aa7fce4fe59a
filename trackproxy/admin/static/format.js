// Numbers, times and durations as people read them. What is not known is "–".

export const UNKNOWN = "–";

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
const DAY = { year: "numeric", month: "short", day: "numeric" };
const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

/** A count: in full up to five digits. */
export function count(value) {
  if (!Number.isFinite(value)) return UNKNOWN;
  return Math.abs(value) < 100_000 ? WHOLE.format(value) : SHORT.format(value);
}

/** What happens in a second. */
export function rate(value) {
  if (!Number.isFinite(value)) return UNKNOWN;
  return `${value > 0 && value < 10 ? value.toFixed(1) : count(Math.round(value))}/s`;
}

/** Two latencies in ms, with the unit that fits both: ["1.4 / 9.0", "ms"]. */
export function latencies(p50, p99) {
  if (!Number.isFinite(p50) || !Number.isFinite(p99)) return [UNKNOWN, ""];
  const inSeconds = p99 >= 10_000;
  const shown = [p50, p99].map((ms) => digits(inSeconds ? ms / 1000 : ms));
  return [shown.join(" / "), inSeconds ? "s" : "ms"];
}

function digits(value) {
  if (value >= 100) return WHOLE.format(value);
  return value.toFixed(value >= 10 ? 1 : 2);
}

/** A duration with its two largest units: "3 h 12 min". */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return UNKNOWN;
  let rest = Math.max(0, Math.round(seconds));
  const parts = [];
  for (const [unit, size] of UNITS) {
    const whole = Math.floor(rest / size);
    rest -= whole * size;
    if (whole || (unit === "s" && !parts.length)) parts.push(`${whole} ${unit}`);
  }
  return parts.slice(0, 2).join(" ");
}

/** A moment, in seconds of the wall clock; with its day unless that is today. */
export function moment(at) {
  if (!Number.isFinite(at)) return UNKNOWN;
  const date = new Date(at * 1000);
  const clock = date.toLocaleTimeString([], CLOCK);
  const today = date.toDateString() === new Date().toDateString();
  return today ? clock : `${date.toLocaleDateString([], DAY)} ${clock}`;
}

/** "1 request", "2 requests". */
export function several(value, word) {
  return `${count(value)} ${word}${value === 1 ? "" : "s"}`;
}

/** "a", "a and b", "a, b and c". */
export function listed(words) {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}
