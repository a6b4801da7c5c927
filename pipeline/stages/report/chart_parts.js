/* What the charts of the page are made of: elements, figures, and plots that are read by pointer and
   keys. Before chart_tables.js and charts.js. */
(function () {
  "use strict";
  const label2box = (window.label2box = window.label2box || {});
  const SVG = "http://www.w3.org/2000/svg";

  // -- elements ---------------------------------------------------------------------------------

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  function html(tag, attributes, ...children) {
    return fill(document.createElement(tag), attributes, children);
  }

  function svg(tag, attributes, ...children) {
    return fill(document.createElementNS(SVG, tag), attributes, children);
  }

  function write(value, format) {
    if (format === "percent") return `${(100 * value).toFixed(1)} %`;
    if (format === "integer") return String(Math.round(value));
    if (format === "fraction") return value.toFixed(2);
    return String(Number(value.toPrecision(4)));
  }

  // -- figures and plots ---------------------------------------------------------------------------

  function nearest(values, x) {
    let best = -1;
    values.forEach((value, n) => {
      if (best < 0 || Math.abs(value - x) < Math.abs(values[best] - x)) best = n;
    });
    return best;
  }

  /* Makes an element readable: `reader` has count(), describe(n), show(n) and move(n, key), and
     locate(x, y) of pixels. Returns what must be called when the plot changed. */
  function makeReadable(plot, tip, reader) {
    let at = 0;
    const set = (n, isSeen) => {
      at = Math.max(0, Math.min(reader.count() - 1, n));
      const lines = reader.count() ? reader.describe(at) : ["nothing is shown"];
      plot.setAttribute("aria-valuemax", String(Math.max(0, reader.count() - 1)));
      plot.setAttribute("aria-valuenow", String(at));
      plot.setAttribute("aria-valuetext", lines.join("; "));
      if (!isSeen || !reader.count()) return hide();
      tip.replaceChildren(...lines.map((line, n_) => html("div", n_ ? {} : { class: "l2b-head" }, line)));
      tip.hidden = false;
      const [x, y] = reader.show(at);
      const room = plot.clientWidth - tip.offsetWidth - 4;
      const left = x + 12 > room ? x - tip.offsetWidth - 12 : x + 12;
      tip.style.left = `${Math.max(4, Math.min(room, left))}px`;
      tip.style.top = `${Math.max(0, y - tip.offsetHeight - 8)}px`;
    };
    const hide = () => {
      tip.hidden = true;
      reader.hide();
    };
    const follow = (event) => {
      const frame = plot.getBoundingClientRect();
      const n = reader.locate(event.clientX - frame.left, event.clientY - frame.top);
      if (n >= 0) set(n, true);
    };
    plot.addEventListener("pointermove", follow);
    plot.addEventListener("pointerdown", follow);
    plot.addEventListener("pointerleave", () => (plot.matches(":focus-visible") ? set(at, true) : hide()));
    plot.addEventListener("focus", () => plot.matches(":focus-visible") && set(at, true));
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return hide();
      if (event.key === "Enter" && reader.choose) return reader.choose(at);
      const n = { Home: 0, End: reader.count() - 1 }[event.key] ?? reader.move(at, event.key);
      if (n === null) return undefined;
      event.preventDefault();
      return set(n, true);
    });
    if (reader.choose) plot.addEventListener("click", () => reader.choose(at));
    return () => set(at, false);
  }

  function buildPlot(title, more = "") {
    const tip = html("div", { class: "l2b-tip", "aria-hidden": "true", hidden: "" });
    const plot = html("div", {
      class: "l2b-plot", role: "slider", tabindex: "0", "aria-label": `${title}: values along the chart${more}`,
      "aria-valuemin": "0", "aria-valuemax": "0", "aria-valuenow": "0",
    });
    return { plot, tip };
  }

  const waiting = []; // what is drawn once the figures are in the page, and have a width

  /* Calls draw(width) by drawWaiting, and again when the width changes. Returns a function that draws
     anew. Drawing waits for the next frame: within the observer it would change what is observed. */
  function drawAtWidth(element, draw) {
    let last = 0;
    const update = () => {
      const width = Math.floor(element.clientWidth);
      if (width < 40 || width === last) return;
      last = width;
      draw(width);
    };
    waiting.push({ element, draw, observe: (width) => {
      last = width;
      new ResizeObserver(() => requestAnimationFrame(update)).observe(element);
    } });
    return () => last && draw(last);
  }

  function drawWaiting() {
    const plots = waiting.splice(0);
    const widths = plots.map(({ element }) => Math.floor(element.clientWidth)); // all before any is drawn
    plots.forEach(({ draw, observe }, n) => {
      observe(widths[n]);
      if (widths[n] >= 40) draw(widths[n]);
    });
  }

  function tabulate(title, table) {
    return html("details", {}, html("summary", {}, "Values as a table"),
      html("div", { class: "l2b-scroll", tabindex: "0", role: "region", "aria-label": `${title}: table` },
        html("table", { class: "l2b-values" },
          html("thead", {}, html("tr", {}, ...table.head.map((cell) => html("th", { scope: "col" }, cell)))),
          html("tbody", {}, ...table.rows.map((row) => html("tr", {}, ...row.map((cell, n) =>
            n ? html("td", {}, cell) : html("th", { scope: "row" }, cell))))))));
  }

  function buildFigure(chart, parts, table) {
    return html("figure", { class: "l2b-chart", id: `chart-${chart.key}` },
      html("figcaption", {}, html("h3", {}, chart.title)), ...parts,
      html("p", { class: "l2b-sentence" }, chart.sentence),
      table ? tabulate(chart.title, table) : null);
  }

  label2box.chartParts = { fill, html, svg, write, nearest, makeReadable, buildPlot, buildFigure, drawAtWidth, drawWaiting };
})();
