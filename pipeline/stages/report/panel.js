"use strict";
/* A picture with its layers: the map, masks and shading as canvases, boxes as SVG. */
(() => {
  const { model, bytes, colours, palette, element, vector, boxesOf } = label2box;
  const SHADING_SCALE = 6; // pixels of the shading for each value of a map
  const SHADING = [70, 110, 255, 120];
  const MASK_OPACITY = 110;

  const colourOf = (entry) => palette[entry % palette.length];

  const inks = new Uint32Array(colours.slice().buffer); // of the 256 values of a map

  /** Return the channels of a colour such as #ff4060. */
  const channels = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

  /** Paint a canvas of some size, pixel by pixel; `paint` writes four values at an offset. */
  function paintCanvas(canvas, width, height, paint) {
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(width, height);
    for (let n = 0; n < width * height; n += 1) paint(pixels.data, 4 * n, n);
    context.putImageData(pixels, 0, 0);
  }

  /** Paint a map in its colours, a pixel for each value; the browser enlarges it smoothly. */
  function paintMap(canvas, map) {
    const values = bytes(map.data);
    canvas.width = map.width;
    canvas.height = map.height;
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(map.width, map.height);
    const painted = new Uint32Array(pixels.data.buffer); // the four values of a pixel at once
    for (let n = 0; n < painted.length; n += 1) painted[n] = inks[values[n]];
    context.putImageData(pixels, 0, 0);
  }

  /** Paint where masks are. */
  function paintMasks(canvas, masks, colour) {
    const [first] = masks;
    const values = masks.map((mask) => bytes(mask.data));
    const [red, green, blue] = channels(colour);
    paintCanvas(canvas, first.width, first.height, (data, at, n) => {
      if (values.some((mask) => mask[n] > 127)) data.set([red, green, blue, MASK_OPACITY], at);
    });
  }

  /** Shade where a map, enlarged smoothly, is at or above a threshold in [0, 1]. */
  function paintShading(canvas, map, threshold) {
    const small = document.createElement("canvas");
    const values = bytes(map.data);
    paintCanvas(small, map.width, map.height, (data, at, n) => {
      data.set([values[n], values[n], values[n], 255], at);
    });
    const [width, height] = [map.width * SHADING_SCALE, map.height * SHADING_SCALE];
    const large = document.createElement("canvas");
    large.width = width;
    large.height = height;
    const context = large.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    context.drawImage(small, 0, 0, width, height);
    const grey = context.getImageData(0, 0, width, height).data;
    const level = 255 * threshold;
    paintCanvas(canvas, width, height, (data, at) => {
      if (grey[at] >= level) data.set(SHADING, at);
    });
  }

  /** Return the two rectangles of a box: a dark edge, and the line itself. */
  function makeBox([x0, y0, x1, y1], kind, colour) {
    const place = { x: x0, y: y0, width: Math.max(0, x1 - x0), height: Math.max(0, y1 - y0) };
    return [
      vector("rect", { ...place, class: `edge ${kind}` }),
      vector("rect", { ...place, class: `line ${kind}`, stroke: colour }),
    ];
  }

  /** Return the outlines of an annotated mask of an image, and of what is ignored there. */
  function makeMask(image, [, width, height, object, ignored]) {
    const scale = `scale(${image.width / width} ${image.height / height}) translate(.5 .5)`;
    const outline = (path, kind) => (path ? [
      vector("path", { d: path, class: `edge true-mask ${kind}`, transform: scale }),
      vector("path", { d: path, class: `line true-mask ${kind}`, transform: scale }),
    ] : []);
    return [...outline(ignored, "ignored"), ...outline(object, "object")];
  }

  /** Make a picture with empty layers. */
  function makePanel(image) {
    const picture = element("img", {
      src: image.picture, alt: "", width: image.picture_width, height: image.picture_height,
      decoding: "async", draggable: "false",
    });
    const map = element("canvas", { class: "map" });
    const masks = element("canvas", { class: "masks", hidden: true });
    const shading = element("canvas", { class: "shading", hidden: true });
    const boxes = vector("svg", {
      viewBox: `0 0 ${image.width} ${image.height}`, preserveAspectRatio: "none",
      "aria-hidden": "true",
    });
    const root = element("span", { class: "frame" }, picture, map, shading, masks, boxes);
    root.style.aspectRatio = `${image.width} / ${image.height}`;
    return { root, image, picture, map, masks, shading, boxes, painted: null, masked: null };
  }

  /** Draw the layers of a panel: map of `result`, boxes of `results`, each class in its colour. */
  function drawPanel(panel, method, result, layers) {
    const { image } = panel;
    const all = image.results[method];
    const chosen = layers.allClasses ? all : [result];
    panel.map.hidden = !layers.map || !result;
    if (result && layers.map && panel.painted !== result) {
      paintMap(panel.map, result.map);
      panel.painted = result;
    }
    panel.masks.hidden = !(layers.masks && result && result.masks && result.masks.length);
    if (!panel.masks.hidden && panel.masked !== result) {
      paintMasks(panel.masks, result.masks, colourOf(all.indexOf(result)));
      panel.masked = result;
    }
    const lines = [];
    if (layers.found && result) {
      for (const each of chosen) {
        const colour = colourOf(all.indexOf(each));
        for (const box of boxesOf(image, method, each)) lines.unshift(...makeBox(box, "found", colour));
      }
    }
    if (layers.true_masks) {
      for (const mask of image.true_masks ?? []) lines.push(...makeMask(image, mask));
    }
    if (layers.true) {
      for (const [, ...box] of image.true) lines.push(...makeBox(box, "true", "#fff"));
    }
    panel.boxes.replaceChildren(...lines);
  }

  /** Return the result of an image that a class asks for; the first where it has none. */
  function resultFor(image, method, label) {
    const all = image.results[method] ?? [];
    return all.find((result) => result.label === label) ?? all[0] ?? null;
  }

  Object.assign(label2box, { makePanel, drawPanel, paintShading, resultFor, colourOf,
    showsAllClasses: model.is_multi_label || !model.is_labelled });
})();
