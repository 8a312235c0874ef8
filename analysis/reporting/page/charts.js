// Charts on uPlot: ticks, colours, marker shapes, and lines with intervals. The map itself is in map.js.

// Markers in a box from -1 to 1, as SVG paths: the canvas and the legend draw the same.
const SHAPES = [
  "M1 0A1 1 0 1 1-1 0A1 1 0 1 1 1 0Z", "M-.88-.88H.88V.88H-.88Z", "M0-1.15L1.05.8H-1.05Z", "M0-1.25L1.1 0L0 1.25L-1.1 0Z",
  "M0 1.15L1.05-.8H-1.05Z", "M-.4-1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4Z",
  "M0-1.3L.38-.45L1.25-.4L.58.18L.8 1.05L0 .58L-.8 1.05L-.58.18L-1.25-.4L-.38-.45Z",
];
const PATHS = SHAPES.map((shape) => new Path2D(shape));
const PLASMA = ["#0d0887", "#46039f", "#7201a8", "#9c179e", "#bd3786", "#d8576b", "#ed7953", "#fb9f3a", "#fdca26", "#f0f921"];

const isDark = () => matchMedia("screen and (prefers-color-scheme: dark)").matches;
// Okabe and Ito 2008, on a light page darkened where a colour would have less than 3 : 1 against it.
const okabeIto = () => (isDark() ? ["#56B4E9", "#E69F00", "#2fbf94", "#CC79A7", "#F0E442", "#e8743b", "#b0b0b0"] : ["#0072B2", "#D55E00", "#00906a", "#b8578c", "#2a8ecb", "#b06f00", "#6b6b6b"]);
const lineColour = (rank) => okabeIto()[rank % 7];
/** The colours of the lines of a chart; many lines of means are in order, such as learning rates, and so are theirs. */
const lineColours = ({ lines, markers = true }) => (markers && lines.length > 7 ? colours([...lines.keys()]) : lines.map((_, rank) => lineColour(rank)));
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** A colour per value: plasma by rank for numbers (as far as it has 3 : 1 against the page), else Okabe-Ito. */
function colours(values) {
  const ordered = values.filter((value) => value !== null).every((value) => typeof value === "number");
  if (!ordered || values.length < 3) return values.map((_, rank) => lineColour(rank));
  const [low, high] = isDark() ? [4, 9] : [0, 5.1];
  return values.map((_, rank) => plasma(low + ((high - low) * rank) / (values.length - 1)));
}
function plasma(place) {
  const below = Math.min(8, Math.floor(place));
  const part = (hex, at) => parseInt(hex.slice(at, at + 2), 16);
  const mix = [1, 3, 5].map((at) => Math.round(part(PLASMA[below], at) * (below + 1 - place) + part(PLASMA[below + 1], at) * (place - below)));
  return `rgb(${mix.join(",")})`;
}

/** About `count` round ticks inside [low, high]; on a log scale at 1, (2, 5,) 10, where that gives enough. */
function ticks(low, high, log, count) {
  if (log) {
    const found = (factors) => {
      const at = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1)
        for (const factor of factors) at.push(Number(`${factor}e${power}`));
      return at.filter((tick) => tick >= low && tick <= high);
    };
    const decades = Math.log10(high / low);
    const choice = decades > count ? [] : [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7]].map(found).filter((at) => at.length <= count);
    const best = choice.at(-1);
    if (best && best.length >= 2) return best;
    if (decades > count) return found([1]).filter((_, rank) => rank % Math.ceil(decades / count) === 0);
  }
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const at = [];
  for (let tick = Math.ceil(low / step); tick * step <= high * (1 + 1e-12) && at.length <= count + 1; tick += 1) at.push(Number((tick * step).toPrecision(12)));
  return at;
}
function tickText(value) {
  const size = Math.abs(value);
  if (value === 0) return "0";
  return minus(size >= 1e-3 && size < 1e5 ? String(Number(value.toPrecision(6))) : value.toExponential().replace("+", ""));
}

/** [low, high] around the values with a margin; never empty. */
function range(values, log) {
  let low = Infinity, high = -Infinity;
  for (const value of values) if (value !== null && (!log || value > 0)) { low = Math.min(low, value); high = Math.max(high, value); }
  if (low > high) return log ? [1, 10] : [0, 1];
  if (log) {
    const margin = Math.max((high / low) ** 0.06, 1.05);
    return [low / margin, high * margin];
  }
  const margin = (high - low) * 0.06 || Math.abs(low) * 0.1 || 1;
  return [low - margin, high + margin];
}

