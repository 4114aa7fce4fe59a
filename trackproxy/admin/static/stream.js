// Server-sent events, read through fetch: EventSource cannot send a token.

const SILENT_MS = 40_000; // a comment comes every 15 s

/** Yield the data of each event of an ANSWER's body, as JSON; ends when it ends. GIVE_UP: ends a silent one. */
export async function* eventsOf(answer, giveUp) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await within(reader.read(), giveUp);
    if (done) return;
    const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = dataOf(block);
      if (data) yield JSON.parse(data);
    }
  }
}

function dataOf(block) {
  const lines = block.split("\n").filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(5).trimStart()).join("\n");
}

async function within(reading, giveUp) {
  const timer = setTimeout(giveUp, SILENT_MS);
  try {
    return await reading;
  } finally {
    clearTimeout(timer);
  }
}
