// The panels: one canvas each, all drawn in the same moment from one picture, moved together by CSS.
import { element, rounded } from "calf-compare/dom.js";

const GAP = 6;
const NUMBERS = [["dice", "Dice", 3, ""], ["hd95_mm", "HD95", 1, " mm"]];

export class Panels {
  // words: see Compare.
  constructor(root, words) {
    this.root = root;
    this.words = words;
    this.list = [];
    this.size = { height: 1, width: 1 };
    this.scale = 1;
  }

  // panels: [{id, label}]; size: {height, width, letters} of a plane.
  set(panels, size) {
    this.size = size;
    const same = this.list.length === panels.length && this.list.every((own, place) => own.id === panels[place].id);
    if (!same) {
      this.list = panels.map(made);
      this.root.replaceChildren(...this.list.map((panel) => panel.box));
    }
    this.list.forEach((panel, place) => {
      panel.title.textContent = panel.title.title = panels[place].label;
      panel.canvas.setAttribute("aria-label", panels[place].label);
      [...panel.letters.children].forEach((corner, number) => (corner.textContent = size.letters[number]));
      if (panel.canvas.width !== size.width || panel.canvas.height !== size.height) {
        panel.canvas.width = size.width;
        panel.canvas.height = size.height;
      }
    });
  }

  draw(bitmap) {
    const { width, height } = this.size;
    this.list.forEach((panel, place) => {
      panel.canvas.getContext("2d").drawImage(bitmap, place * width, 0, width, height, 0, 0, width, height);
    });
  }

  // Nothing may be left that looks like the slice that was asked for.
  blank() {
    this.list.forEach((panel) => panel.canvas.getContext("2d").clearRect(0, 0, this.size.width, this.size.height));
  }

  clear() {
    this.list = [];
    this.root.replaceChildren();
  }

  // As large as fits; columns are chosen so that panels are largest.
  fit() {
    if (!this.list.length) return;
    this.measure();
    this.measure(); // captions are as high as their width makes them
  }

  measure() {
    const { clientWidth, clientHeight } = this.root;
    for (const { caption } of this.list) caption.style.minHeight = "";
    const captions = Math.max(...this.list.map((panel) => panel.caption.offsetHeight), 40);
    for (const { caption } of this.list) caption.style.minHeight = `${captions}px`; // pictures stand on one line
    let best = { scale: 0, columns: 1 };
    for (let columns = 1; columns <= this.list.length; columns += 1) {
      const rows = Math.ceil(this.list.length / columns);
      const width = (clientWidth - GAP * (columns - 1)) / columns;
      const height = (clientHeight - GAP * (rows - 1)) / rows - captions - 4;
      const scale = Math.min(width / this.size.width, height / this.size.height);
      if (scale > best.scale) best = { scale, columns, width, height };
    }
    // of a window too low for all panels, scroll
    if (best.scale * this.size.width < 110) {
      const columns = Math.max(1, Math.min(this.list.length, Math.floor(clientWidth / 180)));
      const width = (clientWidth - GAP * (columns - 1)) / columns;
      best = { columns, width, scale: width / this.size.width, height: (width * this.size.height) / this.size.width };
    }
    this.frame = { width: Math.floor(best.width), height: Math.floor(best.height) };
    this.root.style.gridTemplateColumns = `repeat(${best.columns}, ${this.frame.width}px)`;
    for (const panel of this.list) panel.frame.style.height = `${this.frame.height}px`;
    this.scale = best.scale;
  }

  move({ zoom, x, y }) {
    if (!this.frame) return;
    const scale = this.scale * zoom;
    const left = this.frame.width / 2 - x * this.size.width * scale;
    const top = this.frame.height / 2 - y * this.size.height * scale;
    for (const { canvas } of this.list) {
      canvas.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
      canvas.style.imageRendering = scale * devicePixelRatio < 1 ? "auto" : "pixelated";
    }
  }

  // Where on the picture a pointer is: shares of its width and height.
  place(frame, event, { zoom, x, y }) {
    const box = frame.getBoundingClientRect();
    const scale = this.scale * zoom;
    return {
      x: x + (event.clientX - box.left - box.width / 2) / (this.size.width * scale),
      y: y + (event.clientY - box.top - box.height / 2) / (this.size.height * scale),
    };
  }

  // of(id) tells {why, warning, row, truth} of a panel: see Compare.told.
  numbers(of) {
    for (const panel of this.list) {
      const told = of(panel.id);
      panel.why.textContent = told.why || "";
      panel.why.hidden = !told.why;
      panel.warning.textContent = panel.warning.title = told.warning || "";
      panel.warning.hidden = !told.warning;
      panel.lines.replaceChildren(...(told.truth ? reference(told.truth, this.words) : told.run ? scored(told.row, this.words) : []));
      panel.slice = panel.lines.querySelector("[data-what=slice]");
    }
  }

  // dice(id): of the slice that is shown; undefined: not known yet.
  sliceDice(dice) {
    for (const panel of this.list) {
      if (!panel.slice) continue;
      const value = dice(panel.id);
      panel.slice.textContent = value === undefined ? "" : `slice ${rounded(value, 3)}`;
      panel.slice.title =
        value === null ? "undefined: neither truth nor prediction in what was scored of this slice" : `Dice of this slice: ${value ?? ""}`;
    }
  }
}

function made({ id }) {
  const canvas = element("canvas", { role: "img" });
  const letters = element("div", { class: "letters", "aria-hidden": "true" }, ["l", "r", "u", "d"].map(corner));
  const why = element("div", { class: "why", hidden: true });
  const frame = element("div", { class: "frame" }, [canvas, letters, why]);
  const title = element("div", { class: "title" });
  const lines = element("div", { class: "lines" });
  const warning = element("div", { class: "warning", hidden: true });
  const caption = element("figcaption", {}, [title, lines, warning]);
  return { id, canvas, letters, why, frame, title, lines, warning, caption, box: element("figure", { "data-panel": id }, [caption, frame]) };
}

function corner(side) {
  return element("span", { class: side });
}

function number(what, text, whole) {
  return element("span", { "data-what": what, title: whole }, [text]);
}

function scored(row, words) {
  if (!row) return [element("span", {}, [words.unscored])];
  const shown = NUMBERS.filter(([metric]) => metric in row).map(([metric, label, digits, unit]) =>
    number(metric, `${label} ${rounded(row[metric], digits)}${row[metric] === null ? "" : unit}`, whole(metric, row, words)),
  );
  const status = row.status === "ok" ? [] : [number("status", row.status.replaceAll("_", " "), `status ${words.scored}`)];
  return [shown[0], number("slice", "", ""), ...shown.slice(1), volume("predicted_volume_mm3", row, words), ...status].filter(Boolean);
}

function reference(row, words) {
  return row.reference_volume_mm3 === undefined ? [] : ["reference", volume("reference_volume_mm3", row, words)];
}

function volume(key, row, words) {
  return number(key, row[key] === null ? "–" : `${rounded(row[key] / 1000, 2)} ml`, whole(key, row, words));
}

function whole(key, row, words) {
  return row[key] === null ? `${key}: undefined ${words.scored} (${row.status})` : `${key} ${words.scored}: ${row[key]}`;
}
