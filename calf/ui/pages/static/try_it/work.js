// How a prediction stands, and the masks it made.
import { element } from "calf-compare/dom.js";

export class Work {
  constructor(page) {
    this.page = page;
    this.bar = element("progress", { max: 1, "aria-label": "prediction" });
    this.text = element("span", { role: "status" });
    this.cancel = element("button", { type: "button", onclick: () => page.cancel() }, ["Cancel"]);
    this.running = element("div", { class: "running", hidden: true }, [this.bar, this.text, this.cancel]);
    this.failed = element("ul", { class: "failed alert", role: "alert" });
    this.masks = element("div", { class: "masks" });
    this.root = element("section", { "aria-label": "prediction" }, [this.running, this.failed, this.masks]);
  }

  show({ prediction, shown }) {
    const busy = Boolean(prediction && !prediction.over);
    this.running.hidden = !busy;
    if (busy) this.progress(prediction);
    const words = { failed: (one) => one.error, cancelled: () => "cancelled" };
    const lines = (prediction?.networks ?? []).filter(({ state }) => state in words).map((one) => `${one.label}: ${words[one.state](one)}`);
    if (this.lines !== lines.join("\n")) {
      this.lines = lines.join("\n");
      this.failed.replaceChildren(...lines.map((line) => element("li", {}, [line])));
    }
    if (this.case !== shown?.case) {
      this.case = shown?.case;
      this.masks.replaceChildren(...(shown ? this.links(shown) : []));
    }
  }

  progress({ networks, ahead, device }) {
    const done = networks.filter(({ state }) => !["waiting", "running"].includes(state)).length;
    const now = networks.find(({ state }) => state === "running");
    this.bar.value = (done + (now?.total ? now.done / now.total : 0)) / networks.length;
    if (ahead) this.text.textContent = `waiting for ${ahead === 1 ? "another prediction" : `${ahead} other predictions`} on this machine`;
    else if (!now) this.text.textContent = "finishing";
    else {
      const stands = now.total ? `batch ${now.done} of ${now.total} on ${device}` : "loading the network and the image";
      this.text.textContent = `network ${done + 1} of ${networks.length}, ${now.label}: ${stands}`;
    }
  }

  links({ masks }) {
    const { base } = this.page.options;
    const text = ({ meanings }) => Object.entries(meanings).map(([value, meaning]) => `${value} ${meaning}`).join(", ");
    const alike = new Set(masks.map(text)).size === 1;
    const rows = masks.map((mask) => {
      const link = (kind, words) => element("a", { href: `${base}/${kind}/${mask.id}`, download: "", "aria-label": `${words} of ${mask.label}` }, [words]);
      const values = alike ? [] : [element("span", { class: "faint" }, [text(mask)])];
      return element("span", { class: "mask" }, [element("b", {}, [mask.label]), link("masks", "mask.nii.gz"), link("labels", "labels.json"), ...values]);
    });
    return ["Download: ", ...rows, ...(alike ? [element("span", { class: "faint" }, [`values: ${text(masks[0])}`])] : [])];
  }
}
