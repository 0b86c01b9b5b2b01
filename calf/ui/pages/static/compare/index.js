// Compare: one slice of a case, of the truth and of runs side by side. The state is this page's address.
import { Controls } from "calf-compare/controls.js";
import * as dialogs from "calf-compare/dialogs.js";
import { address, element, json } from "calf-compare/dom.js";
import { Input } from "calf-compare/input.js";
import { Panels } from "calf-compare/panels.js";
import { Pictures } from "calf-compare/pictures.js";
import { LARGEST_ZOOM, bounded, query, read, settle } from "calf-compare/state.js";
import { Strip } from "calf-compare/strip.js";

const START = { zoom: 1, x: 0.5, y: 0.5 };
// Where the numbers of a case come from, in words: scored says it of each, unscored stands where there is none.
const CASES_CSV = {
  scored: "in cases.csv",
  unscored: "not in cases.csv",
  numbers: "as in cases.csv.",
  note: "Of the case: as in cases.csv, rounded; in full in tooltips and Numbers.",
};

export class Compare {
  // options: {query, most, colours}; for what is no case of runs also {base: where it is asked for, words, truth: whether it has one},
  // and then the page's address stays as it is.
  constructor(root, options) {
    this.root = root;
    this.options = { base: "/api", words: CASES_CSV, truth: true, ...options };
    this.state = read(options.query);
    this.scene = this.image = this.profile = null;
    this.list = []; // of cases
    this.turns = {};
    this.problems = {}; // by kind
    this.drawn = null; // the job of the picture that is seen
    this.strip = new Strip((index) => this.go(index), this.options.truth);
    this.pictures = new Pictures((bitmap, job) => this.draw(bitmap, job), (error) => this.missing(error));
    this.build();
    this.input = new Input(this);
    this.resized = new ResizeObserver(() => this.layout());
    this.resized.observe(this.area);
    this.place = () => (root.style.height = `calc(100dvh - ${root.getBoundingClientRect().top + scrollY}px)`);
    addEventListener("resize", this.place);
    this.place();
    this.load();
  }

  close() {
    this.closed = true;
    this.input.close();
    this.resized.disconnect();
    clearTimeout(this.timer);
    removeEventListener("resize", this.place);
  }

  build() {
    this.controls = new Controls(
      {
        change: (part) => this.change(part),
        modality: (name) => this.change({ modality: name, low: null, high: null }),
        plane: (plane) => this.change({ plane, index: null, ...START }),
        auto: () => this.change({ low: null, high: null }),
        reset: () => this.change(START),
        step: (step) => this.step(step),
        open: (what) => this.open(what),
      },
      this.options,
    );
    this.alert = element("div", { class: "alert", role: "alert" });
    this.area = element("div", { class: "panels", tabindex: 0, role: "group", "aria-label": "panels: arrows change the slice, ? shows all keys" });
    this.panels = new Panels(this.area, this.options.words);
    this.slider = element("input", { type: "range", min: 0, step: 1, "aria-label": "slice", oninput: () => this.go(Number(this.slider.value)) });
    this.slice = element("output", { class: "slice" });
    const { note } = this.options.words;
    const foot = element("div", { class: "foot" }, [this.slice, this.strip.legend, this.strip.text, element("span", { class: "note", title: note }, [note])]);
    this.root.append(this.controls.row, this.alert, this.area, element("div", { class: "along" }, [this.strip.canvas, this.slider]), foot);
  }

  // Only the answer to the last question of a kind counts.
  async latest(kind, question) {
    const turn = (this.turns[kind] = (this.turns[kind] ?? 0) + 1);
    const answer = await question.then((value) => ({ value }), (error) => ({ error }));
    return this.closed || turn !== this.turns[kind] ? null : answer;
  }

  // A case, or other runs of it.
  async load() {
    const { runs } = this.state;
    this.root.setAttribute("aria-busy", "true");
    if (this.drawn) this.root.toggleAttribute("data-stale", true); // what is seen is of another case, or of other runs
    this.root.toggleAttribute("data-waiting", true);
    this.slice.textContent = "loading";
    if (runs.join() !== this.listed) {
      this.listed = runs.join();
      const list = await this.latest("cases", json(this.address("/compare/cases", { runs: this.listed })));
      if (!list) return;
      if (list.error) this.listed = null;
      this.list = list.value?.cases ?? [];
      const there = this.list.some(({ id }) => id === this.state.case);
      if (!there && this.list.length && this.scene) Object.assign(this.state, { case: this.list[0].id, index: null });
    }
    const asked = this.state.case;
    const answer = await this.latest("scene", json(this.address(`/cases/${encodeURIComponent(asked)}`, { runs: runs.join() })));
    if (!answer) return;
    this.controls.cases(this.list, asked);
    this.scene = answer.value ?? null;
    this.image = this.profile = null;
    this.problems = {};
    if (answer.error) return this.missing(answer.error);
    this.say("address", settle(this.state, this.scene).join("; "));
    await this.refresh({ image: true, profile: true });
    this.root.removeAttribute("aria-busy");
  }

