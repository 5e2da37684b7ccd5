"use strict";
/* Shows the values under the pointer: the chart's strips hold them as titles, which work without this script too. */
(function () {
  var NS = "http://www.w3.org/2000/svg";
  var tip = document.getElementById("tip");
  document.querySelectorAll("svg.chart").forEach(function (svg) {
    var strips = Array.from(svg.querySelectorAll(".strip"));
    strips.forEach(function (strip) {
      var title = strip.querySelector("title");
      strip.tip = title.textContent;
      title.remove();
    });
    var group = document.createElementNS(NS, "g");
    group.setAttribute("pointer-events", "none");
    svg.appendChild(group);
    function add(name, attributes) {
      var e = document.createElementNS(NS, name);
      Object.keys(attributes).forEach(function (k) { e.setAttribute(k, attributes[k]); });
      group.appendChild(e);
    }
    function leave() {
      group.replaceChildren();
      tip.hidden = true;
    }
    svg.addEventListener("pointermove", function (event) {
      var strip = event.target;
      if (!strip.tip) { leave(); return; }
      group.replaceChildren();
      var x = strip.dataset.x;
      add("line", { "class": "cursor", x1: x, x2: x, y1: svg.dataset.top, y2: svg.dataset.bottom });
      strip.dataset.dots.split(" ").forEach(function (dot) {
        var p = dot.split(",");
        add("circle", { "class": "dot f" + p[0], r: 4, cx: x, cy: p[1] });
      });
      tip.textContent = strip.tip;
      tip.hidden = false;
      var left = event.clientX + 14;
      if (left + tip.offsetWidth > innerWidth - 8) { left = event.clientX - tip.offsetWidth - 14; }
      tip.style.left = Math.max(4, left) + "px";
      tip.style.top = Math.max(4, event.clientY - tip.offsetHeight - 12) + "px";
    });
    svg.addEventListener("pointerleave", leave);
  });
  document.documentElement.dataset.ready = document.querySelectorAll(".strip").length;
})();
