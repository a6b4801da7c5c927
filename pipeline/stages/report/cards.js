"use strict";
/* What a card says of an image and of what each method found in it. */
(() => {
  const {
    model, element, className, iouOf, isRight, causeOf, isMoved, showsAllClasses, colourOf, writeIou,
    describeThreshold,
  } = label2box;
  const several = model.methods.length > 1;

  /** Say whether a box is right, in a word that colour only repeats. */
  function makeVerdict(n, result) {
    const iou = result && iouOf(n, result);
    if (iou === null || iou === undefined) return element("span", { class: "verdict" }, "not scored");
    const right = isRight(n, result);
    return element("span", { class: `verdict ${right ? "right" : "wrong"}` },
      `${right ? "✓" : "✗"} IoU ${writeIou(iou)}`);
  }

  /**
   * Return the lines below a picture. Each has as many as the others, so that cards are of about
   * equal height: one that is not laid out yet takes the room that it will need.
   */
  function describePanel(n, image, result) {
    const line = (...parts) => element("span", { class: "row" }, ...parts);
    const lines = several ? [line(element("b", {}, model.methods[n].name)),
      line(`cut at ${describeThreshold(n).replace(/^each map's own .(auto).$/, "$1")}`)] : [];
    const verdict = line();
    if (!result) verdict.append(element("span", { class: "verdict" }, "no map"));
    else if (model.is_scored) verdict.append(makeVerdict(n, result));
    if (result && result.confidence !== null && !several) {
      verdict.append(element("span", { class: "number" }, `confidence ${result.confidence.toFixed(2)}`));
    }
    if (model.is_scored || model.is_ranked) lines.push(verdict);
    const cause = result && causeOf(n, result);
    if (model.causes.length) lines.push(line(cause && element("span", { title: cause.title }, cause.title)));
    if (showsAllClasses) lines.push(line(...describeClasses(n, image)));
    return lines;
  }

  /** Name the class of each box, with its colour and score. */
  function describeClasses(n, image) {
    return image.results[n].filter((each) => each.boxes.length).map((each) => {
      const mark = element("i", {});
      mark.style.borderColor = colourOf(image.results[n].indexOf(each));
      const score = isMoved(n, each) ? "" : each.boxes[0][4].toFixed(2);
      return element("span", { class: "of-class" }, mark, element("bdi", {}, className(each.label)),
        " ", element("span", { class: "number" }, score));
    });
  }

  function describeImage(image) {
    const label = image.labels.length ? image.labels : [image.predicted];
    const parts = [element("b", { title: label.map(className).join(", ") },
      element("bdi", {}, label.map(className).join(", ")))];
    if (image.is_class_right === false) {
      parts.push(element("span", { class: "taken" }, "taken for ",
        element("bdi", {}, className(image.predicted))));
    }
    const rank = image.rank === null ? "" : `rank ${image.rank}${image.is_random ? " · random" : ""}`;
    return element("span", { class: "about" },
      element("span", { class: "class" }, ...parts),
      element("span", { class: "file" }, element("bdi", { title: image.id }, image.name),
        element("span", { class: "rank" }, rank)));
  }

  Object.assign(label2box, { describePanel, describeImage });
})();