  async change(part) {
    if ("case" in part || "runs" in part) {
      Object.assign(this.state, part, "case" in part ? { index: null, low: null, high: null } : {});
      return this.load();
    }
    if (!this.scene) return;
    this.root.toggleAttribute("data-waiting", true);
    const before = { ...this.state };
    Object.assign(this.state, part);
    this.say("address", settle(this.state, this.scene).join("; "));
    const other = (...keys) => keys.some((key) => before[key] !== this.state[key]);
    if (other("modality")) this.image = null;
    if (other("name", "plane", "threshold")) this.profile = null;
    await this.refresh({ image: other("modality"), profile: other("name", "plane", "threshold") });
  }

  async refresh({ image, profile }) {
    if (profile) {
      const wanted = this.askProfile();
      if (this.state.index === null) await wanted; // which slice to begin with
    }
    if (image) this.askImage();
    if (this.state.index === null) return;
    this.layout();
    this.ask();
  }

  async askImage() {
    const { case: id, runs, modality } = this.state;
    if (modality === null) return;
    const answer = await this.latest("image", json(this.address(`/cases/${id}/image`, { runs: runs.join(), modality })));
    if (!answer) return;
    this.say("image", answer.error ? `${modality}: ${answer.error.message}` : "");
    this.image = answer.value ?? null;
    this.controls.update(this.state, this.scene, this.image);
  }

  async askProfile() {
    const { case: id, runs, name, plane, threshold } = this.state;
    const answer = await this.latest("profile", json(this.address(`/cases/${id}/profile`, { runs: runs.join(), name, plane, threshold })));
    if (!answer) return;
    this.say("profile", answer.error ? answer.error.message : "");
    this.profile = answer.value ?? null;
    const { slices } = this.scene.planes[plane];
    this.strip.set(this.profile, slices);
    if (this.state.index === null) this.state.index = fullest(this.profile, slices);
    this.slices();
  }

  address(path, values) {
    return address(`${this.options.base}${path}`, values);
  }

  ids() {
    return [...(this.state.image ? ["image"] : []), ...(this.options.truth ? ["truth"] : []), ...this.state.runs];
  }

  layout() {
    if (!this.scene || this.state.index === null) return;
    const { plane } = this.state;
    const labels = new Map(this.scene.panels.map(({ id, label }) => [id, label]));
    const known = (id) => ({ image: `image: ${this.state.modality ?? "none"}`, truth: "truth" })[id] ?? labels.get(id) ?? id;
    this.panels.set(this.ids().map((id) => ({ id, label: known(id) })), this.scene.planes[plane]);
    this.panels.numbers((id) => this.told(id));
    this.panels.fit();
    this.panels.move(this.state);
    this.controls.update(this.state, this.scene, this.image);
    this.slider.max = this.scene.planes[plane].slices - 1;
    this.strip.slices = this.scene.planes[plane].slices;
    this.strip.draw();
  }

  // What stands above a panel.
  told(id) {
    const { name, overlay, threshold } = this.state;
    if (id === "image") return {};
    const first = this.scene.panels.map((panel) => panel.rows[name]).find(Boolean);
    if (id === "truth") return { truth: first ?? {}, why: this.scene.truth_error[name] };
    const panel = this.scene.panels.find((one) => one.id === id);
    if (!panel) return { run: true };
    let why = panel.error[name];
    if (!why && overlay === "errors") why = this.scene.truth_error[name];
    if (!why && !panel.probabilities && (overlay === "probability" || threshold !== null)) why = "its probabilities were not saved";
    const swept = threshold === null ? "" : `shown at ${threshold}/255: the case's numbers are of the saved mask`;
    return { run: true, why, warning: [panel.warning[name], swept].filter(Boolean).join("; "), row: panel.rows[name] };
  }

  url(index) {
    const { case: id, runs, name, plane, modality, overlay, outline, low, high, threshold } = this.state;
    const shown = { runs: runs.join(), panels: this.ids().join(), index, names: name, plane, modality, overlay, outline, low, high, threshold };
    return this.address(`/cases/${id}/slice`, shown);
  }

  // The slice of the state in every panel.
  ask(step = 1) {
    const { slices } = this.scene.planes[this.state.plane];
    const { index } = this.state;
    const neighbours = (steps) => (index + steps < 0 || index + steps >= slices ? null : this.url(index + steps));
    this.slider.value = index;
    this.slider.setAttribute("aria-valuetext", `slice ${index} of 0 to ${slices - 1}`);
    this.remember();
    this.pictures.want({ url: this.url(index), group: this.group(), subject: this.subject(), index, step, neighbours });
    this.mark();
  }

  // data-waiting: another picture is on its way; data-stale: and what is seen until then is of another kind.
  mark() {
    this.root.toggleAttribute("data-waiting", this.drawn?.url !== this.url(this.state.index));
    this.root.toggleAttribute("data-stale", this.drawn?.group !== this.group());
  }

