// The map: trials small, their means large and joined, gap against sharpness; hover, keyboard, click, zoom and brush.

const map = { rows: [], left: [], top: [], at: -1, plot: null, brush: false };

const suggestsLog = (name) => {
  const values = (data.trials[name] ?? []).filter((value) => typeof value === "number");
  const above = values.filter((value) => value > 0);
  return above.length > 0 && above.length >= 0.9 * values.length && Math.max(...above) / Math.min(...above) > 8;
};

/** What the map shows: what the reader chose as far as the data has it, else what suits the data now. */
function choices() {
  const known = (name, kinds) => (name && fieldsOf(...kinds).some((found) => found.name === name) ? name : null);
  const first = (kind) => fieldsOf(kind)[0]?.name;
  const axes = fieldsOf("axis").map((axis) => axis.name), settings = axes.filter((name) => !["seed", "split_seed", "status"].includes(name)); // the map has means over seeds
  const x = known(state.x, ["measure", "result", "axis"]) ?? first("measure") ?? first("result");
  const y = known(state.y, ["gap", "result"]) ?? first("gap") ?? first("result");
  const colour = known(state.colour, ["axis"]) ?? ["batch_size", ...axes].find((name) => axes.includes(name));
  const shape = known(state.shape, ["axis"]) ?? ["sweep", "remedy", "learning_rate", ...settings].find((name) => settings.includes(name) && name !== colour) ?? colour;
  return { x, y, colour, shape, logX: state.logX ?? suggestsLog(x), logY: state.logY ?? false };
}

function drawMap() {
  const look = choices(), { x, y, logX, logY } = look;
  const usable = (row) => {
    const [left, top] = [valueOf(x, row), valueOf(y, row)];
    return typeof left === "number" && typeof top === "number" && (!logX || left > 0) && (!logY || top > 0);
  };
  const visible = visibleRows();
  const hovered = data.trials.trial_id.indexOf(map.trial ?? null);
  map.rows = visible.filter(usable).sort((a, b) => valueOf(x, a) - valueOf(x, b));
  map.xs = map.rows.map((row) => scaled(x, row));
  map.ys = map.rows.map((row) => scaled(y, row));
  map.look = { ...look, colours: valuesOf(look.colour), shapes: valuesOf(look.shape) };
  map.means = meansOfMap();
  map.at = -1;
  const rangeX = range(map.xs, logX), rangeY = range(logY ? map.ys : [...map.ys, 0], logY);
  map.plot = chart(byId("map"), (width) => {
    map.palette = colours(map.look.colours);
    const options = frame({ width, height: chartHeight(byId("map")), x: field(x).label, y: null, logX, logY, rangeX, rangeY });
    options.series = [{}, { paths: () => null, points: { show: false } }];
    options.legend = { show: false };
    options.cursor = { x: false, y: false, points: { show: false }, drag: { x: true, y: true, dist: 5, uni: 30 } };
    options.hooks = { draw: [drawPoints], ready: [listen] };
    return [options, [map.xs, map.ys]];
  }, { zoom: state.zoom, zoomed: (zoom) => { state.zoom = zoom; remember(); }, brushed: brushed, name: `${field(y).label} against ${field(x).label}` });
  byId("map-title").textContent = `${field(y).label} against ${field(x).label.split(",")[0]}`;
  byId("map").setAttribute("aria-label", `Map of ${plural(map.rows.length, "trial")}: ${field(y).label} against ${field(x).label}`);
  drawLegend();
  describeMap(visible.length);
  const at = map.rows.indexOf(hovered);
  if (hovered >= 0 && at >= 0) point(at);
  else byId("tip").hidden = true;
}

/** What the map cannot show, in words: on the map where it is empty, else below it. */
function describeMap(visible) {
  const { x, y, logX, logY } = map.look, nothing = byId("map-empty"), left = visible - map.rows.length;
  nothing.hidden = map.rows.length > 0;
  if (!nothing.hidden)
    update(nothing, element("p", {}, visible ? `None of the ${plural(visible, "trial")} has both a ${field(x).label} and a ${field(y).label}${logX || logY ? " above 0" : ""}.` : "No trial matches the filters."),
      isFiltered() ? element("button", { type: "button", "data-key": "clear on map", onclick: clearFilters }, "show all trials") : null);
  const gone = left ? ` ${plural(left, "trial")} without a value${logX || logY ? " above 0" : ""} not shown.` : "";
  const rank = data.correlations[y]?.[x], partial = visible < data.trials.trial_id.length ? " (of all trials, not only those shown)" : "";
  byId("map-note").textContent = `${plural(map.rows.length, "trial")} shown.${gone}${rank ? ` ${rank.replace(/\.$/, "")}${partial}.` : ""}`;
}

