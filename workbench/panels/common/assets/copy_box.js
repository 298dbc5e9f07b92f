// A read-only text area and a button that copies it; works without a network or a secure origin.
function render({ model, el }) {
  const area = document.createElement("textarea");
  const button = document.createElement("button");
  area.readOnly = true;
  area.rows = 14;
  area.spellcheck = false;
  area.className = "wb-copy";
  button.className = "jupyter-button widget-button wb-copy-button";
  const show = () => {
    area.value = model.get("text");
    area.setAttribute("aria-label", "What will be copied");
    button.textContent = button.title = model.get("label");
  };
  button.onclick = async () => {
    try {
      await navigator.clipboard.writeText(area.value);
    } catch {
      area.select();
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(show, 1500);
  };
  model.on("change:text change:label", show);
  show();
  el.append(button, area);
}
export default { render };