  // Pictures of one group differ in slice and window alone,
  group() {
    const { modality, overlay, outline, image } = this.state;
    return JSON.stringify([this.subject(), modality, overlay, outline, image]);
  }

  // and those of one subject in nothing that a number is of but the slice.
  subject() {
    const { case: id, runs, name, plane, threshold } = this.state;
    return JSON.stringify([id, runs, name, plane, threshold]);
  }

  draw(bitmap, job) {
    this.panels.draw(bitmap);
    this.drawn = job;
    this.say("slice", "");
    this.slices();
    this.root.dataset.shown = job.index;
    this.mark();
  }

  // What is said of the slice that is shown, which is not yet the one that was asked for while its picture is on its way.
  slices() {
    const known = this.scene && this.drawn?.subject === this.subject();
    const index = this.drawn?.index;
    this.slice.textContent = known ? `slice ${index} of 0 to ${this.scene.planes[this.state.plane].slices - 1}` : "";
    if (known) this.strip.show(index);
    const dice = known ? this.profile?.dice : null;
    this.panels.sliceDice((id) => (dice && id in dice ? dice[id][index] : undefined));
  }

  missing(error) {
    this.panels.blank();
    this.drawn = null;
    delete this.root.dataset.shown;
    this.root.removeAttribute("aria-busy");
    if (!this.scene) {
      this.panels.clear();
      this.strip.set(null, 1);
    }
    this.slices();
    this.say("slice", error.message);
  }

  say(kind, text) {
    this.problems[kind] = text;
    const all = [...new Set(Object.values(this.problems).filter(Boolean))].join("; ");
    if (this.alert.textContent !== all) this.alert.textContent = all;
    this.alert.hidden = !all;
  }

  go(index) {
    if (!this.scene || this.state.index === null) return;
    const wanted = bounded(index, 0, this.scene.planes[this.state.plane].slices - 1);
    if (wanted === this.state.index) return;
    const step = wanted - this.state.index;
    this.state.index = wanted;
    this.ask(step);
  }

  // Around a place of the picture that stays where it is.
  zoomBy(factor, at = { x: this.state.x, y: this.state.y }) {
    const { state } = this;
    const zoom = bounded(state.zoom * factor, 1, LARGEST_ZOOM);
    const share = state.zoom / zoom;
    this.view({ zoom, x: at.x + (state.x - at.x) * share, y: at.y + (state.y - at.y) * share });
  }

  view(part) {
    Object.assign(this.state, part);
    this.state.x = bounded(this.state.x, 0, 1);
    this.state.y = bounded(this.state.y, 0, 1);
    this.panels.move(this.state);
    if (this.scene) this.controls.update(this.state, this.scene, this.image);
    this.remember();
  }

  // contrast, brightness: shares of the window's width.
  windowBy(contrast, brightness) {
    if (!this.image) return;
    const [low, high] = this.state.low === null ? this.image.window : [this.state.low, this.state.high];
    const least = (this.image.range[1] - this.image.range[0]) / 1000 || 1e-6;
    const middle = (low + high) / 2 - brightness * (high - low);
    const half = Math.max((high - low) * Math.exp(contrast), least) / 2;
    this.change({ low: short(middle - half), high: short(middle + half) });
  }

  next(key, values) {
    if (values.length < 2) return;
    const chosen = values[(values.indexOf(this.state[key]) + 1) % values.length];
    const { modality, plane } = this.controls.page;
    if (key === "modality") modality(chosen);
    else if (key === "plane") plane(chosen);
    else this.change({ [key]: chosen });
  }

  step(by) {
    const place = this.list.findIndex(({ id }) => id === this.state.case) + by;
    if (place >= 0 && place < this.list.length) this.change({ case: this.list[place].id });
  }

  open(what) {
    if (document.querySelector("dialog[open]")) return;
    if (what === "keys") dialogs.keys();
    else if (what === "runs") dialogs.runs(this.address("/runs", {}), this.state.runs, this.options.most, (runs) => this.change({ runs })).catch((error) => this.say("runs", error.message));
    else if (this.scene) dialogs.numbers(this.scene, this.state.name, this.options.words);
  }

  // Browsers refuse addresses that change all the time.
  remember() {
    clearTimeout(this.timer);
    if (this.options.base !== "/api") return;
    this.timer = setTimeout(() => history.replaceState(history.state, "", `${location.pathname}?${query(this.state)}`), 200);
  }
}

function short(value) {
  return Number(value.toPrecision(6));
}

// The slice to begin with: where the truth is largest; without truth where runs disagree most; else the middle.
function fullest(profile, slices) {
  for (const values of [profile?.truth_mm2 ?? [], profile?.disagreement ?? []]) {
    const most = Math.max(...values, 0);
    if (most > 0) return values.indexOf(most);
  }
  return Math.floor(slices / 2);
}
