// Draws what the kernel sends, at most once a frame and only while it is in sight, because drawing
// takes time from what is computed beside it. Nothing is answered: each answer would turn the kernel
// busy and idle again, which costs JupyterLab more than the drawing.
const key = Symbol.for("workbench.plotly");
globalThis[key] ??= Promise.withResolvers();
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

async function render({ model, el }) {
  const shown = document.createElement("div");
  shown.style.minHeight = `${model.get("height")}px`; // nothing jumps when the picture comes
  el.append(shown);
  const plotly = await globalThis[key].promise;
  let waiting = null; // changes since it was drawn: {traces: {name: {key: value}}, layout}
  let inSight = false;
  let frame = null;

  function drawSoon() {
    if (waiting && inSight) frame ??= requestAnimationFrame(draw);
  }

  function draw() {
    frame = null;
    const { traces, layout } = waiting;
    waiting = null;
    if (!shown.data) return; // the view has gone meanwhile
    const places = shown.data.flatMap(({ name }, place) => (name in traces ? [place] : []));
    const changes = places.map((place) => traces[shown.data[place].name]);
    const style = {};
    for (const name of new Set(changes.flatMap(Object.keys)))
      style[name] = changes.map((values) => values[name]);
    if (places.length) plotly.update(shown, style, layout, places);
    else plotly.relayout(shown, layout);
  }

  function hear(message) {
    const { whole, traces, layout } = JSON.parse(message, revived);
    if (whole && !shown.data) {
      plotly.newPlot(shown, whole.data, whole.layout, model.get("config"));
    } else if (traces && shown.data) {
      waiting ??= { traces: {}, layout: {} };
      for (const [name, values] of Object.entries(traces))
        waiting.traces[name] = { ...waiting.traces[name], ...values };
      Object.assign(waiting.layout, layout);
      drawSoon();
    }
  }

  const fit = new ResizeObserver(() => shown.data && plotly.Plots.resize(shown));
  fit.observe(shown);
  const sight = new IntersectionObserver((changes) => {
    inSight = changes.at(-1).isIntersecting;
    drawSoon();
  });
  sight.observe(shown);
  model.on("msg:custom", hear);
  model.send("listening");
  return () => {
    model.off("msg:custom", hear);
    fit.disconnect();
    sight.disconnect();
    plotly.purge(shown);
  };
}

export default { render };
