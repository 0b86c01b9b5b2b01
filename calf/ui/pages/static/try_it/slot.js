// One file to be loaded: an image of a modality, or the truth (modality null). It is sent as soon as it is chosen.
import { element } from "calf-compare/dom.js";

let count = 0;

export class Slot {
  constructor(page, modality, text) {
    this.page = page;
    this.modality = modality;
    const id = `calf-slot-${(count += 1)}`;
    this.input = element("input", { type: "file", id, accept: ".nii,.gz", "aria-describedby": `${id}-told`, onchange: () => this.send() });
    this.label = element("label", { for: id }, [text]);
    this.bar = element("progress", { max: 1, hidden: true, "aria-label": `sending ${text}` });
    this.told = element("output", { id: `${id}-told` });
    this.remove = element("button", { type: "button", "aria-label": `remove ${text}`, onclick: () => this.drop() }, ["Remove"]);
    this.root = element("div", { class: "slot" }, [this.label, this.input, this.remove, this.bar, this.told]);
    this.failed = "";
  }

  get path() {
    return this.modality === null ? "/truth" : "/images";
  }

  query(more = {}) {
    return new URLSearchParams({ ...(this.modality === null ? {} : { modality: this.modality }), ...more });
  }

  title(text) {
    this.label.textContent = text;
  }

  // upload: what the server says of the file that is there.
  show(upload, busy) {
    this.upload = upload;
    this.input.disabled = busy || this.sending;
    this.remove.disabled = busy;
    this.remove.hidden = !upload;
    if (this.sending) return;
    this.told.classList.toggle("alert", Boolean(this.failed));
    const there = upload ? `${upload.name}: ${upload.shape.join(" × ")} voxels of ${upload.spacing_mm.map((mm) => Number(mm.toFixed(3))).join(" × ")} mm, ${size(upload.bytes)}` : "";
    this.told.textContent = this.failed || there;
  }

  drop() {
    this.failed = "";
    this.input.value = "";
    this.page.ask("DELETE", `${this.path}?${this.query()}`);
  }

  send() {
    const [file] = this.input.files;
    if (!file) return;
    const { page } = this;
    const room = page.state.room + (this.upload?.bytes ?? 0);
    if (file.size > room) return this.end(`${file.name}: ${size(file.size)} is more than what is left of ${size(page.options.limit)}: see --upload-limit of calf ui`);
    this.sending = true;
    this.failed = "";
    this.input.disabled = true;
    this.bar.hidden = false;
    this.bar.value = 0;
    this.told.classList.remove("alert");
    this.told.textContent = "sending …";
    const request = new XMLHttpRequest();
    request.upload.onprogress = ({ loaded, total }) => {
      this.bar.value = total ? loaded / total : 0;
      if (loaded === total) this.told.textContent = "checking …";
    };
    request.onerror = () => this.end("the file could not be sent: does calf ui still run in its terminal?");
    request.onload = () => {
      const answer = parsed(request.responseText);
      if (request.status !== 200) return this.end(answer.error || `the server answered ${request.status}`);
      this.end("");
      page.say("");
      page.show(answer);
    };
    request.open("PUT", `${page.options.base}${this.path}?${this.query({ name: file.name })}`);
    request.send(file);
  }

  async end(failed) {
    this.sending = false;
    this.failed = failed;
    this.bar.hidden = true;
    if (!failed) return;
    this.input.value = "";
    await this.page.ask("GET", ""); // the file that was there before is gone
  }
}

export function size(bytes) {
  return bytes >= 1e9 ? `${Number((bytes / 1e9).toFixed(2))} GB` : bytes >= 1e6 ? `${Number((bytes / 1e6).toFixed(1))} MB` : `${Math.ceil(bytes / 1e3)} kB`;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}
