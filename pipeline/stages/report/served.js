"use strict";
/* Saves marks at once, in a page that `python -m pipeline serve` gives. No page on disk has this. */
(() => {
  const { marks } = label2box;
  if (!marks) return;
  const AGAIN = 3000; // ms after which what could not be saved is sent again
  const about = JSON.parse(document.getElementById("served").textContent);
  const waiting = new Map(); // name of an image: its mark, until it is saved
  let isSending = false;
  let timer = 0;

  /** Ask the server; return its marks. */
  async function ask(options) {
    const answer = await fetch("../marks", { cache: "no-store", ...options });
    if (!answer.ok) throw new Error(await answer.text());
    return (await answer.json()).marks;
  }

  async function send() {
    if (isSending || waiting.size === 0) return;
    isSending = true;
    clearTimeout(timer);
    const sent = new Map(waiting);
    const changes = [...sent].map(([name, change]) => ({ file_name: name, ...change }));
    marks.say("Saving …");
    try {
      const known = await ask({ method: "POST", headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ changes }) });
      for (const [name, change] of sent) if (waiting.get(name) === change) waiting.delete(name);
      marks.adopt(known);
      marks.say(waiting.size ? "Saving …" : "Saved");
    } catch (error) {
      const isGone = error instanceof TypeError;
      marks.say(`Not saved: ${isGone ? "the command serve does not answer; start it again" : error.message}`);
      timer = setTimeout(send, AGAIN);
    }
    isSending = false;
    if (waiting.size && !timer) send();
  }

  /** Take the marks of the server, and send those that it does not have. */
  async function synchronize() {
    try {
      const known = await ask({});
      marks.adopt(known);
      for (const [name, change] of Object.entries(marks.list())) {
        if ((known[name]?.date ?? "") < change.date) waiting.set(name, change);
      }
      send();
    } catch (error) {
      marks.say(`Marks cannot be read: ${error.message}`);
    }
  }

  marks.saveAtOnce(about.path, about.command);
  marks.onMarked((images) => {
    const all = marks.list();
    for (const { id } of images) waiting.set(id, all[id]);
    send();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) synchronize();
  });
  addEventListener("beforeunload", (event) => {
    if (waiting.size) event.preventDefault();
  });
  synchronize();
})();
