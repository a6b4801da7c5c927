"use strict";
/* The threshold of each method: the boxes, IoU and numbers that the pipeline computed at 101 steps. */
(() => {
  const { model, bytes, shorts, element, percent } = label2box;
  const NOT_SCORED = 65535; // in the IoU of the steps
  const current = model.methods.map(() => null); // step of each method; null: the boxes of the run
  const listeners = [];
  const decoded = new WeakMap();

  /** Return the steps of a result: where the boxes of each begin, their corners, their IoU. */
  function stepsOf(result) {
    let steps = decoded.get(result);
    if (!steps) {
      const counts = shorts(result.steps.counts);
      const starts = [0];
      for (const count of counts) {
        starts.push(starts[starts.length - 1] + Math.min(count, model.max_step_boxes));
      }
      steps = { counts, starts, boxes: null, ious: shorts(result.steps.iou) };
      decoded.set(result, steps);
    }
    return steps;
  }

  /** Decode the steps of a method while nothing else is to be done, so that the first step is fast. */
  function prepareSteps(method) {
    const results = model.images.flatMap((image) => image.results[method] ?? [])
      .filter((result) => result.steps);
    const whenIdle = window.requestIdleCallback ?? ((task) => setTimeout(task, 50));
    const work = (deadline) => {
      do {
        if (!results.length) return;
        stepsOf(results.pop());
      } while (deadline?.timeRemaining && deadline.timeRemaining() > 1);
      whenIdle(work);
    };
    whenIdle(work);
  }

  const isMoved = (method, result) => current[method] !== null && Boolean(result.steps);

  /** Return the boxes of a result at the threshold that is set, as [x0, y0, x1, y1, score]. */
  function boxesOf(image, method, result) {
    if (!isMoved(method, result)) return result.boxes;
    const steps = stepsOf(result);
    steps.boxes ??= shorts(result.steps.boxes);
    const found = [];
    for (let n = steps.starts[current[method]]; n < steps.starts[current[method] + 1]; n += 1) {
      const [x0, y0, x1, y1] = steps.boxes.subarray(4 * n, 4 * n + 4);
      const x = image.width / 65535;
      const y = image.height / 65535;
      found.push([x0 * x, y0 * y, x1 * x, y1 * y, null, null]);
    }
    return found;
  }

  /** Return how many boxes a result has at the threshold that is set. */
  const countBoxes = (method, result) =>
    isMoved(method, result) ? stepsOf(result).counts[current[method]] : result.boxes.length;

  /** Return the IoU of a result's first box at the threshold that is set; null: not scored. */
  function iouOf(method, result) {
    if (!isMoved(method, result)) return result.iou;
    const iou = stepsOf(result).ious[current[method]];
    return iou === NOT_SCORED ? null : iou / 10000;
  }

  /** Return whether a result's first box is right at the threshold that is set; null: not scored. */
  function isRight(method, result) {
    const iou = iouOf(method, result);
    return iou === null ? null : iou >= model.right_iou;
  }

  /** Write an IoU, with more places where two would round it up to the one that counts as right. */
  function writeIou(iou) {
    const reaches = iou < model.right_iou && Number(iou.toFixed(2)) >= model.right_iou;
    return reaches ? (Math.floor(iou * 1000) / 1000).toFixed(3) : iou.toFixed(2);
  }

  const byKey = new Map(model.causes.map((each) => [each.key, each]));
  const byCode = new Map(model.causes.map((each) => [each.code, each]));

  /** Return the cause of a result at the threshold that is set; null: right, or not scored. */
  const causeOf = (method, result) => (isMoved(method, result)
    ? byCode.get(result.steps.causes[current[method]]) : byKey.get(result.cause)) ?? null;

  /** Set the step of a method, null for the boxes of the run; `isFinal` is false while dragging. */
  function setThreshold(method, step, isFinal = true) {
    const { steps } = model.methods[method].slider;
    const next = step === null ? null : Math.max(0, Math.min(steps.length - 1, Math.round(step)));
    if (!steps.length || (next === current[method] && !isFinal)) return;
    current[method] = next;
    for (const listener of listeners) listener(method, next, isFinal);
  }

  /** Return the threshold that shading is drawn at; null where each map has its own. */
  function thresholdOf(method) {
    const { steps, at } = model.methods[method].slider;
    const step = current[method] ?? at;
    return step === null || step === undefined || !steps.length ? null : steps[step];
  }

  /** Say which threshold is set. */
  function describe(method) {
    const { slider } = model.methods[method];
    return current[method] === null ? slider.told : `${thresholdOf(method).toFixed(2)} (moved)`;
  }

  /** Make a range input that moves the threshold of the method that `method` returns. */
  function makeRange(id, method) {
    const input = element("input", {
      type: "range", id, min: 0, max: 100, step: 1,
      oninput: () => setThreshold(method(), Number(input.value), false),
      onchange: () => setThreshold(method(), Number(input.value)),
    });
    const update = () => {
      const { slider } = model.methods[method()];
      input.max = String(Math.max(1, slider.steps.length - 1));
      input.value = String(current[method()] ?? slider.at ?? Math.floor(slider.steps.length / 2));
      input.setAttribute("aria-valuetext", describe(method()));
      input.classList.toggle("unset", current[method()] === null);
      input.disabled = !slider.steps.length;
    };
    return { input, update };
  }

  /** Copy a text; where the browser refuses, select it, for the user to copy. */
  async function copy(node, button) {
    let word = "Copied";
    try {
      await navigator.clipboard.writeText(node.textContent);
    } catch {
      const range = document.createRange();
      range.selectNodeContents(node);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      word = document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
    }
    button.textContent = word;
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  }

  /** Make the threshold's bar: slider, numbers, reset, and the command that keeps the threshold. */
  function makeBar(method) {
    const range = makeRange("threshold", method);
    const value = element("output", { for: "threshold" });
    const label = element("span", {}, "Threshold");
    const reset = element("button", { type: "button", onclick: () => setThreshold(method(), null) },
      "Reset");
    const accuracy = element("dl", { class: "accuracy" });
    const command = element("code", {});
    const button = element("button", { type: "button", onclick: () => copy(command, button) }, "Copy");
    const warning = element("p", { class: "soft" });
    const keep = element("details", { class: "keep" },
      element("summary", {}, "Keep this threshold"),
      element("p", { class: "command" }, command, button), warning);
    const slider = element("div", { class: "slider" },
      element("label", { for: "threshold" }, label, " ", value), range.input, reset);
    const why = element("p", { class: "soft" });
    const root = element("div", { class: "threshold" }, slider, accuracy, keep, why);

    function update() {
      const told = model.methods[method()].slider;
      const step = current[method()];
      const hasSteps = told.steps.length > 0;
      for (const node of [slider, accuracy]) node.hidden = !hasSteps;
      why.hidden = hasSteps;
      const of = model.methods.length > 1 ? ` of ${model.methods[method()].name}` : "";
      why.textContent = `Threshold${of}: ${told.told}. ${told.why ?? ""}`;
      label.textContent = `Threshold${of}`;
      keep.hidden = step === null;
      if (!hasSteps) return;
      range.update();
      value.style.minWidth = `max(7.2em, ${told.told.length}ch)`; // so that the slider keeps its width
      value.textContent = describe(method()).replace(" (moved)", "");
      reset.disabled = step === null;
      if (step !== null) {
        command.textContent = told.command.replaceAll("{threshold}", told.steps[step].toFixed(2));
        warning.textContent = told.warning;
      }
      accuracy.hidden = !told.accuracy;
      if (accuracy.hidden) return;
      const shares = (iou) => step === null ? told.used[iou] : told.accuracy[iou][step];
      const rows = model.ious.map((iou) => element("div", {},
        element("dt", {}, `IoU ${iou}`), element("dd", {}, percent(shares(String(iou))))));
      const kind = step === null ? "" : ", kind oracle";
      accuracy.title = `Share of images whose first box has at least this IoU, of ${told.of}${kind}`;
      rows.push(element("div", { class: "of" }, element("dt", {}, `of ${told.of}`),
        element("dd", {}, step === null ? told.kind : "oracle")));
      accuracy.replaceChildren(...rows);
    }
    return { root, update };
  }

  Object.assign(label2box, {
    boxesOf, countBoxes, iouOf, isRight, causeOf, isMoved, setThreshold, prepareSteps, thresholdOf,
    makeRange,
    describeThreshold: describe, writeIou,
    makeThresholdBar: makeBar,
    stepOf: (method) => current[method],
    onThreshold: (listener) => { listeners.push(listener); },
  });
})();
