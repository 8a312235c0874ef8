// A chart as SVG: it is drawn once more, on a canvas context that writes down what is drawn, so both look the same.

/** A path of canvas commands, as the text of an SVG path, each point sent through a matrix. */
class SvgPath {
  constructor(from, matrix = new DOMMatrix()) { this.matrix = matrix; this.d = from?.d ?? ""; }
  at(x, y) { const { x: left, y: top } = this.matrix.transformPoint({ x, y }); return `${Number(left.toFixed(2))} ${Number(top.toFixed(2))}`; }
  moveTo(x, y) { this.d += `M${this.at(x, y)}`; }
  lineTo(x, y) { this.d += `${this.d ? "L" : "M"}${this.at(x, y)}`; }
  bezierCurveTo(...at) { this.d += `C${this.at(at[0], at[1])} ${this.at(at[2], at[3])} ${this.at(at[4], at[5])}`; }
  rect(x, y, width, height) { this.d += `M${this.at(x, y)}L${this.at(x + width, y)}L${this.at(x + width, y + height)}L${this.at(x, y + height)}Z`; }
  arc(x, y, radius) { this.d += `M${this.at(x - radius, y)}A${radius} ${radius} 0 1 1 ${this.at(x + radius, y)}A${radius} ${radius} 0 1 1 ${this.at(x - radius, y)}Z`; }
  closePath() { this.d += "Z"; }
}

/** The part of CanvasRenderingContext2D that uPlot and this page draw with; `elements` is what was drawn. */
class SvgContext {
  constructor(canvas) {
    Object.assign(this, { canvas, elements: [], kept: [], matrix: new DOMMatrix(), dash: [], clips: null, fillStyle: "#000", strokeStyle: "#000", lineWidth: 1, globalAlpha: 1,
      font: "10px sans-serif", textAlign: "start", textBaseline: "alphabetic", lineJoin: "miter", lineCap: "butt" });
    this.beginPath();
  }
  save() { const { kept, elements, path, canvas, ...rest } = this; kept.push(rest); }
  restore() { Object.assign(this, this.kept.pop()); }
  translate(x, y) { this.matrix = this.matrix.translate(x, y); }
  scale(x, y) { this.matrix = this.matrix.scale(x, y); }
  rotate(angle) { this.matrix = this.matrix.rotate((angle * 180) / Math.PI); }
  setLineDash(dash) { this.dash = dash; }
  clearRect() {}
  measureText(text) { return { width: text.length * 7 }; }
  beginPath() { this.path = new SvgPath(null, this.matrix); }
  moveTo(...at) { this.path.moveTo(...at); }
  lineTo(...at) { this.path.lineTo(...at); }
  rect(...at) { this.path.rect(...at); }
  arc(...at) { this.path.arc(...at); }
  closePath() { this.path.closePath(); }
  fillRect(...at) { const path = new SvgPath(null, this.matrix); path.rect(...at); this.add("path", { d: path.d, fill: this.fillStyle }); }
  clip(path = this.path) { if (path.d) this.clips = path.d; }
  fill(path = this.path) { this.add("path", { ...this.shape(path), fill: this.fillStyle }); }
  stroke(path = this.path) {
    const scale = Math.hypot(this.matrix.a, this.matrix.b), shape = this.shape(path);
    this.add("path", { ...shape, fill: "none", stroke: this.strokeStyle, "stroke-width": shape.transform ? this.lineWidth : this.lineWidth * scale,
      ...(this.dash.length ? { "stroke-dasharray": this.dash.join(" ") } : {}), "stroke-linejoin": this.lineJoin, "stroke-linecap": this.lineCap });
  }
  /** Of our markers the text that they were made from, in the present transformation. */
  shape(path) {
    const marker = PATHS.indexOf(path);
    return marker < 0 ? { d: path.d } : { d: SHAPES[marker], transform: String(this.matrix) };
  }
  fillText(text, x, y) {
    const anchor = { center: "middle", right: "end", end: "end" }[this.textAlign] ?? "start";
    const baseline = { top: "hanging", middle: "central", bottom: "text-after-edge" }[this.textBaseline] ?? "alphabetic";
    const [, size, family] = /([\d.]+)px (.*)$/.exec(this.font);
    this.add("text", { x, y, transform: String(this.matrix), fill: this.fillStyle, "font-size": size, "font-family": family, "text-anchor": anchor, "dominant-baseline": baseline }, text);
  }
  add(tag, attributes, text) {
    if (attributes.d === "") return;
    const made = svgElement(tag, { ...attributes, ...(this.globalAlpha < 1 ? { opacity: this.globalAlpha } : {}), ...(this.clips ? { "data-clip": this.clips } : {}) });
    if (text !== undefined) made.textContent = text;
    this.elements.push(made);
  }
}

/** The text of an SVG file of the chart in `box`, with its title and the names of its lines. */
async function chartAsSvg(box) {
  const known = charts.get(box), { build, name, spec, plot: shownPlot } = known;
  const context = new SvgContext(shownPlot.ctx.canvas), { getContext } = HTMLCanvasElement.prototype, { Path2D } = window;
  const place = element("div", {});
  try {
    HTMLCanvasElement.prototype.getContext = () => context;
    window.Path2D = SvgPath;
    const [options, columns] = build(shownPlot.width);
    zoomable(options, known);
    options.series.slice(1).forEach((series, index) => { series.show = shownPlot.series[index + 1].show; });
    options.hooks.ready = [];
    const plot = new uPlot(options, columns, place);
    await new Promise((done) => setTimeout(done)); // uPlot draws after the present task
    plot.destroy();
  } finally {
    HTMLCanvasElement.prototype.getContext = getContext;
    window.Path2D = Path2D;
  }
  return svgFile(shownPlot.ctx.canvas, name, legendOf(spec), context.elements);
}

/** The file of what was drawn, the `elements`, as large as `canvas`, below a title and a legend. */
function svgFile(canvas, name, legend, elements) {
  const pixel = devicePixelRatio, { width, height } = canvas, head = headHeight(legend, width / pixel) * pixel;
  const file = svgElement("svg", { viewBox: `0 0 ${width} ${height + head}`, width: width / pixel, height: (height + head) / pixel });
  const top = new SvgContext(canvas);
  drawHead(top, name, legend, pixel, width / pixel);
  const body = svgElement("g", { transform: `translate(0 ${head})` }), clips = new Map();
  for (const made of elements) {
    const clip = made.dataset.clip;
    if (!clip) { body.append(made); continue; }
    if (!clips.has(clip)) {
      clips.set(clip, `clip-${clips.size}`);
      const cut = svgElement("clipPath", { id: clips.get(clip) });
      cut.append(svgElement("path", { d: clip }));
      body.append(cut);
    }
    made.removeAttribute("data-clip");
    const group = svgElement("g", { "clip-path": `url(#${clips.get(clip)})` });
    group.append(made);
    body.append(group);
  }
  file.append(svgElement("rect", { width, height: height + head, fill: css("--back") }), ...top.elements, body);
  return new XMLSerializer().serializeToString(file);
}
