// Mouse and keys.
import { SIDES, VIEWS } from "calf-volume/scene.js";

const DEGREES = 0.5; // a pixel
const STEP = 5; // degrees a key
export const KEYS = [
  ["drag, arrows", "turn"],
  ["wheel, +, −", "zoom"],
  ["0, double click", "turn and zoom as at first"],
  [`1 to ${SIDES.length}`, `from ${SIDES.join(", ")}`],
  ["t, p, i", "truth, prediction, image: hide, show"],
  ["s", "the image as slices"],
  ["c; <, >", "cut away the next side; less, more of it"],
  ["x", "cut masks, too"],
  ["m, k", "next modality, target"],
  ["[, ]", "previous, next case"],
  ["?", "these keys"],
];

export class Input {
  constructor(page) {
    this.page = page;
    this.drag = null;
    this.all = new AbortController();
    const { signal } = this.all;
    const { area } = page;
    document.addEventListener("keydown", (event) => this.key(event), { signal });
    area.addEventListener("wheel", (event) => this.wheel(event), { signal, passive: false });
    area.addEventListener("pointerdown", (event) => this.press(event), { signal });
    area.addEventListener("pointermove", (event) => this.move(event), { signal });
    for (const end of ["pointerup", "pointercancel"]) area.addEventListener(end, () => (this.drag = null), { signal });
    area.addEventListener("dblclick", () => page.reset(), { signal });
  }

  close() {
    this.all.abort();
  }

  wheel(event) {
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === 1 ? 40 : event.deltaMode === 2 ? 400 : 1);
    this.page.change({ zoom: this.page.state.zoom * Math.exp(-pixels / 600) });
  }

  press(event) {
    if (event.button !== 0) return;
    this.drag = { x: event.clientX, y: event.clientY };
    this.page.area.setPointerCapture(event.pointerId);
    this.page.area.focus({ preventScroll: true });
  }

  move(event) {
    if (!this.drag) return;
    const [right, down] = [event.clientX - this.drag.x, event.clientY - this.drag.y];
    this.drag = { x: event.clientX, y: event.clientY };
    this.turn(-right * DEGREES, down * DEGREES);
  }

  turn(right, up) {
    const { azimuth, elevation } = this.page.state;
    this.page.change({ azimuth: azimuth + right, elevation: elevation + up });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const { target } = event;
    if (target.closest?.("input, select, textarea, [contenteditable]") && !(target.type === "checkbox" && event.key !== " ")) return;
    if (this.acted(event.key)) event.preventDefault();
  }

  acted(key) {
    const { page } = this;
    const { state } = page;
    const hide = (name) => page.change({ [name]: state[name] ? 0 : page.before[name] });
    const acts = {
      ArrowLeft: () => this.turn(STEP, 0),
      ArrowRight: () => this.turn(-STEP, 0),
      ArrowUp: () => this.turn(0, STEP),
      ArrowDown: () => this.turn(0, -STEP),
      "+": () => page.change({ zoom: state.zoom * 1.25 }),
      "=": () => page.change({ zoom: state.zoom * 1.25 }),
      "-": () => page.change({ zoom: state.zoom * 0.8 }),
      0: () => page.reset(),
      t: () => hide("truth"),
      p: () => hide("prediction"),
      i: () => hide("image"),
      s: () => page.slices(!state.slices),
      c: () => page.change({ cut: ["", ...SIDES][(["", ...SIDES].indexOf(state.cut) + 1) % (SIDES.length + 1)] }),
      "<": () => page.change({ depth: state.depth - 5 }),
      ">": () => page.change({ depth: state.depth + 5 }),
      x: () => page.change({ masks: !state.masks }),
      m: () => page.next("modality", page.scene?.modalities ?? []),
      k: () => page.next("class", page.scene?.names ?? []),
      "[": () => page.step(-1),
      "]": () => page.step(1),
      "?": () => page.keys(),
    };
    SIDES.forEach((side, place) => (acts[place + 1] = () => page.turn(VIEWS[side])));
    if (!Object.hasOwn(acts, key)) return false;
    acts[key]();
    return true;
  }
}
