"use strict";
/*
 * Marks of a person: whether the boxes of an image, those of the main method, are right. They are
 * kept in the browser under the names that the review page uses, and saved as a download that stage
 * ingest reads; a page that is served saves them at once (served.js).
 */
(() => {
  const { model, element, isMoved, resultFor, onThreshold, showsAllClasses } = label2box;
  const { marking } = model;
  const MAIN = 0; // the method whose boxes are marked
  const KINDS = [
    { mark: "right", text: "Right", sign: "✓", key: "r" },
    { mark: "wrong", text: "Wrong", sign: "✗", key: "w" },
    { mark: "to_correct", text: "To correct", sign: "✎", key: "c" },
  ];
  const CHOICES = [["", "any"], ["open", "open"], ["right", "right"], ["wrong", "wrong"],
    ["to_correct", "to correct"], ["none", "cannot be marked"]];
  const NARROW = "(max-width: 760px)"; // a phone, where counts stand below the images
  const REMOVED = "-removed"; // ends the name under which it is kept that a mark was taken back
  const NO_STORAGE = "This browser keeps no marks: save them before you close the page.";
  if (!marking || !model.images.length) {
    label2box.marks = null;
    return;
  }

  const markable = model.images.filter((image) => image.record);
  const byName = new Map(markable.map((image) => [image.id, image]));
  const byKey = new Map(markable.map((image) => [image.stored_as, image]));
  const marks = new Map(); // image: {mark, date}; a mark that was taken back is null
  const groups = new Map(); // image: the groups of buttons that show its mark
  const inFile = new Set(); // images whose mark a file has that was read: it would come again
  const listeners = []; // called with the images whose marks a person changed
  const statuses = []; // elements that say what happened
  let keepsAll = true; // whether the browser kept every mark so far
  let gallery = null; // what gallery.js gave to `start`

  // -- what is kept in the browser ---------------------------------------------------------------

  const storage = (() => {
    try {
      localStorage.setItem("label2box-test", "1");
      localStorage.removeItem("label2box-test");
      return localStorage;
    } catch {
      return null;
    }
  })();

  const isKind = (mark) => KINDS.some((kind) => kind.mark === mark);

  /** Return the mark that the browser keeps of an image; null where it keeps none. */
  function load(image) {
    try {
      const { mark, date } = JSON.parse(storage.getItem(image.stored_as));
      return isKind(mark) && typeof date === "string" ? { mark, date } : null;
    } catch {
      return null;
    }
  }

  /** Return when the mark of an image was taken back that a file has; else an empty text. */
  function loadRemoved(image) {
    return storage?.getItem(image.stored_as + REMOVED) ?? "";
  }

  function keep(image) {
    if (storage === null) return;
    const { mark, date } = marks.get(image);
    try {
      if (mark === null) {
        storage.removeItem(image.stored_as);
        if (inFile.has(image)) storage.setItem(image.stored_as + REMOVED, date);
      } else {
        storage.setItem(image.stored_as, JSON.stringify({ mark, date }));
        storage.removeItem(image.stored_as + REMOVED);
      }
    } catch {
      keepsAll = false;
      say("This browser keeps no more marks: save them before you close the page.");
    }
  }

  // -- marks -------------------------------------------------------------------------------------

  const markOf = (image) => marks.get(image)?.mark ?? null;

  /** Return what the filter calls the mark of an image. */
  const stateOf = (image) => (image.record ? markOf(image) ?? "open" : "none");

  function setMark(image, mark) {
    marks.set(image, { mark, date: new Date().toISOString() });
    keep(image);
    show(image);
    showCounts();
    say("");
    for (const listener of listeners) listener([image]);
  }

  /** Take marks that were made elsewhere, {name: {mark, date}}, where they are later than ours. */
  function adopt(changes) {
    const changed = [];
    for (const [name, change] of Object.entries(changes)) {
      const image = byName.get(name);
      if (!image || (marks.get(image)?.date ?? "") >= change.date) continue;
      marks.set(image, change);
      keep(image);
      show(image);
      changed.push(image);
    }
    showCounts();
    return changed;
  }

  /** Write an image and its boxes so that equal ones are equal texts. */
  const describe = ({ file_name, width, height, boxes }) =>
    JSON.stringify([file_name, width, height, boxes.map((box) => [box.class, box.xyxy])]);

  /**
   * Return the marks of a file, {name: {mark, date}}, and how many are of other images or boxes than
   * those of this page; null where it is no file of marks.
   */
  function readFile(content) {
    const records = content?.[marking.key] ? content.images : null;
    if (!Array.isArray(records)) return null;
    const found = {};
    let others = 0;
    for (const record of records) {
      const image = byName.get(record?.file_name);
      const isSame = image && Array.isArray(record.boxes) && describe(record) === describe(image.record);
      if (!isSame || !isKind(record.mark) || typeof record.date !== "string") others += 1;
      else found[image.id] = { mark: record.mark, date: record.date };
    }
    for (const { file_name: name, date } of Array.isArray(content.removed) ? content.removed : []) {
      if (byName.has(name) && typeof date === "string") found[name] = { mark: null, date };
    }
    for (const name of Object.keys(found)) inFile.add(byName.get(name));
    return { found, others };
  }

  /** Take the marks of a file that a person chose: a download of this page, or that of a run. */
  async function loadFile(file) {
    let content = null;
    try {
      content = JSON.parse(await file.text());
    } catch { /* said below */ }
    const read = readFile(content);
    if (read === null) {
      say(`${file.name} holds no marks: choose ${marking.file}, as a report saved it.`);
      return;
    }
    const changed = adopt(read.found);
    for (const listener of listeners) listener(changed);
    const others = read.others ? `; ${read.others} of other images or boxes are left out` : "";
    say(`${changed.length} marks are taken from ${file.name}${others}.`);
  }

  /**
   * Say why an image cannot be marked in a view; null where it can: a mark is of the boxes of the
   * run, all of them, so they must be in sight.
   */
  function explain(image, view) {
    if (!image.record) return image.no_mark ?? "This image cannot be marked.";
    const results = image.results[MAIN];
    if (!view.showsMain) return `Marks are of the boxes of ${model.methods[MAIN].name}: show them to mark.`;
    if (!view.found) return "The found boxes are hidden: show them to mark.";
    if (results.some((result) => isMoved(MAIN, result))) {
      return "The threshold was moved: these are not the boxes of the run, which marks are of. " +
        "Reset, beside the threshold above the images, puts it back.";
    }
    const seen = resultFor(image, MAIN, view.label);
    const isHidden = (result) => result !== seen && result.boxes.length > 0;
    if (!(showsAllClasses && view.label === null) && results.some(isHidden)) {
      return "Only the boxes of one class are shown: show those of all classes to mark.";
    }
    return null;
  }

  /** Mark an image, or take its mark back where it has this one; return whether it was possible. */
  function tryMark(image, mark, view) {
    const why = explain(image, view);
    if (why !== null) {
      say(why);
      return false;
    }
    if (mark !== markOf(image)) setMark(image, mark);
    return true;
  }

  /** Answer a key; return true where it marked the image, so that one goes on to the next. */
  function answerKey(event, image, view) {
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    if (event.target.matches("select, textarea, input:not([type=checkbox], [type=range])")) return false;
    const key = event.key.toLowerCase();
    const kind = KINDS.find((each) => each.key === key);
    if (!kind && key !== "u") return false;
    event.preventDefault();
    return tryMark(image, kind ? kind.mark : null, view) && Boolean(kind);
  }

  // -- what is shown -----------------------------------------------------------------------------

  function say(text) {
    for (const status of statuses) status.textContent = text;
  }

  function makeButtons(image, getView, tabindex) {
    return KINDS.map(({ mark, text, sign, key }) => element("button", {
      type: "button", value: mark, tabindex, "aria-pressed": false, "aria-keyshortcuts": key,
      title: `${text} (${key.toUpperCase()})`,
      onclick: () => tryMark(image(), mark === markOf(image()) ? null : mark, getView()),
    }, element("span", { "aria-hidden": "true" }, sign), ` ${text}`));
  }

  /** Make the buttons below a card; its keys do the same, so that they are no stops of Tab. */
  function makeCardButtons(image) {
    const buttons = image.record ? makeButtons(() => image, () => gallery.getView(), -1) :
      [element("span", { title: image.no_mark }, image.no_mark ?? "")];
    const root = element("div", { class: "marks", role: "group", "aria-label": "Mark" }, ...buttons);
    groups.set(image, [root]);
    return root;
  }

  function show(image) {
    for (const root of groups.get(image) ?? []) showIn(root, image);
  }

  function showIn(root, image) {
    const mark = markOf(image);
    root.dataset.mark = mark ?? "";
    for (const button of root.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.value === mark));
    }
  }

  const counts = element("output", { class: "counts", "aria-live": "polite" });
  const status = element("span", { class: "status", role: "status" });
  const save = element("button", { type: "button", onclick: download }, "Save marks");
  const chosen = element("input", { type: "file", accept: ".json,application/json", hidden: true,
    "aria-label": "File of marks", onchange: () => {
      if (chosen.files.length) loadFile(chosen.files[0]);
      chosen.value = "";
    } });
  const open = element("button", { type: "button", onclick: () => chosen.click() }, "Load marks");
  statuses.push(status);

  function showCounts() {
    const number = (mark) => markable.filter((image) => markOf(image) === mark).length;
    const [right, wrong, toCorrect] = KINDS.map(({ mark }) => number(mark));
    const random = markable.filter((image) => image.is_random);
    const sample = random.length ?
      `; random sample: ${random.filter((image) => markOf(image)).length} of ${random.length} marked` : "";
    counts.textContent =
      `${right} right, ${wrong} wrong, ${toCorrect} to correct, ${number(null)} open${sample}`;
    save.disabled = right + wrong + toCorrect === 0;
  }

  /** Say whether the cards can be marked as they are shown now. */
  function showView() {
    const [first] = markable;
    if (!gallery || !first) return;
    const isFaint = explain(first, { ...gallery.getView(), label: null }) !== null;
    gallery.grid.classList.toggle("not-now", isFaint);
  }

  // -- the file ----------------------------------------------------------------------------------

  function build() {
    const chosen = markable.filter((image) => markOf(image) !== null);
    return {
      [marking.key]: marking.version,
      saved: new Date().toISOString(),
      images: chosen.map((image) => ({ ...image.record, ...marks.get(image) })),
    };
  }

  function download() {
    const content = build();
    const text = `${JSON.stringify(content, null, 1)}\n`;
    const link = element("a", { download: marking.file,
      href: URL.createObjectURL(new Blob([text], { type: "application/json" })) });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    say(`${content.images.length} marks are in ${marking.file}, where your browser keeps downloads.`);
  }

  /** Return the folder of the run as a shell takes it, where the page's address shows it. */
  function findRun() {
    const end = "/report/index.html";
    const path = decodeURIComponent(location.pathname);
    if (location.protocol !== "file:" || !path.endsWith(end)) return "RUN";
    const folder = path.slice(0, -end.length).replace(/^\/([A-Za-z]:\/)/, "$1");
    return /^[\w./:-]+$/.test(folder) ? folder : "RUN";
  }

  const origin = element("p", { hidden: true }); // says which marks the page had when it was written
  const about = element("p", {}, "Marks are kept in this browser. ", element("b", {}, "Save marks"),
    ` gives them as ${marking.file}; then:`);
  const command = element("code", {},
    marking.command.replace("{run}", findRun()).replace("{file}", marking.file));
  const help = element("details", { id: "marking" },
    element("summary", {}, "Mark boxes: right, wrong, to be corrected"),
    element("p", {}, "An image is ", element("b", {}, "right"), " if every object of its classes has " +
      "a box, with the right class, that you would have drawn so; without a box: if there is no such " +
      "object. Right boxes become yours, as they are. Boxes that are ", element("b", {}, "wrong"),
    ", or ", element("b", {}, "to be corrected"), " because you mean to draw them anew, are never used as " +
      "truth: they wait for their correction in an annotation tool."),
    element("p", {}, "On a card, and in the large view: ", ...KINDS.flatMap(({ key, text }) =>
      [element("kbd", {}, key.toUpperCase()), ` ${text.toLowerCase()}, `]),
    "each of which goes on to the next image; ", element("kbd", {}, "U"), " takes a mark back." +
      (model.methods.length > 1 ? ` Marks are of the boxes of ${model.methods[MAIN].name}.` : "")),
    origin, about, element("p", {}, command), element("p", {}, element("b", {}, "Load marks"),
      " takes the marks of such a file into this page, where its boxes are the same."));

  /** Put counts and buttons into the page. */
  function start(parts) {
    gallery = parts;
    parts.form.before(help);
    const row = element("div", { class: "marking" }, counts, status, save, open, chosen);
    if (matchMedia(NARROW).matches) parts.grid.after(row);
    else parts.bar.append(row);
    parts.grid.addEventListener("keydown", (event) => {
      const item = event.target.closest(".item");
      const image = item && parts.imageOf(item);
      if (image && answerKey(event, image, parts.getView())) parts.goOn(item);
    });
    for (const image of markable) {
      const kept = storage && load(image);
      if (kept) marks.set(image, kept);
      else if (loadRemoved(image)) marks.set(image, { mark: null, date: loadRemoved(image) });
      show(image);
    }
    takeSaved();
    onThreshold(showView);
    showCounts();
    showView();
    if (storage === null) say(NO_STORAGE);
  }

  /** Take the marks of the run's file, which are in this page since it was written last. */
  function takeSaved() {
    const content = JSON.parse(document.getElementById("saved-marks")?.textContent ?? "null");
    const read = readFile(content);
    if (read === null) return;
    adopt(read.found);
    const count = Object.values(read.found).filter(({ mark }) => mark !== null).length;
    const others = read.others ? `; ${read.others} more are of other boxes, and not shown` : "";
    origin.hidden = false;
    origin.append(`${count} of the marks are from `, element("code", {}, content.path),
      ` of the run, saved on ${String(content.saved).slice(0, 16).replace("T", " at ")} UTC${others}.`);
  }

  /** Take over what another tab keeps: the report of the same run, or its review page. */
  function takeKept(changed) {
    if (storage === null || !keepsAll) return;
    const isNew = (image) => (load(image)?.date ?? "") !== (markOf(image) ? marks.get(image).date : "");
    const images = changed.filter(isNew);
    for (const image of images) {
      marks.set(image, load(image) ?? { mark: null, date: new Date().toISOString() });
      show(image);
    }
    if (!images.length) return;
    showCounts();
    for (const listener of listeners) listener(images);
  }

  addEventListener("storage", (event) => {
    takeKept(event.key === null ? markable : [byKey.get(event.key)].filter(Boolean));
  });
  addEventListener("focus", () => takeKept(markable)); // where the browser told nothing meanwhile

  // -- the large view ----------------------------------------------------------------------------

  /** Make the buttons of the large view; `getView` returns what it shows, its image among that. */
  function makeBlock(getView) {
    const note = element("p", { class: "soft", role: "status" });
    const buttons = makeButtons(() => getView().image, getView, 0);
    const root = element("fieldset", { class: "marks" }, element("legend", {}, "Mark"), ...buttons, note);
    statuses.push(note);
    let image = null;
    /** Show the mark of the image, and why it cannot be marked. */
    function update() {
      const view = getView();
      if (image !== view.image) {
        if (image) groups.set(image, groups.get(image).filter((each) => each !== root));
        image = view.image;
        groups.get(image).push(root);
      }
      const why = explain(image, view);
      for (const button of buttons) button.disabled = why !== null;
      note.textContent = why ?? "";
      showIn(root, image);
    }
    return { root, update };
  }

  label2box.marks = {
    CHOICES, makeCardButtons, makeBlock, answerKey, stateOf, start, showView, say, adopt,
    onMarked: (listener) => listeners.push(listener),
    /** Return all marks by the name of their image, also those that were taken back. */
    list: () => Object.fromEntries([...marks].map(([image, mark]) => [image.id, mark])),
    /** Tell that marks are saved at once, in a file, and by which command they are ingested. */
    saveAtOnce(path, words) {
      about.replaceChildren("Marks are saved at once, in ", element("code", {}, path), ". Then:");
      command.textContent = words;
      save.hidden = true;
    },
  };
})();
