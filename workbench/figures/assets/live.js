// Draws what the kernel sends, at most once a frame and only while it is in sight, because drawing
// takes time from what is computed beside it. Each state has a number. As long as none is missing,
// nothing is answered: an answer would turn the kernel busy and idle again, which costs JupyterLab
// more than the drawing.
const key = Symbol.for("workbench.plotly");
globalThis[key] ??= Promise.withResolvers();
const FIRST_WAIT = 500; // milliseconds until a question is repeated, then twice as long each time
const LONGEST_WAIT = 30000;
const PATIENCE = 4; // questions without an answer before the person is told
const WAITING =
  "Waiting for the kernel. If it was restarted, run the cell again; otherwise reload the page.";
const GONE = "The kernel that drew this has ended: run the cell again.";
const ARRAYS = {
  i1: Int8Array, i2: Int16Array, i4: Int32Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array,
  f4: Float32Array, f8: Float64Array,
};

// Numbers come as base64, which is a third of their size in digits and loses none.
function revived(_, value) {
  if (!value?.bdata) return value;
  const bytes = Uint8Array.from(atob(value.bdata), (letter) => letter.charCodeAt(0));
  const numbers = new ARRAYS[value.dtype](bytes.buffer);
  const [rows, columns] = (value.shape ?? "").split(",").map(Number);
  if (!columns) return numbers;
  return Array.from({ length: rows }, (_, row) =>
    numbers.subarray(row * columns, (row + 1) * columns));
}

// What a picture shows, in words: what the kernel says of it, or else the titles of its axes; then
// the last point of each curve where that is what one looks for.
function inWords({ data, layout }, said) {
  const text = (title) => title?.text ?? title ?? "";
  const of = (axis) => text(layout?.[axis]?.title).replace(/<[^>]*>/g, "");
  const { shows, newest } = layout?.meta ?? {};
  const lead = said || shows || [of("yaxis"), of("xaxis")].filter(Boolean).join(" against ");
  const number = (value) => Number(value).toLocaleString("en", { maximumSignificantDigits: 4 });
  const last = ({ x, y }) => {
    const place = Array.from(y ?? []).findLastIndex(Number.isFinite);
    return place < 0 ? null : `${number(y[place])} at ${number(x[place])}`;
  };
  const curves = newest ? data.filter((trace) => trace.showlegend !== false) : [];
  const points = curves.map((trace) => [trace.name, last(trace)]).filter(([, point]) => point);
  const ends = points.map(([name, point]) => `${name} ${point}`).join("; ");
  return `${lead || "Picture"}${ends ? ` Newest: ${ends}.` : ""}`;
}

// Calls `ask` until `answered`, ever more seldom: a question can be lost, and so can its answer.
function asker(ask) {
  let timer = null;
  let asked = 0; // times without an answer
  let last = -Infinity;

  function again() {
    asked += 1;
    last = performance.now();
    timer = setTimeout(again, Math.min(FIRST_WAIT * 2 ** (asked - 1), LONGEST_WAIT));
    ask(asked);
  }

  function stop() {
    clearTimeout(timer);
    timer = null;
    asked = 0;
  }

  return {
    answered: stop,
    // From the short waits on: something tells that an answer can come now.
    begin() {
      if (timer !== null && performance.now() - last < FIRST_WAIT) return;
      stop();
      again();
    },
  };
}

