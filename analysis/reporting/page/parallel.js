// Parallel coordinates: each trial a line through its settings and results. Dragging along an axis filters.

const PARALLEL = { height: 300, top: 46, bottom: 18, side: 84 };

/** The axes: [{ field, place(row): 0 to 1 from the bottom or null, value(place), ticks: [[place, text]] }]. */
function parallelAxes() {
  const { x } = choices(), rows = data.trials.trial_id.map((_, row) => row);
  const settings = fieldsOf("axis").filter((axis) => valuesOf(axis.name).length > 1);
  const results = [data.metric.test, fieldsOf("gap")[0]?.name, x].map(field).filter((found, rank, all) => found && all.indexOf(found) === rank && !settings.includes(found));
  return [...settings.map(rankAxis), ...results.map((found) => valueAxis(found, rows))];
}

const cut = (text) => (text.length > 10 ? `${text.slice(0, 9)}…` : text);

/** An axis of settings: its values evenly spaced in their order. */
function rankAxis(found) {
  const values = valuesOf(found.name), last = Math.max(1, values.length - 1), step = Math.ceil(values.length / 8);
  return {
    field: found,
    place: (row) => values.indexOf(valueOf(found.name, row)) / last,
    ends: (low, high) => {
      const inside = values.filter((value, rank) => typeof value === "number" && rank / last >= low && rank / last <= high).map((value) => value * (found.factor ?? 1));
      return inside.length ? [Math.min(...inside), Math.max(...inside)] : null;
    },
    ticks: values.map((value, rank) => [rank / last, cut(shown(value))]).filter((_, rank) => rank % step === 0),
  };
}

/** An axis of results, logarithmic where that suits. */
function valueAxis(found, rows) {
  const log = suggestsLog(found.name), known = rows.map((row) => scaled(found.name, row)).filter((value) => typeof value === "number" && (!log || value > 0));
  const [low, high] = range(known, log), forth = log ? Math.log : (value) => value, back = log ? Math.exp : (value) => value;
  const place = (value) => (forth(value) - forth(low)) / (forth(high) - forth(low));
  return {
    field: found,
    place: (row) => { const value = scaled(found.name, row); return typeof value === "number" && (!log || value > 0) ? place(value) : null; },
    ends: (from, to) => [from, to].map((at) => Number(back(forth(low) + at * (forth(high) - forth(low))).toPrecision(4))),
    ticks: ticks(low, high, log, 6).map((value) => [place(value), tickText(value)]),
  };
}

function drawParallel() {
  const fold = byId("parallel"), box = byId("parallel-chart");
  if (!fold.open || !data?.metric) return;
  const axes = parallelAxes(), width = Math.max(box.clientWidth, 84 * axes.length), pixel = devicePixelRatio;
  const canvas = box.querySelector("canvas") ?? box.appendChild(element("canvas", { role: "img" }));
  canvas.width = width * pixel;
  canvas.height = PARALLEL.height * pixel;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${PARALLEL.height}px`;
  canvas.setAttribute("aria-label", `Parallel coordinates of ${plural(visibleRows().length, "trial")}: ${axes.map((axis) => axis.field.label).join(", ")}`);
  const places = paintParallel(canvas.getContext("2d"), axes);
  canvas.onmousedown = (event) => dragAxis(event, canvas, axes, ...places);
}

/** Paints on any canvas context; returns where the axes are, by their rank, and how long they are. */
function paintParallel(context, axes) {
  const { height, top, bottom, side } = PARALLEL, reach = height - top - bottom, pixel = devicePixelRatio, width = context.canvas.width / pixel;
  const left = (rank) => side / 2 + (rank * (width - side)) / Math.max(1, axes.length - 1), up = (place) => top + (1 - place) * reach;
  const visible = new Set(visibleRows());
  const line = (row) => {
    context.beginPath();
    let pen = false;
    axes.forEach((axis, rank) => {
      const place = axis.place(row);
      if (place === null) { pen = false; return; }
      if (pen) context.lineTo(left(rank), up(place));
      else context.moveTo(left(rank), up(place));
      pen = true;
    });
    context.stroke();
  };
  context.scale(pixel, pixel);
  context.lineWidth = 1;
  context.strokeStyle = css("--line");
  data.trials.trial_id.forEach((_, row) => { if (!visible.has(row)) line(row); });
  const { colour } = choices(), values = valuesOf(colour), palette = colours(values);
  context.globalAlpha = Math.max(0.08, Math.min(0.8, 40 / Math.sqrt(visible.size + 1) / 5));
  for (const row of visible) { context.strokeStyle = palette[values.indexOf(valueOf(colour, row))]; line(row); }
  context.globalAlpha = 1;
  drawAxes(context, axes, left, up);
  return [left, reach];
}

const parallelTools = () => {
  const name = "parallel coordinates", canvas = () => byId("parallel-chart").querySelector("canvas");
  return saveTools({ name: () => name, png: (use) => asPng(canvas(), name, legendOfColours(), use),
    svg: () => {
      const context = new SvgContext(canvas());
      paintParallel(context, parallelAxes());
      return svgFile(canvas(), name, legendOfColours(), context.elements);
    },
    csv: () => rowsAsCsv(visibleRows(), parallelAxes().map((axis) => axis.field.name)) });
};

function drawAxes(context, axes, left, up) {
  context.font = "12px system-ui, sans-serif";
  axes.forEach((axis, rank) => {
    context.strokeStyle = context.fillStyle = css("--faint");
    context.beginPath();
    context.moveTo(left(rank), up(0));
    context.lineTo(left(rank), up(1));
    context.stroke();
    context.textAlign = "center";
    const words = axis.field.label.replace(/,.*| \[.*/, "").split(" "), half = Math.ceil(words.length / 2);
    context.fillStyle = state.ranges[axis.field.name] ? css("--accent") : css("--text");
    [words.slice(0, half).join(" "), words.slice(half).join(" ")].forEach((text, place) => context.fillText(text, left(rank), 14 + 14 * place, 84));
    context.textAlign = "left";
    for (const [place, text] of axis.ticks) {
      const size = context.measureText(text).width;
      context.fillStyle = css("--back");
      context.fillRect(left(rank) + 3, up(place) - 7, size + 3, 14);
      context.fillStyle = css("--text");
      context.fillText(text, left(rank) + 4, up(place) + 4);
    }
  });
}

/** Leaves the trials between two places of an axis of numbers; a click without dragging gives all back. */
function dragAxis(event, canvas, axes, left, reach) {
  const box = canvas.getBoundingClientRect(), place = (at) => Math.max(0, Math.min(1, 1 - (at.clientY - box.top - PARALLEL.top) / reach));
  const distance = (rank) => Math.abs(left(rank) - (event.clientX - box.left));
  const axis = axes[axes.map((_, rank) => rank).sort((a, b) => distance(a) - distance(b))[0]], from = place(event);
  event.preventDefault();
  addEventListener("mouseup", (end) => {
    const to = place(end), ends = Math.abs(to - from) * reach > 4 ? axis.ends(Math.min(from, to), Math.max(from, to)) : null;
    if (ends) state.ranges[axis.field.name] = ends;
    else delete state.ranges[axis.field.name];
    changeFilter();
  }, { once: true });
}

new ResizeObserver(drawParallel).observe(byId("parallel"));
byId("parallel").addEventListener("toggle", drawParallel);
byId("parallel").append(parallelTools());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawParallel);
