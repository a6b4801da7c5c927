"use strict";
/* Draw the charts, then the gallery, which is hidden before, so that nothing on the page moves. */
(() => {
  const { model, drawCharts, element } = label2box;
  const AT_FIRST = 4; // charts that are shown; page.css hides the others
  const charts = document.getElementById("charts");

  /** Hide all charts but the first, which would part the images from the rest of the page. */
  function foldCharts() {
    const all = charts.querySelectorAll(".l2b-chart").length;
    if (all <= AT_FIRST) return;
    const button = element("button", { type: "button", "aria-expanded": "false", onclick: () => {
      const isOpen = charts.classList.toggle("open-charts");
      button.setAttribute("aria-expanded", String(isOpen));
      button.textContent = isOpen ? "Show fewer charts" : `Show all ${all} charts`;
    } }, `Show all ${all} charts`);
    charts.append(element("p", {}, button));
  }

  if (charts) {
    drawCharts(model, charts);
    foldCharts();
  }
  const gallery = document.getElementById("images");
  if (!gallery) return;
  const part = location.hash.includes("=") ? null : document.getElementById(location.hash.slice(1));
  label2box.buildGallery();
  gallery.hidden = false;
  label2box.guessHeights();
  if (part) part.scrollIntoView();
})();
