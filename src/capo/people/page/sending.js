// Handing the votes over: to the server that sent the page, to an address that the owner named, or as a file.

/** Sends votes to an address, again and again until they are acknowledged. */
class Sender {
  /** `each`: send every vote once it can no longer be taken back; otherwise all of them, at the end. */
  constructor(progress, { url, each }, changed) {
    Object.assign(this, { progress, url, each, changed, busy: 0, waiting: false, refused: null });
  }

  /** The number of votes that can no longer be taken back. */
  get final() {
    if (this.progress.done) return this.progress.votes.length;
    return this.each ? Math.max(0, this.progress.votes.length - 1) : 0;
  }

  get fixed() { return Math.max(this.busy, this.progress.state.sent); }

  async send() {
    if (this.busy || this.waiting || this.refused || this.final <= this.progress.state.sent) return;
    this.busy = this.final;
    const first = this.each ? this.progress.state.sent : 0;
    const outcome = await this.post(this.progress.file(first, this.busy));
    if (outcome === "saved") this.progress.sent(this.busy);
    if (outcome === "later") this.retry();
    this.busy = 0;
    this.changed();
    this.send();
  }

  async post(file) {
    try {
      // Sent as text, which browsers let a page send to any address without asking it first.
      const headers = { "Content-Type": this.each ? "application/json" : "text/plain;charset=utf-8" };
      const response = await fetch(this.url, { method: "POST", headers, body: JSON.stringify(file) });
      if (response.ok) return "saved";
      if (response.status >= 500 || [408, 429].includes(response.status)) return "later";
      this.refused = reasonIn(await response.text());
      return "refused";
    } catch {
      return "later";
    }
  }

  retry() {
    this.waiting = true;
    setTimeout(() => {
      this.waiting = false;
      this.send();
    }, 3000);
  }
}

/** Return the reason in a server's reply. */
function reasonIn(text) {
  try {
    return JSON.parse(text).error ?? text.slice(0, 300);
  } catch {
    return text.slice(0, 300);
  }
}

/** Offer the votes as a file to save. */
function download(progress) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(progress.file(), null, 1)], { type: "application/json" }));
  link.download = `capo-votes-${progress.study.id}-${progress.rater}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
