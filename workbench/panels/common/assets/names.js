// Names for screen readers, and keys for what ipywidgets lets a mouse alone do. It walks over what
// stands in the panel, whoever made it, again whenever that changes: a new widget needs no code.
const CONTROLS = "input, select, textarea, .noUi-handle";
const WIDGET = ".widget-toggle-buttons, .jupyter-widgets:not(.widget-container)"; // boxes hold many
const TICK = 0.0051; // decades: half of what an arrow key moves a slider

function set(element, attribute, value) {
  if (element.getAttribute(attribute) !== String(value)) element.setAttribute(attribute, value);
}

// The words beside a control: its own label, or that of the row it shares with one that has it.
function wordsOf(control) {
  const own = control.closest(WIDGET)?.querySelectorAll(".widget-label") ?? [];
  const row = control.closest(".wb-row")?.querySelectorAll(".widget-label") ?? [];
  const words = [...own, ...row].map((label) => label.textContent.trim());
  return words.find(Boolean) ?? "";
}

function nameControl(control) {
  if (control.type === "checkbox" || control.readOnly) return; // has its own words
  const tooltip = control.title || control.closest(WIDGET)?.title || "";
  const name = wordsOf(control) || tooltip || control.placeholder;
  if (name) set(control, "aria-label", name);
  if (tooltip && tooltip !== name) set(control, "aria-description", tooltip);
}

// A logarithmic slider tells rounded exponents. What its readout has is said instead, or what the
// field beside it has, which is exact, where the slider stands on the tick nearest to that.
function tellValue(handle) {
  const readout = handle.closest(".widget-slider")?.querySelector(".widget-readout")?.textContent;
  if (!readout) return;
  const number = (text) => Number(text.replaceAll(",", ""));
  const short = readout.replace(/(\.\d*?)0+(?=e|$)/, "$1").replace(/\.(?=e|$)/, "");
  const typed = handle.closest(".wb-row")?.querySelector("input")?.value ?? "";
  const near = Math.abs(Math.log10(number(typed) / number(readout))) < TICK;
  set(handle, "aria-valuetext", near ? typed : short);
}

function nameChoice(group) {
  set(group, "role", "group");
  set(group, "aria-label", wordsOf(group) || group.title || "Choice");
  for (const button of group.querySelectorAll("button"))
    set(button, "aria-pressed", button.classList.contains("mod-active"));
}

function nameProgress(bar) {
  const share = parseFloat(bar.querySelector(".progress-bar")?.style.width) || 0;
  set(bar, "role", "progressbar");
  set(bar, "aria-label", wordsOf(bar) || bar.title || "Progress");
  set(bar, "aria-valuemin", 0);
  set(bar, "aria-valuemax", 100);
  set(bar, "aria-valuenow", Math.round(share));
}

function nameFold(header) {
  const open = header.closest(".jupyter-widget-Collapse")?.matches(".jupyter-widget-Collapse-open");
  set(header, "role", "button");
  set(header, "tabindex", 0);
  set(header, "aria-expanded", Boolean(open));
  header.onkeydown ??= (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    event.stopPropagation();
    header.click();
  };
}

function nameAll(panel) {
  panel.querySelectorAll(CONTROLS).forEach(nameControl);
  panel.querySelectorAll(".noUi-handle").forEach(tellValue);
  panel.querySelectorAll(".widget-toggle-buttons").forEach(nameChoice);
  panel.querySelectorAll(".widget-hprogress, .widget-vprogress").forEach(nameProgress);
  panel.querySelectorAll(".jupyter-widget-Collapse-header").forEach(nameFold);
  panel.querySelectorAll("i.fa, .jupyter-widget-Collapse-header i").forEach((icon) =>
    set(icon, "aria-hidden", true));
}

function render({ model, el }) {
  let frame = null;
  let panel = null;
  const soon = () => (frame ??= requestAnimationFrame(pass));
  const watch = new MutationObserver((changes) => {
    // Pictures name themselves, and change much too often to be looked at.
    if (changes.some(({ target }) => !target.closest?.(".js-plotly-plot"))) soon();
  });

  function pass() {
    frame = null;
    if (!panel) {
      panel = el.closest(".workbench");
      if (!panel) return soon(); // not on the page yet
      set(panel, "role", "region");
      set(panel, "aria-label", model.get("label"));
      watch.observe(panel, {
        subtree: true,
        childList: true,
        attributeFilter: ["class", "style", "title", "aria-valuenow", "aria-valuetext"],
      });
    }
    nameAll(panel);
  }

  soon();
  return () => {
    watch.disconnect();
    cancelAnimationFrame(frame);
  };
}

export default { render };
