// Past runs as a table: tick up to so many to see them beside the current one, resume one.
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function render({ model, el }) {
  const shown = () => model.get("shown"); // {letter: id}
  const letterOf = (id) => Object.keys(shown()).find((letter) => shown()[letter] === id);
  const freeLetter = () => model.get("letters").find((letter) => !(letter in shown()));

  const tick = (id, ticked) => {
    const next = { ...shown() };
    if (ticked) next[freeLetter()] = id;
    else delete next[letterOf(id)];
    model.set("shown", next);
    model.save_changes();
  };

  const row = ({ id, cells, note, resumable }) => {
    const box = element("input", { type: "checkbox", ariaLabel: `Show run ${cells[0]}`, title: `Show run ${id} in the pictures` });
    box.onchange = () => tick(id, box.checked);
    const letter = element("b");
    const go = element("button", {
      className: "jupyter-button widget-button",
      textContent: "Resume",
      ariaLabel: `Resume run ${cells[0]}`,
      title: `Go on with run ${id} from its checkpoint`,
      onclick: () => model.send({ resume: id }),
    });
    const line = element(
      "tr",
      { title: note },
      element("td", {}, element("label", {}, box, letter)),
      ...cells.map((text) => element("td", { textContent: text })),
      element("td", {}, ...(resumable ? [go] : [])),
    );
    line.refresh = () => {
      letter.textContent = letterOf(id) ?? "";
      box.checked = Boolean(letterOf(id));
      box.disabled = !box.checked && !freeLetter();
      go.disabled = model.get("busy");
    };
    return line;
  };

  const body = element("tbody");
  const head = ["show", ...model.get("columns"), "resume"].map((text) =>
    element("th", { scope: "col", textContent: text }),
  );
  const refresh = () => [...body.children].forEach((line) => line.refresh());
  const rebuild = () => {
    body.replaceChildren(...model.get("rows").map(row));
    refresh();
  };
  model.on("change:rows", rebuild);
  model.on("change:shown change:busy", refresh);
  rebuild();
  const table = element("table", { ariaLabel: "Past runs" }, element("thead", {}, element("tr", {}, ...head)), body);
  el.append(element("div", { className: "wb-table wb-run-table" }, table));
}
export default { render };
