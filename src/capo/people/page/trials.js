// What a rater sees: the same order and sides as `rater_order` and `is_swapped` in capo.people.human_study.

/** Return values as JSON with sorted keys, no spaces, and ASCII only, as Python's `canonical`. */
function canonical(value) {
  const sorted = (_, v) => (v && typeof v === "object" && !Array.isArray(v)
    ? Object.fromEntries(Object.entries(v).sort(([a], [b]) => (a < b ? -1 : 1))) : v);
  const escape = (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(value, sorted).replace(/[\u0080-\uffff]/g, escape);
}

/** Return the SHA-256 of an object without its field `name`. */
function digestWithout(object, name) {
  const { [name]: _, ...rest } = object;
  return sha256(canonical(rest));
}

/** Return what identifies prompt and images of a pair, whatever their sides. */
function contentOf(pair) {
  return `${pair.prompt}\n${[pair.left.sha256, pair.right.sha256].sort().join("-")}`;
}

/** Return the pairs in the rater's order, each with the images of the rater's left and right. */
function pairsOf(study, rater) {
  const digest = (purpose, what) => sha256([purpose, study.id, rater, what].join("\n"));
  const byDigest = study.pairs
    .map((pair) => [digest("order", pair.pair), pair])
    .sort(([a], [b]) => (a < b ? -1 : 1));
  const distinct = new Set(study.pairs.map(contentOf)).size;
  const first = new Map();
  const places = byDigest.map(([, pair]) => {
    const content = contentOf(pair);
    if (!first.has(content)) {
      first.set(content, first.size);
      return [first.get(content), pair];
    }
    return [((first.get(content) + Math.floor(distinct / 2)) % distinct) + 0.5, pair];
  });
  places.sort(([a], [b]) => a - b);
  return places.map(([, pair]) => {
    const swapped = digest("sides", contentOf(pair))[0] >= "8";
    const [left, right] = swapped ? [pair.right, pair.left] : [pair.left, pair.right];
    return { pair: pair.pair, prompt: pair.prompt, left, right, swapped };
  });
}
