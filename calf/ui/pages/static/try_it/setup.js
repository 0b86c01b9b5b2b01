// What goes in: networks, the images they need, a truth if there is one, and the device.
import { element } from "calf-compare/dom.js";
import { Slot, size } from "calf-try-it/slot.js";

export class Setup {
  constructor(page) {
    this.page = page;
    const { networks, left_out: leftOut, devices, limit } = page.options;
    this.picked = new Set();
    this.slots = new Map(); // by modality
    this.truth = new Slot(page, null, "truth (optional)");
    this.truthNote = element("p", { class: "faint" });
    this.list = element("div", { class: "list" });
    this.rows = networks.map((network) => this.row(network));
    this.list.append(...this.rows.map(({ row }) => row));
    const filter = element("input", { type: "search", placeholder: "loss, model, data set …", "aria-label": "filter networks", oninput: () => this.narrow(filter.value) });
    this.count = element("span", { class: "faint", "aria-live": "polite" });
    this.images = element("div", { class: "slots" });
    this.none = element("p", { class: "faint" }, ["Choose a network first: it decides which images are needed."]);
    this.device = element("select", { "aria-label": "device" }, Object.entries(devices).map(([value, text]) => element("option", { value }, [text])));
    this.start = element("button", { type: "button", class: "main", onclick: () => page.predict([...this.picked], this.device.value) }, ["Predict"]);
    this.missing = element("span", { class: "faint", "aria-live": "polite" });
    this.clear = element("button", { type: "button", onclick: () => page.ask("DELETE", "") }, ["Remove everything"]);
    const rest = Object.entries(leftOut).map(([label, why]) => element("li", {}, [`${label}: ${why}`]));
    const others = rest.length ? [element("details", { class: "faint" }, [element("summary", {}, [`${rest.length} finished runs cannot be used`]), element("ul", {}, rest)])] : [];
    const kept = `NIfTI, .nii or .nii.gz, together at most ${size(limit)}. Files stay on this machine and are deleted when you leave or reload the page.`;
    this.root = element("details", { class: "setup", open: true, ontoggle: () => dispatchEvent(new Event("resize")) }, [
      element("summary", {}, ["Networks and images"]),
      element("div", { class: "columns" }, [
        element("fieldset", {}, [
          element("legend", {}, ["1. Networks"]),
          element("div", { class: "bar" }, [filter, this.count]),
          this.list,
          ...others,
          element("p", { class: "faint" }, ["Only calf's own networks are built here; calf predict takes others, of runs that you trust."]),
        ]),
        element("fieldset", {}, [
          element("legend", {}, ["2. Images"]),
          this.images,
          this.truth.root,
          this.truthNote,
          element("p", { class: "faint" }, [kept]),
        ]),
      ]),
      element("div", { class: "go" }, [element("label", {}, ["run on ", this.device]), this.start, this.missing, this.clear]),
    ]);
    this.update();
  }

  row(network) {
    const box = element("input", { type: "checkbox", value: network.id, onchange: () => this.pick(network.id, box.checked) });
    const value = network.value === null ? "" : ` · ${network.metric} ${network.value.toFixed(3)} on its own test data`;
    const needs = `needs ${needed(network)} · finds ${Object.keys(network.made_of).join(", ")} · ${network.checkpoint}.ckpt${value}`;
    const title = `${network.label} · ${network.dataset}`;
    const row = element("label", {}, [box, element("span", {}, [element("b", {}, [title]), element("small", {}, [needs])])]);
    return { network, box, row, text: `${title} ${needs}`.toLowerCase() };
  }

  narrow(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    for (const { row, text: own } of this.rows) row.hidden = !words.every((word) => own.includes(word));
  }

  pick(id, on) {
    if (on) this.picked.add(id);
    else this.picked.delete(id);
    this.update();
  }

  open(on) {
    this.root.open = on;
  }

  show(state) {
    this.update(state);
  }

  get chosen() {
    return this.rows.filter(({ network }) => this.picked.has(network.id)).map(({ network }) => network);
  }

  update(state = this.page.state) {
    const { most } = this.page.options;
    const [first] = this.chosen;
    const busy = this.page.busy;
    for (const { network, box, row } of this.rows) {
      const fits = !first || same(network.modalities, first.modalities);
      box.disabled = busy || (!box.checked && (!fits || this.picked.size >= most));
      row.title = fits ? "" : `needs ${needed(network)}: choose networks that need the same`;
    }
    this.count.textContent = this.picked.size ? `${this.picked.size} chosen` : "choose one or several";
    this.place(first, state);
    this.truth.show(state?.truth, busy);
    this.truth.root.hidden = !first && !state?.truth && !this.truth.sending; // a first image would be taken for one
    this.truthNote.textContent = first ? values(this.chosen) : "";
    const missing = (first?.modalities ?? []).filter((modality) => !state?.images[modality]);
    this.start.disabled = busy || !first || missing.length > 0;
    this.missing.textContent = busy ? "" : !first ? "choose a network first" : missing.length ? `missing: ${missing.join(", ")}` : "";
    this.clear.disabled = !state || !(Object.keys(state.images).length || state.truth || state.prediction);
  }

  // A slot for each modality that is needed, and for each that is there.
  place(first, state) {
    const wanted = [...new Set([...(first?.modalities ?? []), ...Object.keys(state?.images ?? {})])];
    for (const modality of wanted) {
      if (!this.slots.has(modality)) this.slots.set(modality, new Slot(this.page, modality, modality));
      const slot = this.slots.get(modality);
      const any = first && !same(first.modalities, first.trained_on) && first.modalities.includes(modality);
      const used = !first || first.modalities.includes(modality);
      slot.title(any ? `${modality}: any one of ${first.trained_on.join(", ")}` : used ? modality : `${modality} (not needed)`);
      slot.show(state?.images[modality], this.page.busy);
    }
    const roots = wanted.length ? wanted.map((modality) => this.slots.get(modality).root) : [this.none];
    // moving an element takes the focus from it
    if (roots.length !== this.images.children.length || roots.some((root, place) => root !== this.images.children[place])) {
      this.images.replaceChildren(...roots);
    }
  }
}

function needed(network) {
  return same(network.modalities, network.trained_on) ? network.modalities.join(", ") : `any one of ${network.trained_on.join(", ")}`;
}

function same(some, others) {
  return some.length === others.length && some.every((one) => others.includes(one));
}

// What a truth has to hold.
function values(chosen) {
  const unclear = chosen.some(({ labels }) => !labels);
  const meanings = new Map();
  let conflict = unclear;
  for (const { labels } of chosen) {
    for (const [value, meaning] of Object.entries(labels ?? {})) {
      conflict ||= meanings.has(value) && meanings.get(value) !== meaning;
      meanings.set(value, meaning);
    }
  }
  if (conflict) return "These networks give a truth's values different meanings: without a truth they can be compared all the same.";
  const made = new Set(chosen.flatMap(({ made_of: madeOf }) => Object.entries(madeOf).map(([name, own]) => `${name} = ${own.join(" + ")}`)));
  return `A truth lies on the image's grid and holds ${[...meanings].map(([value, meaning]) => `${value} ${meaning}`).join(", ")}. ${[...made].join("; ")}.`;
}
