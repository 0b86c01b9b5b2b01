// Where along the slices runs disagree, and where the truth is. A click goes there.
import { element } from "calf-compare/dom.js";

export class Strip {
  constructor(go, truth) {
    this.canvas = element("canvas", { class: "strip", role: "img", title: "click: go to this slice" });
    this.text = element("span");
    const key = (name, text) => element("span", { class: "key" }, [element("i", { style: `background:var(--${name})` }), text]);
    this.legend = element("span", { class: "keys" }, [...(truth ? [key("truth", "truth's area")] : []), key("disagreement", "disagreement"), truth ? "(each of its largest)" : "(of its largest)"]);
    this.profile = null;
    this.slices = 1;
    this.index = 0;
    let pressed = false;
    const jump = (event) => go(this.at(event));
    this.canvas.addEventListener("pointerdown", (event) => {
      pressed = true;
      this.canvas.setPointerCapture(event.pointerId);
      jump(event);
    });
    this.canvas.addEventListener("pointermove", (event) => pressed && jump(event));
    this.canvas.addEventListener("pointerup", () => (pressed = false));
    this.canvas.addEventListener("pointercancel", () => (pressed = false));
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const slice = Math.floor(((event.clientX - box.left) / box.width) * this.slices);
    return Math.min(Math.max(slice, 0), this.slices - 1);
  }

  // profile: as the server gives it; null: not there yet.
  set(profile, slices) {
    this.profile = profile;
    this.slices = slices;
    this.draw();
  }

  // The slice in which runs disagree most; of equals the first. null where they never do.
  peak() {
    const values = this.profile?.disagreement ?? [];
    const most = Math.max(...values, 0);
    return most > 0 ? values.indexOf(most) : null;
  }

  show(index) {
    this.index = index;
    this.draw();
  }

  draw() {
    const width = (this.canvas.width = Math.max(this.canvas.clientWidth * devicePixelRatio, 1));
    const height = (this.canvas.height = Math.max(this.canvas.clientHeight * devicePixelRatio, 1));
    const pen = this.canvas.getContext("2d");
    const style = getComputedStyle(this.canvas);
    const step = width / this.slices;
    const bars = (values, colour, share) => {
      const most = Math.max(...values, 0);
      if (!most) return;
      pen.fillStyle = colour;
      values.forEach((value, slice) => {
        const tall = value ? Math.max((value / most) * height * share, 2) : 0;
        pen.fillRect(slice * step, height - tall, Math.max(step - (step > 4 ? 1 : 0), 1), tall);
      });
    };
    bars(this.profile?.truth_mm2 ?? [], style.getPropertyValue("--truth"), 1);
    bars(this.profile?.disagreement ?? [], style.getPropertyValue("--disagreement"), 0.85);
    pen.fillStyle = style.getPropertyValue("--ink");
    const thick = Math.max(2 * devicePixelRatio, Math.min(step, 3 * devicePixelRatio));
    pen.fillRect((this.index + 0.5) * step - thick / 2, 0, thick, height);
    this.tell();
  }

  tell() {
    const values = this.profile?.disagreement;
    const peak = this.peak();
    const runs = Object.keys(this.profile?.areas_mm2 ?? {}).length;
    let text = "";
    if (values && runs < 2) text = "disagreement: needs two runs that can be shown";
    else if (values && peak === null) text = `${runs} runs agree in every slice`;
    else if (values) {
      const here = percent(values[this.index]);
      text = `${runs} runs disagree in ${here} of this slice's pixels; most in slice ${peak} (${percent(values[peak])})`;
    }
    this.text.textContent = text;
    this.text.title = values ? `share of pixels: ${values[this.index]}` : "";
    this.canvas.setAttribute("aria-label", text || "disagreement along the slices");
  }
}

function percent(share) {
  return share === undefined ? "–" : `${(100 * share).toFixed(2)} %`;
}