/** The means of the trials that share colour, shape and switch: on a log axis the geometric mean, as the axis shows it. */
function meansOfMap() {
  const { colour, shape, logX, logY, colours: hues, shapes } = map.look, groups = new Map();
  map.rows.forEach((row, index) => {
    const place = [hues.indexOf(valueOf(colour, row)), shapes.indexOf(valueOf(shape, row)), valueOf("is_switched", row) ? 1 : 0];
    const group = groups.get(String(place)) ?? { hue: place[0], shape: place[1], switched: place[2], xs: [], ys: [] };
    group.xs.push(map.xs[index]);
    group.ys.push(map.ys[index]);
    groups.set(String(place), group);
  });
  const mean = (values, log) => {
    const sum = values.reduce((total, value) => total + (log ? Math.log(value) : value), 0) / values.length;
    return log ? Math.exp(sum) : sum;
  };
  return [...groups.values()].filter((group) => group.xs.length > 1)
    .map((group) => ({ ...group, x: mean(group.xs, logX), y: mean(group.ys, logY) })).sort((a, b) => a.hue - b.hue);
}

function drawPoints(plot) {
  const context = plot.ctx, pixel = devicePixelRatio, box = plot.bbox, { palette } = map;
  const { colour, shape, colours: hues, shapes, logY } = map.look;
  context.save();
  context.beginPath();
  context.rect(box.left - 7, box.top - 7, box.width + 14, box.height + 14);
  context.clip();
  if (!logY) drawZero(plot);
  const small = (map.rows.length > 400 ? 2.2 : 2.8) * pixel;
  map.left = []; map.top = [];
  map.rows.forEach((row, index) => {
    const left = plot.valToPos(map.xs[index], "x", true), top = plot.valToPos(map.ys[index], "y", true);
    map.left.push((left - box.left) / pixel);
    map.top.push((top - box.top) / pixel);
    const hue = palette[hues.indexOf(valueOf(colour, row))], hollow = valueOf("off_target", row);
    drawMarker(context, shapes.indexOf(valueOf(shape, row)) % SHAPES.length, left, top, small, hollow ? null : hue, hollow ? hue : null, pixel);
  });
  drawMeans(plot);
  context.restore();
  placeRing(plot.over, "selected", map.rows.indexOf(data.trials.trial_id.indexOf(state.trial)));
  placeRing(plot.over, "hovered", map.at);
}

/** The means above the trials, those of a shape joined from batch size to batch size (or whatever the colour is). */
function drawMeans(plot) {
  const context = plot.ctx, pixel = devicePixelRatio, lines = new Map();
  const place = (mean) => [plot.valToPos(mean.x, "x", true), plot.valToPos(mean.y, "y", true)];
  for (const mean of map.means) {
    const line = `${map.look.shape === map.look.colour ? "" : mean.shape} ${mean.switched}`;
    lines.set(line, [...(lines.get(line) ?? []), place(mean)]);
  }
  for (const [key, line] of lines) joined(context, line, css("--faint"), 1.2 * pixel, key.endsWith("1") ? [3 * pixel, 3 * pixel] : []);
  for (const mean of map.means) {
    const [left, top] = place(mean), size = 6 * pixel;
    drawMarker(context, mean.shape % SHAPES.length, left, top, size, map.palette[mean.hue], css("--back"), 1.2 * pixel);
    if (mean.switched) drawMarker(context, 0, left, top, size * 1.5, null, css("--text"), pixel);
  }
}

function joined(context, line, colour, width, dash = []) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.setLineDash(dash);
  context.beginPath();
  line.forEach(([left, top], index) => (index ? context.lineTo(left, top) : context.moveTo(left, top)));
  context.stroke();
  context.setLineDash([]);
}

/** Puts the ring of a kind around a point; -1 takes it away. */
function placeRing(over, kind, index) {
  let ring = over.querySelector(`.${kind}`);
  if (!ring) over.append((ring = element("div", { class: `ring ${kind}` })));
  ring.hidden = index < 0;
  if (index >= 0) { ring.style.left = `${map.left[index]}px`; ring.style.top = `${map.top[index]}px`; }
}

function listen(plot) {
  map.plot = plot;  // one that is drawn anew, for another width or scheme, is another
  plot.over.addEventListener("mousemove", (event) => point(nearest(event.offsetX, event.offsetY, 16)));
  plot.over.addEventListener("mouseleave", () => point(-1));
  plot.over.addEventListener("click", (event) => {
    const index = nearest(event.offsetX, event.offsetY, 22);
    if (index >= 0) openTrial(data.trials.trial_id[map.rows[index]]);
  });
}

function nearest(left, top, within) {
  let best = -1, least = within * within;
  for (let index = 0; index < map.rows.length; index += 1) {
    const distance = (map.left[index] - left) ** 2 + (map.top[index] - top) ** 2;
    if (distance < least) { least = distance; best = index; }
  }
  return best;
}

