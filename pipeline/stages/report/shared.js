"use strict";
/* What the page's scripts share: the view model, elements, and bytes that are kept as base64. */
window.label2box = (() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);

  /** Return the bytes of a base64 text. */
  function bytes(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text); // browsers of 2025 and later
    const characters = atob(text);
    const values = new Uint8Array(characters.length);
    for (let n = 0; n < values.length; n += 1) values[n] = characters.charCodeAt(n);
    return values;
  }

  /** Return the unsigned 16-bit integers of a base64 text, little-endian. */
  function shorts(text) {
    const raw = bytes(text);
    const values = new Uint16Array(raw.length / 2);
    for (let n = 0; n < values.length; n += 1) values[n] = raw[2 * n] | (raw[2 * n + 1] << 8);
    return values;
  }

  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes ?? {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value === true ? "" : String(value));
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  /** Make an HTML element. Texts among the children stay texts, whatever they hold. */
  const element = (tag, attributes, ...children) =>
    fill(document.createElement(tag), attributes, children);

  /** Make an SVG element. */
  const vector = (tag, attributes, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

  const model = read("view-model");
  const drawing = read("drawing");
  return {
    model,
    colours: bytes(drawing.colours),
    palette: drawing.palette,
    bytes,
    shorts,
    element,
    vector,
    className: (label) => (label === null || label < 0 ? "no class" : model.classes[label]),
    percent: (share) => `${(100 * share).toFixed(1)} %`,
  };
})();
