// The charts of a study's page. Every text that comes from a run goes in as text, never as markup.
(function () {
  "use strict";
  const study = JSON.parse(document.getElementById("study").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const DASHES = [[], [6, 4], [2, 3], [8, 3, 2, 3]];
  const hidden = { arms: new Set(), tasks: new Set() };
  let eachSeed = false;
  let plots = [];

  const theme = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const lookOf = (group, label) => {
    const index = study.legends[group].indexOf(label);
    const colours = dark.matches ? study.dark : study.light;
    return { colour: colours[index % colours.length], dash: DASHES[Math.floor(index / colours.length) % DASHES.length] };
  };
  const element = (tag, parent, text) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (parent) parent.appendChild(made);
    return made;
  };

  // 0.25, 950, 12.3k, 1.5M, as everywhere in the library.
  function short(value) {
    if (Math.abs(value) >= 1e12) return value.toExponential(1);
    for (const [size, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (Math.abs(value) >= 0.9995 * size) return Number((value / size).toPrecision(3)) + letter;
    }
    return String(Number(value.toPrecision(3)));
  }

  // The lines of a chart as uPlot's series: a mean, the edges of its band, each seed.
  function seriesOf(chart) {
    const series = [{}], data = [chart.xs], bands = [], meta = [null];
    for (const line of chart.lines) {
      const { colour, dash } = lookOf(chart.group, line.label);
      const add = (kind, values, options) => {
        series.push({ label: line.label, stroke: colour, spanGaps: true, points: { show: false }, ...options });
        data.push(values);
        meta.push({ kind, line, colour });
      };
      const alone = values => values.filter((value) => value !== null).length === 1;
      const points = { show: Boolean(chart.labels) || alone(line.mean), size: 7, fill: colour };
      for (const [seed, values] of Object.entries(line.seeds)) add("seed", values, { width: 1, alpha: 0.6, seed });
      if (line.low.some((value) => value !== null)) {
        add("edge", line.high, { stroke: "transparent", width: 0 });
        add("edge", line.low, { stroke: "transparent", width: 0 });
        bands.push({ series: [series.length - 2, series.length - 1], fill: colour + "2e" });
      }
      add("mean", line.mean, { width: 2.4, dash, points });
    }
    return { series, data, bands, meta };
  }

  function axesOf(chart, width) {
    const common = { stroke: theme("--pale"), grid: { stroke: theme("--line"), width: 1 }, ticks: { show: false } };
    const font = "12px system-ui, sans-serif";
    const number = (_, values) => values.map((value) => (value === null ? "" : short(value)));
    const x = { ...common, label: chart.x, labelSize: 22, size: 28, font, labelFont: font, values: number, space: 60 };
    if (chart.labels) {
      x.splits = () => chart.xs;
      x.values = (_, values) => values.map((value) => chart.labels[value]);
      x.grid = { show: false };
      if (width / chart.labels.length < 75) Object.assign(x, { rotate: -40, size: 50 });
    }
    const whole = (_, splits) => splits.map((value) => (Math.abs(Math.log10(value) % 1) < 1e-9 ? value : null));
    const grid = chart.log ? { ...common.grid, filter: whole } : common.grid;
    return [x, { ...common, grid, label: chart.y.replaceAll("_", " "), labelSize: 20, size: 50, font, labelFont: font, values: number }];
  }

  function scalesOf(chart) {
    const last = chart.xs.length - 1;
    const padded = (_, low, high) => (low === high ? [low - 1, high + 1] : [low, high]);
    return {
      x: { time: false, range: chart.labels ? () => [-0.35, last + 0.35] : padded },
      y: { distr: chart.log ? 3 : 1, ...(chart.range && { range: () => chart.range }) },
    };
  }

  function isShown(plot, meta) {
    if (hidden[plot.chart.group].has(meta.line.label)) return false;
    return meta.kind !== "seed" || eachSeed || plot.pointedAt === meta.line.label;
  }

  function refresh(plot) {
    plot.view.batch(() => {
      plot.meta.forEach((meta, index) => {
        if (meta && plot.view.series[index].show !== isShown(plot, meta)) {
          plot.view.setSeries(index, { show: isShown(plot, meta) });
        }
      });
    });
  }

  // What stands under the pointer: x, and of each visible line its mean, its interval, its seeds where they are shown.
  function tell(plot) {
    const { view, tip, chart, meta, data } = plot;
    const index = view.cursor.idx;
    const rows = [];
    meta.forEach((of, number) => {
      if (of && of.kind === "mean" && isShown(plot, of) && data[number][index] != null) rows.push(of);
    });
    tip.hidden = index == null || view.cursor.left < 0 || rows.length === 0;
    if (tip.hidden) return;
    tip.replaceChildren();
    element("b", tip, chart.labels ? chart.x + " " + chart.labels[index] : chart.x + " " + short(chart.xs[index]));
    for (const { line, colour } of rows.sort((a, b) => b.line.mean[index] - a.line.mean[index])) {
      const row = element("div", tip);
      element("i", row).style.background = colour;
      const [low, high] = [line.low[index], line.high[index]];
      const bounds = low == null ? "" : " (" + short(low) + " to " + short(high) + ")";
      row.append(line.label + ": " + short(line.mean[index]) + bounds);
      if (eachSeed || plot.pointedAt === line.label) {
        const seeds = Object.entries(line.seeds).filter(([, values]) => values[index] != null);
        if (seeds.length) element("div", tip, "seeds " + seeds.map(([s, v]) => s + ": " + short(v[index])).join(", "));
      }
    }
    const room = view.over.clientWidth;
    const left = view.cursor.left + 14;
    tip.style.left = Math.max(0, left + tip.offsetWidth > room ? view.cursor.left - tip.offsetWidth - 14 : left) + "px";
    tip.style.top = "6px";
  }

  // Two fingers spread or move over a chart.
  function pinch(plot) {
    const over = plot.view.over;
    const at = (touch) => touch.clientX - over.getBoundingClientRect().left;
    let start = null;
    const both = (event) => [at(event.touches[0]), at(event.touches[1])].sort((a, b) => a - b);
    over.addEventListener("touchstart", (event) => {
      if (event.touches.length === 2) start = both(event).map((pixels) => plot.view.posToVal(pixels, "x"));
    }, { passive: true });
    over.addEventListener("touchmove", (event) => {
      if (!start || event.touches.length !== 2) return;
      event.preventDefault();
      const [a, b] = both(event);
      const perPixel = (start[1] - start[0]) / Math.max(b - a, 10);
      const low = Math.max(plot.chart.xs[0], start[0] - a * perPixel);
      const high = Math.min(plot.chart.xs[plot.chart.xs.length - 1], low + over.clientWidth * perPixel);
      if (high > low) plot.view.setScale("x", { min: low, max: high });
    }, { passive: false });
    over.addEventListener("touchend", () => { start = null; });
  }

  function draw(box) {
    const chart = study.charts[Number(box.dataset.chart)];
    const { series, data, bands, meta } = seriesOf(chart);
    const plot = { chart, meta, data, pointedAt: null, tip: element("div"), view: null, box };
    plot.tip.className = "tip";
    plot.tip.hidden = true;
    meta.forEach((of, index) => { if (of) series[index].show = isShown(plot, of); });
    const height = Math.max(240, Math.min(320, 0.62 * box.clientWidth));
    plot.view = new uPlot({
      width: box.clientWidth, height, series, bands, axes: axesOf(chart, box.clientWidth), scales: scalesOf(chart),
      legend: { show: false },
      cursor: { drag: { x: !chart.labels, y: false }, focus: { prox: 24 }, points: { show: false }, y: false },
      focus: { alpha: 1 },
      hooks: {
        setCursor: [() => { if (plot.view) tell(plot); }],
        setSeries: [(_, index, options) => {
          if (!plot.view || options.focus == null) return;
          const label = index && meta[index] ? meta[index].line.label : null;
          if (label !== plot.pointedAt) {
            plot.pointedAt = label;
            requestAnimationFrame(() => { refresh(plot); tell(plot); });
          }
        }],
        setScale: [(view, key) => { if (key === "x" && plot.reset) plot.reset.hidden = !isZoomed(plot, view); }],
      },
    }, data, box);
    plot.view.over.appendChild(plot.tip);
    plot.reset = element("button", box.parentElement, "whole range");
    plot.reset.className = "reset";
    plot.reset.hidden = true;
    plot.reset.addEventListener("click", () => {
      plot.view.setScale("x", { min: chart.xs[0], max: chart.xs[chart.xs.length - 1] });
    });
    if (!chart.labels) pinch(plot);
    return plot;
  }

  function isZoomed(plot, view) {
    const xs = plot.chart.xs;
    return !plot.chart.labels && (view.scales.x.min > xs[0] || view.scales.x.max < xs[xs.length - 1]);
  }

  function drawAll() {
    for (const plot of plots) { plot.view.destroy(); plot.reset.remove(); }
    plots = [...document.querySelectorAll("[data-chart]")].map(draw);
    for (const legend of document.querySelectorAll(".legend")) fill(legend);
  }

  function fill(legend) {
    const group = legend.dataset.group;
    legend.replaceChildren();
    const boxes = legend.parentElement.querySelectorAll("[data-chart]");
    const drawn = new Set([...boxes].flatMap((box) => study.charts[box.dataset.chart].lines.map((line) => line.label)));
    for (const label of study.legends[group].filter((each) => drawn.has(each))) {
      const button = element("button", legend);
      const { colour, dash } = lookOf(group, label);
      const mark = element("i", button);
      mark.style.borderTopColor = colour;
      mark.style.borderTopStyle = dash.length ? "dashed" : "solid";
      button.append(label);
      button.setAttribute("aria-pressed", String(!hidden[group].has(label)));
      button.title = "show or hide; double-click: this one alone";
      button.addEventListener("click", (event) => {
        if (event.detail < 2) toggle(group, label);
      });
      button.addEventListener("dblclick", () => alone(group, label));
    }
  }

  function toggle(group, label) {
    if (!hidden[group].delete(label)) hidden[group].add(label);
    changed(group);
  }

  function alone(group, label) {
    const others = study.legends[group].filter((other) => other !== label);
    // The first click of the two has hidden or shown this label itself.
    const isAlone = others.length > 0 && others.every((other) => hidden[group].has(other));
    hidden[group] = new Set(isAlone ? [] : others);
    changed(group);
  }

  function changed(group) {
    for (const legend of document.querySelectorAll('.legend[data-group="' + group + '"]')) {
      for (const button of legend.children) button.setAttribute("aria-pressed", String(!hidden[group].has(button.textContent)));
    }
    plots.filter((plot) => plot.chart.group === group).forEach(refresh);
  }

  for (const box of document.querySelectorAll(".each-seed")) {
    box.addEventListener("change", () => {
      eachSeed = box.checked;
      for (const other of document.querySelectorAll(".each-seed")) other.checked = eachSeed;
      plots.forEach(refresh);
    });
  }
  dark.addEventListener("change", drawAll);
  let waiting = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => {
      for (const { view, box } of plots) if (view.width !== box.clientWidth) view.setSize({ width: box.clientWidth, height: view.height });
    });
  });
  drawAll();
  globalThis.dipodCharts = () => plots.map(({ view, chart }) => ({
    title: chart.title, x: [view.scales.x.min, view.scales.x.max], shown: view.series.filter((s, i) => i && s.show).map((s) => s.label),
  }));
})();
