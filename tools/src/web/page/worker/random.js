/**
 * The random words of the native run: the order of data (`tools/src/data/order.rs`) and the generator behind initial
 * weights (`models/src/init.rs`). Words of 64 bits are two halves, and what a function makes is left in `high` and `low`:
 * whole words would be BigInts, which take a hundred times as long.
 */
let high = 0;
let low = 0;

/** The 64 bits of the product of two words of 32. */
function product(a, b) {
  const [a0, a1, b0, b1] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
  const [p00, p01, p10] = [a0 * b0, a0 * b1, a1 * b0];
  const middle = (p00 >>> 16) + (p01 & 0xffff) + (p10 & 0xffff);
  low = ((middle << 16) | (p00 & 0xffff)) >>> 0;
  high = (a1 * b1 + (p01 >>> 16) + (p10 >>> 16) + (middle >>> 16)) >>> 0;
}

/** `z * m`, modulo 2^64. */
function times(zHigh, zLow, mHigh, mLow) {
  product(zLow, mLow);
  high = (high + Math.imul(zHigh, mLow) + Math.imul(zLow, mHigh)) >>> 0;
}

/** `z ^ z >> bits`. */
function foldDown(zHigh, zLow, bits) {
  low = (zLow ^ ((zLow >>> bits) | (zHigh << (32 - bits)))) >>> 0;
  high = (zHigh ^ (zHigh >>> bits)) >>> 0;
}

/** The finalizer of SplitMix64. */
function mix(zHigh, zLow) {
  foldDown(zHigh, zLow, 30);
  times(high, low, 0xbf58476d, 0x1ce4e5b9);
  foldDown(high, low, 27);
  times(high, low, 0x94d049bb, 0x133111eb);
  foldDown(high, low, 31);
}

/** Adds SplitMix64's increment, 2^64 divided by the golden ratio. */
function addGolden(zHigh, zLow) {
  const sum = zLow + 0x7f4a7c15;
  low = sum >>> 0;
  high = (zHigh + 0x9e3779b9 + (sum > 0xffffffff ? 1 : 0)) >>> 0;
}

/** Independent uses of one seed. */
const PURPOSE = { split: 1, rows: 2, documents: 3, phase: 4 };

/** A seed of up to 64 bits, written in decimal, as halves. */
function seedOf(decimal) {
  const seed = BigInt(decimal);
  return [Number((seed >> 32n) & 0xffffffffn), Number(seed & 0xffffffffn)];
}

/** 64 bits that depend on seed, use and epoch. */
function draw([seedHigh, seedLow], purpose, epoch) {
  addGolden(seedHigh, seedLow);
  mix(high, low);
  mix(high, (low ^ purpose) >>> 0);
  addGolden(high, low);
  mix((high ^ Math.floor(epoch / 2 ** 32)) >>> 0, (low ^ epoch) >>> 0);
}

/** The remainder of what was drawn. */
function drawnModulo(divisor) {
  return Number(((BigInt(high) << 32n) | BigInt(low)) % BigInt(divisor));
}

const ROUNDS = 8;

/** A permutation of `0 .. length`, less than 2^32, as a function: a Feistel network, walked into the range. */
function permutation(seed, purpose, epoch, length) {
  const bits = length > 1 ? 32 - Math.clz32(length - 1) : 0;
  const halfBits = Math.max(1, (bits + 1) >> 1);
  const mask = 2 ** halfBits - 1;
  const keys = [];
  draw(seed, purpose, epoch);
  for (let round = 0; round < ROUNDS; round++) {
    addGolden(high, low);
    mix(high, low);
    keys.push([high, low]);
  }
  const walk = (value) => {
    let [left, right] = [value >>> halfBits, value & mask];
    for (const [keyHigh, keyLow] of keys) {
      mix(keyHigh, (keyLow ^ right) >>> 0);
      [left, right] = [right, (left ^ (low & mask)) >>> 0];
    }
    return left * 2 ** halfBits + right;
  };
  return (index) => {
    let value = walk(index);
    while (value >= length) value = walk(value);
    return value;
  };
}

/** 128 random bits for a counter and a key, four words of 32 each: Philox4x32-10. */
function philox(counter, [keyHigh, keyLow]) {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = [keyLow, keyHigh];
  for (let round = 0; round < 10; round++) {
    product(c0, 0xd2511f53);
    const [aHigh, aLow] = [high, low];
    product(c2, 0xcd9e8d57);
    [c0, c1, c2, c3] = [(high ^ c1 ^ k0) >>> 0, low, (aHigh ^ c3 ^ k1) >>> 0, aLow];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}
