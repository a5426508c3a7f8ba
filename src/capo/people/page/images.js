// Images, loaded one pair ahead and compared with the digests that the study names.

const FROM_DISK = location.protocol === "file:";

/** Return an image element that can be shown, or throw a `Refusal`. */
async function loadImage(described) {
  const image = new Image(described.width, described.height);
  image.alt = "";
  image.draggable = false;
  image.src = FROM_DISK ? described.file : await checkedAddress(described);
  try {
    await image.decode();
  } catch {
    throw new Refusal(`An image of this study is missing or cannot be shown (${described.file}).`);
  }
  if (image.naturalWidth !== described.width || image.naturalHeight !== described.height) {
    throw new Refusal(`An image of this study was changed (${described.file}).`);
  }
  image.classList.toggle("tiny", Math.max(described.width, described.height) <= 128);
  return image;
}

/** Fetch an image and return an address for its bytes. Browsers let no page read files from disk. */
async function checkedAddress(described) {
  let response;
  try {
    response = await fetch(described.file);
  } catch {
    throw new Refusal("Your answers are kept. Try again in a moment.", true);
  }
  if (!response.ok) throw new Refusal(`An image of this study is missing (${described.file}).`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  if (sha256(bytes) !== described.sha256) {
    throw new Refusal(`An image of this study was changed (${described.file}).`);
  }
  return URL.createObjectURL(new Blob([bytes], { type: `image/${described.file.split(".").pop()}` }));
}

/** The images of the pair on the screen and of the next one. */
class Images {
  constructor() { this.loading = new Map(); }

  /** Return both images of a pair; start to load those of `next`, and let go of all others. */
  async show(pair, next) {
    const wanted = [pair, next].filter(Boolean);
    for (const [name, images] of this.loading) {
      if (!wanted.some((each) => each.pair === name)) {
        this.loading.delete(name);
        images.then((both) => both.forEach((image) => URL.revokeObjectURL(image.src)), () => {});
      }
    }
    const both = this.load(pair);
    if (next) both.then(() => this.load(next).catch(() => {}), () => {});
    try {
      return await both;
    } catch (error) {
      this.loading.delete(pair.pair);  // so that another try loads it again
      throw error;
    }
  }

  load(pair) {
    if (!this.loading.has(pair.pair)) {
      this.loading.set(pair.pair, Promise.all([loadImage(pair.left), loadImage(pair.right)]));
    }
    return this.loading.get(pair.pair);
  }
}
