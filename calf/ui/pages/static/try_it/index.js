// Try it: images of one's own, networks, a prediction, and its masks in Compare's panels. What the server holds for this page is its
// state; every answer brings it anew.
import { Compare } from "calf-compare/index.js";
import { element } from "calf-compare/dom.js";
import { Setup } from "calf-try-it/setup.js";
import { Work } from "calf-try-it/work.js";

const AGAIN_MS = 400; // how often a prediction is looked at
const TRUTH = {
  scored: "against your truth",
  unscored: "not scored",
  numbers: "against the truth that you loaded.",
  note: "Scores are against the truth that you loaded; in full in tooltips and Numbers.",
};
const NO_TRUTH = {
  scored: "of the mask shown",
  unscored: "not scored",
  numbers: "no truth was loaded, so nothing is scored.",
  note: "No truth was loaded: nothing here is a score.",
};

export class TryIt {
  constructor(root, options) {
    this.root = root;
    this.options = options;
    this.state = null;
    this.case = null; // what Compare shows
    this.setup = new Setup(this);
    this.work = new Work(this);
    this.alert = element("div", { class: "alert", role: "alert", hidden: true });
    this.area = element("div", { class: "shown" });
    root.append(this.setup.root, this.alert, this.work.root, this.area);
    this.leave = () => fetch(options.base, { method: "DELETE", keepalive: true });
    this.back = (event) => event.persisted && location.reload();
    addEventListener("pagehide", this.leave);
    addEventListener("pageshow", this.back);
    this.ask("GET", "");
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    removeEventListener("pagehide", this.leave);
    removeEventListener("pageshow", this.back);
    this.compare?.close();
  }

  // The state after a request; what went wrong is said.
  async ask(method, path) {
    try {
      const answer = await fetch(`${this.options.base}${path}`, { method }).catch(() => {
        throw new Error("calf ui does not answer: does it still run in its terminal?");
      });
      const told = await answer.json();
      if (!answer.ok) throw new Error(told.error);
      this.say("");
      this.show(told);
      return true;
    } catch (error) {
      this.say(error.message);
      return false;
    }
  }

  say(text) {
    this.alert.textContent = text;
    this.alert.hidden = !text;
  }

  show(state) {
    if (this.closed) return;
    this.state = state;
    if (state.problem) this.say(state.problem);
    this.setup.show(state);
    this.work.show(state);
    this.compared(state.shown);
    clearTimeout(this.timer);
    if (this.busy) this.timer = setTimeout(() => this.ask("GET", ""), AGAIN_MS);
  }

  get busy() {
    return Boolean(this.state?.prediction && !this.state.prediction.over);
  }

  compared(shown) {
    if ((shown?.case ?? null) === this.case) return;
    this.compare?.close();
    this.compare = null;
    this.case = shown?.case ?? null;
    this.area.replaceChildren();
    if (!shown) return this.setup.open(true);
    this.setup.open(false);
    const panels = element("div", { class: "calf-compare" });
    this.area.append(panels);
    const { base, most, colours } = this.options;
    const query = { case: shown.case, runs: shown.runs.join(), ...(shown.scored ? {} : { image: "1", outline: "0" }) };
    const words = shown.scored ? TRUTH : NO_TRUTH;
    this.compare = new Compare(panels, { query, most, colours, base, words, truth: shown.scored });
  }

  predict(runs, device) {
    return this.ask("POST", `/prediction?${new URLSearchParams({ runs: runs.join(), device })}`);
  }

  cancel() {
    return this.ask("DELETE", "/prediction");
  }
}
