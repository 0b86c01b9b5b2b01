// The rows of controls above the picture. Each changes the state of the page; ``update`` shows it.
import { button, options } from "calf-compare/controls.js";
import { address, element } from "calf-compare/dom.js";
import { SIDES, VIEWS } from "calf-volume/scene.js";

export class Controls {
  // page: {change(part), turn(view), slices(on), reset(), step(by), keys()}
  constructor(page, colours) {
    const { change } = page;
    const choose = (key, label) => element("select", { "aria-label": label, class: key, onchange: (event) => change({ [key]: event.target.value }) });
    const tick = (key) => element("input", { type: "checkbox", onchange: (event) => change({ [key]: event.target.checked }) });
    const slide = (key, label) =>
      element("input", { type: "range", min: 0, max: 100, step: 1, "aria-label": label, oninput: (event) => change({ [key]: Number(event.target.value) }) });
    this.chosen = { case: choose("case", "case"), run: choose("run", "run"), class: choose("class", "target"), modality: choose("modality", "modality") };
    this.cut = choose("cut", "cut away");
    options(this.cut, [["", "nothing"], ...SIDES.map((side) => [side, side])], "");
    this.slid = { truth: slide("truth", "opacity of the truth"), prediction: slide("prediction", "opacity of the prediction") };
    this.slid.image = slide("image", "opacity of the image");
    this.slid.depth = slide("depth", "how far is cut");
    const slices = element("input", { type: "checkbox", onchange: (event) => page.slices(event.target.checked) });
    this.ticked = { slices, masks: tick("masks") };
    this.zoom = element("output", { title: "zoom" });
    this.compare = element("a", { class: "link", title: "the slices of this case, beside other runs" }, ["Compare"]);
    this.legend = ["truth", "prediction"].map((name) => {
      const text = element("span", { class: "ml", "data-what": name });
      const key = element("i", { style: `background:${colours[name]}` });
      return [name, text, element("label", {}, [key, element("span", {}, [name]), this.slid[name], text])];
    });
    const label = (...own) => element("label", {}, own);
    const views = Object.entries(VIEWS).map(([side, view], place) => {
      return button(side, `from ${["right", "left"].includes(side) ? `the patient's ${side}` : side} (${place + 1})`, () => page.turn(view));
    });
    this.row = element("div", { class: "controls" }, [
      button("‹", "previous case ([)", () => page.step(-1)),
      this.chosen.case,
      button("›", "next case (])", () => page.step(1)),
      this.chosen.run,
      this.chosen.class,
      this.chosen.modality,
      element("span", {}, ["from", ...views]),
      element("span", {}, [this.zoom, button("reset", "turn and zoom as at first (0)", () => page.reset())]),
      button("?", "keys (?)", () => page.keys()),
      this.compare,
    ]);
    this.second = element("div", { class: "controls" }, [
      ...this.legend.map(([, , box]) => box),
      label("image", this.slid.image),
      label(this.ticked.slices, "image as slices"),
      label("cut away", this.cut, this.slid.depth),
      label(this.ticked.masks, "masks, too"),
    ]);
  }

  // lists: {case, run}: [[id, name], ...]
  update(state, scene, lists) {
    for (const key of ["case", "run"]) options(this.chosen[key], lists[key], state[key]);
    this.chosen.run.title = scene?.label ?? "";
    const named = (names) => names.map((name) => [name, name]);
    if (scene) {
      options(this.chosen.class, named(scene.names), state.class);
      options(this.chosen.modality, named(scene.modalities), state.modality);
    }
    for (const [key, input] of Object.entries(this.slid)) input.value = state[key];
    for (const [key, input] of Object.entries(this.ticked)) input.checked = state[key];
    this.cut.value = state.cut;
    this.slid.depth.disabled = this.ticked.masks.disabled = !state.cut || state.slices;
    this.cut.disabled = state.slices;
    this.zoom.textContent = `${Number(state.zoom.toFixed(1))}×`;
    for (const [name, text] of this.legend) {
      const mask = scene?.[name];
      const volume = mask?.volume_mm3 ?? null;
      text.textContent = !mask ? "" : volume === null ? "–" : `${(volume / 1000).toFixed(2)} ml`;
      const where = scene?.scored ? `in cases.csv` : "of the mask shown; cases.csv has no row of it";
      text.title = volume === null ? "" : `${volume} mm³ ${where}`;
    }
    this.compare.href = address("/compare", { case: state.case, runs: state.run, name: state.class, modality: state.modality });
  }
}
