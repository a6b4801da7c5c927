"use strict";
/* "What went wrong": how many boxes have each cause, at the threshold that the slider is at. */
(() => {
  const { model, percent, causeOf, resultFor, stepOf, thresholdOf, onThreshold } = label2box;
  const bars = [...document.querySelectorAll(".causes [data-of]")].map((root) => {
    const [part, count, words, button] = [".part", ".count", ".words", ".go"]
      .map((selector) => root.querySelector(selector));
    const row = root.closest("li");
    const key = row.dataset.key;
    const method = Number(root.dataset.of);
    const cause = model.causes.find((each) => each.key === key);
    const given = { // of the run, over all that was scored
      width: part.getAttribute("width"), count: count.textContent, words: words.textContent,
      link: button.hidden ? "" : button.textContent,
    };
    return { row, key, method, cause, part, count, words, button, given,
      number: cause.count[model.methods[method].name] };
  });
  const list = document.querySelector("ul.causes");
  const nothing = document.getElementById("no-cause");
  const at = document.getElementById("causes-at");

  /** Count the results of each cause, by its key, at the threshold of their method. */
  function countCauses(method, results) {
    const counts = new Map();
    for (const result of results) {
      const cause = result && causeOf(method, result);
      if (cause) counts.set(cause.key, (counts.get(cause.key) ?? 0) + 1);
    }
    return counts;
  }

  /** Say how many have each cause, the most frequent first. */
  function sayFaults(counts) {
    const parts = model.causes.filter(({ key }) => counts.has(key))
      .map(({ key, title }) => [counts.get(key), title.toLowerCase()])
      .sort(([a], [b]) => b - a);
    return parts.length ? `Causes: ${parts.map((each) => each.join(" ")).join(" · ")}` : "No wrong box";
  }

  function fillBar(bar, { width, count, words, link }) {
    bar.part.setAttribute("width", width);
    bar.count.textContent = count;
    bar.words.textContent = words;
    bar.button.hidden = !link;
    if (!link) return;
    bar.button.textContent = link;
    const of = model.methods.length > 1 ? `, ${model.methods[bar.method].name}` : "";
    bar.button.setAttribute("aria-label", `${bar.cause.title}${of}: ${link}`);
  }

  /** Return what a bar shows at a step: the pipeline's count, and how many of the images have it. */
  function describeStep({ method, number }, slider, images) {
    const link = images === number ? "Show them" : `Show ${images} of ${number}`;
    const share = number / Math.max(1, slider.n);
    return { width: (100 * share).toFixed(2), count: percent(share),
      words: `${number} of ${slider.of} at ${thresholdOf(method).toFixed(2)}`, link: images ? link : "" };
  }

  /** Show the causes of a method at its threshold. */
  function showCauses(method) {
    const step = stepOf(method);
    const { name, slider } = model.methods[method];
    const images = step === null ? null
      : countCauses(method, model.images.map((image) => resultFor(image, method, null)));
    for (const bar of bars.filter((each) => each.method === method)) {
      bar.number = step === null ? bar.cause.count[name] : slider.causes[bar.key]?.[step] ?? 0;
      fillBar(bar, step === null ? bar.given : describeStep(bar, slider, images.get(bar.key) ?? 0));
    }
    for (const { row } of bars) row.hidden = bars.every((bar) => bar.row !== row || !bar.number);
    nothing.hidden = bars.some(({ number }) => number);
    list.hidden = !nothing.hidden;
    at.textContent = model.methods.map((_, n) => n).filter((n) => stepOf(n) !== null)
      .map((n) => `${model.methods.length > 1 ? `${model.methods[n].name}: moved` : "Moved"} to ` +
        `threshold ${thresholdOf(n).toFixed(2)}, counted over ${model.methods[n].slider.of}.`).join(" ");
  }

  if (list) {
    onThreshold((method, _step, isFinal) => { if (isFinal) showCauses(method); });
  }
  Object.assign(label2box, { countCauses, sayFaults });
})();
