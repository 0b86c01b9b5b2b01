// Mouse and keys.
import { OVERLAYS } from "calf-compare/state.js";

const NOTCH = 40; // of a wheel's movement a slice, so that a touchpad does not fly
const DRAG = 200; // pixels that change the window e-fold

export class Input {
  constructor(page) {
    this.page = page;
    this.rest = 0;
    this.drag = null;
    this.all = new AbortController();
    const { signal } = this.all;
    const { area, slider } = page;
    document.addEventListener("keydown", (event) => this.key(event), { signal });
    area.addEventListener("wheel", (event) => this.wheel(event), { signal, passive: false });
    page.strip.canvas.addEventListener("wheel", (event) => this.wheel(event), { signal, passive: false });
    slider.addEventListener("wheel", (event) => this.wheel(event), { signal, passive: false });
    area.addEventListener("pointerdown", (event) => this.press(event), { signal });
    area.addEventListener("pointermove", (event) => this.move(event), { signal });
    for (const end of ["pointerup", "pointercancel"]) area.addEventListener(end, () => (this.drag = null), { signal });
    area.addEventListener("contextmenu", (event) => event.target.closest(".frame") && event.preventDefault(), { signal });
    area.addEventListener("dblclick", (event) => event.target.closest(".frame") && page.controls.page.reset(), { signal });
  }

  close() {
    this.all.abort();
  }

  wheel(event) {
    event.preventDefault();
    const frame = event.target.closest(".frame");
    const pixels = event.deltaY * (event.deltaMode === 1 ? NOTCH : event.deltaMode === 2 ? 10 * NOTCH : 1);
    if (event.ctrlKey && frame) {
      const at = this.page.panels.place(frame, event, this.page.state);
      this.page.zoomBy(Math.exp(-pixels / 300), at);
      return;
    }
    // a notch of a wheel is one slice, however far the browser says that it goes
    if (Math.abs(pixels) >= 100 || event.deltaMode) {
      this.rest = 0;
      this.page.go(this.page.state.index - Math.sign(pixels));
      return;
    }
    this.rest += pixels;
    const steps = Math.trunc(this.rest / NOTCH);
    this.rest -= steps * NOTCH;
    if (steps) this.page.go(this.page.state.index - steps);
  }

  press(event) {
    const frame = event.target.closest(".frame");
    if (!frame || event.button === 1) return;
    this.drag = { x: event.clientX, y: event.clientY, window: event.shiftKey || event.button === 2 };
    this.page.area.setPointerCapture(event.pointerId);
    this.page.area.focus({ preventScroll: true });
  }

  move(event) {
    if (!this.drag) return;
    const [right, down] = [event.clientX - this.drag.x, event.clientY - this.drag.y];
    this.drag = { ...this.drag, x: event.clientX, y: event.clientY };
    const { page } = this;
    if (this.drag.window) page.windowBy(-right / DRAG, -down / DRAG);
    else {
      const scale = page.panels.scale * page.state.zoom;
      page.view({ x: page.state.x - right / scale / page.panels.size.width, y: page.state.y - down / scale / page.panels.size.height });
    }
  }

  key(event) {
    const { page } = this;
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const { target } = event;
    const slider = target === page.slider;
    if (!slider && target.closest?.("input, select, textarea, [contenteditable]")) {
      if (!(target.type === "checkbox" && event.key !== " ")) return;
    }
    const done = event.shiftKey && this.pan(event.key) ? true : this.travel(event.key) || (page.scene && this.letter(event.key));
    if (done) event.preventDefault();
  }

  travel(key) {
    const { page } = this;
    if (!page.scene || page.state.index === null) return false;
    const { index, plane } = page.state;
    const to = {
      ArrowUp: index + 1,
      ArrowRight: index + 1,
      ArrowDown: index - 1,
      ArrowLeft: index - 1,
      PageUp: index + 10,
      PageDown: index - 10,
      Home: 0,
      End: page.scene.planes[plane].slices - 1,
    }[key];
    if (to === undefined) return false;
    page.go(to);
    return true;
  }

  pan(key) {
    const { zoom, x, y } = this.page.state;
    const step = 0.1 / zoom;
    const to = { ArrowUp: { y: y - step }, ArrowDown: { y: y + step }, ArrowLeft: { x: x - step }, ArrowRight: { x: x + step } }[key];
    if (!to) return false;
    this.page.view(to);
    return true;
  }

  letter(key) {
    const { page } = this;
    const { state, scene, strip, controls } = page;
    const peak = strip.peak();
    const acts = {
      "?": () => page.open("keys"),
      c: () => page.open("runs"),
      n: () => page.open("numbers"),
      d: () => peak !== null && page.go(peak),
      "+": () => page.zoomBy(1.25),
      "=": () => page.zoomBy(1.25),
      "-": () => page.zoomBy(0.8),
      0: () => controls.page.reset(),
      w: () => page.windowBy(-0.1, 0),
      e: () => page.windowBy(0.1, 0),
      b: () => page.windowBy(0, 0.05),
      v: () => page.windowBy(0, -0.05),
      a: () => controls.page.auto(),
      o: () => page.change({ outline: !state.outline }),
      i: () => page.change({ image: !state.image }),
      m: () => page.next("modality", scene.modalities),
      t: () => page.next("name", scene.names),
      p: () => page.next("plane", Object.keys(scene.planes)),
      "[": () => page.step(-1),
      "]": () => page.step(1),
    };
    OVERLAYS.forEach((overlay, place) => (acts[place + 1] = () => page.change({ overlay })));
    if (!Object.hasOwn(acts, key)) return false;
    acts[key]();
    return true;
  }
}
