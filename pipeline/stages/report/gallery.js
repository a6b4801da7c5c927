"use strict";
/* The gallery: cards of images, their filters and their order, which the page's address keeps. */
(() => {
  const {
    model, element, className, makePanel, drawPanel, resultFor, iouOf, isRight, countBoxes,
    stepOf, setThreshold, prepareSteps, onThreshold, showsAllClasses, describePanel,
    describeImage, causeOf, countCauses, sayFaults, marks,
  } = label2box;
  const several = model.methods.length > 1;
  const AHEAD = 600; // pixels around the window, where cards are drawn before they are seen
  const LATEST = 200; // ms, after which cards ahead are drawn even where the page is busy
  const NARROW = "(max-width: 760px)"; // a phone, where the filters are closed at first
  const TYPING = 150; // ms without a key, after which what was typed is looked for
  const PAGE = 60; // cards that "Show more" adds, where there are more than MOST
  const MOST = 120;
  const PRINTED = 12; // cards on paper

  const LAYERS = [
    ["map", "map", true],
    ["true", "annotated", true],
    ["found", "found", true],
    ["true_masks", "annotated masks", false],
    ["masks", "found masks", false],
  ];
  const RESULTS = [
    ["", "all"],
    ["right", "right"],
    ["wrong", "wrong"],
    ["class", "wrong class predicted"],
    ["unscored", "not scored"],
  ];
  const ORDERS = [
    ["rank-up", model.is_ranked ? "review_rank" : "as in the data set", true],
    ["confidence-up", "confidence, lowest first", model.is_ranked],
    ["confidence-down", "confidence, highest first", model.is_ranked],
    ["iou-up", "IoU, lowest first", model.is_scored],
    ["iou-down", "IoU, highest first", model.is_scored],
    ["spread-down", "methods differ most first", model.images.some(({ spread }) => Number.isFinite(spread))],
    ["name-up", "name", true],
  ].filter(([, , isThere]) => isThere);
  const DEFAULTS = {
    method: "0", text: "", class: "", result: "", cause: "", iou_from: "0", iou_to: "1",
    confidence_from: "0", confidence_to: "1", mark: "", sort: model.first_order, hidden: "",
    step: "", image: "",
    layers: LAYERS.filter(([, , isOn]) => isOn).map(([key]) => key).join("+"),
  };

  const state = { ...DEFAULTS };
  const form = document.getElementById("filters");
  if (!form) return; // no image is shown
  const grid = document.getElementById("grid");
  const collator = new Intl.Collator(undefined, { numeric: true });
  const method = () => Number(state.method);
  const layers = () => ({
    ...Object.fromEntries(LAYERS.map(([key]) => [key, state.layers.split("+").includes(key)])),
    allClasses: showsAllClasses && state.class === "",
  });
  const isShown = (n) => !state.hidden.split("+").includes(String(n));

  /** Return the result of an image that filters, order and card are about. */
  const resultOf = (image, n = method()) =>
    resultFor(image, n, state.class === "" ? null : Number(state.class));

  // -- the page's address ------------------------------------------------------------------------

  function readAddress() {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const key of Object.keys(DEFAULTS)) state[key] = given.get(key) ?? DEFAULTS[key];
    if (model.methods.every((_, n) => !isShown(n))) state.hidden = DEFAULTS.hidden;
    if (!model.methods[method()]) state.method = DEFAULTS.method;
    const isKnown = (list, value) => list.some(([key]) => key === value);
    if (!isKnown(ORDERS, state.sort)) state.sort = DEFAULTS.sort;
    if (!isKnown(RESULTS, state.result)) state.result = DEFAULTS.result;
    if (state.class !== "" && !model.classes[Number(state.class)]) state.class = DEFAULTS.class;
  }

  function writeAddress() {
    const kept = Object.entries(state).filter(([key, value]) => value !== DEFAULTS[key]);
    const text = new URLSearchParams(Object.fromEntries(kept)).toString();
    if (text !== location.hash.slice(1)) {
      history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
    }
  }

  // -- filters -----------------------------------------------------------------------------------

  const isWithin = (value, from, to) =>
    (Number(from) <= 0 && Number(to) >= 1) ||
    (value !== null && value >= Number(from) && value <= Number(to));

  function fitsResult(image, result) {
    const right = result && isRight(method(), result);
    switch (state.result) {
      case "right": return right === true;
      case "wrong": return right === false;
      case "class": return image.is_class_right === false;
      case "unscored": return right === null;
      default: return true;
    }
  }

  function fits(item) {
    const { image } = item;
    const result = resultOf(image);
    const label = Number(state.class);
    const named = model.is_labelled ? image.labels : [image.predicted];
    return (state.class === "" || named.includes(label)) &&
      (state.text === "" || item.words.includes(state.text.trim().toLowerCase())) &&
      (state.mark === "" || !marks || marks.stateOf(image) === state.mark) &&
      (state.cause === "" || (result && causeOf(method(), result)?.key === state.cause)) &&
      fitsResult(image, result) &&
      isWithin(result && iouOf(method(), result), state.iou_from, state.iou_to) &&
      isWithin(result && result.confidence, state.confidence_from, state.confidence_to);
  }

  /** Return whether the threshold decides what is shown, or in which order. */
  const needsThreshold = () => ["right", "wrong"].includes(state.result) || state.cause !== "" ||
    state.sort.startsWith("iou") || Number(state.iou_from) > 0 || Number(state.iou_to) < 1;

  /** Return the values that an order compares; what has none comes last. */
  function sortValue(item, key) {
    const result = resultOf(item.image);
    if (key === "iou") return result && iouOf(method(), result);
    if (key === "spread") return item.image.spread ?? null;
    if (key === "confidence") return result && result.confidence;
    return item.image.rank ?? item.image.position;
  }

  function sortItems(items) {
    const [key, direction] = state.sort.split("-");
    if (key === "name") {
      return items.sort((a, b) => collator.compare(a.image.id, b.image.id));
    }
    const sign = direction === "down" ? -1 : 1;
    const values = new Map(items.map((item) => [item, sortValue(item, key)]));
    return items.sort((a, b) => {
      const [x, y] = [values.get(a), values.get(b)];
      if (x === null || y === null) return (x === null) - (y === null) || a.order - b.order;
      return sign * (x - y) || a.order - b.order;
    });
  }

  // -- cards -------------------------------------------------------------------------------------

  /**
   * Make a card, with room for its pictures, which are made when the card comes near. Its text is
   * there at once, so that nothing moves then.
   */
  function makeItem(image, order) {
    const panels = model.methods.map((_, n) => {
      const room = element("span", { class: "room" });
      const text = element("span", { class: "told" });
      return { n, room, text, panel: null, root: element("span", { class: "panel" }, room, text) };
    });
    const button = element("button", { type: "button", class: "open" },
      element("span", { class: "panels" }, ...panels.map((each) => each.root)),
      describeImage(image));
    const root = element("li", { class: "item" }, button, marks && marks.makeCardButtons(image));
    for (const each of panels) each.text.append(...describePanel(each.n, image, resultOf(image, each.n)));
    const named = model.is_labelled ? image.labels : [image.predicted];
    const words = [image.id, image.name, ...named.map(className)];
    const item = {
      image, order, panels, button, root, words: words.join("\n").toLowerCase(),
      drawn: null,
    };
    button.addEventListener("click", () => openImage(item));
    return item;
  }

  function drawItem(item) {
    item.drawn = version;
    for (const each of item.panels) {
      each.root.hidden = !isShown(each.n);
      if (each.root.hidden) continue;
      if (!each.panel) {
        each.panel = makePanel(item.image);
        each.room.replaceChildren(each.panel.root);
        const { width, height } = item.image;
        each.panel.root.classList.add(width / height >= aspect ? "wide" : "tall");
      }
      drawPanel(each.panel, each.n, resultOf(item.image, each.n), layers());
      each.text.replaceChildren(...describePanel(each.n, item.image, resultOf(item.image, each.n)));
    }
  }

  /** Draw a card at once where it is in sight, soon where it is near, else when it comes near. */
  function drawWhenNeeded(item, { top, bottom }) {
    if (item.drawn === version || bottom < -AHEAD || top > innerHeight + AHEAD || top === bottom) return;
    if (bottom > 0 && top < innerHeight) drawItem(item);
    else waiting.add(item);
  }

  /** Draw the cards anew that show something else than before. */
  function refreshItems() {
    version = JSON.stringify([state.layers, state.hidden, state.class, model.methods.map((_, n) => stepOf(n))]);
    waiting.clear();
    const stale = drawn.filter((item) => item.drawn !== version);
    const places = stale.map((item) => item.root.getBoundingClientRect()); // before anything changes
    stale.forEach((item, n) => drawWhenNeeded(item, places[n]));
    drawAhead();
  }

  const whenIdle = window.requestIdleCallback ?? ((task) => setTimeout(task, 50));

  /** Draw the cards that wait, one after the other, while nothing else is to be done. */
  function drawAhead() {
    if (isDrawing || !waiting.size) return;
    isDrawing = true;
    whenIdle((deadline) => {
      isDrawing = false;
      for (const item of waiting) {
        waiting.delete(item);
        if (item.drawn !== version && !item.root.hidden) drawItem(item);
        if (!deadline || deadline.timeRemaining() < 5) break;
      }
      drawAhead();
    }, { timeout: LATEST });
  }

  /** Return the middle of the pictures' width over height, within bounds. */
  function middleAspect() {
    const shapes = model.images.map((image) => image.width / image.height).sort((a, b) => a - b);
    return Math.min(1.5, Math.max(0.75, shapes[Math.floor(shapes.length / 2)]));
  }

  const aspect = middleAspect();
  const items = model.images.map((image, n) => makeItem(image, n));
  const byRoot = new Map(items.map((item) => [item.root, item]));
  let shown = items; // those that fit the filters
  let drawn = items; // of them, those that have a card on the page
  let limit = PAGE; // how many
  let version = null; // what cards are drawn from; a card that was drawn from another one is stale
  const waiting = new Set(); // cards that are near and not drawn yet
  let isDrawing = false;
  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting, boundingClientRect } of entries) {
      if (isIntersecting) drawWhenNeeded(byRoot.get(target), boundingClientRect);
    }
    drawAhead();
  }, { rootMargin: `${AHEAD}px` });

  // -- what is shown -----------------------------------------------------------------------------

  const count = element("output", { class: "shown", "aria-live": "polite" });
  const faults = element("p", { class: "faults" });
  const nothing = document.getElementById("nothing");
  const more = element("button", { type: "button", class: "more", onclick: () => {
    const next = shown[limit];
    limit += PAGE;
    arrange();
    next.button.focus();
  } });

  /** Filter and sort anew, and draw what is near. */
  function arrange() {
    shown = sortItems(items.filter(fits));
    drawn = shown.length > MOST ? shown.slice(0, limit) : shown;
    const isIn = new Set(drawn);
    for (const item of items) item.root.hidden = !isIn.has(item);
    more.hidden = drawn.length === shown.length;
    more.textContent = `Show ${Math.min(PAGE, shown.length - drawn.length)} more ` +
      `(${drawn.length} of ${shown.length} are on the page)`;
    const order = drawn.map((item) => item.root);
    shown.forEach((item, n) => item.root.classList.toggle("printed", n < PRINTED));
    const before = [...grid.children].filter((node) => !node.hidden);
    if (before.length !== order.length || before.some((node, n) => node !== order[n])) {
      grid.append(...order);
    }
    nothing.hidden = shown.length > 0;
    countShown();
    refreshItems();
    if (marks) marks.showView();
    writeAddress();
  }

  /** Say how many images are shown, how many of them are right, and how many boxes they have. */
  function countShown() {
    let [right, scored, boxes] = [0, 0, 0];
    for (const { image } of shown) {
      const result = resultOf(image);
      if (!result) continue;
      const isOk = isRight(method(), result);
      if (isOk !== null) scored += 1;
      if (isOk) right += 1;
      boxes += countBoxes(method(), result);
    }
    const isAll = shown.length === items.length;
    const ofScored = scored ? `${isAll ? " ·" : ""} ${right} of ${scored} right` : "";
    const of = several ? ` · ${model.methods[method()].name}` : "";
    count.replaceChildren(element("b", {}, isAll ? `All ${items.length} images`
      : `${shown.length} of ${items.length} images fit the filters`),
    `${of}${isAll || !scored ? "" : " · of these"}${ofScored} · ${boxes} boxes`);
    faults.textContent = faults.title = sayFaults(countCauses(method(), shown.map(resultOfItem)));
    showCauseCounts();
  }

  /** Write beside each cause of the filter how many images have it at the threshold that is set. */
  function showCauseCounts() {
    const select = controls.get("cause");
    if (!select) return;
    const counts = countCauses(method(), items.map(resultOfItem));
    for (const [n, { key, title }] of model.causes.entries()) {
      const text = `${title} (${counts.get(key) ?? 0})`;
      const option = select.options[n + 1]; // the first one is "any"
      if (option.textContent !== text) option.textContent = text;
    }
  }

  const resultOfItem = ({ image }) => resultOf(image);

  // -- controls ----------------------------------------------------------------------------------

  const controls = new Map(); // name of a value of the state: its input
  const bar = label2box.makeThresholdBar(method);

  function change(values) {
    Object.assign(state, values);
    limit = PAGE;
    if ("method" in values) prepareSteps(method());
    showState();
    arrange();
  }

  const makeField = (title, input) =>
    element("label", { class: "field" }, element("span", {}, title), input);

  function makeChoice(key, title, choices) {
    const select = element("select", { id: `filter-${key}`, onchange: () => change({ [key]: select.value }) },
      ...choices.map(([value, text]) => element("option", { value }, text)));
    controls.set(key, select);
    return makeField(title, select);
  }

  function makeBound(key, title) {
    let waiting = 0;
    const read = (isFinal) => {
      clearTimeout(waiting);
      const value = Number(input.value);
      const isGood = input.value !== "" && value >= 0 && value <= 1;
      if (isGood || isFinal) change({ [key]: isGood ? String(value) : DEFAULTS[key] });
      if (isFinal) input.value = state[key];
    };
    const input = element("input", {
      type: "number", min: 0, max: 1, step: 0.05, inputmode: "decimal", "aria-label": title,
      oninput: () => {
        clearTimeout(waiting);
        waiting = setTimeout(() => read(false), TYPING);
      },
      onchange: () => read(true),
    });
    controls.set(key, input);
    return input;
  }

  const makeBounds = (key, title) => element("div", { class: "field bounds" },
    element("span", { "aria-hidden": "true" }, title),
    element("div", {}, makeBound(`${key}_from`, `${title}, lowest`), element("span", {}, "to"),
      makeBound(`${key}_to`, `${title}, highest`)));

  function makeSearch() {
    let waiting = 0;
    const input = element("input", {
      type: "search", placeholder: "name or class",
      oninput: () => {
        clearTimeout(waiting);
        waiting = setTimeout(() => change({ text: input.value }), TYPING);
      },
    });
    controls.set("text", input);
    return makeField("Search", input);
  }

  /** Make a check box of a list in the state, joined by +. */
  function makeToggle(key, value, isInverted, ...content) {
    const input = element("input", {
      type: "checkbox",
      onchange: () => {
        const values = state[key].split("+").filter((each) => each !== "" && each !== value);
        if (input.checked !== isInverted) values.push(value);
        change({ [key]: values.join("+") });
      },
    });
    controls.set(`${key}:${value}`, { input, set value(text) {
      input.checked = text.split("+").includes(value) !== isInverted;
    } });
    return element("label", { class: "toggle" }, input, ...content);
  }

  function listClasses() {
    const counts = new Map();
    for (const image of model.images) {
      for (const label of model.is_labelled ? image.labels : [image.predicted]) {
        if (label !== null && label >= 0) counts.set(label, (counts.get(label) ?? 0) + 1);
      }
    }
    const labels = [...counts.keys()].sort((a, b) => collator.compare(className(a), className(b)));
    return labels.map((label) => [String(label), `${className(label)} (${counts.get(label)})`]);
  }

  function buildControls() {
    const first = [makeSearch()];
    if (several) {
      const names = model.methods.map(({ name }, n) => [String(n), name]);
      first.unshift(makeChoice("method", "Filter, order, threshold by", names));
    }
    if (model.is_scored) first.push(makeChoice("result", "Boxes", RESULTS));
    if (model.causes.length) {
      const causes = model.causes.map(({ key, title }) => [key, title]);
      first.push(makeChoice("cause", "Cause", [["", "any"], ...causes]));
    }
    first.push(makeChoice("class", "Class", [["", "all"], ...listClasses()]));
    if (model.is_scored) first.push(makeBounds("iou", "IoU"));
    if (model.is_ranked) first.push(makeBounds("confidence", "Confidence"));
    if (marks) first.push(makeChoice("mark", "Marks", marks.CHOICES));
    first.push(makeChoice("sort", "Order", ORDERS));
    const reset = element("button", { type: "button", class: "reset", onclick: () => {
      change({ ...DEFAULTS, step: state.step });
      model.methods.forEach((_, n) => { if (stepOf(n) !== null) setThreshold(n, null); });
    } }, "Reset all");
    const toggles = LAYERS.filter(isLayerUsed).map(([key, title]) =>
      makeToggle("layers", key, false, element("i", { class: `key ${key}`,
        title: key === "map" ? "Key m" : null }), title));
    const methods = several ? model.methods.map(({ name }, n) =>
      makeToggle("hidden", String(n), true, name)) : [];
    const switches = [makeToggles("Layers", toggles)];
    if (several) switches.push(makeToggles("Methods", methods));
    form.append(element("details", { open: !matchMedia(NARROW).matches },
      element("summary", {}, "Filter and sort"),
      element("div", { class: "inside" }, element("div", { class: "fields" }, ...first),
        element("div", { class: "switches" }, ...switches, reset))));
    form.addEventListener("submit", (event) => event.preventDefault());
    document.getElementById("bar").append(bar.root, count, model.causes.length ? faults : "");
    grid.after(more);
    if (marks) marks.start({ form, grid, bar: document.getElementById("bar"), getView, goOn, imageOf });
  }

  // -- what marks need: what the cards show, of which image one is, and the next one

  const getView = () => ({ showsMain: isShown(0), found: layers().found,
    label: state.class === "" ? null : Number(state.class) });
  const imageOf = (root) => byRoot.get(root).image;

  function goOn(root) {
    const next = shown[shown.indexOf(byRoot.get(root)) + 1];
    if (next && next.root.hidden) more.click(); // which moves the focus to it
    if (next) next.button.focus();
  }

  const makeToggles = (title, toggles) =>
    element("fieldset", { class: "toggles" }, element("legend", {}, title), ...toggles);

  function isLayerUsed([key]) {
    if (key === "true") return model.images.some((image) => image.true.length);
    if (key === "true_masks") return model.images.some((image) => image.true_masks.length);
    if (key === "masks") {
      return model.images.some(({ results }) => results.flat().some((result) => result.masks));
    }
    return true;
  }

  const isCauseShown = ({ dataset }) => dataset.cause === state.cause && dataset.method === state.method;

  /** Show the state in the controls. */
  function showState() {
    for (const [key, control] of controls) {
      const isTyped = control === document.activeElement && !control.matches("select");
      if (!isTyped) control.value = state[key.split(":")[0]];
    }
    for (const button of document.querySelectorAll("[data-cause]")) {
      button.setAttribute("aria-pressed", String(isCauseShown(button)));
    }
    const columns = model.methods.filter((_, n) => isShown(n)).length;
    for (const [n] of several ? model.methods.entries() : []) { // the last one stays
      controls.get(`hidden:${n}`).input.disabled = columns === 1 && isShown(n);
    }
    grid.style.setProperty("--panels", String(Math.max(1, columns)));
    grid.style.setProperty("--aspect", String(aspect));
    bar.update();
  }

  // -- the large view ----------------------------------------------------------------------------

  function openImage(item) {
    label2box.openLargeView({
      image: item.image, method: method(), label: state.class === "" ? null : Number(state.class),
      list: shown.map((each) => each.image),
      onShow: (image) => { state.image = image.id; writeAddress(); },
      onClose: (image) => {
        state.image = "";
        writeAddress();
        const last = items.find((each) => each.image === image);
        while (shown.includes(last) && last.root.hidden) {
          limit += PAGE;
          arrange();
        }
        if (last && !last.root.hidden) last.button.focus();
      },
    });
  }

  // -- start -------------------------------------------------------------------------------------

  let frame = 0; // in which the threshold that is set will be drawn, while the slider is dragged

  function drawThreshold() {
    countShown();
    refreshItems();
  }

  /** Build the gallery, in the state that the page's address gives. */
  function buildGallery() {
    grid.append(...items.map((item) => item.root));
    buildControls();
    readAddress();
    onThreshold((n, _step, isFinal) => {
      // Those of the methods in their order, an empty one for the threshold of the run.
      state.step = model.methods.map((_, each) => stepOf(each) ?? "").join("+").replace(/\++$/, "");
      bar.update();
      cancelAnimationFrame(frame);
      if (!isFinal) frame = requestAnimationFrame(drawThreshold); // once, however many steps come
      else if (n === method() && needsThreshold()) arrange();
      else drawThreshold();
      if (isFinal) writeAddress();
    });
    applyAddress();
    for (const item of items) near.observe(item.root);
    prepareSteps(method());
    addEventListener("resize", guessHeights);
    addEventListener("beforeprint", () => shown.slice(0, PRINTED).forEach(drawItem));
    document.getElementById("images").addEventListener("keydown", (event) => {
      const isPlain = !(event.altKey || event.ctrlKey || event.metaKey || event.shiftKey);
      if (event.key !== "m" || !isPlain || event.target.matches("input:not([type=checkbox]), select")) return;
      controls.get("layers:map").input.click();
    });
    addEventListener("hashchange", () => {
      if (!location.hash.includes("=") && location.hash !== "") return; // a part of the page
      readAddress();
      applyAddress();
    });
    for (const button of document.querySelectorAll("[data-cause]")) {
      button.addEventListener("click", () => {
        const { cause, method: chosen } = button.dataset;
        if (isCauseShown(button)) {
          change({ cause: "" });
          return;
        }
        change({ ...DEFAULTS, layers: state.layers, hidden: state.hidden, step: state.step, cause,
          method: chosen });
        document.getElementById("images").scrollIntoView({ block: "start" });
        document.getElementById("images-title").focus({ preventScroll: true });
      });
    }
  }

  function applyAddress() {
    const [wanted, steps] = [state.image, state.step.split("+")];
    showState();
    arrange();
    for (const n of model.methods.keys()) {
      const step = steps[n] && Number.isInteger(Number(steps[n])) ? Number(steps[n]) : null;
      if (step !== stepOf(n)) setThreshold(n, step);
    }
    const item = items.find((each) => each.image.id === wanted);
    if (item) openImage(item);
  }

  /** Take the height of the first card for those that were not laid out yet. */
  function guessHeights() {
    if (!shown.length) return;
    const { root } = shown[0];
    root.style.contentVisibility = "visible"; // else it is as high as the guess
    grid.style.setProperty("--height", `${root.offsetHeight}px`);
    root.style.contentVisibility = "";
  }

  Object.assign(label2box, {
    buildGallery, guessHeights,
    /** Show the images that fit some values, such as {class: "3", result: "wrong"}. */
    filterGallery: (values) => change({ ...values }),
  });
})();
