"use strict";
/* The large view of an image: layers, opacity, threshold, original resolution, its record. */
(() => {
  const {
    model, element, className, makePanel, drawPanel, paintShading, resultFor, boxesOf, iouOf, isRight,
    causeOf, thresholdOf, describeThreshold, onThreshold, showsAllClasses, marks, writeIou,
  } = label2box;
  const dialog = document.getElementById("large");
  if (!dialog) return;
  const ALL = "all"; // methods side by side
  const several = model.methods.length > 1;
  const LAYERS = [["map", "Map"], ["shading", "Above the threshold"], ["true", "Annotated boxes"],
    ["true_masks", "Annotated masks"], ["found", "Found boxes"], ["masks", "Found masks"]];

  const layers = { map: true, shading: false, true: true, true_masks: false, found: true, masks: false };
  let view = null; // image, method, label, list, onShow, onClose
  let panels = []; // number of the method and panel of each picture

  // -- elements ----------------------------------------------------------------------------------

  const button = (title, text, onclick) =>
    element("button", { type: "button", "aria-label": title, title, onclick }, text);
  const title = element("h2", { id: "large-title" });
  const place = element("span", { class: "soft", "aria-live": "polite" });
  const previous = button("Previous image", "←", () => move(-1));
  const next = button("Next image", "→", () => move(1));
  const close = button("Close", "✕", () => dialog.close());
  const stage = element("div", { class: "stage", tabindex: 0, role: "group", "aria-label": "Picture" });
  const facts = element("dl", { class: "facts" });
  const cause = element("p", { class: "plain" });
  const opacity = element("input", { type: "range", id: "opacity", min: 0, max: 100, value: 50,
    oninput: () => stage.style.setProperty("--opacity", String(opacity.value / 100)) });
  const slider = label2box.makeRange("large-threshold", () => currentMethod());
  const value = element("output", { for: "large-threshold" });
  const why = element("p", { class: "soft" });
  const preview = element("p", { class: "soft" },
    "The shading is a preview, from the map as it is stored in this page, at most 56 values wide. " +
    "The boxes are those of the pipeline.");
  const methods = element("select", { id: "large-method",
    onchange: () => { view.method = methods.value; draw(); } },
  ...(several ? [...model.methods.map(({ name }, n) => element("option", { value: n }, name)),
    element("option", { value: ALL }, "all, side by side")] : []));
  const classes = element("select", { id: "large-class",
    onchange: () => { view.label = classes.value === "" ? null : Number(classes.value); draw(); } });
  const original = element("input", { type: "checkbox", id: "original", onchange: () => loadOriginal() });
  const originalLabel = element("label", { class: "toggle" }, original, "Original resolution");
  const message = element("p", { class: "soft", role: "status" });
  const links = element("p", { class: "links" });
  const record = element("pre", { tabindex: 0 });
  const boxes = LAYERS.map(([key, text]) => {
    const input = element("input", { type: "checkbox", checked: layers[key],
      onchange: () => { layers[key] = input.checked; draw(); } });
    return { key, input, root: element("label", { class: "toggle" }, input,
      element("i", { class: `key ${key}`, title: key === "map" ? "Key m" : null }), text) };
  });

  const field = (id, text, ...controls) =>
    element("p", { class: "field" }, element("label", { for: id }, text), ...controls);
  const methodField = field("large-method", "Method", methods);
  const classField = field("large-class", "Class", classes);
  const thresholdField = field("large-threshold", "Threshold", value, slider.input);

  const getView = () => ({ image: view.image, showsMain: view.method === ALL || currentMethod() === 0,
    found: layers.found, label: view.label });
  const block = marks && marks.makeBlock(getView);

  dialog.append(
    element("header", {}, title, place, previous, next, close),
    stage,
    element("aside", { "aria-label": "About this image", tabindex: 0 }, facts, block && block.root, cause, methodField,
      classField,
      element("fieldset", {}, element("legend", {}, "Layers"), ...boxes.map((each) => each.root)),
      field("opacity", "Opacity of the map", opacity), thresholdField, why, preview,
      element("div", { class: "original" }, originalLabel, message), links,
      element("details", {}, element("summary", {}, "Record"), record)),
  );

  // -- what is shown -----------------------------------------------------------------------------

  const currentMethod = () => (view === null || view.method === ALL ? 0 : Number(view.method));
  const resultOf = (n) => resultFor(view.image, n, view.label);

  function showImage(image) {
    view.image = image;
    original.checked = false;
    message.textContent = "";
    const shown = view.list.indexOf(image);
    title.replaceChildren(element("bdi", { title: image.id }, image.name));
    place.textContent = `${shown + 1} of ${view.list.length}`;
    previous.disabled = shown <= 0;
    next.disabled = shown >= view.list.length - 1;
    // A button that is disabled would keep the keys to itself.
    if (document.activeElement.matches("button:disabled, body")) stage.focus();
    original.disabled = !image.file;
    originalLabel.title = image.file ? "" : "The record names no file";
    links.replaceChildren(...listLinks(image));
    fillClasses(image);
    view.onShow(image);
    draw();
  }

  function listLinks(image) {
    const found = image.file ? [element("a", { href: image.file }, "Open the file")] : [];
    if (model.links.includes("boxes.json")) {
      found.push(element("a", { href: "../boxes.json" }, "boxes.json"));
    }
    return found;
  }

  /** List the classes that some method explained for an image; all of them where boxes show all. */
  function fillClasses(image) {
    const labels = [...new Set(image.results.flat().map((result) => result.label))];
    const all = showsAllClasses ? [element("option", { value: "" }, "all")] : [];
    classes.replaceChildren(...all,
      ...labels.map((label) => element("option", { value: label }, className(label))));
    if (view.label === null || !labels.includes(view.label)) {
      view.label = showsAllClasses ? null : labels[0] ?? null;
    }
    classes.value = view.label === null ? "" : String(view.label);
    classField.hidden = classes.options.length < 2;
  }

  function draw() {
    if (view === null) return;
    const { image } = view;
    const wanted = view.method === ALL ? model.methods.map((_, n) => n) : [currentMethod()];
    if (panels.length !== wanted.length || panels.some(({ panel }) => panel.image !== image)) {
      panels = wanted.map((n) => ({ n, panel: makePanel(image) }));
      stage.replaceChildren(...panels.map(makePicture));
      stage.classList.toggle("several", panels.length > 1);
      if (original.checked) loadOriginal();
    }
    panels.forEach((each, at) => {
      each.n = wanted[at];
      drawPanel(each.panel, each.n, resultOf(each.n), { ...layers, allClasses: view.label === null });
      drawShading(each);
      if (each.caption) each.caption.textContent = captionOf(each.n);
    });
    describe();
  }

  function makePicture(each) {
    each.panel.picture.alt = `${view.image.name}: ${view.image.labels.map(className).join(", ")}`;
    const { width, height } = view.image;
    each.panel.root.style.setProperty("--ratio", String(width / height));
    if (view.method !== ALL) return each.panel.root;
    each.caption = element("figcaption", {});
    return element("figure", {}, each.panel.root, each.caption);
  }

  function captionOf(n) {
    const result = resultOf(n);
    const iou = result && iouOf(n, result);
    const told = iou === null ? "" : ` · IoU ${writeIou(iou)}`;
    return `${model.methods[n].name}${told} · cut at ${describeThreshold(n)}`;
  }

  function drawShading({ n, panel }) {
    const threshold = thresholdOf(n);
    const result = resultOf(n);
    panel.shading.hidden = !layers.shading || threshold === null || !result;
    if (!panel.shading.hidden) paintShading(panel.shading, result.map, threshold);
  }

  // -- what is said ------------------------------------------------------------------------------

  function listFacts() {
    const { image } = view;
    const n = currentMethod();
    const result = resultOf(n);
    const rows = [];
    if (image.labels.length) rows.push(["Class", image.labels.map(className).join(", ")]);
    if (image.predicted !== null) {
      const sure = typeof image.probability === "number" ? ` (${image.probability.toFixed(2)})` : "";
      const wrong = image.is_class_right === false ? ", wrong" : "";
      rows.push(["Predicted", `${className(image.predicted)}${sure}${wrong}`]);
    }
    if (view.method === ALL) rows.push(["Below", `of ${model.methods[n].name}; others: Method`]);
    if (!result) return rows;
    const iou = iouOf(n, result);
    if (model.is_scored) {
      const word = iou === null ? "not scored" :
        `${writeIou(iou)}, ${isRight(n, result) ? "right" : "wrong"}`;
      rows.push(["IoU", word]);
    }
    if (result.confidence !== null) rows.push(["Confidence", result.confidence.toFixed(2)]);
    rows.push(["Boxes", String(boxesOf(image, n, result).length)]);
    if (image.rank !== null) rows.push(["Rank", `${image.rank}${image.is_random ? ", random" : ""}`]);
    rows.push(["Size", `${image.width} × ${image.height} pixels`]);
    return rows;
  }

  function describe() {
    const n = currentMethod();
    const result = resultOf(n);
    const { slider: told } = model.methods[n];
    facts.replaceChildren(...listFacts().map(([term, text]) => element("div", {},
      element("dt", {}, term), element("dd", {}, element("bdi", {}, text)))));
    const found = result && causeOf(n, result);
    cause.hidden = !found;
    if (found) {
      cause.replaceChildren(element("b", {}, `${found.title}. `), `${found.meaning} ${found.advice}`);
    }
    methodField.hidden = !several;
    methods.value = view.method;
    thresholdField.hidden = !told.steps.length;
    why.hidden = told.steps.length > 0;
    why.textContent = told.why ?? "";
    value.textContent = describeThreshold(n) + (view.method === ALL ? `, ${model.methods[n].name}` : "");
    slider.update();
    if (block) block.update();
    describeLayers(n, result);
    record.textContent = JSON.stringify(makeRecord(n, result), null, 1);
  }

  /** Say which layers there are. */
  function describeLayers(n, result) {
    const isThere = {
      true: view.image.true.length > 0, true_masks: view.image.true_masks.length > 0, masks: Boolean(result && result.masks),
      shading: thresholdOf(n) !== null,
    };
    for (const { key, input, root } of boxes) {
      input.disabled = isThere[key] === false;
      root.title = key === "shading" && input.disabled && view.method !== ALL
        ? "Each map has a threshold of its own: move the slider to choose one" : "";
    }
    preview.hidden = !layers.shading || !isThere.shading;
  }

  /** Return what is known of the image, as one would look for it in the files of the run. */
  function makeRecord(n, result) {
    const { image } = view;
    return {
      image: image.id,
      method: model.methods[n].name,
      threshold: describeThreshold(n),
      class: result && className(result.label),
      iou: result && iouOf(n, result),
      boxes: result && boxesOf(image, n, result).map((box) =>
        box.slice(0, 4).map((side) => Math.round(10 * side) / 10).join(" ")),
      annotated: image.true.map(([label, ...box]) => `${className(label)}: ${box.join(" ")}`),
    };
  }

  // -- original resolution -----------------------------------------------------------------------

  /** Show the file itself, at its own size; say so where it cannot be read. */
  function loadOriginal() {
    const { image } = view;
    stage.classList.toggle("original", original.checked);
    for (const { panel } of panels) {
      panel.picture.onerror = () => {
        panel.picture.onerror = null;
        panel.picture.src = image.picture;
        original.checked = false;
        stage.classList.remove("original");
        message.textContent = `The file cannot be read; it may have been moved: ${image.file}`;
      };
      panel.picture.src = original.checked ? image.file : image.picture;
      panel.root.style.setProperty("--width", `${image.width}px`);
    }
    message.textContent = "";
  }

  // -- opening, moving, closing ------------------------------------------------------------------

  function move(step) {
    const at = view.list.indexOf(view.image);
    const image = view.list[Math.max(0, Math.min(view.list.length - 1, at + step))];
    if (image !== view.image) showImage(image);
  }

  const takesArrows = (target) => target.matches("input[type=range], select, input[type=number]");

  dialog.addEventListener("keydown", (event) => {
    const far = view.list.length;
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -far, End: far }[event.key];
    if (marks && !step && marks.answerKey(event, view.image, getView())) move(1);
    const isPlain = !(event.altKey || event.ctrlKey || event.metaKey || event.shiftKey);
    if (event.key === "m" && isPlain && !event.target.matches("select")) {
      boxes[0].input.click(); // the map
    }
    if (!step || !isPlain || takesArrows(event.target)) return;
    event.preventDefault();
    move(step);
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => {
    const { image, onClose } = view;
    view = null;
    panels = [];
    stage.replaceChildren();
    stage.classList.remove("original");
    onClose(image);
  });
  onThreshold(() => draw());

  /** Open the large view of an image, among those of a list. */
  label2box.openLargeView = ({ image, method, label, list, onShow, onClose }) => {
    view = { image, method: String(method), label, list, onShow, onClose };
    if (!dialog.open) dialog.showModal();
    showImage(image);
    (next.disabled ? stage : next).focus();
  };
})();