/** uPlot's options that all charts share. `at` and `names` fix the ticks of the x axis. */
function frame({ width, height, x, y, logX, logY, rangeX, rangeY, at, names }) {
  const text = css("--faint"), line = css("--line"), font = "12px system-ui, sans-serif";
  const axis = (label, log, fixed, spacing) => ({
    stroke: text, font, labelFont: font, label: label ?? undefined, labelSize: 22, labelGap: 2,
    grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1, size: 5 },
    splits: (plot, index, low, high) => fixed ?? ticks(low, high, log, Math.max(2, plot.bbox[spacing] / devicePixelRatio / (spacing === "width" ? 70 : 30))),
    filter: (plot, splits) => splits,
    values: (plot, splits) => splits.map((tick) => (names ? names[tick] ?? "" : tickText(tick))),
  });
  const vertical = { ...axis(y, logY, null, "height"), size: 54 };
  vertical.values = (plot, splits) => splits.map(tickText);
  return {
    width, height, padding: [10, 14, 0, 0],
    scales: { x: { time: false, distr: logX ? 3 : 1, range: rangeX }, y: { distr: logY ? 3 : 1, range: rangeY } },
    axes: [{ ...axis(x, logX, at, "width"), size: 34 }, vertical],
  };
}

function drawMarker(context, shape, x, y, size, fill, stroke, thickness) {
  context.save();
  context.translate(x, y);
  context.scale(size, size);
  if (fill) { context.fillStyle = fill; context.fill(PATHS[shape]); }
  if (stroke) { context.strokeStyle = stroke; context.lineWidth = thickness / size; context.stroke(PATHS[shape]); }
  context.restore();
}

function svgElement(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function shapeIcon(shape, colour, hollow = false) {
  const icon = svgElement("svg", { viewBox: "-1.5 -1.5 3 3", "aria-hidden": "true" });
  icon.append(svgElement("path", { d: SHAPES[shape], ...(hollow ? { fill: "none", stroke: colour, "stroke-width": ".45" } : { fill: colour }) }));
  return icon;
}

const charts = new Map(); // box -> { plot, build, zoom, name, source }
const widths = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const chart = charts.get(target);
    if (chart && target.clientWidth && Math.abs(target.clientWidth - chart.plot.width) > 1) redraw(target);
  }
});
for (const media of ["(prefers-color-scheme: dark)", "print"]) matchMedia(media).addEventListener("change", () => [...charts.keys()].forEach(redraw));

/**
 * Draws a chart into `box`, and again whenever it must look different; `build(width)` makes [options, columns]. The
 * reader's zoom ({x, y: [low, high]}) and the lines switched off in the legend stay when it is drawn again.
 */
function chart(box, build, more = {}) {
  const known = { zoom: {}, zoomed: () => {}, ...charts.get(box), ...more, build };
  const off = new Set(known.plot?.series.filter((series) => !series.show).map((series) => series.label));
  known.plot?.destroy();
  const [options, columns] = build(Math.max(240, box.clientWidth || 320));
  zoomable(options, known);
  for (const series of options.series.slice(1)) if (off.has(series.label)) series.show = false;
  options.cursor.drag.setScale = false;
  options.cursor.bind = { dblclick: () => () => zoomTo(box, {}) };
  options.hooks = { ...options.hooks, setSelect: [(plot) => dragged(box, plot)] };
  known.plot = new uPlot(options, columns, box);
  charts.set(box, known);
  widths.observe(box);
  return known.plot;
}
/** Lets the scales of `options` show the zoom of a `known` chart; a logarithmic one has no place for 0 and below. */
function zoomable(options, known) {
  for (const [axis, scale] of Object.entries(options.scales)) {
    const whole = scale.range;
    scale.range = () => { const zoom = known.zoom[axis]; return zoom && (scale.distr !== 3 || zoom[0] > 0) ? zoom : whole; };
  }
}
function redraw(box) {
  if (box.isConnected) chart(box, charts.get(box).build);
  else { widths.unobserve(box); charts.get(box).plot.destroy(); charts.delete(box); }
}

/** What the reader dragged over, as {x, y: [low, high]}; an axis that is covered whole is left out. */
function selected(plot) {
  const { left, top, width, height } = plot.select, found = {};
  if (width > 0 && width < plot.over.clientWidth - 1) found.x = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
  if (height > 0 && height < plot.over.clientHeight - 1) found.y = [plot.posToVal(top + height, "y"), plot.posToVal(top, "y")];
  return found;
}
function dragged(box, plot) {
  const found = selected(plot), known = charts.get(box);
  if (!Object.keys(found).length) return;
  plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  if (known.brushed?.(found)) return;
  zoomTo(box, { ...known.zoom, ...found });
}
function zoomTo(box, zoom) {
  const known = charts.get(box);
  known.zoom = zoom;
  known.zoomed(zoom);
  known.plot.setData(known.plot.data); // asks for the ranges again
}

/**
 * Lines with markers and intervals under a title. lines: [{name, points: [[x, y, low, high, hollow], ...]}]. `margin`: a
 * y up to which a loss is taken as none, `free`: the x up to which that is shown. Drawn again only if something changed.
 */
