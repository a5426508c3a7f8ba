// What a rater has answered, kept in this browser until it is handed over.

const RATER = /^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/;

/** The answers of one rater. Every change is stored before the page goes on. */
class Progress {
  constructor(study) {
    this.study = study;
    this.place = `capo-study-${study.id}`;
    this.begin(namedRater() ?? this.read(this.place) ?? randomName());
  }

  /** Continue as a rater, or start as a new one. */
  begin(rater) {
    if (!RATER.test(rater)) {
      throw new Refusal(`The address of this page names the rater “${rater}”. A name has at most 64 letters (A to Z), `
        + "digits, hyphens and underscores, and begins with a letter or a digit.");
    }
    this.rater = rater;
    this.pairs = pairsOf(this.study, rater);
    this.steps = this.pairs.flatMap((pair) => this.study.questions.map((question) => ({ pair, question })));
    const stored = JSON.parse(this.read(this.key) ?? "null");
    this.state = stored ?? { started: null, finished: null, votes: [], sent: 0 };
    const fits = this.state.votes.every((vote, n) => n < this.steps.length
      && vote.pair === this.steps[n].pair.pair && vote.question === this.steps[n].question.name);
    if (!fits) throw new Refusal("The answers stored in this browser do not belong to this study.");
    this.kept = this.write(this.place, rater);
  }

  /** Where the answers of the rater are stored. */
  get key() { return `${this.place}-${this.rater}`; }
  get votes() { return this.state.votes; }
  get step() { return this.steps[this.votes.length]; }
  get done() { return this.votes.length === this.steps.length; }
  get unsent() { return this.votes.length - this.state.sent; }

  start() {
    this.state.started ??= now();
    this.store();
  }

  add(choice, ms) {
    const { pair, question } = this.step;
    this.votes.push({ pair: pair.pair, question: question.name, choice, swapped: pair.swapped, ms, at: now() });
    if (this.done) this.state.finished = now();
    this.store();
  }

  undo() {
    this.votes.pop();
    this.state.finished = null;
    this.store();
  }

  sent(count) {
    this.state.sent = count;
    this.store();
  }

  store() {
    this.kept = this.write(this.key, JSON.stringify(this.state));
  }

  /** Take over what another tab with this study has stored. */
  reload() { this.begin(this.rater); }

  restart() { this.begin(randomName()); }

  /** Return the votes from number `first` up to `end` as a votes file. */
  file(first = 0, end = this.votes.length) {
    const { started, finished } = this.state;
    const whole = end === this.steps.length;
    const file = { format: 1, study: this.study.id, rater: this.rater, started, finished: whole ? finished : null,
      agent: agent(), votes: this.votes.slice(first, end) };
    return { ...file, digest: sha256(canonical(file)) };
  }

  read(place) {
    try { return localStorage.getItem(place); } catch { return null; }
  }

  write(place, text) {
    try {
      localStorage.setItem(place, text);
      return true;
    } catch { return false; }
  }
}

/** A reason why the page cannot go on, for the rater to read; one that is `passing` may soon be gone. */
class Refusal extends Error {
  constructor(reason, passing = false) {
    super(reason);
    this.passing = passing;
  }
}

/** Return the rater that the page's address names; null if it names none. */
function namedRater() { return new URLSearchParams(location.hash.slice(1)).get("rater"); }

function now() { return new Date().toISOString(); }

function agent() {
  return `${navigator.userAgent} ${innerWidth}x${innerHeight}`.replace(/[^\x20-\x7e]/g, "?").slice(0, 300);
}

function randomName() {
  return Array.from(crypto.getRandomValues(new Uint8Array(8)), (b) => b.toString(16).padStart(2, "0")).join("");
}
