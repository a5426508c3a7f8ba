// The page: an introduction, one pair after another, and the end.

const FEEDBACK = matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 140;

class Page {
  constructor(study, post) {
    this.progress = new Progress(study);
    this.images = new Images();
    this.sender = post && new Sender(this.progress, post, () => this.showSending());
    this.shown = 0;  // when the pair on the screen appeared; 0 while there is none to answer
    this.listen();
    this.progress.state.started ? this.next() : this.introduce();
    this.sender?.send();
  }

  listen() {
    element("start").onclick = () => { this.progress.start(); this.next(); };
    element("left").onclick = () => this.choose("left");
    element("right").onclick = () => this.choose("right");
    element("tie").onclick = () => this.choose("tie");
    element("back").onclick = () => this.back();
    element("again").onclick = () => this.next();
    element("save").onclick = () => { download(this.progress); element("another").hidden = false; };
    element("rescue").onclick = () => download(this.progress);
    element("another").onclick = () => { this.progress.restart(); location.hash = ""; this.introduce(); };
    addEventListener("keydown", (event) => this.press(event));
    addEventListener("storage", (event) => {
      if (event.key === this.progress.key) { this.progress.reload(); this.next(); }
    });
  }

  press(event) {
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || document.body.dataset.view !== "pair") return;
    const onButton = event.target.closest("button") && !event.target.closest(".image");
    const choice = { ArrowLeft: "left", ArrowRight: "right", " ": onButton ? undefined : "tie" }[event.key];
    if (choice) {
      event.preventDefault();
      this.choose(choice);
    } else if (event.key === "Backspace") {
      event.preventDefault();
      this.back();
    }
  }

  introduce() {
    view("introduction");
    element("count").textContent = this.progress.steps.length;
    element("from-disk").hidden = !FROM_DISK;
    element("not-kept").hidden = this.progress.kept;
    element("start").focus();
  }

  async next() {
    this.shown = 0;
    const { progress } = this;
    if (progress.done) return this.end();
    const { pair, question } = progress.step;
    const number = progress.votes.length + 1, total = progress.steps.length;
    view("pair");
    element("question").textContent = question.text;
    element("prompt").textContent = pair.prompt;
    element("number").textContent = `${number} of ${total}`;
    element("bar").value = (number - 1) / total;
    this.showSending();
    element("images").classList.add("waiting");
    try {
      const following = progress.steps.slice(number).find((step) => step.pair !== pair)?.pair;
      const [left, right] = await this.images.show(pair, following);
      if (progress.step?.pair !== pair) return undefined;
      element("left").querySelector("img").replaceWith(left);
      element("right").querySelector("img").replaceWith(right);
    } catch (error) {
      return this.refuse(error);
    }
    this.present(number, total, question);
  }

  present(number, total, question) {
    for (const side of ["left", "right"]) element(side).classList.remove("chosen");
    element("images").classList.remove("waiting");
    say(`Pair ${number} of ${total}. ${question.text}`);
    if (document.activeElement.closest("button")) element("question").focus();
    this.shown = performance.now();
  }

  choose(choice) {
    if (!this.shown || (choice === "tie" && !this.progress.study.tie)) return;
    const ms = Math.round(performance.now() - this.shown);
    this.shown = 0;
    this.progress.add(choice, ms);
    if (choice !== "tie") element(choice).classList.add("chosen");
    this.sender?.send();
    setTimeout(() => this.next(), FEEDBACK);
  }

  get canGoBack() {
    return this.progress.votes.length > (this.sender?.fixed ?? 0);
  }

  back() {
    if (!this.canGoBack || (!this.shown && !this.progress.done)) return;
    this.progress.undo();
    this.next();
  }

  end() {
    view("end");
    element("bar").value = 1;
    this.showSending();
    element("thanks").focus();
    say(element("thanks").textContent);
  }

  showSending() {
    const { progress, sender } = this;
    element("back").disabled = !this.canGoBack;
    element("not-sent").hidden = !(sender?.waiting && progress.unsent > 0);
    if (sender?.refused) return this.refuse(new Refusal(`The server did not accept an answer: ${sender.refused}`));
    const state = !sender ? "download" : progress.unsent ? "sending" : "sent";
    for (const each of ["download", "sending", "sent"]) element(`end-${each}`).hidden = each !== state;
    element("save").hidden = state === "sent";
    element("another").hidden = state !== "sent";
    return undefined;
  }

  refuse(error) {
    this.shown = 0;
    if (!(error instanceof Refusal)) throw error;
    view("refusal");
    element("problem").textContent = error.passing ? "The connection was lost" : "This study cannot continue";
    element("tell").hidden = error.passing;
    element("reason").textContent = error.message;
    element("rescue").hidden = this.progress.votes.length === 0;
    element("again").hidden = Boolean(this.sender?.refused);
    element("problem").focus();
    say(error.message);
  }
}

function element(id) { return document.getElementById(id); }

/** Show one of the parts of the page. */
function view(name) {
  document.body.dataset.view = name;
  for (const part of document.querySelectorAll("main > section")) part.hidden = part.id !== name;
}

/** Have a screen reader say a text. */
function say(text) { element("status").textContent = text; }

function open() {
  const [study, post] = ["study", "post"].map((id) => JSON.parse(element(id).textContent));
  if (digestWithout(study, "id").slice(0, 16) !== study.id) throw new Refusal("This page was changed or is incomplete.");
  return new Page(study, post);
}

let page;
addEventListener("hashchange", () => {
  if (!page || (namedRater() ?? page.progress.rater) !== page.progress.rater) location.reload();
});
try {
  page = open();
} catch (error) {
  view("refusal");
  for (const id of ["again", "rescue"]) element(id).hidden = true;
  element("reason").textContent = error.message;
}
