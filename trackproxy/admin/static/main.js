// The page: looks once a second, shows what it sees, and lets those who may change it.

import { Api, Refused } from "./api.js";
import { offerThemes } from "./appearance.js";
import { Changes } from "./changes.js";
import { askToken } from "./dialogs.js";
import { byId, say, show, sign } from "./dom.js";
import { EventList, Following } from "./events.js";
import { duration } from "./format.js";
import { Beat } from "./live.js";
import { Nodes } from "./nodes.js";
import { showServices } from "./services.js";
import { recolour } from "./spark.js";
import { showStatus } from "./whole.js";
import * as token from "./token.js";

const api = new Api(token.current);
const events = new Following(api, new EventList());
const nodes = new Nodes((verb, node) => changes.make(verb, node).then(() => beat.now()));
const changes = new Changes(api, nodes, (error) => isLockedOut(error) && lockOut(error));
const beat = new Beat(look, lost);

let known = { program: null, session: null }; // whom the page last spoke with
let lookedAt = null; // in ms, of the page's clock

async function look() {
  const before = changes.ended;
  const [status, { services }, { nodes: found }] = await Promise.all(["status", "services", "nodes"].map((path) => api.get(path)));
  await meet(status);
  const at = status.started_at + status.uptime_s; // the clock of trackproxy, not the browser's
  showStatus(status);
  showServices(services, at);
  if (before === changes.ended) nodes.show(found, at);
  lookedAt = performance.now();
  sign(byId("connection"), "ok", "live");
  showAge();
}

/** Learn who we are there, whenever that may have changed. */
async function meet({ started_at: program, generation }) {
  const session = `${program} ${generation} ${token.current()}`;
  if (session !== known.session) showSession(await whoWeAre());
  if (program !== known.program) events.restart();
  known = { program, session };
}

async function whoWeAre() {
  try {
    return await api.get("session");
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return { name: null, role: "write", by: "none" };
    throw error;
  }
}

function showSession({ name, role, by }) {
  const mayChange = role === "write";
  say(byId("who"), [name, mayChange ? "" : "read-only"].filter(Boolean).join(" · "));
  show(byId("read-only"), !mayChange);
  show(byId("forget"), by === "token" || token.current() !== "");
  show(byId("enter"), !mayChange && by !== "token");
  nodes.allow(mayChange);
}

// --- what goes wrong ---

const isLockedOut = (error) => error instanceof Refused && error.status === 401;

function lost(error) {
  if (isLockedOut(error)) lockOut(error);
  else sign(byId("connection"), "bad", "reconnecting");
  if (!isLockedOut(error)) byId("connection").title = error.message;
  showAge();
}

async function lockOut() {
  beat.stop();
  events.stop();
  sign(byId("connection"), "bad", "token needed");
  nodes.allow(false);
  show(byId("enter"), true);
  show(byId("forget"), token.current() !== "");
  const why = token.current() ? "The token was not accepted." : "This trackproxy answers only who has a token.";
  await enter(why);
}

async function enter(why) {
  const entered = await askToken(why);
  if (!entered) return;
  use(entered.token);
}

function use(value) {
  token.use(value);
  known = { program: null, session: null };
  show(byId("enter"), false);
  beat.go();
}

function showAge() {
  const age = lookedAt === null ? null : (performance.now() - lookedAt) / 1000;
  say(byId("age"), age === null ? "" : `data ${duration(age)} old`);
  document.body.classList.toggle("stale", age !== null && age > 5);
}

byId("enter").addEventListener("click", () => enter("With the role “write” it may change nodes."));
byId("forget").addEventListener("click", () => use(""));
offerThemes(byId("theme"), recolour);
setInterval(showAge, 1000);
beat.go();
