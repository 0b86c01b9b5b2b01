// Volume: a case in three dimensions, with the truth and what one run made of it. The state is this page's address.
import { keys } from "calf-compare/dialogs.js";
import { address, answered, element, json } from "calf-compare/dom.js";
import { Controls } from "calf-volume/controls.js";
import { Input, KEYS } from "calf-volume/input.js";
import { black, unpacked } from "calf-volume/nifti.js";
import { Scene } from "calf-volume/scene.js";
import { SHOWN, START, query, read, settle } from "calf-volume/state.js";

const NO_WEBGL = "This browser offers no WebGL 2, which this view needs: try another browser, or one with hardware acceleration. Compare shows the same case slice by slice.";
const LOST = "The graphics of this computer gave up: reload the page.";
const LOADED = ["case", "run", "class", "modality"]; // what needs other voxels

export class Volume {
  constructor(root, options) {
    this.root = root;
    this.options = options;
    this.state = read(options.query);
    this.scene = null; // what the server says of the case
    this.solid = null; // what draws it
    this.lists = { case: [], run: [] };
    this.before = Object.fromEntries(["truth", "prediction", "image"].map((name) => [name, this.state[name] || SHOWN[name]])); // not hidden
    this.files = new Map(); // by address, those that are drawn
    this.asked = 0;
    this.build();
    this.input = new Input(this);
    this.place = () => (root.style.height = `calc(100dvh - ${root.getBoundingClientRect().top + scrollY}px)`);
    addEventListener("resize", this.place);
    this.place();
    this.open();
  }

  close() {
    this.closed = true;
    this.input.close();
    this.solid?.close();
    clearTimeout(this.timer);
    removeEventListener("resize", this.place);
  }

  build() {
    this.controls = new Controls(
      {
        change: (part) => this.change(part),
        turn: (view) => this.turn(view),
        slices: (on) => this.slices(on),
        reset: () => this.reset(),
        step: (by) => this.step(by),
        keys: () => this.keys(),
      },
      this.options.colours,
    );
    this.alert = element("div", { class: "alert", role: "alert", hidden: true });
    this.canvas = element("canvas", { role: "img" });
    this.area = element("div", { class: "area", tabindex: 0, role: "group", "aria-label": "picture: arrows turn it, ? shows all keys" }, [this.canvas]);
    this.said = element("div", { class: "foot", role: "status" });
    this.root.append(this.controls.row, this.controls.second, this.alert, this.area, this.said);
  }

  async open() {
    this.root.setAttribute("aria-busy", "true");
    try {
      this.solid = await Scene.on(this.canvas, this.options.colours);
    } catch (error) {
      return this.fail(error.message);
    }
    if (this.closed) return this.solid?.close();
    if (!this.solid) return this.fail(NO_WEBGL);
    this.canvas.addEventListener("webglcontextlost", () => this.closed || this.fail(LOST));
    await this.load();
  }

  // Another case, run, target or modality.
  async load() {
    const turn = (this.asked += 1);
    const late = () => this.closed || turn !== this.asked;
    this.root.setAttribute("aria-busy", "true");
    try {
      const { case: id, run } = this.state;
      const told = json(address(`/api/cases/${encodeURIComponent(id)}/solid`, { run, name: this.state.class }));
      const cases = json(address("/api/compare/cases", { runs: run }));
      const runs = json(address("/api/volume/runs", { case: id }));
      const [scene, ...lists] = await Promise.all([told, cases, runs]);
      if (late()) return;
      this.scene = scene;
      this.lists = { case: lists[0].cases.map((one) => [one.id, one.name]), run: lists[1].runs.map((one) => [one.id, one.label]) };
      const { notes, ...files } = await this.voxels(this.chosen());
      if (late()) return;
      await this.solid.load(files, this.state);
      if (late()) return;
      this.canvas.hidden = false;
      this.warn(notes);
      this.say();
      this.root.removeAttribute("aria-busy");
      this.show();
    } catch (error) {
      if (!late()) this.fail(error.message);
    }
  }

  // What of the state cannot be had of this case is replaced, and said.
  chosen() {
    const { state, scene } = this;
    const notes = [];
    const one = (key, value) => {
      if (state[key] !== null && state[key] !== value) notes.push(`there is no ${key} of the name asked for; showing ${value ?? "none"}`);
      state[key] = value;
    };
    one("class", scene.name);
    one("modality", scene.modalities.includes(state.modality) ? state.modality : (scene.modalities[0] ?? null));
    return notes;
  }

