/* Draws the charts that are tables: classes, and the confusions of the classifier. After
   chart_parts.js. */
(function () {
  "use strict";
  const label2box = window.label2box;
  const { html, svg, makeReadable, buildPlot, buildFigure, drawAtWidth } = label2box.chartParts;

  const BY_NAME = new Intl.Collator(undefined, { numeric: true });
  const FIRST_ROWS = 50; // of a long table; the others come with a button

  // -- a table that is sorted by its columns --------------------------------------------------------

  /* `columns`: {title, isText, bar}; a bar is drawn as a share of `bar`. `rows`: a value each, null
     where there is none, which is last in either order. */
  function sortableTable(label, columns, rows, write) {
    const body = html("tbody", {});
    const heads = columns.map((column) => html("th", { scope: "col" }));
    let by = 0;
    let isRising = true;
    let most = FIRST_ROWS;
    const show = () => {
      const compare = (a, b) => {
        if (a[by] === null || b[by] === null) return (a[by] === null) - (b[by] === null);
        const order = columns[by].isText ? BY_NAME.compare(a[by], b[by]) : a[by] - b[by];
        return isRising ? order : -order;
      };
      body.replaceChildren(...[...rows].sort(compare).slice(0, most).map((row) => html("tr", {}, ...row.map(cell))));
      heads.forEach((head, n) => {
        if (n === by) head.setAttribute("aria-sort", isRising ? "ascending" : "descending");
        else head.removeAttribute("aria-sort");
      });
    };
    const cell = (value, n) => {
      const { bar, isText } = columns[n];
      if (n === 0) return html("th", { scope: "row", dir: "auto" }, value);
      if (value === null || isText) return html("td", { class: isText ? "l2b-text" : null }, value === null ? "" : value);
      if (!bar) return html("td", {}, String(value));
      const drawn = html("span", { class: "l2b-bar", "aria-hidden": "true" }, html("span", {}));
      drawn.firstChild.style.width = `${Math.max(0, Math.min(100, (100 * value) / bar))}%`;
      return html("td", {}, drawn, write(value));
    };
    heads.forEach((head, n) => {
      const button = html("button", { type: "button" }, columns[n].title);
      button.addEventListener("click", () => {
        isRising = n === by ? !isRising : Boolean(columns[n].isText);
        by = n;
        show();
      });
      head.append(button);
    });
    show();
    const table = html("div", { class: "l2b-scroll l2b-tall", tabindex: "0", role: "region", "aria-label": `${label}: table` },
      html("table", { class: "l2b-values l2b-sortable" }, html("thead", {}, html("tr", {}, ...heads)), body));
    if (rows.length <= FIRST_ROWS) return table;
    const more = html("button", { type: "button", class: "l2b-more" }, `show all ${rows.length} rows`);
    more.addEventListener("click", () => {
      most = rows.length;
      show();
      more.remove();
      table.focus();
    });
    return html("div", {}, table, more);
  }

  // -- classes ----------------------------------------------------------------------------------------

  function drawClassTable(chart) {
    const place = html("div", {});
    const draw = (shown) => {
      const titles = chart.methods.length > 1 ? chart.methods : chart.columns;
      const valuesOf = (row) => (chart.methods.length > 1 ? row.values.map((values) => values[shown]) : row.values[0]);
      const rows = chart.rows.map((row) => [row.name, row.count, ...valuesOf(row)]);
      const most = titles.map((_, n) => Math.max(100, ...rows.map((row) => row[n + 2] || 0)));
      const columns = [{ title: "class", isText: true }, { title: "n" },
        ...titles.map((title, n) => ({ title, bar: most[n] }))];
      place.replaceChildren(sortableTable(chart.title, columns, rows, (value) => value.toFixed(1)));
    };
    draw(0);
    if (chart.methods.length < 2) return widen(buildFigure(chart, [place]));
    const choice = html("select", {}, ...chart.columns.map((name, n) => html("option", { value: String(n) }, name)));
    choice.addEventListener("change", () => draw(Number(choice.value)));
    return widen(buildFigure(chart, [html("label", { class: "l2b-choice" }, "number ", choice), place]));
  }

  function widen(figure) {
    figure.classList.add("l2b-wide");
    return figure;
  }

  // -- confusion ----------------------------------------------------------------------------------------

  function drawConfusion(chart) {
    if (!chart.names.length) {
      const columns = [{ title: "class", isText: true }, { title: "predicted as", isText: true }, { title: "images" },
        { title: "percent of the class", bar: 1 }];
      const rows = chart.pairs.map((pair) => [pair.true, pair.predicted, pair.count, pair.share]);
      return buildFigure(chart, [sortableTable(chart.title, columns, rows, (share) => (100 * share).toFixed(1))]);
    }
    const { plot, tip } = buildPlot(chart.title);
    const overlay = svg("g", {});
    const size = chart.names.length;
    let frame = null;
    let refresh = () => {};
    drawAtWidth(plot, (width) => {
      frame = frameMatrix(chart, width);
      overlay.replaceChildren();
      plot.replaceChildren(
        svg("svg", { width, height: frame.height, viewBox: `0 0 ${width} ${frame.height}`, "aria-hidden": "true", focusable: "false" },
          drawNames(chart, frame), drawCells(chart, frame), overlay),
        tip);
      refresh();
    });
    refresh = makeReadable(plot, tip, {
      count: () => size * size,
      describe: (n) => describeCell(chart, Math.floor(n / size), n % size),
      locate: (x, y) => locateCell(frame, size, x, y),
      move: (n, key) => moveCell(n, key, size),
      hide: () => overlay.replaceChildren(),
      show: (n) => {
        const x = frame.left + (n % size) * frame.cell;
        const y = frame.top + Math.floor(n / size) * frame.cell;
        overlay.replaceChildren(svg("rect", { x, y, width: frame.cell, height: frame.cell, class: "l2b-chosen" }));
        return [x + frame.cell / 2, y];
      },
    });
    const table = { head: ["true class", ...chart.names], rows: chart.counts.map((row, n) => [chart.names[n], ...row.map(String)]) };
    return buildFigure(chart, [plot], table);
  }

  function frameMatrix(chart, width) {
    const longest = Math.min(14, Math.max(...chart.names.map((name) => name.length)));
    const edge = 20 + 6.6 * longest;
    const cell = Math.max(8, Math.min(36, Math.floor((width - edge - 4) / chart.names.length)));
    return { width, cell, left: edge, top: edge, longest, height: Math.ceil(edge + cell * chart.names.length + 4) };
  }

  function drawNames(chart, frame) {
    const group = svg("g", {});
    const middle = (chart.names.length * frame.cell) / 2;
    chart.names.forEach((name, n) => {
      const short = name.length > frame.longest ? `${name.slice(0, frame.longest - 1)}…` : name;
      const at = (n + 0.5) * frame.cell + 4;
      const x = frame.left + at;
      group.append(
        svg("text", { x: frame.left - 5, y: frame.top + at, "text-anchor": "end" }, short),
        svg("text", { x, y: frame.top - 5, transform: `rotate(-90 ${x} ${frame.top - 5})` }, short));
    });
    group.append(
      svg("text", { x: 12, y: frame.top + middle, "text-anchor": "middle", transform: `rotate(-90 12 ${frame.top + middle})`, class: "l2b-label" }, "true class"),
      svg("text", { x: frame.left + middle, y: 12, "text-anchor": "middle", class: "l2b-label" }, "predicted class"));
    return group;
  }

  function drawCells(chart, frame) {
    const group = svg("g", {});
    chart.counts.forEach((row, t) => row.forEach((count, p) => {
      const x = frame.left + p * frame.cell;
      const y = frame.top + t * frame.cell;
      const share = chart.shares[t][p];
      const box = svg("rect", { x, y, width: frame.cell, height: frame.cell, class: t === p ? "l2b-cell l2b-right" : "l2b-cell" });
      box.style.fillOpacity = String(share);
      group.append(svg("rect", { x, y, width: frame.cell, height: frame.cell, class: "l2b-empty" }), box);
      if (count && frame.cell >= 18) {
        group.append(svg("text", { x: x + frame.cell / 2, y: y + frame.cell / 2 + 4, "text-anchor": "middle", class: share > 0.75 ? "l2b-high" : share > 0.55 ? "l2b-middle" : "l2b-low" }, String(count)));
      }
    }));
    return group;
  }

  function describeCell(chart, t, p) {
    const share = `${(100 * chart.shares[t][p]).toFixed(1)} %`;
    const so = t === p ? `predicted as ${chart.names[p]}, which is right` : `predicted as ${chart.names[p]}`;
    return [`class ${chart.names[t]}`, so, `${chart.counts[t][p]} images, ${share} of the class`];
  }

  function locateCell(frame, size, x, y) {
    if (!frame) return -1;
    const p = Math.floor((x - frame.left) / frame.cell);
    const t = Math.floor((y - frame.top) / frame.cell);
    return p >= 0 && t >= 0 && p < size && t < size ? t * size + p : -1;
  }

  function moveCell(n, key, size) {
    const p = n % size;
    if (key === "ArrowRight") return p < size - 1 ? n + 1 : n;
    if (key === "ArrowLeft") return p > 0 ? n - 1 : n;
    if (key === "ArrowDown") return n + size < size * size ? n + size : n;
    if (key === "ArrowUp") return n >= size ? n - size : n;
    return null;
  }

  label2box.drawClassTable = drawClassTable;
  label2box.drawConfusion = drawConfusion;
})();
