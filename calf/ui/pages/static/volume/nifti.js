// The NIfTI files of the server: uint8, little-endian, with an sform.

const SHAPE = 42; // three int16
const START = 108; // of the voxels, float32
const AFFINE = 280; // three rows of four float32

export async function unpacked(bytes) {
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

export function parsed(buffer) {
  const view = new DataView(buffer);
  const shape = [0, 1, 2].map((axis) => view.getInt16(SHAPE + 2 * axis, true));
  const affine = [0, 1, 2].map((row) => [0, 1, 2, 3].map((column) => view.getFloat32(AFFINE + 4 * (4 * row + column), true)));
  return { shape, affine, voxels: new Uint8Array(buffer, view.getFloat32(START, true)) };
}

// A file on the same grid that is black.
export function black(buffer) {
  const copy = buffer.slice(0);
  parsed(copy).voxels.fill(0);
  return copy;
}

const LIGHT = unit([0.35, 0.55, 0.75]); // from the patient's right, front and head
const REACH = 2; // voxels around that a surface's direction is taken from
const DARKEST = 90;

// A mask whose surface is lit, so that its form can be seen: 0 outside, 255 inside, less where the surface turns from the light.
// Returns the middle of the mask in mm as well, null where it is empty.
export function lit(buffer) {
  const copy = buffer.slice(0);
  const { shape, affine, voxels: inside } = parsed(buffer);
  const { voxels } = parsed(copy);
  const [nx, ny, nz] = shape;
  const around = offsets(affine, shape);
  const sum = [0, 0, 0];
  let count = 0;
  for (let z = 0, place = 0; z < nz; z += 1) {
    for (let y = 0; y < ny; y += 1) {
      for (let x = 0; x < nx; x += 1, place += 1) {
        if (!inside[place]) continue;
        count += 1;
        sum[0] += x;
        sum[1] += y;
        sum[2] += z;
        const out = [0, 0, 0];
        for (const { dx, dy, dz, step, way } of around) {
          const beyond = x + dx < 0 || x + dx >= nx || y + dy < 0 || y + dy >= ny || z + dz < 0 || z + dz >= nz;
          if (beyond || !inside[place + step]) for (let axis = 0; axis < 3; axis += 1) out[axis] += way[axis];
        }
        const length = Math.hypot(...out);
        const towards = length ? dot(out, LIGHT) / length : 1;
        voxels[place] = Math.round(DARKEST + ((255 - DARKEST) * (1 + towards)) / 2);
      }
    }
  }
  const middle = count ? affine.map((row) => row[3] + dot(row, sum.map((value) => value / count))) : null;
  return { buffer: copy, middle };
}

function offsets(affine, [nx, ny]) {
  const found = [];
  for (let dz = -REACH; dz <= REACH; dz += 1) {
    for (let dy = -REACH; dy <= REACH; dy += 1) {
      for (let dx = -REACH; dx <= REACH; dx += 1) {
        if (!dx && !dy && !dz) continue;
        const way = unit(affine.map((row) => dot(row, [dx, dy, dz])));
        found.push({ dx, dy, dz, step: dx + nx * (dy + ny * dz), way });
      }
    }
  }
  return found;
}

function dot(a, b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

function unit(vector) {
  const length = Math.hypot(...vector);
  return vector.map((value) => value / length);
}
