/* Draws the charts of the page from the view model: plain SVG, no library. After chart_parts.js and
   chart_tables.js.

   label2box.drawCharts(model, element)   draws model.charts into an element

   A plot is a slider that reads its values: the pointer or the arrow keys move along it, and a text
   says what is there. Numbers come from the model; here they are placed and written. */
(function () {
  "use strict";
  const label2box = window.label2box;
  const { fill, html, svg, write, nearest, makeReadable, buildPlot, buildFigure, drawAtWidth, drawWaiting } =
    label2box.chartParts;
  const DASHES = ["", "7 4", "2 3", "9 3 2 3"];
  const SHAPES = ["circle", "square", "diamond", "triangle"];
  const OF_KIND = { fixed: "circle", auto: "square", validation: "triangle", oracle: "diamond", best: "circle" };
  const MARGIN = { left: 52, right: 14, top: 12, bottom: 44, categories: 58 };

  function shape(name, x, y, size, attributes) {
    if (name === "circle") return svg("circle", { cx: x, cy: y, r: size, ...attributes });
    const corners = {
      square: [[-1, -1], [1, -1], [1, 1], [-1, 1]],
      diamond: [[0, -1.4], [1.4, 0], [0, 1.4], [-1.4, 0]],
      triangle: [[0, -1.3], [1.2, 0.9], [-1.2, 0.9]],
    }[name];
    const points = corners.map(([dx, dy]) => `${x + dx * size},${y + dy * size}`).join(" ");
    return svg("polygon", { points, ...attributes });
  }

  // -- axes -------------------------------------------------------------------------------------

  function listTicks(axis, most) {
    const span = axis.high - axis.low || 1;
    const rough = span / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    let step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= rough - 1e-12);
    if (axis.format === "integer") step = Math.max(1, Math.ceil(step));
    const ticks = [];
    for (let n = Math.ceil(axis.low / step - 1e-9); n * step <= axis.high + span * 1e-9; n++) ticks.push(n * step);
    return ticks;
  }

  function writeTick(value, axis) {
    if (axis.format === "percent") return String(Math.round(100 * value));
    if (axis.format === "integer") return String(value);
    return String(Number(value.toFixed(6)));
  }

  function drawAxes(frame, chart) {
    const { width, height, bottom, x, y } = frame;
    const group = svg("g", { class: "l2b-axes" });
    for (const tick of listTicks(chart.y, 5)) {
      group.append(
        svg("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick), class: "l2b-grid" }),
        svg("text", { x: MARGIN.left - 6, y: y(tick) + 4, "text-anchor": "end" }, writeTick(tick, chart.y)),
      );
    }
    group.append(svg("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom, y2: bottom, class: "l2b-base" }));
    if (chart.kind !== "categories") {
      for (const tick of listTicks(chart.x, width < 420 ? 4 : 6)) {
        group.append(
          svg("line", { x1: x(tick), x2: x(tick), y1: bottom, y2: bottom + 4, class: "l2b-base" }),
          svg("text", { x: x(tick), y: bottom + 17, "text-anchor": "middle" }, writeTick(tick, chart.x)),
        );
      }
    }
    const middle = (MARGIN.top + bottom) / 2;
    group.append(
      svg("text", { x: width < 420 ? width / 2 : (MARGIN.left + width - MARGIN.right) / 2, y: height - 5, "text-anchor": "middle", class: "l2b-label" }, chart.x.label),
      svg("text", { x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})`, class: "l2b-label" }, chart.y.label),
    );
    return group;
  }

  function drawCategories(frame, chart) {
    const room = frame.x(1) - frame.x(0);
    const group = svg("g", {});
    chart.categories.forEach((name, n) => {
      const [first, rest] = splitName(name, room);
      const at = { x: frame.x(n), "text-anchor": "middle" };
      group.append(svg("text", { ...at, y: frame.bottom + 20 }, first));
      if (rest) group.append(svg("text", { ...at, y: frame.bottom + 33 }, rest));
    });
    return group;
  }

  function splitName(name, room) {
    const [first, ...rest] = name.split(", ");
    const most = Math.max(4, Math.floor(room / 6));
    const cut = (text) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
    return [cut(first), cut(rest.join(", "))];
  }

  function buildFrame(chart, width) {
    const height = width < 420 ? 250 : 290;
    const bottom = height - (chart.kind === "categories" ? MARGIN.categories : MARGIN.bottom);
    const place = (axis, from, to) => (value) =>
      Number((from + ((value - axis.low) / (axis.high - axis.low || 1)) * (to - from)).toFixed(2));
    return {
      width,
      height,
      bottom,
      x: place(chart.x, MARGIN.left, width - MARGIN.right),
      y: place(chart.y, bottom, MARGIN.top),
    };
  }

  // -- which series are shown, and how they look --------------------------------------------------

  function buildState(chart) {
    const many = chart.toggles.map((toggle) => toggle.names.length > 1);
    const colour = Math.max(0, many.indexOf(true));
    const dash = many.indexOf(true, colour + 1);
    const shown = chart.toggles.map((toggle) => [...toggle.shown]);
    return {
      shown,
      isShown: (keys) => !keys || keys.every((key, n) => shown[n][key]),
      style: (keys) => ({
        class: `l2b-c${(keys[colour] || 0) % 6}`,
        dash: DASHES[(dash > 0 ? keys[dash] : keys[colour] || 0) % DASHES.length],
        offset: dash > 0 ? 5 * keys[colour] : 0, // of two lines in one place both are seen
        shape: SHAPES[(keys[colour] || 0) % SHAPES.length],
      }),
      colour,
      dash,
    };
  }

  function drawLegend(chart, state, redraw) {
    const legends = html("div", { class: "l2b-legends" });
    chart.toggles.forEach((toggle, which) => {
      if (toggle.names.length < 2) return;
      const legend = html("div", { class: "l2b-legend", role: "group", "aria-label": `Show by ${toggle.title}` });
      toggle.names.forEach((name, n) => {
        const keys = chart.toggles.map((_, k) => (k === which ? n : 0));
        const style = state.style(keys);
        const look = which === state.colour
          ? { class: style.class, "stroke-dasharray": state.dash > 0 ? "" : style.dash }
          : { class: "l2b-ink", "stroke-dasharray": which === state.dash ? DASHES[n % 4] : "" };
        const sample = svg("svg", { width: 22, height: 12, "aria-hidden": "true" },
          svg("line", { x1: 0, x2: 22, y1: 6, y2: 6, ...look, class: `l2b-line ${look.class}` }));
        const button = html("button", { type: "button", "aria-pressed": String(state.shown[which][n]) }, sample, name);
        button.addEventListener("click", () => {
          state.shown[which][n] = !state.shown[which][n];
          button.setAttribute("aria-pressed", String(state.shown[which][n]));
          redraw();
        });
        legend.append(button);
      });
      legends.append(legend);
    });
    return legends;
  }

  // -- series -------------------------------------------------------------------------------------

  function drawSeries(frame, chart, state, series) {
    const style = state.style(series.keys);
    const group = svg("g", { class: style.class });
    const places = series.points.map(([x, y]) => [frame.x(x), frame.y(y)]);
    if (chart.kind === "lines") {
      const points = places.map((place) => place.join(",")).join(" ");
      group.append(svg("polyline", { points, class: "l2b-line", "stroke-dasharray": style.dash, "stroke-dashoffset": style.offset }));
      if (places.length <= 20) places.forEach(([x, y]) => group.append(svg("circle", { cx: x, cy: y, r: 2.5, class: "l2b-dot" })));
    } else if (chart.kind === "steps") {
      group.append(...drawSteps(frame, chart, series, style));
    } else {
      const shift = shiftOf(chart, state, series, frame);
      places.forEach(([x, y], n) => {
        const bounds = series.bounds && series.bounds[n];
        if (bounds) {
          group.append(svg("line", { x1: x + shift, x2: x + shift, y1: frame.y(bounds[0]), y2: frame.y(bounds[1]), class: "l2b-line" }));
        }
        group.append(shape(style.shape, x + shift, y, 4.5, { class: "l2b-dot" }));
      });
    }
    return group;
  }

  function drawSteps(frame, chart, series, style) {
    const ends = [...series.points.slice(1).map(([x]) => x), chart.x.high];
    const base = frame.y(0);
    let path = `M${frame.x(series.points[0][0])},${base}`;
    series.points.forEach(([x, y], n) => {
      path += `L${frame.x(x)},${frame.y(y)}L${frame.x(ends[n])},${frame.y(y)}`;
    });
    path += `L${frame.x(chart.x.high)},${base}`;
    const alone = chart.series.length === 1;
    return [svg("path", { d: path, class: alone ? "l2b-line l2b-area" : "l2b-line", "stroke-dasharray": style.dash })];
  }

  function shiftOf(chart, state, series, frame) {
    if (chart.kind !== "categories") return 0;
    const shown = chart.series.filter((each) => state.isShown(each.keys));
    const room = Math.min(16, (0.7 * (frame.x(1) - frame.x(0))) / Math.max(1, shown.length));
    return (shown.indexOf(series) - (shown.length - 1) / 2) * room;
  }

  function drawMarks(frame, chart, state) {
    const group = svg("g", { class: "l2b-marks" });
    for (const mark of chart.marks.filter((each) => state.isShown(each.keys))) {
      const style = state.style(mark.keys);
      const right = frame.width - MARGIN.right;
      const own = svg("g", { class: style.class });
      if (mark.x === null) {
        own.append(svg("line", { x1: MARGIN.left, x2: right, y1: frame.y(mark.y), y2: frame.y(mark.y), class: "l2b-line l2b-thin", "stroke-dasharray": "1 4" }));
      }
      own.append(shape(OF_KIND[mark.kind], mark.x === null ? right - 5 : frame.x(mark.x), frame.y(mark.y), 5, { class: "l2b-mark" }));
      group.append(own);
    }
    return group;
  }

  function drawReferences(frame, chart, state) {
    const group = svg("g", {});
    for (const reference of chart.references.filter((each) => state.isShown(each.keys))) {
      const points = reference.points.map(([x, y]) => `${frame.x(x)},${frame.y(y)}`).join(" ");
      const style = reference.keys ? state.style(reference.keys).class : "l2b-ink";
      group.append(svg("polyline", { points, class: `l2b-line l2b-thin ${style}`, "stroke-dasharray": "4 4" }));
    }
    return group;
  }

  function tabulateMarks(chart, state) {
    const kinds = [...new Set(chart.marks.map((mark) => mark.kind))].filter((kind) => kind !== "best");
    if (!kinds.length) return null;
    const head = kinds.map((kind) => html("th", { scope: "col" },
      svg("svg", { width: 14, height: 12, "aria-hidden": "true" }, shape(OF_KIND[kind], 7, 6, 4, { class: "l2b-mark l2b-ink" })), ` ${kind}`));
    const rows = chart.series.filter((series) => state.isShown(series.keys)).map((series) => {
      const own = chart.marks.filter((mark) => String(mark.keys) === String(series.keys));
      const cells = kinds.map((kind) => {
        const mark = own.find((each) => each.kind === kind);
        return html("td", {}, mark ? mark.text : "");
      });
      return html("tr", {}, html("th", { scope: "row" }, series.name), ...cells);
    });
    return html("table", { class: "l2b-values" },
      html("thead", {}, html("tr", {}, html("th", { scope: "col" }, "threshold"), ...head)),
      html("tbody", {}, ...rows));
  }

  // -- reading a plot with pointer and keys --------------------------------------------------------

  function listStops(chart, state) {
    const shown = chart.series.filter((series) => state.isShown(series.keys));
    if (chart.kind === "categories") return chart.categories.map((_, n) => n);
    const every = shown.flatMap((series) => series.points.map(([x]) => x));
    return [...new Set(every)].sort((a, b) => a - b);
  }

  function describeStop(chart, state, x) {
    const shown = chart.series.filter((series) => state.isShown(series.keys));
    const axis = chart.x;
    let head = `${axis.label.split(",")[0]} ${write(x, axis.format)}`;
    if (chart.kind === "categories") head = chart.categories[x];
    if (chart.kind === "steps") {
      const points = chart.series[0].points;
      const next = points.find(([low]) => low > x);
      head = `${axis.label.split(",")[0]} ${write(x, axis.format)} to ${write(next ? next[0] : axis.high, axis.format)}`;
    }
    const lines = shown.map((series) => describeValue(chart, series, x)).filter((line) => line !== "");
    return [head, ...lines];
  }

  function describeValue(chart, series, x) {
    const n = nearest(series.points.map(([at]) => at), x);
    if (n < 0) return "";
    const [at, y] = series.points[n];
    if (chart.kind !== "lines" && at !== x) return "";
    const bounds = series.bounds && series.bounds[n];
    const spread = bounds ? `, 95 %: ${write(bounds[0], chart.y.format)} to ${write(bounds[1], chart.y.format)}` : "";
    const count = series.counts ? `, n ${series.counts[n]}` : "";
    const where = chart.kind === "lines" && at !== x ? ` (at ${write(at, chart.x.format)})` : "";
    return `${series.name}: ${write(y, chart.y.format)}${spread}${count}${where}`;
  }

  function moveAlong(at, key) {
    const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[key];
    return by === undefined ? null : at + by;
  }

  // -- charts with axes -----------------------------------------------------------------------------

  function drawPlot(chart, connect) {
    const state = buildState(chart);
    const { plot, tip } = buildPlot(chart.title, connect ? "; Enter moves the slider of the images there" : "");
    const values = html("div", { class: "l2b-marked" });
    const overlay = svg("g", { class: "l2b-overlay" });
    let frame = null;
    let refresh = () => {};
    const draw = (width) => {
      frame = buildFrame(chart, width);
      const shown = chart.series.filter((series) => state.isShown(series.keys));
      overlay.replaceChildren();
      plot.replaceChildren(
        svg("svg", { width, height: frame.height, viewBox: `0 0 ${width} ${frame.height}`, "aria-hidden": "true", focusable: "false" },
          drawAxes(frame, chart), chart.kind === "categories" ? drawCategories(frame, chart) : null,
          drawReferences(frame, chart, state), ...shown.map((series) => drawSeries(frame, chart, state, series)),
          drawMarks(frame, chart, state), connection ? connection.draw(frame) : null, overlay),
        tip);
      const marked = tabulateMarks(chart, state);
      values.replaceChildren(...(marked ? [marked] : []));
      if (marked && values.scrollWidth > values.clientWidth) fill(values, { tabindex: 0, role: "region", "aria-label": `${chart.title}: values` }, []);
      refresh();
    };
    const connection = connect ? connect(state, () => frame) : null;
    const redraw = drawAtWidth(plot, draw);
    refresh = makeReadable(plot, tip, {
      count: () => listStops(chart, state).length,
      describe: (n) => describeStop(chart, state, listStops(chart, state)[n]),
      locate: (x) => (frame ? nearest(listStops(chart, state).map(stopPlace), x) : -1),
      move: moveAlong,
      hide: () => overlay.replaceChildren(),
      show: (n) => {
        const x = stopPlace(listStops(chart, state)[n]);
        overlay.replaceChildren(svg("line", { x1: x, x2: x, y1: MARGIN.top, y2: frame.bottom, class: "l2b-cross" }));
        return [x, frame.height / 2];
      },
      choose: connection ? (n) => connection.choose(listStops(chart, state)[n]) : null,
    });
    const stopPlace = (stop) => frame.x(chart.kind === "steps" ? stop + 0.5 / chart.series[0].points.length : stop);
    return buildFigure(chart, [drawLegend(chart, state, redraw), plot, values], chart.table);
  }

  /* Connects the chart over the threshold with the slider of threshold.js, where that is there. */
  function connectThreshold(model, chart) {
    if (!label2box.onThreshold) return null;
    const names = chart.toggles[0].names;
    const number = (name) => model.charts.methods.indexOf(name);
    const steps = (method) => ((model.methods || [])[method] || { slider: { steps: [] } }).slider.steps;
    return (state, frameOf) => {
      const group = svg("g", { class: "l2b-moving" });
      let place = null;
      const draw = (frame) => {
        group.replaceChildren();
        const isShown = place && state.shown[0][names.indexOf(model.charts.methods[place.method])];
        if (!frame || !isShown) return group;
        const x = frame.x(place.threshold);
        const isRight = x > frame.width / 2;
        group.append(
          svg("line", { x1: x, x2: x, y1: MARGIN.top, y2: frame.bottom }),
          svg("text", { x: isRight ? x - 5 : x + 5, y: MARGIN.top + 10, "text-anchor": isRight ? "end" : "start" },
            `slider ${write(place.threshold, "fraction")}`));
        return group;
      };
      label2box.onThreshold((method, step) => {
        const threshold = steps(method)[step];
        place = threshold === undefined ? null : { method, threshold };
        draw(frameOf());
      });
      const choose = (threshold) => {
        const first = names.findIndex((_, n) => state.shown[0][n]);
        const method = first < 0 ? -1 : number(names[first]);
        const step = method < 0 ? -1 : nearest(steps(method), threshold);
        if (step >= 0 && label2box.setThreshold) label2box.setThreshold(method, step);
      };
      return { draw, choose };
    };
  }

  function drawCharts(model, element) {
    const kinds = { classes: label2box.drawClassTable, confusion: label2box.drawConfusion };
    const figures = model.charts.list.map((chart) =>
      (kinds[chart.kind] || drawPlot)(chart, chart.key === "threshold" ? connectThreshold(model, chart) : null));
    element.replaceChildren(html("h2", {}, "Charts"), html("div", { class: "l2b-charts" }, ...figures));
    drawWaiting();
    if (!model.charts.absent.length) return;
    const reasons = model.charts.absent.map((each) => html("li", {}, `${each.title}: ${each.why}.`));
    element.append(html("details", { class: "l2b-absent" },
      html("summary", {}, `Charts that are not here (${reasons.length})`), html("ul", {}, ...reasons)));
  }

  label2box.drawCharts = drawCharts;
})();
