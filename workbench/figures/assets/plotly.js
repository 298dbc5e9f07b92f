// The end of a module that begins with plotly.js itself: hands it to every figure of the page.
export default {
  initialize() {
    const key = Symbol.for("workbench.plotly");
    globalThis[key] ??= Promise.withResolvers();
    globalThis[key].resolve(module.exports);
  },
};