/** Shows what the point is, and its matched set; -1 shows nothing. */
function point(index) {
  if (index === map.at) return;
  map.at = index;
  map.trial = index < 0 ? null : data.trials.trial_id[map.rows[index]];
  const tip = byId("tip"), over = map.plot.over;
  placeRing(over, "hovered", index);
  over.style.cursor = index < 0 ? "" : "pointer";
  drawMatched(over, index);
  tip.hidden = index < 0;
  if (index < 0) return;
  const row = map.rows[index], { x, y } = map.look;
  const lines = [...new Set([fieldsOf("result")[0].name, y, x])].map((name) => `${field(name).label}: ${cell(name, row)}`);
  const marks = [["is_reference", "reference"], ["off_target", "off target"]].filter(([name]) => valueOf(name, row)).map(([, text]) => text);
  fill(tip,
    element("strong", {}, nameOf(row)), ...lines.map((line) => element("div", {}, line)),
    marks.length ? element("div", {}, marks.join(", ")) : null, element("code", {}, data.trials.trial_id[row]));
  const figure = tip.parentElement.getBoundingClientRect(), inside = over.getBoundingClientRect();
  const left = inside.left - figure.left + map.left[index], top = inside.top - figure.top + map.top[index];
  tip.style.left = `${Math.max(0, Math.min(left + 14, figure.width - tip.offsetWidth))}px`;
  tip.style.top = `${top + 16}px`;
}

/** Joins the trials that are compared with the one at `index`: same settings, seed and split, by batch size. */
function drawMatched(over, index) {
  over.querySelector(".matched")?.remove();
  const set = index < 0 ? null : data.matched[map.rows[index]];
  if (set === null || set === undefined) return;
  const line = map.rows.map((row, place) => [row, place]).filter(([row]) => data.matched[row] === set && !valueOf("is_switched", row))
    .sort(([a], [b]) => valueOf("batch_size", a) - valueOf("batch_size", b));
  const icon = svgElement("svg", { class: "matched", "aria-hidden": "true" });
  icon.append(svgElement("polyline", { points: line.map(([, place]) => `${map.left[place]},${map.top[place]}`).join(" ") }));
  over.append(icon);
}

/** Where dragging filters, leaves only the trials inside the box; returns whether it did. */
function brushed(box) {
  if (!map.brush) return false;
  for (const [axis, ends] of Object.entries(box)) state.ranges[map.look[axis]] = ends.map((end) => Number(end.toPrecision(6)));
  changeFilter();
  return true;
}

/** Arrow keys go to the next point along an axis, Home and End to its ends, Enter opens, Escape lets go. */
function mapKey(event) {
  const step = { ArrowRight: ["left", 1], ArrowLeft: ["left", -1], ArrowUp: ["top", -1], ArrowDown: ["top", 1] }[event.key];
  const last = map.rows.length - 1;
  if (step && last >= 0) {
    const [along, sign] = step;
    const order = map.rows.map((_, index) => index).sort((a, b) => map[along][a] - map[along][b] || a - b);
    const rank = map.at < 0 ? (sign > 0 ? -1 : last + 1) : order.indexOf(map.at);
    point(order[Math.max(0, Math.min(last, rank + sign))]);
  } else if (event.key === "Home" || event.key === "End") point(event.key === "Home" ? Math.min(0, last) : last);
  else if ((event.key === "Enter" || event.key === " ") && map.at >= 0) openTrial(data.trials.trial_id[map.rows[map.at]], byId("map"));
  else if (event.key === "Escape" && map.at >= 0) point(-1);
  else return;
  event.preventDefault();
}

function drawLegend() {
  const { colour, shape, colours: hues, shapes } = map.look, { palette } = map, text = css("--text");
  const group = (title, entries) => element("div", { class: "keys" }, element("span", { class: "faint" }, title), ...entries);
  const key = (icon, label) => element("span", { class: "key" }, icon, label);
  const groups = [];
  if (colour === shape)
    groups.push(group(field(colour).label, hues.map((value, rank) => key(shapeIcon(rank % SHAPES.length, palette[rank]), brief(shown(value))))));
  else {
    groups.push(group(field(colour).label, hues.map((value, rank) => key(shapeIcon(0, palette[rank]), brief(shown(value))))));
    groups.push(group(field(shape).label, shapes.map((value, rank) => key(shapeIcon(rank % SHAPES.length, text), brief(shown(value))))));
  }
  const has = (name) => map.rows.some((row) => valueOf(name, row));
  const marks = [];
  if (map.means.length) marks.push(key(null, "large: means"), key(null, "small: trials"));
  if (has("is_switched") && map.means.length) marks.push(key(shapeIcon(0, text, true), "ring: batch size switched"));
  if (has("off_target")) marks.push(key(null, "hollow: off target"));
  if (marks.length) groups.push(group("points", marks));
  update(byId("legend"), ...groups);
}
