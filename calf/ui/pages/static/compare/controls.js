// The row of controls above the panels. Each changes the state of the page through ``change``; ``update`` shows the state.
import { address, element } from "calf-compare/dom.js";
import { OVERLAYS, finite } from "calf-compare/state.js";

export class Controls {
  // page: {change(part), reset(), cases: go(step), open(dialog)}; options: {colours, base, truth}
  constructor(page, options) {
    this.page = page;
    this.colours = options.colours;
    const { change } = page;
    const choose = (key) => (event) => change({ [key]: event.target.value });
    const tick = (key) => (event) => change({ [key]: event.target.checked });
    this.case = element("select", { "aria-label": "case", class: "case", onchange: choose("case") });
    this.name = element("select", { "aria-label": "target", onchange: choose("name") });
    this.modality = element("select", { "aria-label": "modality", onchange: (event) => page.modality(event.target.value) });
    this.plane = element("select", { "aria-label": "plane", onchange: (event) => page.plane(event.target.value) });
    this.overlay = element("select", { "aria-label": "overlay", onchange: choose("overlay") });
    this.outline = element("input", { type: "checkbox", onchange: tick("outline") });
    this.image = element("input", { type: "checkbox", onchange: tick("image") });
    const window = () => change({ low: finite(this.low.value), high: finite(this.high.value) });
    this.low = element("input", { type: "number", step: "any", "aria-label": "black at", onchange: window });
    this.high = element("input", { type: "number", step: "any", "aria-label": "white at", onchange: window });
    const threshold = () => change({ threshold: finite(this.threshold.value) });
    this.threshold = element("input", { type: "number", min: 1, max: 255, step: 1, placeholder: "saved", onchange: threshold });
    this.zoom = element("output", { title: "zoom" });
    this.volume = element("a", { class: "link", title: "this case in three dimensions, with the first run" }, ["Volume"]);
    this.volume.hidden = options.base !== "/api";
    this.legend = element("div", { class: "legend", "aria-label": "colours" });
    const labelled = (text, ...own) => element("label", {}, [text, ...own]);
    this.row = element("div", { class: "controls" }, [
      button("‹", "previous case ([)", () => page.step(-1)),
      this.case,
      button("›", "next case (])", () => page.step(1)),
      button("Runs…", "choose the runs that are compared (c)", () => page.open("runs")),
      this.name,
      this.modality,
      this.plane,
      this.overlay,
      ...(options.truth ? [labelled("", this.outline, "truth outline")] : []),
      labelled("", this.image, "image alone"),
      element("span", { class: "window" }, ["window", this.low, "to", this.high, button("auto", "the image's own window (a)", page.auto)]),
      labelled("threshold /255", this.threshold),
      element("span", {}, [this.zoom, button("reset", "zoom and place (0)", page.reset)]),
      button("Numbers", "every number of this case, in full (n)", () => page.open("numbers")),
      button("?", "keys (?)", () => page.open("keys")),
      this.volume,
      this.legend,
    ]);
  }

  cases(list, chosen) {
    options(this.case, list.map(({ id, name }) => [id, name]), chosen);
  }

  update(state, scene, image) {
    options(this.name, scene.names.map((name) => [name, name]), state.name);
    options(this.modality, scene.modalities.map((name) => [name, name]), state.modality);
    options(this.plane, Object.keys(scene.planes).map((name) => [name, name]), state.plane);
    options(this.overlay, OVERLAYS.map((name) => [name, name]), state.overlay);
    this.outline.checked = state.outline;
    this.outline.disabled = state.overlay === "errors" || state.overlay === "none";
    this.image.checked = state.image;
    const [low, high] = state.low === null ? (image?.window ?? ["", ""]) : [state.low, state.high];
    for (const [input, value] of [[this.low, low], [this.high, high]]) {
      if (document.activeElement !== input || input.value === "") input.value = value === "" ? "" : Number(Number(value).toPrecision(6));
      input.title = image ? `the image goes from ${image.range[0]} to ${image.range[1]}` : "";
    }
    if (document.activeElement !== this.threshold) this.threshold.value = state.threshold ?? "";
    this.zoom.textContent = `${Number(state.zoom.toFixed(1))}×`;
    this.volume.href = address("/volume", { case: state.case, run: state.runs[0], class: state.name, modality: state.modality });
    this.legend.replaceChildren(...this.keys(state));
  }

  keys({ overlay, outline, threshold }) {
    const colours = this.colours;
    const key = (colour, text) => element("span", {}, [element("i", { style: `background:${colour}` }), text]);
    const truth = outline ? [key(colours.truth, "truth")] : [];
    if (overlay === "none") return ["no overlay"];
    if (overlay === "errors") return [key(colours.tp, "found"), key(colours.fp, "false positive"), key(colours.fn, "missed")];
    if (overlay === "probability") {
      const bar = element("span", {}, ["0", element("i", { class: "bar", style: `background:linear-gradient(90deg,${colours.map})` }), "1"]);
      return [bar, key("#fff", `at ${threshold ?? 128} / 255`), ...truth];
    }
    const both = outline && overlay === "contour" ? [key(colours.tp, "both")] : [];
    return [key(colours.prediction, "prediction"), ...truth, ...both];
  }
}

export function button(text, title, press) {
  return element("button", { type: "button", title, "aria-label": title, onclick: press }, [text]);
}

export function options(select, pairs, chosen) {
  const now = [...select.options];
  if (now.length !== pairs.length || now.some((option, place) => option.value !== pairs[place][0])) {
    select.replaceChildren(...pairs.map(([value, text]) => element("option", { value }, [text])));
  }
  select.value = chosen ?? "";
}
