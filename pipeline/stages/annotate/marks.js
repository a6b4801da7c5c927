// Marks of a person: kept in the browser, written to a file by "Save marks".
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const figures = [...document.querySelectorAll("figure")];
  const status = document.getElementById("status");
  const counts = document.getElementById("counts");
  const show = document.getElementById("show");
  const save = document.getElementById("save");
  const clear = document.getElementById("clear");
  const MARKS = ["right", "wrong", "to_correct"];
  const marks = new Map(); // number of an image -> {mark, date}
  let current = -1;

  const canMark = (n) => n >= 0 && !figures[n].hasAttribute("data-human");

  // -- what is kept in the browser

  const storage = (() => {
    try {
      window.localStorage.setItem("label2box-test", "1");
      window.localStorage.removeItem("label2box-test");
      return window.localStorage;
    } catch {
      return null;
    }
  })();

  function load(n) {
    marks.delete(n);
    try {
      const kept = JSON.parse(storage.getItem(data.images[n].stored_as));
      if (MARKS.includes(kept.mark) && typeof kept.date === "string" && canMark(n)) {
        marks.set(n, { mark: kept.mark, date: kept.date });
      }
    } catch {
      // nothing is kept of this image
    }
  }

  function keep(n) {
    if (storage === null) return;
    const name = data.images[n].stored_as;
    try {
      if (marks.has(n)) storage.setItem(name, JSON.stringify(marks.get(n)));
      else storage.removeItem(name);
    } catch {
      say("This browser keeps no more marks: save them before you close the page.");
    }
  }

  // -- what is shown

  function say(text) {
    status.textContent = text;
  }

  function showMark(n) {
    const mark = marks.get(n)?.mark ?? "";
    figures[n].dataset.mark = mark;
    for (const button of figures[n].querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.value === mark));
    }
  }

  function showCounts() {
    const all = [...marks.values()];
    const [right, wrong, toCorrect] = MARKS.map((mark) => all.filter((each) => each.mark === mark).length);
    const open = figures.filter((_, n) => canMark(n) && !marks.has(n)).length;
    const sample = data.images.map((image, n) => n).filter((n) => data.images[n].is_random && canMark(n));
    const done = sample.filter((n) => marks.has(n)).length;
    counts.textContent =
      `${right} right, ${wrong} wrong, ${toCorrect} to correct, ${open} open` +
      (sample.length ? `; random sample: ${done} of ${sample.length} marked` : "");
    save.disabled = clear.disabled = all.length === 0;
  }

  function filter() {
    figures.forEach((figure, n) => {
      const mark = marks.get(n)?.mark ?? (canMark(n) ? "open" : "");
      figure.hidden = show.value !== "all" && show.value !== mark;
    });
  }

  // -- marking

  function setMark(n, mark) {
    if (!canMark(n)) return;
    if (mark === null || marks.get(n)?.mark === mark) marks.delete(n);
    else marks.set(n, { mark, date: new Date().toISOString() });
    keep(n);
    showMark(n);
    showCounts();
  }

  function select(n) {
    if (current >= 0) figures[current].tabIndex = -1;
    current = n;
    figures[n].tabIndex = 0;
    figures[n].focus({ preventScroll: true });
    figures[n].scrollIntoView({ block: "nearest" });
  }

  function move(step) {
    let n = current + step;
    while (n >= 0 && n < figures.length && figures[n].hidden) n += step;
    if (n >= 0 && n < figures.length) select(n);
  }

  const KEYS = {
    ArrowRight: () => move(1),
    ArrowLeft: () => move(-1),
    r: () => markAndMove("right"),
    w: () => markAndMove("wrong"),
    c: () => markAndMove("to_correct"),
    u: () => selectOnScreen() || setMark(current, null),
  };

  // A key never marks an image that is not on the screen: it selects the first one there.
  function isOnScreen(n) {
    const { top, bottom } = figures[n].getBoundingClientRect();
    return !figures[n].hidden && bottom > 0 && top < window.innerHeight;
  }

  function selectOnScreen() {
    if (current >= 0 && isOnScreen(current)) return false;
    const first = figures.findIndex((figure, n) => isOnScreen(n) && figure.getBoundingClientRect().top >= 0);
    if (first >= 0) select(first);
    else move(1);
    return true;
  }

  function markAndMove(mark) {
    if (selectOnScreen()) return;
    if (marks.get(current)?.mark !== mark) setMark(current, mark);
    move(1);
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target === show) return;
    const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (act === undefined) return;
    event.preventDefault();
    act();
  });

  figures.forEach((figure, n) => {
    figure.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button !== null) setMark(n, button.value);
      else select(n);
    });
    figure.addEventListener("focusin", () => {
      if (current >= 0) figures[current].tabIndex = -1;
      current = n;
      figure.tabIndex = 0;
    });
  });

  // -- the file

  function build() {
    const numbers = [...marks.keys()].sort((a, b) => a - b);
    return {
      [data.key]: data.version,
      saved: new Date().toISOString(),
      images: numbers.map((n) => ({ ...data.images[n].shown, ...marks.get(n) })),
    };
  }

  save.addEventListener("click", () => {
    const text = JSON.stringify(build(), null, 1) + "\n";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = data.file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    say(`${marks.size} marks are in ${data.file}, where your browser keeps downloads.`);
  });

  clear.addEventListener("click", () => {
    if (!window.confirm(`Remove all ${marks.size} marks of this page?`)) return;
    for (const n of [...marks.keys()]) setMark(n, null);
    filter();
    say("");
  });

  show.addEventListener("change", filter);

  window.addEventListener("storage", () => {
    figures.forEach((_, n) => {
      load(n);
      showMark(n);
    });
    showCounts();
  });

  figures.forEach((_, n) => {
    load(n);
    showMark(n);
  });
  showCounts();
  filter();
  if (figures.length) figures[0].tabIndex = 0;
  if (storage === null) say("This browser keeps no marks: save them before you close the page.");
  document.body.classList.add("can-mark");
})();