async function render({ model, el }) {
  const note = document.createElement("div");
  note.setAttribute("role", "status");
  note.style.cssText = "font-size: 13px; padding: 4px; color: var(--jp-ui-font-color1, #333)";
  const shown = document.createElement("div");
  shown.style.minHeight = `${model.get("height")}px`; // nothing jumps when the picture comes
  el.append(note, shown);
  let number = -1; // of the state that has come without a gap
  let newest = -1; // the highest number heard of
  let waiting = null; // changes since it was drawn: {traces: {name: {key: value}}, layout}
  let said = ""; // what the picture shows, where the kernel has said so since it was drawn whole
  let inSight = false;
  let frame = null;
  let hearing = false; // clicks

  const ended = () => Boolean(el.closest(".jupyter-widgets-disconnected"));

  const question = asker((times) => {
    if (ended()) return tellOfTheEnd();
    if (times > PATIENCE) note.textContent = WAITING;
    try {
      model.send({ have: number });
    } catch {
      // The connection is being replaced; the question is asked again on the next one.
    }
  });

  function tellOfTheEnd() {
    if (!ended()) return question.begin();
    question.answered(); // nobody will
    note.textContent = GONE;
  }

  function inStep() {
    question.answered();
    note.textContent = "";
    hearClicks();
  }

  function drawSoon() {
    if (waiting && inSight) frame ??= requestAnimationFrame(draw);
  }

  // One name for the whole picture; its many lines and letters have none of their own.
  function name() {
    shown.setAttribute("role", "figure");
    shown.setAttribute("aria-label", inWords(shown, said));
    for (const part of shown.querySelectorAll("svg:not([aria-hidden])"))
      part.setAttribute("aria-hidden", "true");
  }

  function draw() {
    frame = null;
    if (!waiting || !shown.data) return; // a whole came instead, or the view has gone
    const { traces, layout } = waiting;
    waiting = null;
    const places = shown.data.flatMap(({ name }, place) => (name in traces ? [place] : []));
    const changes = places.map((place) => traces[shown.data[place].name]);
    const style = {};
    for (const name of new Set(changes.flatMap(Object.keys)))
      style[name] = changes.map((values) => values[name]);
    if (places.length) plotly.update(shown, style, layout, places);
    else plotly.relayout(shown, layout);
    name();
  }

  function change({ traces, layout, shows }) {
    said = shows || said;
    waiting ??= { traces: {}, layout: {} };
    for (const [name, values] of Object.entries(traces))
      waiting.traces[name] = { ...waiting.traces[name], ...values };
    Object.assign(waiting.layout, layout);
    drawSoon();
  }

  // Clicks on points, where the kernel has a use for them.
  function hearClicks() {
    if (hearing || !model.get("clickable")) return;
    hearing = true;
    shown.on("plotly_click", ({ points: [{ data, x, y }] }) =>
      model.send({ clicked: data.name, x, y }));
  }

  function hear(message) {
    const news = JSON.parse(message, revived);
    newest = Math.max(newest, news.number);
    if (news.whole && news.number > number) {
      waiting = null; // older than what has come
      plotly.react(shown, news.whole.data, news.whole.layout, model.get("config"));
      number = news.number;
      said = "";
      name();
    } else if (news.traces && news.number === number + 1 && number >= 0) {
      change(news);
      number = news.number;
    }
    if (number < newest) question.begin(); // something is missing
    else if (number === news.number) inStep();
  }

  const slow = setTimeout(() => (note.textContent = WAITING), FIRST_WAIT * 2 ** PATIENCE);
  const load = await globalThis[key].promise;
  const plotly = await load();
  clearTimeout(slow);
  const fit = new ResizeObserver(() => shown.data && plotly.Plots.resize(shown));
  fit.observe(shown);
  const sight = new IntersectionObserver((changes) => {
    inSight = changes.at(-1).isIntersecting;
    drawSoon();
  });
  sight.observe(shown);
  // A tab that slept, or a connection that was lost and found, may have missed the last message.
  const awake = () => document.visibilityState === "visible" && question.begin();
  const restored = model.widget_manager?.restored; // JupyterLab's
  document.addEventListener("visibilitychange", awake);
  restored?.connect?.(question.begin);
  model.on("msg:custom", hear);
  model.on("comm_live_update", tellOfTheEnd);
  question.begin();
  return () => {
    question.answered();
    document.removeEventListener("visibilitychange", awake);
    restored?.disconnect?.(question.begin);
    model.off("msg:custom", hear);
    model.off("comm_live_update", tellOfTheEnd);
    fit.disconnect();
    sight.disconnect();
    plotly.purge(shown);
  };
}

export default { render };