  // The files that are drawn: an image that cannot be shown is black, a mask that is empty or cannot be shown is none.
  async voxels(notes) {
    const { state, scene } = this;
    const url = (file, more) => address(`/api/cases/${encodeURIComponent(state.case)}/${file}.nii.gz`, { run: state.run, ...more });
    const known = this.files;
    this.files = new Map();
    const fetched = async (where) => {
      this.files.set(where, known.get(where) ?? (await answered(where).then((answer) => answer.arrayBuffer()).then(unpacked)));
      return this.files.get(where);
    };
    const mask = (name) => (scene[name].error || scene[name].empty ? null : fetched(url(name, { name: state.class })));
    const image = state.modality === null ? null : fetched(url("image", { modality: state.modality }));
    const failed = (error) => (notes.push(`${state.modality}: ${error.message}`), null);
    const [seen, truth, prediction] = await Promise.all([image?.catch(failed), mask("truth"), mask("prediction")]);
    const ground = seen ?? (truth || prediction ? black(truth ?? prediction) : null);
    if (!ground) throw new Error([...notes, scene.truth.error, scene.prediction.error, "nothing of this case can be drawn"].filter(Boolean).join("; "));
    return { image: ground, truth, prediction, notes };
  }

  change(part) {
    const before = { ...this.state };
    Object.assign(this.state, part);
    settle(this.state);
    for (const name of Object.keys(this.before)) this.before[name] = this.state[name] || this.before[name];
    if (LOADED.some((key) => before[key] !== this.state[key])) {
      this.controls.update(this.state, this.scene, this.lists);
      if (this.solid) this.load();
    } else this.show();
  }

  turn([azimuth, elevation]) {
    this.change({ azimuth, elevation });
  }

  // Slices are to be seen, what is around masks to be seen through.
  slices(on) {
    this.change({ slices: on, image: on ? 90 : SHOWN.image });
  }

  reset() {
    this.change(START);
  }

  next(key, values) {
    if (values.length > 1) this.change({ [key]: values[(values.indexOf(this.state[key]) + 1) % values.length] });
  }

  step(by) {
    const { case: list } = this.lists;
    const place = list.findIndex(([id]) => id === this.state.case) + by;
    if (place >= 0 && place < list.length) this.change({ case: list[place][0] });
  }

  keys() {
    if (!document.querySelector("dialog[open]")) keys(KEYS);
  }

  // Once a frame at most; data-waiting until the picture is that of the state.
  show() {
    this.controls.update(this.state, this.scene, this.lists);
    this.remember();
    this.root.toggleAttribute("data-waiting", true);
    if (this.frame || !this.solid || this.root.hasAttribute("aria-busy")) return;
    this.frame = requestAnimationFrame(async () => {
      const drawn = { ...this.state };
      await this.solid.show(drawn);
      this.frame = null;
      if (JSON.stringify(drawn) === JSON.stringify(this.state)) this.root.removeAttribute("data-waiting");
      else this.show();
    });
  }

  // What stands below the picture.
  say() {
    const { scene } = this;
    const told = ["truth", "prediction"].map((name) => {
      const mask = scene[name];
      if (mask.error) return `no ${name}: ${mask.error}`;
      return mask.empty ? `the ${name} is empty: nothing of it is drawn` : "";
    });
    const by = (numbers) => numbers.join(" × ");
    const whole = Math.max(...scene.steps) === 1;
    const size = `${by(scene.shape)} voxels of ${by(scene.spacing_mm.map((mm) => Number(mm.toFixed(2))))} mm`;
    const less = `drawn in ${by(scene.sent)}: each stands for ${by(scene.steps)} voxels, a mask is there where any of them is`;
    told.push(whole ? size : `${size}, ${less}`);
    this.said.replaceChildren(...told.filter(Boolean).map((text) => element("span", {}, [text])));
    this.canvas.setAttribute("aria-label", `${scene.case}, ${scene.name}, ${scene.label}`);
  }

  warn(notes) {
    const text = [...notes, this.scene?.warning].filter(Boolean).join("; ");
    this.alert.textContent = text;
    this.alert.hidden = !text;
  }

  // Nothing may be left that looks like what was asked for.
  fail(message) {
    this.canvas.hidden = true;
    this.scene = null;
    this.said.replaceChildren();
    this.controls.update(this.state, null, this.lists);
    this.warn([message]);
    this.root.removeAttribute("aria-busy");
    this.root.removeAttribute("data-waiting");
  }

  // Browsers refuse addresses that change all the time.
  remember() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => history.replaceState(history.state, "", `${location.pathname}?${query(this.state)}`), 200);
  }
}
