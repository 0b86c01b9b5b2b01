// The one WebGL canvas, drawn by NiiVue. Mouse and keys are the page's own.
import { lit } from "calf-volume/nifti.js";

const CLIPPED_BY = 2; // a clip plane so far away cuts nothing
// Where one looks from: azimuth and elevation as NiiVue has them. From above and below the front is on top.
export const VIEWS = { right: [270, 0], left: [90, 0], front: [180, 0], back: [0, 0], above: [0, 90], below: [180, -90] };
export const SIDES = Object.keys(VIEWS);

export class Scene {
  // colours: {truth, prediction}, as CSS has them. null where the browser has no WebGL2.
  static async on(canvas, colours) {
    if (!canvas.getContext("webgl2", { alpha: true, antialias: true })) return null;
    await import("calf-niivue/niivue.umd.js"); // it leaves its name in the window
    const { Niivue, NVImage } = globalThis.niivue;
    const nv = new Niivue({
      sliceType: 4, // three-dimensional
      backColor: [0, 0, 0, 1],
      clipPlaneColor: [0, 0, 0, 0],
      isOrientCube: true,
      isNearestInterpolation: true,
      show3Dcrosshair: false,
      interactive: false,
      dragAndDropEnabled: false,
      loadingText: "",
      logLevel: "error",
    });
    // Masks voxel by voxel, which NiiVue smooths in three dimensions: a lesion of one voxel would all but vanish.
    const smooth = nv.updateInterpolation;
    nv.updateInterpolation = (layer) => smooth.call(nv, layer, layer === 0);
    await nv.attachToCanvas(canvas, true);
    for (const name of ["truth", "prediction"]) nv.addColormap(`calf-${name}`, shades(colours[name]));
    return new Scene(nv, NVImage);
  }

  constructor(nv, NVImage) {
    this.nv = nv;
    this.NVImage = NVImage;
    this.layers = []; // names, as they lie upon each other
    this.slices = false;
  }

  close() {
    this.nv.cleanup();
    this.nv.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }

  // Files of one grid: image, and truth and prediction where there is something to be drawn; with the opacities of the state.
  async load({ image, truth, prediction }, state) {
    const masks = Object.entries({ truth, prediction }).filter(([, file]) => file);
    const made = [await this.made(image, "image", "gray")];
    this.middle = null;
    for (const [name, file] of masks) {
      const { buffer, middle } = lit(file);
      made.push(await this.made(buffer, name, `calf-${name}`));
      this.middle ??= middle;
    }
    this.forget();
    this.layers = ["image", ...masks.map(([name]) => name)];
    made.forEach((volume, place) => (volume.opacity = state[this.layers[place]] / 100));
    this.nv.volumes = made;
    this.nv.setVolume(made[0], 0); // all at once: each that is added alone would make all textures anew
    this.nv.scene.crosshairPos = this.middle ? this.nv.mm2frac(this.middle) : [0.5, 0.5, 0.5];
  }

  made(url, name, colormap) {
    return this.NVImage.loadFromUrl({ url, name: `${name}.nii`, colormap, cal_min: 0, cal_max: 255 });
  }

  // The state of the page, drawn.
  async show(state) {
    const { nv } = this;
    nv.scene.renderAzimuth = state.azimuth;
    nv.scene.renderElevation = state.elevation;
    nv.scene.volScaleMultiplier = state.zoom;
    nv.opts.isClipAllVolumes = state.masks;
    const [azimuth, elevation] = VIEWS[state.cut] ?? [0, 0];
    // NiiVue's planes turn the other way than its camera; 0.5 is the face of the volume, -0.5 the opposite one
    const plane = state.cut ? [0.5 - state.depth / 100, (360 - azimuth) % 360, elevation] : [CLIPPED_BY, 0, 0];
    const opacities = this.layers.map((name) => state[name] / 100);
    const changed = opacities.some((opacity, place) => nv.volumes[place].opacity !== opacity);
    if (changed || this.slices !== state.slices) {
      opacities.forEach((opacity, place) => (nv.volumes[place].opacity = opacity));
      this.forget();
      nv.updateGLVolume();
    }
    if (this.slices !== state.slices) {
      this.slices = state.slices;
      await nv.setVolumeRenderIllumination(state.slices ? -1 : 0);
    }
    nv.setClipPlane(plane);
  }

  // NiiVue leaves its last overlay to the collector of garbage, which does not know how large a texture is.
  forget() {
    if (this.layers.length > 1) this.nv.gl.deleteTexture(this.nv.overlayTexture);
  }
}

// From half to the full colour, and nothing at 0.
function shades(css) {
  const full = css.match(/\d+/g).map(Number);
  const [R, G, B] = full.map((value) => [value, 0, value]);
  return { R, G, B, A: [0, 255, 255], I: [0, 1, 255] };
}
