/**
 * Initial weights, bit for bit those of the native run: an element depends on the seed, the weight's path and its place
 * alone, and everything is IEEE 754 arithmetic, with no function of a math library but the exact square root.
 */
const LN_2 = 0.6931471805599453;
const SQRT_2 = 1.4142135623730951;
const HALF_PI = 1.5707963267948966;
const bitsOfDouble = new DataView(new ArrayBuffer(8));

/** A polynomial from its coefficients, highest first. */
function polynomial(coefficients, x) {
  let sum = 0;
  for (const coefficient of coefficients) sum = sum * x + coefficient;
  return sum;
}

const LOGARITHM = [17, 15, 13, 11, 9, 7, 5, 3, 1].map((n) => 1 / n);
const SINE = [6227020800, -39916800, 362880, -5040, 120, -6, 1].map((n) => 1 / n);
const COSINE = [-87178291200, 479001600, -3628800, 40320, -720, 24, -2, 1].map((n) => 1 / n);

/** The natural logarithm of a normal number. */
function logarithm(x) {
  bitsOfDouble.setFloat64(0, x);
  const top = bitsOfDouble.getUint32(0);
  let exponent = (top >>> 20) - 1023;
  bitsOfDouble.setUint32(0, (top & 0xfffff) | (1023 << 20));
  let fraction = bitsOfDouble.getFloat64(0);
  if (fraction > SQRT_2) [fraction, exponent] = [fraction * 0.5, exponent + 1];
  const s = (fraction - 1) / (fraction + 1);
  return 2 * s * polynomial(LOGARITHM, s * s) + exponent * LN_2;
}

/** The sine and cosine of `2π turns`, for `0 <= turns < 1`. */
function sineAndCosine(turns) {
  const quarter = Math.floor(turns * 4 + 0.5);
  const x = (turns * 4 - quarter) * HALF_PI;
  const [sine, cosine] = [x * polynomial(SINE, x * x), polynomial(COSINE, x * x)];
  return [
    [sine, cosine],
    [cosine, -sine],
    [-sine, -cosine],
    [-cosine, sine],
  ][quarter % 4];
}

/** Two standard normal numbers of 64 random bits. */
function normalPair(u, v) {
  const radius = Math.sqrt(-2 * logarithm((u + 1) * 2 ** -32));
  const [sine, cosine] = sineAndCosine(v * 2 ** -32);
  return [radius * cosine, radius * sine];
}

/** The 64-bit FNV-1a hash of a path, as halves. */
function hashOf(path) {
  let hash = 0xcbf29ce484222325n;
  for (const byte of new TextEncoder().encode(path))
    hash = ((hash ^ BigInt(byte)) * 0x100000001b3n) & 0xffffffffffffffffn;
  return [Number(hash >> 32n), Number(hash & 0xffffffffn)];
}

/** Fills a weight, `{ path, init }`, with what it is before the first step. */
function fillInitial(weight, elements, seed) {
  if (weight.init.std === undefined) {
    elements.fill(weight.init.value);
    return;
  }
  const [pathHigh, pathLow] = hashOf(weight.path);
  for (let block = 0; block * 4 < elements.length; block++) {
    const bits = philox([block, 0, pathLow, pathHigh], seed);
    const normals = [...normalPair(bits[0], bits[1]), ...normalPair(bits[2], bits[3])];
    for (let i = 0; i < 4 && block * 4 + i < elements.length; i++)
      elements[block * 4 + i] = weight.init.std * normals[i];
  }
}