function lineChart(box, spec, more = {}) {
  const source = JSON.stringify(spec), known = charts.get(box.querySelector(".plot"));
  if (known?.source === source) return;
  const { x, y, title = y, logX = false, logY = false, zero = false, at = null, names = null, height = 240, markers = true, margin = null, free = null, lines } = spec;
  if (!known) fill(box, element("p", { class: "chart-title" }, title), element("div", { class: "plot" }), chartTools(box));
  box.firstChild.textContent = title;
  const all = lines.flatMap((line) => line.points);
  const xs = [...new Set(all.map((point) => point[0]))].sort((a, b) => a - b);
  const column = (line) => {
    const found = new Map(line.points.map((point) => [point[0], logY && !(point[1] > 0) ? null : point[1]]));
    return xs.map((value) => found.get(value) ?? null);
  };
  const spread = all.flatMap((point) => [point[1], point[2] ?? null, point[3] ?? null]);
  const rangeX = names ? [-0.4, names.length - 0.6] : range(xs, logX);
  const rangeY = range(zero ? [...spread, 0] : spread, logY);
  const build = (width) => {
    const palette = lineColours(spec);
    const options = frame({ width, height, x, y: null, logX, logY, rangeX, rangeY, at: names ? names.map((_, rank) => rank) : at, names });
    options.series = [
      { label: x, value: (plot, value) => (value === null || value === undefined ? "" : names ? names[value] ?? "" : tickText(value)) },
      ...lines.map((line, rank) => ({
        label: line.name, stroke: palette[rank], width: 1.6, spanGaps: true, points: { show: false },
        dash: markers ? undefined : [[], [6, 3], [2, 2], [8, 3, 2, 3]][rank % 4],
        value: (plot, value) => (value === null || value === undefined ? "" : shown(value)),
      })),
    ];
    options.cursor = { drag: { x: true, y: false, dist: 5 }, points: { size: 7 } };
    options.hooks = {
      drawClear: margin === null ? [] : [(plot) => drawMargin(plot, margin, free)],
      draw: [(plot) => drawIntervals(plot, markers ? lines : [], palette, zero, logY)],
    };
    return [options, [xs, ...lines.map(column)]];
  };
  chart(box.querySelector(".plot"), build, { source, name: title, spec, ...more });
}

/** Shades what is free: the batch sizes shown to lose less than the margin, whose line is dashed. */
function drawMargin(plot, margin, free) {
  const context = plot.ctx, { left, top, width, height } = plot.bbox, pixel = devicePixelRatio;
  const inside = (place, low, size) => Math.max(low, Math.min(low + size, place));
  context.save();
  if (free !== null) {
    const right = inside(plot.valToPos(free, "x", true) + 12 * pixel, left, width);
    context.fillStyle = css("--free");
    context.fillRect(left, top, right - left, height);
  }
  const line = plot.valToPos(margin, "y", true);
  if (line >= top && line <= top + height) {
    context.strokeStyle = css("--faint");
    context.lineWidth = pixel;
    context.setLineDash([5 * pixel, 4 * pixel]);
    context.beginPath();
    context.moveTo(left, line);
    context.lineTo(left + width, line);
    context.stroke();
    context.fillStyle = css("--faint");
    context.font = `${11 * pixel}px system-ui, sans-serif`;
    context.textAlign = "left";
    context.fillText(`margin ${shown(margin)}`, left + 4 * pixel, line - 4 * pixel);
  }
  context.restore();
}

function drawIntervals(plot, lines, palette, zero, logY) {
  const context = plot.ctx, pixel = devicePixelRatio;
  const place = (x, y) => [plot.valToPos(x, "x", true), plot.valToPos(y, "y", true)];
  context.save();
  context.beginPath();
  context.rect(plot.bbox.left - 6, plot.bbox.top - 6, plot.bbox.width + 12, plot.bbox.height + 12);
  context.clip();
  if (zero) drawZero(plot);
  lines.forEach((line, rank) => {
    if (!plot.series[rank + 1].show) return;
    const colour = palette[rank], aside = (rank - (lines.length - 1) / 2) * Math.min(3, 24 / lines.length) * pixel;
    for (const [x, y, low, high, hollow] of line.points) {
      if (logY && !(y > 0)) continue;
      const [left, top] = place(x, y);
      if (low !== null && low !== undefined && (!logY || low > 0)) {
        context.strokeStyle = colour;
        context.lineWidth = 1.2 * pixel;
        context.beginPath();
        context.moveTo(left + aside, place(x, low)[1]);
        context.lineTo(left + aside, place(x, high)[1]);
        context.stroke();
      }
      drawMarker(context, rank % SHAPES.length, left, top, 4 * pixel, hollow ? css("--back") : colour, colour, 1.4 * pixel);
    }
  });
  context.restore();
}

function drawZero(plot) {
  const context = plot.ctx, top = Math.round(plot.valToPos(0, "y", true)) + 0.5;
  if (top < plot.bbox.top || top > plot.bbox.top + plot.bbox.height) return;
  context.strokeStyle = css("--faint");
  context.lineWidth = devicePixelRatio;
  context.beginPath();
  context.moveTo(plot.bbox.left, top);
  context.lineTo(plot.bbox.left + plot.bbox.width, top);
  context.stroke();
}
