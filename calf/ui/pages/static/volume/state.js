// What is shown, as it stands in the address.
import { bounded, finite } from "calf-compare/state.js";
import { SIDES } from "calf-volume/scene.js";

const TEXTS = ["case", "run", "class", "modality"];
export const START = { azimuth: 150, elevation: 15, zoom: 1.3 };
export const SHOWN = { truth: 50, prediction: 70, image: 40, cut: "", depth: 50, slices: false, masks: false };
const LIMITS = { truth: [0, 100], prediction: [0, 100], image: [0, 100], depth: [0, 100], elevation: [-90, 90], zoom: [0.3, 8] };

export function read(query) {
  const state = { ...SHOWN, ...START };
  for (const key of TEXTS) state[key] = query[key] || null;
  for (const key of ["truth", "prediction", "image", "depth", "azimuth", "elevation", "zoom"]) state[key] = finite(query[key]) ?? state[key];
  for (const key of ["slices", "masks"]) state[key] = query[key] === "1";
  state.cut = SIDES.includes(query.cut) ? query.cut : "";
  return settle(state);
}

export function settle(state) {
  for (const [key, [least, most]] of Object.entries(LIMITS)) state[key] = bounded(state[key], least, most);
  state.azimuth = ((state.azimuth % 360) + 360) % 360;
  return state;
}

export function query(state) {
  const told = {};
  for (const key of TEXTS) if (state[key] !== null) told[key] = state[key];
  for (const [key, usual] of Object.entries({ ...SHOWN, ...START })) {
    if (state[key] === usual) continue;
    told[key] = typeof usual === "boolean" ? Number(state[key]) : typeof usual === "number" ? Number(state[key].toFixed(2)) : state[key];
  }
  return new URLSearchParams(told).toString();
}
