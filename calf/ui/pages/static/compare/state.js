// What is shown, as it stands in the address: a view can be shared, reloaded and gone back to.

const NUMBERS = ["index", "zoom", "x", "y", "low", "high", "threshold"];
const TEXTS = ["case", "name", "plane", "modality", "overlay"];
const FLAGS = ["outline", "image"];
export const OVERLAYS = ["contour", "fill", "errors", "probability", "none"];
export const LARGEST_ZOOM = 16;

export function read(query) {
  const state = { runs: (query.runs || "").split(",").filter(Boolean) };
  for (const key of TEXTS) state[key] = query[key] || null;
  for (const key of NUMBERS) state[key] = finite(query[key]);
  state.outline = query.outline !== "0";
  state.image = query.image === "1";
  return state;
}

export function finite(text) {
  const value = text === undefined || text === null || text === "" ? NaN : Number(text);
  return Number.isFinite(value) ? value : null;
}

// What of the state cannot be had of this case is replaced, and said.
export function settle(state, scene) {
  const notes = [];
  const one = (key, known, otherwise) => {
    if (known.includes(state[key])) return;
    if (state[key] !== null && state[key] !== "") notes.push(`there is no ${key} of the name asked for; showing ${otherwise ?? "none"}`);
    state[key] = otherwise ?? null;
  };
  one("name", scene.names, scene.names[0]);
  one("plane", Object.keys(scene.planes), scene.plane in scene.planes ? scene.plane : "axial");
  one("modality", scene.modalities, scene.modalities[0]);
  one("overlay", OVERLAYS, "contour");
  const { slices } = scene.planes[state.plane];
  state.index = state.index === null ? null : bounded(Math.round(state.index), 0, slices - 1);
  state.zoom = bounded(state.zoom ?? 1, 1, LARGEST_ZOOM);
  state.x = bounded(state.x ?? 0.5, 0, 1);
  state.y = bounded(state.y ?? 0.5, 0, 1);
  if (state.low === null || state.high === null || state.low >= state.high) state.low = state.high = null;
  const threshold = state.threshold === null ? null : Math.round(state.threshold);
  state.threshold = threshold === null ? null : bounded(threshold, 1, 255);
  return notes;
}

export function query(state) {
  const fixed = (value, digits) => String(Number(value.toFixed(digits)));
  const told = { case: state.case, runs: state.runs.join(",") };
  for (const key of TEXTS) if (state[key] !== null) told[key] = state[key];
  for (const key of ["index", "low", "high", "threshold"]) if (state[key] !== null) told[key] = String(state[key]);
  if (state.zoom !== 1 || state.x !== 0.5 || state.y !== 0.5) {
    Object.assign(told, { zoom: fixed(state.zoom, 3), x: fixed(state.x, 4), y: fixed(state.y, 4) });
  }
  for (const key of FLAGS) if (state[key] !== (key === "outline")) told[key] = state[key] ? "1" : "0";
  return new URLSearchParams(told).toString().replaceAll("%2C", ",");
}

export function bounded(value, least, most) {
  return Math.min(Math.max(value, least), most);
}
