"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const config = {
  displaylogo: false,
  responsive: true,
  // An allow-list: Plotly's own list holds buttons that lead to its web services.
  modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
  toImageButtonOptions: { format: "svg" },
};

function draw(element) {
  const figure = figures[element.dataset.figure];
  if (figure && !element.dataset.drawn) {
    element.dataset.drawn = "yes";
    Plotly.newPlot(element, figure.data, figure.layout, config);
  }
}

// A plot is drawn when it comes near the screen, so that a study of many batches opens at once.
const plots = document.querySelectorAll(".plot");
const watcher = new IntersectionObserver(
  (entries) => entries.filter((e) => e.isIntersecting).forEach((e) => draw(e.target)),
  { rootMargin: "600px" },
);
plots.forEach((plot) => watcher.observe(plot));

// Paper has nothing to click on: everything is drawn and opened.
window.addEventListener("beforeprint", () => {
  plots.forEach(draw);
  document.querySelectorAll("details").forEach((d) => { d.open = true; });
});

function openTarget() {
  const target = document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
}
window.addEventListener("hashchange", openTarget);
openTarget();

const search = document.getElementById("search");
const flagged = document.getElementById("flagged");
function filter() {
  const wanted = search.value.trim().toLowerCase();
  document.querySelectorAll("[data-video]").forEach((item) => {
    const calm = item.dataset.level === "ok" || item.dataset.level === "info";
    item.hidden = !item.dataset.video.toLowerCase().includes(wanted) || (flagged.checked && calm);
  });
}
if (search) {
  search.addEventListener("input", filter);
  flagged.addEventListener("change", filter);
}
