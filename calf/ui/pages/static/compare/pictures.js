// One picture a step: what is asked for last is shown, what comes late is dropped, and neighbours are fetched ahead.
import { answered } from "calf-compare/dom.js";

const LIMIT_BYTES = 192 * 2 ** 20; // of decoded pictures
const AHEAD = 6;
const BEHIND = 2;

export class Pictures {
  // draw(bitmap, job) shows a picture; fail(error, job) says why there is none.
  constructor(draw, fail) {
    this.draw = draw;
    this.fail = fail;
    this.kept = new Map(); // by address, least used first
    this.bytes = 0;
    this.loading = new Map();
    this.wanted = null;
    this.shown = null;
    this.busy = false;
    this.turn = 0;
  }

  // job: {url, group, step, neighbours: steps -> url or null}. Pictures of one group differ in slice and window alone, so that one that
  // is not the last asked for may be shown on the way there.
  want(job) {
    job.turn = ++this.turn;
    this.wanted = job;
    const bitmap = this.known(job.url);
    if (bitmap) this.show(bitmap, job);
    else this.run();
  }

  async run() {
    if (this.busy) return;
    this.busy = true;
    while (this.wanted && this.wanted !== this.shown) {
      const job = this.wanted;
      let bitmap = null;
      let failed = null;
      try {
        bitmap = await this.load(job.url);
      } catch (error) {
        failed = error;
      }
      const stale = job.group !== this.wanted.group || (this.shown && job.turn < this.shown.turn);
      if (stale) continue;
      if (failed) {
        this.shown = job;
        this.fail(failed, job);
      } else this.show(bitmap, job);
    }
    this.busy = false;
  }

  show(bitmap, job) {
    this.shown = job;
    this.draw(bitmap, job);
    if (job === this.wanted) this.ahead(job);
  }

  async ahead(job) {
    const way = Math.sign(job.step || 1);
    const steps = [];
    for (let count = 1; count <= AHEAD; count += 1) {
      steps.push(count * way);
      if (count <= BEHIND) steps.push(-count * way);
    }
    await new Promise((done) => setTimeout(done, 30)); // while a window is dragged nothing is fetched ahead
    for (const step of steps) {
      const url = job.neighbours(step);
      if (job !== this.wanted) return;
      if (!url || this.kept.has(url)) continue;
      try {
        await this.load(url);
      } catch {
        return; // said when it is asked for
      }
    }
  }

  known(url) {
    const found = this.kept.get(url);
    if (found) {
      this.kept.delete(url);
      this.kept.set(url, found);
    }
    return found;
  }

  load(url) {
    const found = this.known(url);
    if (found) return Promise.resolve(found);
    if (!this.loading.has(url)) this.loading.set(url, this.fetched(url).finally(() => this.loading.delete(url)));
    return this.loading.get(url);
  }

  async fetched(url) {
    const blob = await (await answered(url)).blob();
    const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    this.kept.set(url, bitmap);
    this.bytes += size(bitmap);
    for (const [old, dropped] of this.kept) {
      if (this.bytes <= LIMIT_BYTES || old === url) break;
      this.kept.delete(old);
      this.bytes -= size(dropped);
    }
    return bitmap;
  }
}

function size(bitmap) {
  return 4 * bitmap.width * bitmap.height;
}
