// What opens above the page: which runs, all numbers, which keys. The browser keeps the focus inside, and Escape closes.
import { element, json } from "calf-compare/dom.js";
import { button } from "calf-compare/controls.js";

export const KEYS = [
  ["wheel, arrows", "one slice on or back"],
  ["Page Up, Page Down", "ten slices on or back"],
  ["Home, End", "first, last slice"],
  ["d", "the slice in which runs disagree most"],
  ["+, −, Ctrl + wheel", "zoom"],
  ["Shift + arrows, drag", "move the picture"],
  ["0, double click", "zoom and place as at first"],
  ["Shift + drag, right button", "window: across for contrast, up for brightness"],
  ["w, e; b, v", "window narrower, wider; brighter, darker"],
  ["a", "the image's own window"],
  ["1 to 5", "contour, fill, errors, probability, none"],
  ["o, i", "truth outline, image alone"],
  ["m, t, p", "next modality, target, plane"],
  ["[, ]", "previous, next case"],
  ["c, n, ?", "choose runs, all numbers, these keys"],
];

export function dialog(title, content, closed = () => {}) {
  const close = button("Close", "close (Escape)", () => shown.close());
  const shown = element("dialog", { class: "calf-dialog", "aria-label": title, onclose: () => (shown.remove(), closed()) }, [
    element("header", {}, [element("h2", {}, [title]), close]),
    ...content,
  ]);
  document.body.append(shown);
  shown.showModal();
  return shown;
}

export function keys(list = KEYS) {
  const rows = list.map(([key, what]) => element("tr", {}, [element("th", { scope: "row" }, [key]), element("td", {}, [what])]));
  return dialog("Keys", [element("table", {}, rows)]);
}

// Every number that there is of the case and target, unrounded; words: see Compare.
export function numbers(scene, name, words) {
  const rows = scene.panels.map((panel) => [panel.label, panel.rows[name], panel.error[name] || panel.warning[name]]);
  const left = new Set(["run", "case_id", "dataset", "case", "patient", "class"]);
  const found = rows.flatMap(([, row]) => Object.keys(row ?? {}));
  const columns = [...new Set(found)].filter((key) => !left.has(key));
  const head = element("tr", {}, ["run", ...columns, "note"].map((text) => element("th", { scope: "col" }, [text])));
  const body = rows.map(([label, row, note]) => {
    const cells = columns.map((key) => element("td", {}, [row ? String(row[key] ?? "undefined") : words.unscored]));
    return element("tr", {}, [element("th", { scope: "row" }, [label]), ...cells, element("td", {}, [note])]);
  });
  const says = element("p", {}, [`${scene.case}, ${name}: ${words.numbers}`]);
  return dialog("Numbers", [says, element("div", { class: "scroll", tabindex: 0 }, [element("table", {}, [head, ...body])])]);
}

// url: of the runs there are. use(ids) is called with what was chosen, if that changed.
export async function runs(url, chosen, most, use) {
  const list = (await json(url)).runs;
  const picked = new Set(chosen);
  const filter = element("input", { type: "search", autofocus: true, placeholder: "loss, model, seed …", "aria-label": "filter runs", oninput: () => narrow() });
  const count = element("p", { "aria-live": "polite" });
  const order = [...list].sort((a, b) => picked.has(b.id) - picked.has(a.id));
  const rows = order.map((run) => {
    const box = element("input", { type: "checkbox", value: run.id, onchange: () => tick(run.id, box) });
    box.checked = picked.has(run.id);
    const value = run.value === null ? "" : ` · ${run.metric} ${run.value.toFixed(3)}`;
    const text = `${run.label} · ${run.dataset}${value}${run.state === "finished" ? "" : ` · ${run.state}`}`;
    box.disabled = run.state !== "finished" && !box.checked;
    return { text: text.toLowerCase(), row: element("label", { title: run.error || run.place }, [box, text]) };
  });
  const narrow = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const { text, row } of rows) row.hidden = !words.every((word) => text.includes(word));
  };
  const tell = () => (count.textContent = `${picked.size} of at most ${most} chosen; they are shown when this closes.`);
  const tick = (id, box) => {
    if (box.checked && picked.size >= most) box.checked = false;
    else if (box.checked) picked.add(id);
    else picked.delete(id);
    tell();
  };
  const clear = button("Clear", "choose none", () => {
    picked.clear();
    for (const { row } of rows) row.firstChild.checked = false;
    tell();
  });
  tell();
  const closed = () => {
    const ids = [...picked];
    if (ids.length && ids.join() !== chosen.join()) use(ids);
  };
  return dialog("Runs", [element("div", { class: "bar" }, [filter, clear]), count, element("div", { class: "list" }, rows.map(({ row }) => row))], closed);
}
