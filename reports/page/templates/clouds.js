// Two clouds side by side under one camera: the prediction coloured by error, the truth beside it. WebGL, no library.
"use strict";
window.reconbench = window.reconbench || {};
(function (R) {
  // Viridis (van der Walt & Smith 2015), perceptually uniform and safe for the colour-blind; its darkest quarter is
  // left out so that small errors still stand out from the ground.
  const SCALE = ["#3b518a", "#306a8e", "#27808e", "#21988a", "#2dae7f", "#50c26a", "#84d34a", "#c0df2a", "#fde725"];
  R.scaleGradient = "linear-gradient(90deg," + SCALE.join(",") + ")";
  const COVERING = 20000;
  const PLAIN = [0.78, 0.8, 0.83];

  const waiting = new Map(), loaded = new Map();
  R.receive = function (id, cloud) { loaded.set(id, cloud); };
  // Clouds come as scripts: a page opened from disk may not read data files.
  R.fetchCloud = function (base, id) {
    if (loaded.has(id)) return Promise.resolve(loaded.get(id));
    if (!waiting.has(id)) {
      waiting.set(id, new Promise(function (resolve, reject) {
        const script = document.createElement("script");
        script.src = base + "clouds/" + id + ".js";
        script.onload = function () { resolve(loaded.get(id)); };
        script.onerror = function () { waiting.delete(id); reject(new Error("clouds/" + id + ".js could not be read")); };
        document.head.append(script);
      }));
    }
    return waiting.get(id);
  };

  function bytes(text) { return Uint8Array.from(atob(text), function (c) { return c.charCodeAt(0); }); }
  function rgb(hex) { return [1, 3, 5].map(function (i) { return parseInt(hex.slice(i, i + 2), 16) / 255; }); }
  function scaleColour(t) {
    const at = Math.min(Math.max(t, 0), 1) * (SCALE.length - 1), i = Math.min(Math.floor(at), SCALE.length - 2);
    const a = rgb(SCALE[i]), b = rgb(SCALE[i + 1]);
    return a.map(function (v, k) { return v + (b[k] - v) * (at - i); });
  }

  function cross(a, b) {
    return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  }
  function unit(a) {
    const length = Math.hypot(...a);
    return a.map(function (v) { return v / length; });
  }

  const VERTEX = `
    attribute vec3 place; attribute vec3 colour;
    uniform mat4 clip; uniform vec3 low, side; uniform float size; uniform vec2 range; varying vec3 shade;
    void main() {
      gl_Position = clip * vec4(low + side * place, 1.0);
      gl_PointSize = clamp(size / gl_Position.w, 1.0, 24.0);
      float near = clamp((range.y - gl_Position.w) / (range.y - range.x), 0.0, 1.0);
      shade = colour * mix(0.55, 1.0, near);
    }`;
  const FRAGMENT = `
    precision mediump float; varying vec3 shade;
    void main() {
      vec2 r = gl_PointCoord - 0.5;
      if (dot(r, r) > 0.25) discard;
      gl_FragColor = vec4(shade, 1.0);
    }`;

  class Pane {
    constructor(canvas) {
      this.canvas = canvas;
      const gl = this.gl = canvas.getContext("webgl", { antialias: true, preserveDrawingBuffer: true });
      if (!gl) throw new Error("This browser draws no WebGL, so the clouds cannot be shown.");
      const program = gl.createProgram();
      for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
        const shader = gl.createShader(kind);
        gl.shaderSource(shader, source);
        gl.compileShader(shader);
        gl.attachShader(program, shader);
      }
      gl.linkProgram(program);
      gl.useProgram(program);
      this.at = {};
      for (const name of ["clip", "low", "side", "size", "range"]) this.at[name] = gl.getUniformLocation(program, name);
      this.buffers = {};
      for (const name of ["place", "colour"]) {
        const where = gl.getAttribLocation(program, name);
        this.buffers[name] = gl.createBuffer();
        gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
        gl.enableVertexAttribArray(where);
        if (name === "place") gl.vertexAttribPointer(where, 3, gl.UNSIGNED_SHORT, true, 0, 0);
        else gl.vertexAttribPointer(where, 3, gl.UNSIGNED_BYTE, true, 0, 0);
      }
      gl.enable(gl.DEPTH_TEST);
      this.count = 0;
    }
    show(cloud) {
      const gl = this.gl, places = new Uint16Array(bytes(cloud.points).buffer);
      this.cloud = cloud;
      this.count = places.length / 3;
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers.place);
      gl.bufferData(gl.ARRAY_BUFFER, places, gl.STATIC_DRAW);
    }
    // `mode` is error or colour; `end` the error at the end of the scale, % of the diameter.
    paint(mode, end) {
      const gl = this.gl, out = new Uint8Array(this.count * 3), cloud = this.cloud;
      if (mode === "error" && cloud.error) {
        const error = new Uint16Array(bytes(cloud.error).buffer), unit = cloud.most / 65535 / end;
        const steps = Array.from({ length: 256 }, function (_, i) { return scaleColour(i / 255); });
        for (let i = 0; i < this.count; i++) {
          const c = steps[Math.min(255, Math.round(error[i] * unit * 255))];
          for (let k = 0; k < 3; k++) out[3 * i + k] = c[k] * 255;
        }
      } else if (mode === "colour" && cloud.colors) out.set(bytes(cloud.colors));
      else for (let i = 0; i < out.length; i++) out[i] = PLAIN[i % 3] * 255;
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers.colour);
      gl.bufferData(gl.ARRAY_BUFFER, out, gl.STATIC_DRAW);
    }
    draw(camera, ground) {
      const gl = this.gl, ratio = window.devicePixelRatio || 1;
      const width = Math.round(this.canvas.clientWidth * ratio), height = Math.round(this.canvas.clientHeight * ratio);
      if (this.canvas.width !== width || this.canvas.height !== height) {
        this.canvas.width = width;
        this.canvas.height = height;
      }
      gl.viewport(0, 0, width, height);
      gl.clearColor(ground[0], ground[1], ground[2], 1);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      if (!this.count) return;
      gl.uniformMatrix4fv(this.at.clip, false, camera.clip(width / height));
      gl.uniform3fv(this.at.low, this.cloud.low);
      gl.uniform3fv(this.at.side, this.cloud.side);
      // A surface of area about radius^2 * 6, covered once by discs; so few points cover none, and stay points.
      const spacing = Math.sqrt(6 / Math.max(this.count, COVERING));
      gl.uniform1f(this.at.size, 2.1 * height * camera.radius * spacing / camera.tangent / 2);
      gl.uniform2f(this.at.range, camera.distance - camera.radius, camera.distance + camera.radius);
      gl.drawArrays(gl.POINTS, 0, this.count);
    }
  }

  // Looks at `target` from `distance`, turning about the direction that is up.
  class Camera {
    constructor() { this.tangent = Math.tan(0.35); }
    fit(cloud, up) {
      const down = up.map(function (v) { return -v; }), least = down.map(Math.abs);
      const side = [0, 0, 0];
      side[least.indexOf(Math.min(...least))] = 1;
      const right = unit(cross(down, side));
      this.basis = [right, down, cross(right, down)];
      this.home = cloud.low.map(function (v, i) { return v + cloud.side[i] / 2; });
      this.radius = Math.hypot(...cloud.side) / 2;
      this.reset();
    }
    reset() {
      this.target = this.home.slice();
      this.distance = this.radius / Math.sin(0.35) * 0.92;
      this.yaw = 0.6;
      this.pitch = 0.35;
    }
    axes() {
      const cy = Math.cos(this.yaw), sy = Math.sin(this.yaw), cp = Math.cos(this.pitch), sp = Math.sin(this.pitch);
      const forward = [sy * cp, sp, cy * cp], right = [cy, 0, -sy], down = [-sy * sp, cp, -cy * sp];
      return [right, down, forward].map((axis) => [0, 1, 2].map(
        (i) => axis[0] * this.basis[0][i] + axis[1] * this.basis[1][i] + axis[2] * this.basis[2][i]));
    }
    turn(dx, dy) {
      this.yaw += dx;
      this.pitch = Math.min(1.55, Math.max(-1.55, this.pitch + dy));
    }
    pan(dx, dy) {
      const [right, down] = this.axes(), reach = 2 * this.distance * this.tangent;
      for (let i = 0; i < 3; i++) this.target[i] -= (right[i] * dx + down[i] * dy) * reach;
    }
    zoom(factor) { this.distance = Math.min(20 * this.radius, Math.max(0.05 * this.radius, this.distance * factor)); }
    clip(aspect) {
      const [right, down, forward] = this.axes(), t = this.target;
      const eye = t.map((v, i) => v - forward[i] * this.distance);
      const near = Math.max(this.distance - 4 * this.radius, 0.01 * this.radius), far = this.distance + 4 * this.radius;
      const wide = aspect < 1 ? 1 : 1 / aspect, tall = aspect < 1 ? aspect : 1;
      const rows = [
        right.map((v) => v * wide / this.tangent), down.map((v) => -v * tall / this.tangent),
        forward.map((v) => v * (far + near) / (far - near)), forward,
      ];
      const out = new Float32Array(16);
      rows.forEach(function (row, r) {
        for (let c = 0; c < 3; c++) out[4 * c + r] = row[c];
        out[12 + r] = -row.reduce(function (sum, v, i) { return sum + v * eye[i]; }, 0);
      });
      out[14] -= 2 * far * near / (far - near);
      return out;
    }
  }

  // `root` holds [data-cloud-pick], canvases [data-pane=prediction|truth], and the controls of clouds.html.
  class Viewer {
    constructor(root, base) {
      this.root = root;
      this.base = base;
      this.camera = new Camera();
      this.say = root.querySelector("[data-cloud-status]");
      this.canvases = ["prediction", "truth"].map(function (name) { return root.querySelector(`[data-pane=${name}]`); });
      this.mode = "error";
      root.querySelector("[data-cloud-scale]").style.background = R.scaleGradient;
      for (const button of root.querySelectorAll("[data-cloud-mode]")) {
        button.addEventListener("click", () => { this.mode = button.dataset.cloudMode; this.paint(); });
      }
      this.end = root.querySelector("[data-cloud-end]");
      this.end.addEventListener("change", () => this.paint());
      root.querySelector("[data-cloud-reset]").addEventListener("click", () => { this.camera.reset(); this.draw(); });
      for (const canvas of this.canvases) this.listen(canvas);
      new ResizeObserver(() => this.draw()).observe(this.canvases[0]);
    }
    async show(entry) {
      this.say.textContent = "Loading…";
      try {
        const [prediction, truth] = await Promise.all(
          [entry.prediction, entry.surface].map((id) => R.fetchCloud(this.base, id)));
        this.panes = this.panes || this.canvases.map(function (canvas) { return new Pane(canvas); });
        this.panes[0].show(prediction);
        this.panes[1].show(truth);
        if (this.surface !== entry.surface) this.camera.fit(truth, entry.up);
        this.surface = entry.surface;
        this.end.value = String(entry.scale);
        this.canvases[0].setAttribute("aria-label", `Prediction, ${entry.label}. ${entry.said}`);
        this.canvases[1].setAttribute("aria-label", `Ground truth, ${entry.label}`);
        this.say.textContent = entry.said;
        this.paint();
        this.root.dataset.drawn = entry.prediction;
      } catch (error) {
        this.say.textContent = error.message;
      }
    }
    paint() {
      for (const button of this.root.querySelectorAll("[data-cloud-mode]")) {
        button.setAttribute("aria-pressed", String(button.dataset.cloudMode === this.mode));
      }
      if (!this.panes) return;
      for (const pane of this.panes) pane.paint(this.mode, Number(this.end.value));
      this.draw();
    }
    draw() {
      if (!this.panes || this.queued) return;
      this.queued = true;
      requestAnimationFrame(() => {
        this.queued = false;
        const ground = rgb(getComputedStyle(this.root).getPropertyValue("--canvas").trim());
        for (const pane of this.panes) pane.draw(this.camera, ground);
      });
    }
    listen(canvas) {
      const held = new Map();
      canvas.addEventListener("pointerdown", function (event) {
        canvas.setPointerCapture(event.pointerId);
        held.set(event.pointerId, [event.clientX, event.clientY]);
      });
      canvas.addEventListener("pointermove", (event) => {
        const last = held.get(event.pointerId);
        if (!last || !this.panes) return;
        const dx = (event.clientX - last[0]) / canvas.clientHeight, dy = (event.clientY - last[1]) / canvas.clientHeight;
        if (held.size === 2) {
          const other = [...held].find(function ([id]) { return id !== event.pointerId; })[1];
          const before = Math.hypot(last[0] - other[0], last[1] - other[1]);
          const after = Math.hypot(event.clientX - other[0], event.clientY - other[1]);
          if (after > 0) this.camera.zoom(before / after);
          this.camera.pan(dx / 2, dy / 2);
        } else if (event.shiftKey || event.buttons & 2) this.camera.pan(dx, dy);
        else this.camera.turn(-4 * dx, 4 * dy);
        held.set(event.pointerId, [event.clientX, event.clientY]);
        this.draw();
      });
      for (const name of ["pointerup", "pointercancel"]) {
        canvas.addEventListener(name, function (event) { held.delete(event.pointerId); });
      }
      canvas.addEventListener("dblclick", () => {
        if (!this.panes) return;
        this.camera.reset();
        this.draw();
      });
      canvas.addEventListener("contextmenu", function (event) { event.preventDefault(); });
      canvas.addEventListener("wheel", (event) => {
        if (!this.panes) return;
        event.preventDefault();
        this.camera.zoom(Math.exp(event.deltaY * 0.001));
        this.draw();
      }, { passive: false });
      canvas.addEventListener("keydown", (event) => {
        const act = {
          ArrowLeft: () => this.camera.turn(0.1, 0), ArrowRight: () => this.camera.turn(-0.1, 0),
          ArrowUp: () => this.camera.turn(0, 0.1), ArrowDown: () => this.camera.turn(0, -0.1),
          "+": () => this.camera.zoom(0.9), "=": () => this.camera.zoom(0.9), "-": () => this.camera.zoom(1 / 0.9),
          0: () => this.camera.reset(),
        }[event.key];
        if (!act || !this.panes || event.ctrlKey || event.metaKey) return;
        event.preventDefault();
        act();
        this.draw();
      });
    }
  }
  R.Viewer = Viewer;
})(window.reconbench);
