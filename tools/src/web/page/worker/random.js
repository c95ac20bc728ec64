/**
 * The random words of the native run: the order of data (`tools/src/data/order.rs`) and the generator behind initial
 * weights (`models/src/init.rs`). Words of 64 bits are two halves, and what a function makes is left in `high` and `low`:
 * whole words would be BigInts, which take a hundred times as long.
 */
let high = 0;
let low = 0;

/** The high half of the product of two words of 32 bits; the low one is `Math.imul`'s. */
function highOfProduct(a, b) {
  const a0 = a & 0xffff;
  const a1 = a >>> 16;
  const b0 = b & 0xffff;
  const b1 = b >>> 16;
  const p01 = a0 * b1;
  const p10 = a1 * b0;
  const middle = ((a0 * b0) >>> 16) + (p01 & 0xffff) + (p10 & 0xffff);
  return (a1 * b1 + (p01 >>> 16) + (p10 >>> 16) + (middle >>> 16)) >>> 0;
}

/** The finalizer of SplitMix64: `z ^= z >> 30; z *= A; z ^= z >> 27; z *= B; z ^= z >> 31`. */
function mix(zHigh, zLow) {
  let l = (zLow ^ ((zLow >>> 30) | (zHigh << 2))) >>> 0;
  let h = zHigh ^ (zHigh >>> 30);
  h = (highOfProduct(l, 0x1ce4e5b9) + Math.imul(h, 0x1ce4e5b9) + Math.imul(l, 0xbf58476d)) >>> 0;
  l = Math.imul(l, 0x1ce4e5b9) >>> 0;
  l = (l ^ ((l >>> 27) | (h << 5))) >>> 0;
  h ^= h >>> 27;
  h = (highOfProduct(l, 0x133111eb) + Math.imul(h, 0x133111eb) + Math.imul(l, 0x94d049bb)) >>> 0;
  l = Math.imul(l, 0x133111eb) >>> 0;
  low = (l ^ ((l >>> 31) | (h << 1))) >>> 0;
  high = (h ^ (h >>> 31)) >>> 0;
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
  const keys = new Uint32Array(2 * ROUNDS);
  draw(seed, purpose, epoch);
  for (let round = 0; round < ROUNDS; round++) {
    addGolden(high, low);
    mix(high, low);
    keys[2 * round] = high;
    keys[2 * round + 1] = low;
  }
  const walk = (value) => {
    let left = value >>> halfBits;
    let right = value & mask;
    for (let at = 0; at < keys.length; at += 2) {
      mix(keys[at], (keys[at + 1] ^ right) >>> 0);
      const next = left ^ (low & mask);
      left = right;
      right = next;
    }
    return left * (mask + 1) + right;
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
    const next0 = (highOfProduct(c2, 0xcd9e8d57) ^ c1 ^ k0) >>> 0;
    const next2 = (highOfProduct(c0, 0xd2511f53) ^ c3 ^ k1) >>> 0;
    c1 = Math.imul(c2, 0xcd9e8d57) >>> 0;
    c3 = Math.imul(c0, 0xd2511f53) >>> 0;
    c0 = next0;
    c2 = next2;
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}
