// Tabs, filters, sorting, curves, and the cloud viewers of a report. No network: everything lies beside the page.
"use strict";
(function (R) {
  const all = function (selector, root) { return Array.from((root || document).querySelectorAll(selector)); };
  const base = document.body.dataset.base;

  function isDark() {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }
  document.querySelector("[data-theme-toggle]").addEventListener("click", function () {
    const next = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try { localStorage.setItem("reconbench-theme", next); } catch { /* a page from disk may keep nothing */ }
    repaint();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

  // Tabs, as in the ARIA practices: arrows move, one panel shows.
  const tabs = all("[role=tab]");
  function openTab(tab, focus) {
    for (const other of tabs) {
      const on = other === tab;
      other.setAttribute("aria-selected", String(on));
      other.tabIndex = on ? 0 : -1;
      document.getElementById(other.getAttribute("aria-controls")).hidden = !on;
    }
    if (focus) tab.focus();
    drawCurves();
  }
  tabs.forEach(function (tab, i) {
    tab.addEventListener("click", function () { openTab(tab); });
    tab.addEventListener("keydown", function (event) {
      const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      openTab(tabs[(to + tabs.length) % tabs.length], true);
    });
  });

  // Each board shows one sheet: one number of views under one truth.
  function chosen(board, name, fallback) {
    const pressed = board.querySelector(`.controls [data-${name}][aria-pressed=true]`);
    return pressed ? pressed.dataset[name] : fallback;
  }
  function refresh(board) {
    const views = chosen(board, "views"), sheets = all(".sheet", board);
    const truth = chosen(board, "truth", sheets.length ? sheets[0].dataset.truth : "");
    const words = board.querySelector("[data-search]").value.trim().toLowerCase();
    const ranked = board.querySelector("[data-ranked-only]").checked;
    const every = board.querySelector("[data-all-metrics]").checked;
    for (const sheet of sheets) {
      sheet.hidden = sheet.dataset.views !== views || sheet.dataset.truth !== truth;
      for (const table of all("table.ranks", sheet)) table.classList.toggle("every", every);
      for (const row of all("table.ranks tbody tr", sheet)) {
        row.hidden = !row.dataset.name.includes(words) || (ranked && row.classList.contains("unranked"));
      }
    }
  }
  for (const board of all(".board")) {
    for (const button of all(".controls [data-views], .controls [data-truth]", board)) {
      button.addEventListener("click", function () {
        for (const other of all("button", button.parentElement)) other.setAttribute("aria-pressed", String(other === button));
        refresh(board);
        if (button.dataset.truth) listQuantities(board);
        else drawCurves();
      });
    }
    board.querySelector("[data-search]").addEventListener("input", function () { refresh(board); });
    for (const box of all(".controls input[type=checkbox]", board)) {
      box.addEventListener("change", function () { refresh(board); });
    }
  }

  // Sorting: numbers before text, rows without a value always last, ties in the order they had.
  for (const head of all("table.ranks thead th")) {
    head.querySelector("button").addEventListener("click", function () {
      const table = head.closest("table"), column = head.cellIndex, body = table.tBodies[0];
      const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      for (const other of all("th", head.parentElement)) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", direction);
      const sign = direction === "ascending" ? 1 : -1;
      const keyed = Array.from(body.rows, function (row) {
        const raw = row.cells[column].dataset.sort, number = Number(raw);
        return { row: row, raw: raw, key: Number.isNaN(number) ? raw : number };
      });
      keyed.sort(function (a, b) {
        if (a.raw === undefined || b.raw === undefined) return (a.raw === undefined) - (b.raw === undefined);
        return sign * (a.key < b.key ? -1 : a.key > b.key ? 1 : 0);
      });
      for (const item of keyed) body.append(item.row);
    });
  }

  // Curves. Plotly is large: it is read when the first figure comes near the screen.
  let plotly = null;
  function script(source) {
    return new Promise(function (resolve, reject) {
      const element = document.createElement("script");
      element.src = base + source;
      element.onload = resolve;
      element.onerror = reject;
      document.head.append(element);
    });
  }
  function needPlotly() {
    plotly = plotly || Promise.all([script("assets/plotly.min.js"), script("assets/figures.js")]);
    return plotly;
  }
  function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }
  const MARKS = ["circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "star", "x"];

  function trace(line, figure) {
    const hue = colour("--h" + line.hue), mark = MARKS[line.hue];
    const ends = function (end) {
      return line.value.map(function (v, i) { return v === null || line[end][i] === null ? 0 : Math.abs(line[end][i] - v); });
    };
    return {
      x: line.views, y: line.value, name: escape(line.name), mode: "lines+markers", type: "scatter", connectgaps: false,
      line: { color: hue, width: 2, dash: line.ranked || figure.truth === "" ? "solid" : "dot" },
      marker: { size: 8, color: hue, symbol: line.whole.map(function (whole) { return whole ? mark : mark + "-open"; }) },
      error_y: { type: "data", symmetric: false, array: ends("high"), arrayminus: ends("low"), color: hue, thickness: 1, width: 2 },
      text: line.cells, hovertemplate: "%{fullData.name}: %{y:.3g}, %{text}<extra></extra>",
    };
  }
  // Plotly reads tags in titles and names.
  function escape(name) { return name.replaceAll("&", "&amp;").replaceAll("<", "&lt;"); }
  // 1, 2 and 5 of each decade that a cost spans.
  function steps(figure) {
    const found = figure.lines.flatMap(function (line) { return line.value.filter(function (v) { return v > 0; }); });
    const out = [], least = Math.min(...found), most = Math.max(...found);
    for (let k = Math.floor(Math.log10(least)); k <= Math.ceil(Math.log10(most)); k++) {
      for (const digit of [1, 2, 5]) out.push(Number((digit * 10 ** k).toPrecision(1)));
    }
    const inside = out.filter(function (v) { return v >= least * 0.9 && v <= most * 1.1; });
    return inside.length > 1 ? out : [least, most].map(function (v) { return Number(v.toPrecision(3)); });
  }
  function draw(target, figure) {
    const soft = colour("--soft"), rule = colour("--line"), cost = figure.truth === "", shares = "views" in figure;
    const views = Array.from(new Set(figure.lines.flatMap(function (line) { return line.views; }))).sort(function (a, b) { return a - b; });
    const unit = { bytes: "GiB", ratio: "" }[figure.unit] ?? figure.unit;
    const axis = { gridcolor: rule, zeroline: false, linecolor: rule, tickfont: { size: 11 }, fixedrange: true };
    Plotly.react(target, figure.lines.map(function (line) { return trace(line, figure); }), {
      title: { text: escape(figure.title) + (unit ? ` [${unit}]` : "") + (figure.better === "lower" ? " ↓" : " ↑"), font: { size: 13, color: colour("--ink") }, x: 0.02, xanchor: "left" },
      font: { family: getComputedStyle(document.body).fontFamily, color: soft, size: 12 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", height: 320, margin: { l: 48, r: 12, t: 40, b: 76 },
      xaxis: shares ? { ...axis, range: [0, 104], ticksuffix: "%", title: { text: "surest points kept", font: { size: 11 }, standoff: 6 } } : { ...axis, type: "log", tickvals: views, ticktext: views.map(String), title: { text: "views", font: { size: 11 }, standoff: 6 }, range: [Math.log10(views[0]) - 0.08, Math.log10(views[views.length - 1]) + 0.08] },
      yaxis: { ...axis, automargin: true, ...(cost ? { type: "log", tickvals: steps(figure), ticktext: steps(figure).map(String) } : { rangemode: "tozero" }) },
      legend: { orientation: "h", y: -0.3, font: { size: 11 } }, hovermode: "closest",
    }, { responsive: true, displayModeBar: false });
  }
  // The first screen's picture: each system's choices, and the front beyond which nothing is as good at less.
  function drawChoices() {
    if (!window.Plotly || !R.choices) return;
    const soft = colour("--soft"), rule = colour("--line"), said = R.choices;
    const names = Array.from(new Set(said.points.map(function (p) { return p.name; })));
    for (const target of all("[data-choices]")) {
      const cost = target.dataset.choices;
      const points = said.points.filter(function (p) { return p[cost] !== null; });
      target.hidden = points.length === 0;
      if (target.hidden) continue;
      const front = points.filter(function (p) { return p.front[cost]; }).sort(function (a, b) { return a[cost] - b[cost]; });
      const costs = points.map(function (p) { return p[cost]; });
      const traces = [{
        x: front.map(function (p) { return p[cost]; }), y: front.map(function (p) { return p.value; }), name: "Pareto front",
        mode: "lines", type: "scatter", line: { color: colour("--bar"), width: 6, shape: "hv" }, hoverinfo: "skip",
      }];
      for (const name of names) {
        const own = points.filter(function (p) { return p.name === name; }).sort(function (a, b) { return a.views - b.views; });
        if (!own.length) continue;
        const hue = colour("--h" + own[0].hue), mark = MARKS[own[0].hue];
        traces.push({
          x: own.map(function (p) { return p[cost]; }), y: own.map(function (p) { return p.value; }), name: escape(name),
          mode: "lines+markers+text", type: "scatter", cliponaxis: false, text: own.map(function (p) { return String(p.views); }), textposition: "top center",
          textfont: { size: 11, color: soft }, line: { color: hue, width: 1.5, dash: "dot" },
          marker: { size: 10, color: hue, line: { color: hue, width: 2 }, symbol: own.map(function (p) { return p.worth === "ranked" ? mark : mark + "-open"; }) },
          hovertemplate: `%{fullData.name}, %{text} views: %{y:.3g}, %{x:.3g} ${cost === "seconds" ? "s" : "GiB"}<extra></extra>`,
        });
      }
      const axis = { gridcolor: rule, zeroline: false, linecolor: rule, tickfont: { size: 11 }, fixedrange: true };
      const ticks = steps({ lines: [{ value: costs }] });
      const title = cost === "seconds" ? "seconds a run" : "peak memory, GiB";
      const unit = said.unit === "ratio" || said.unit === "" ? "" : ` [${said.unit}]`;
      Plotly.react(target, traces, {
        title: { text: escape(said.metric) + unit + (said.better === "lower" ? " ↓" : " ↑") + " against " + title, font: { size: 13, color: colour("--ink") }, x: 0.02, xanchor: "left" },
        font: { family: getComputedStyle(document.body).fontFamily, color: soft, size: 12 },
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", height: 340, margin: { l: 48, r: 16, t: 40, b: 76 },
        xaxis: { ...axis, type: "log", tickvals: ticks, ticktext: ticks.map(String), title: { text: title, font: { size: 11 }, standoff: 6 }, range: [Math.log10(Math.min(...costs)) - 0.12, Math.log10(Math.max(...costs)) + 0.12] },
        yaxis: { ...axis, automargin: true, ...(said.better === "lower" ? { autorange: "reversed" } : { rangemode: "tozero" }) },
        legend: { orientation: "h", y: -0.3, font: { size: 11 } }, hovermode: "closest",
      }, { responsive: true, displayModeBar: false });
    }
  }
  if (all("[data-choices]").length) needPlotly().then(drawChoices);
  function figuresOf(board) {
    return R.figures.filter(function (figure) { return String(figure.board) === board.dataset.board; });
  }
  async function listQuantities(board) {
    await needPlotly();
    const select = board.querySelector("[data-quantity]"), truth = chosen(board, "truth");
    const kept = select.value;
    const offered = figuresOf(board).filter(function (f) { return f.truth !== "" && !("views" in f) && (truth === undefined || f.truth === truth); });
    select.replaceChildren(...offered.map(function (figure) { return new Option(figure.quantity, figure.quantity); }));
    select.closest("label").hidden = offered.length === 0;
    if (offered.some(function (f) { return f.quantity === kept; })) select.value = kept;
    drawBoard(board);
  }
  function drawBoard(board) {
    const truth = chosen(board, "truth"), quantity = board.querySelector("[data-quantity]").value;
    const views = Number(chosen(board, "views"));
    for (const target of all("[data-plot]", board)) {
      const name = target.dataset.plot;
      const figure = figuresOf(board).find(function (f) {
        if (name !== "quality" && name !== "kept") return f.quantity === name;
        const same = f.truth !== "" && f.quantity === quantity && (truth === undefined || f.truth === truth);
        return same && (name === "kept" ? f.views === views : !("views" in f));
      });
      target.hidden = !figure;
      if (figure) draw(target, figure);
    }
  }
  const seen = new Set();
  const watch = new IntersectionObserver(function (entries) {
    for (const entry of entries) {
      const board = entry.target.closest(".board");
      if (!entry.isIntersecting || seen.has(board)) continue;
      seen.add(board);
      listQuantities(board);
    }
  }, { rootMargin: "300px" });
  for (const place of all("[data-curves]")) watch.observe(place);
  for (const select of all("[data-quantity]")) {
    select.addEventListener("change", function () { drawBoard(select.closest(".board")); });
  }
  function drawCurves() {
    for (const board of seen) if (!board.hidden && window.Plotly && R.figures) drawBoard(board);
  }

  // Clouds, read when asked for.
  const viewers = [];
  for (const root of all("[data-viewer]")) {
    const load = root.querySelector("[data-cloud-load]"), pick = root.querySelector("[data-cloud-pick]");
    let viewer = null;
    const show = function () {
      if (!viewer) {
        viewer = new R.Viewer(root, base);
        viewers.push(viewer);
      }
      load.hidden = true;
      root.dataset.open = "";
      viewer.show(JSON.parse(pick.selectedOptions[0].dataset.cloud));
    };
    load.addEventListener("click", show);
    pick.addEventListener("change", show);
  }
  function repaint() {
    drawCurves();
    drawChoices();
    for (const viewer of viewers) viewer.draw();
  }

  for (const block of all("pre.copy")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async function () {
      await navigator.clipboard.writeText(block.querySelector("code").textContent);
      button.textContent = "Copied";
    });
    block.append(button);
  }
  window.addEventListener("hashchange", unfold);
  function unfold() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target instanceof HTMLDetailsElement) target.open = true;
  }
  unfold();
  if (tabs.length) openTab(tabs.find(function (tab) { return tab.getAttribute("aria-selected") === "true"; }));
  for (const board of all(".board")) refresh(board);
})(window.reconbench = window.reconbench || {});
