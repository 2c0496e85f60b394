// The attention page: a source patch is chosen, its maps are read from a script file beside the page and drawn.
"use strict";
(function (R) {
  const A = R.attention, root = document.querySelector("[data-attention]");
  const all = function (selector) { return Array.from(root.querySelectorAll(selector)); };
  const S = A.views.length, K = A.largest.length, cells = A.rows * A.columns;
  const HEAT = [[20, 16, 31], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]];
  const DECADES = 3; // of the logarithmic colours

  function bytes(text) { return Uint8Array.from(atob(text), function (c) { return c.charCodeAt(0); }); }
  function floats(text) { return new Float32Array(bytes(text).buffer); }
  const share = floats(A.share), special = floats(A.special), M = A.sources.length;
  const matches = A.matches && { pixel: floats(A.matches.pixel), state: bytes(A.matches.state) };
  const value = Array.from({ length: A.levels + 2 }, function (_, level) {
    return level === 0 ? 0 : Math.pow(A.span, (level - 1 - A.levels) / A.levels);
  });
  // Sources are sorted by view and row: a file holds one row of one view.
  const first = new Map(), length = new Map(), ofView = A.views.map(function () { return []; });
  A.sources.forEach(function (source, m) {
    const file = `${source[0]}-${source[1]}`;
    if (!first.has(file)) first.set(file, m);
    length.set(file, (length.get(file) || 0) + 1);
    ofView[source[0]].push(m);
  });

  // Maps, read once each.
  const maps = new Map(), asked = new Map();
  R.receive = function (file, text) { maps.set(file, bytes(text)); };
  function read(file) {
    if (!asked.has(file)) asked.set(file, new Promise(function (resolve, reject) {
      const script = document.createElement("script");
      script.src = `${document.body.dataset.base}maps/${file}.js`;
      script.onload = resolve;
      script.onerror = function () { reject(new Error(`maps/${file}.js is not there`)); };
      document.head.append(script);
    }));
    return asked.get(file);
  }

  const now = { source: 0, layer: 0, scale: "log", marks: true };
  function fileOf(m) { return `${A.sources[m][0]}-${A.sources[m][1]}`; }
  function patchSize(v) {
    const area = A.views[v].area;
    return [(area[2] - area[0]) / A.columns, (area[3] - area[1]) / A.rows];
  }
  function centre(v, row, column) {
    const size = patchSize(v), area = A.views[v].area;
    return [area[0] + (column + 0.5) * size[0], area[1] + (row + 0.5) * size[1]];
  }
  // Values (cells of every view) of the chosen source under the chosen layers.
  function values() {
    const file = fileOf(now.source), levels = maps.get(file), many = length.get(file);
    const start = (now.layer * many + now.source - first.get(file)) * S * cells;
    return A.views.map(function (_, v) {
      return Float64Array.from(levels.subarray(start + v * cells, start + (v + 1) * cells), function (level) {
        return value[level] * A.largest[now.layer];
      });
    });
  }
  function ownCell() { return A.sources[now.source][1] * A.columns + A.sources[now.source][2]; }
  function strongest(map, except) {
    let best = -1;
    for (let i = 0; i < cells; i++) if (i !== except && (best < 0 || map[i] > map[best])) best = i;
    return best;
  }
  function heat(t) {
    const x = t * (HEAT.length - 1), i = Math.min(Math.floor(x), HEAT.length - 2);
    const mix = HEAT[i].map(function (low, c) { return Math.round(low + (x - i) * (HEAT[i + 1][c] - low)); });
    return `rgba(${mix.join(",")},${(0.75 * Math.min(1, 0.1 + 1.2 * t)).toFixed(3)})`;
  }
  function percent(x) { return `${x === 0 ? "0" : x < 1e-6 ? (100 * x).toExponential(0) : Number((100 * x).toPrecision(2))} %`; }

  function ring(context, x, y, radius, colour, square) {
    for (const [width, style] of [[4, "rgba(16,19,23,.8)"], [2, colour]]) {
      context.lineWidth = width * devicePixelRatio;
      context.strokeStyle = style;
      context.beginPath();
      if (square) context.rect(x - square[0] / 2, y - square[1] / 2, square[0], square[1]);
      else context.arc(x, y, radius, 0, 2 * Math.PI);
      context.stroke();
    }
  }
  function cross(context, x, y, radius, colour, dashed) {
    for (const [width, style] of [[5, "rgba(16,19,23,.8)"], [2.5, colour]]) {
      context.lineWidth = width * devicePixelRatio;
      context.strokeStyle = style;
      context.setLineDash(dashed && style === colour ? [radius / 2, radius / 3] : []);
      context.beginPath();
      context.moveTo(x - radius, y);
      context.lineTo(x + radius, y);
      context.moveTo(x, y - radius);
      context.lineTo(x, y + radius);
      context.stroke();
    }
    context.setLineDash([]);
  }

  function drawView(figure, v, map, most) {
    const canvas = figure.querySelector("canvas"), view = A.views[v], own = v === A.sources[now.source][0];
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * devicePixelRatio));
    const context = canvas.getContext("2d"), sx = canvas.width / view.width, sy = canvas.height / view.height;
    if (pictures[v]) context.drawImage(pictures[v], 0, 0, canvas.width, canvas.height);
    context.fillStyle = "rgba(10,12,16,.5)";
    context.fillRect(0, 0, canvas.width, canvas.height);
    const size = patchSize(v), edge = function (at, step, scale, i) { return Math.round((at + i * step) * scale); };
    for (let i = 0; i < cells; i++) {
      const t = now.scale === "log" ? 1 + Math.log10(map[i] / most) / DECADES : map[i] / most;
      if (!(t > 0)) continue;
      const row = Math.floor(i / A.columns), column = i % A.columns;
      const x = edge(view.area[0], size[0], sx, column), y = edge(view.area[1], size[1], sy, row);
      context.fillStyle = heat(Math.min(t, 1));
      context.fillRect(x, y, edge(view.area[0], size[0], sx, column + 1) - x, edge(view.area[1], size[1], sy, row + 1) - y);
    }
    const source = A.sources[now.source], peak = strongest(map, own ? ownCell() : -1);
    const peakAt = centre(v, Math.floor(peak / A.columns), peak % A.columns), radius = 7 * devicePixelRatio;
    const at = (now.source * S + v), state = matches ? A.states[matches.state[at]] : "unknown";
    const match = matches && matches.pixel[2 * at] >= 0 && !own ? [matches.pixel[2 * at], matches.pixel[2 * at + 1]] : null;
    if (now.marks) {
      if (map[peak] > 0) ring(context, peakAt[0] * sx, peakAt[1] * sy, radius, "#35d0ff");
      if (match) cross(context, match[0] * sx, match[1] * sy, radius * 1.3, "#35e07a", state !== "visible");
    }
    if (own) {
      const mark = centre(v, source[1], source[2]);
      ring(context, mark[0] * sx, mark[1] * sy, 0, "#fff", [size[0] * sx, size[1] * sy]);
    }
    figure.classList.toggle("here", own);
    figure.querySelector("[data-share]").textContent = `${percent(share[(now.layer * M + now.source) * S + v])} of the attention`;
    figure.querySelector("[data-match]").textContent = own ? "the source's own view" : said(v, state, match, peakAt, size);
  }
  function said(v, state, match, peak, size) {
    if (!matches) return "";
    if (!match) return state === "outside" ? "the point is outside this view" : "no surface known at the source pixel";
    const pixels = Math.hypot(peak[0] - match[0], peak[1] - match[1]);
    const patches = Math.hypot((peak[0] - match[0]) / size[0], (peak[1] - match[1]) / size[1]);
    const away = `strongest patch ${pixels.toFixed(0)} px (${patches.toFixed(1)} patches) from the point`;
    return { visible: away, hidden: `the point is hidden here; ${away}`, outside: "the point is outside the network's input",
      unknown: `the depth here disagrees; ${away}` }[state];
  }

  let pending = false;
  function draw() {
    if (pending) return;
    pending = true;
    requestAnimationFrame(async function () {
      pending = false;
      const wanted = now.source;
      try { await read(fileOf(wanted)); } catch (error) {
        root.querySelector("[data-said]").textContent = error.message;
        return;
      }
      if (wanted !== now.source) return draw();
      const found = values(), source = A.sources[now.source];
      let most = 1e-30;
      found.forEach(function (map, v) {
        const i = strongest(map, v === source[0] ? ownCell() : -1);
        if (i >= 0) most = Math.max(most, map[i]);
      });
      all("[data-view]").forEach(function (figure, v) { drawView(figure, v, found[v], most); });
      root.querySelector("[data-low]").textContent = now.scale === "log" ? percent(most / 10 ** DECADES) : "0 %";
      root.querySelector("[data-high]").textContent = percent(most);
      const pixel = centre(source[0], source[1], source[2]), at = now.layer * M + now.source;
      root.querySelector("[data-said]").textContent =
        `Source: view ${A.views[source[0]].name}, pixel (${pixel[0].toFixed(0)}, ${pixel[1].toFixed(0)}), patch row ${source[1]}, column ${source[2]}. ` +
        `Camera and register tokens take ${percent(special[at])} of its attention. Colours: one scale for all views.`;
      root.dataset.drawn = `${now.source} ${now.layer} ${now.scale}`;
    });
  }

  function choose(v, x, y) {
    let best = ofView[v][0], least = Infinity;
    for (const m of ofView[v]) {
      const at = centre(v, A.sources[m][1], A.sources[m][2]), distance = Math.hypot(at[0] - x, at[1] - y);
      if (distance < least) { best = m; least = distance; }
    }
    if (best !== now.source) { now.source = best; draw(); }
  }
  // The neighbouring source on the grid, one step towards (dx, dy).
  function step(v, dx, dy) {
    const source = A.sources[now.source];
    if (source[0] !== v) return choose(v, A.views[v].width / 2, A.views[v].height / 2);
    const ahead = ofView[v].filter(function (m) {
      const to = A.sources[m];
      return dx ? to[1] === source[1] && (to[2] - source[2]) * dx > 0 : to[2] === source[2] && (to[1] - source[1]) * dy > 0;
    });
    if (ahead.length) { now.source = dx + dy > 0 ? ahead[0] : ahead[ahead.length - 1]; draw(); }
  }
  all("[data-view] canvas").forEach(function (canvas, v) {
    const pick = function (event) {
      const box = canvas.getBoundingClientRect(), view = A.views[v];
      choose(v, (event.clientX - box.left) / box.width * view.width, (event.clientY - box.top) / box.height * view.height);
    };
    canvas.addEventListener("click", pick);
    canvas.addEventListener("pointermove", function (event) {
      if (event.pointerType === "mouse" && event.buttons & 1) pick(event);
    });
    canvas.addEventListener("keydown", function (event) {
      const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
      if (!way) return;
      event.preventDefault();
      step(v, way[0], way[1]);
    });
  });
  function buttons(name, apply) {
    for (const button of all(`[data-${name}]`)) button.addEventListener("click", function () {
      for (const other of all(`[data-${name}]`)) other.setAttribute("aria-pressed", String(other === button));
      apply(button.dataset[name]);
      draw();
    });
  }
  buttons("layer", function (chosen) { now.layer = Number(chosen); });
  buttons("scale", function (chosen) { now.scale = chosen; });
  root.querySelector("[data-marks]").addEventListener("change", function (event) { now.marks = event.target.checked; draw(); });
  new ResizeObserver(draw).observe(root.querySelector(".views"));

  const pictures = all("[data-view] canvas").map(function () { return null; });
  all("[data-view] canvas").forEach(function (canvas, v) {
    const image = new Image();
    image.onload = function () { pictures[v] = image; draw(); };
    image.src = canvas.dataset.image;
  });
  choose(0, A.views[0].width / 2, A.views[0].height / 2);
  draw();
})(window.reconbench);
