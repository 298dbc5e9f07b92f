// Offers plotly to every figure of the page. Its code is 5 MB, and a model that takes more than two
// seconds to load is given up by anywidget, so the code is read only when a first figure asks for it.
export default {
  initialize({ model }) {
    const key = Symbol.for("workbench.plotly");
    globalThis[key] ??= Promise.withResolvers();
    let plotly = null;

    async function load() {
      const address = URL.createObjectURL(new Blob([model.get("code")], { type: "text/javascript" }));
      try {
        return (await import(address)).default;
      } finally {
        URL.revokeObjectURL(address);
      }
    }

    globalThis[key].resolve(() => (plotly ??= load()));
  },
};
