// What leaves the page: the trials shown as CSV, and each chart as PNG, SVG or CSV.

function save(name, content) {
  const link = element("a", { href: URL.createObjectURL(content), download: name.replace(/[^\w.-]+/g, "_") });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
const saveText = (name, text, type = "text/csv") => save(name, new Blob([text], { type: `${type};charset=utf-8` }));

/** A cell of a CSV file (RFC 4180); text that a spreadsheet would take for a formula gets an apostrophe before it. */
function csvCell(value) {
  if (value === null || value === undefined) return "";
  const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
const csv = (rows) => rows.map((row) => `${row.map(csvCell).join(",")}\r\n`).join("");

/** All trials that the filters leave, in the order and with the columns of the table, named and valued as in trials.parquet. */
function trialsAsCsv() {
  const columns = tableColumns().map((column) => column.name);
  return csv([columns, ...sorted(visibleRows()).map((row) => columns.map((name) => valueOf(name, row)))]);
}

/** The points of a chart: of the map the trials, of lines all of their points. */
function chartAsCsv(box) {
  const { spec } = charts.get(box);
  if (!spec) {
    const names = [...new Set(["trial_id", map.look.x, map.look.y, map.look.colour, map.look.shape])];
    return csv([names, ...map.rows.map((row) => names.map((name) => valueOf(name, row)))]);
  }
  const head = ["line", spec.x, spec.y, "low", "high"];
  const at = (x) => (spec.names ? spec.names[x] ?? x : x);
  return csv([head, ...spec.lines.flatMap((line) => line.points.map(([x, y, low, high]) => [line.full ?? line.name, at(x), y, low, high]))]);
}

/** Buttons that save the chart in `box`. */
function chartTools(box) {
  const plot = () => box.querySelector(".plot");
  const name = () => `${data.name}-${charts.get(plot()).name}`;
  const button = (label, act) => element("button", { type: "button", onclick: act }, label);
  return element("div", { class: "tools", role: "group", "aria-label": "Save this chart" },
    button("PNG", () => chartAsPng(plot(), (content) => save(`${name()}.png`, content))),
    button("SVG", async () => saveText(`${name()}.svg`, await chartAsSvg(plot()), "image/svg+xml")),
    button("CSV", () => saveText(`${name()}.csv`, chartAsCsv(plot()))));
}

/** The chart as it is on the page, below its title and legend. */
function chartAsPng(box, use) {
  const { plot, name, spec } = charts.get(box), source = plot.ctx.canvas, pixel = devicePixelRatio, head = HEAD * pixel;
  const canvas = element("canvas", { width: source.width, height: source.height + head });
  const context = canvas.getContext("2d");
  context.fillStyle = css("--back");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(source, 0, head);
  drawHead(context, name, legendOf(spec), pixel);
  canvas.toBlob(use, "image/png");
}

const HEAD = 44; // pixels above a saved chart

/** The title and the legend of a saved chart, on any canvas context. */
function drawHead(context, name, entries, pixel) {
  const text = (content, x, y) => { context.fillStyle = css("--text"); context.fillText(content, x, y); };
  Object.assign(context, { font: `${13 * pixel}px system-ui, sans-serif`, textAlign: "left", textBaseline: "alphabetic" });
  text(name, 8 * pixel, 17 * pixel);
  let left = 8 * pixel;
  for (const [shape, colour, label] of entries) {
    if (colour) drawMarker(context, shape, left + 4 * pixel, 32 * pixel, 4 * pixel, colour, null, 0);
    text(label, left + (colour ? 13 * pixel : 0), 36 * pixel);
    left += (label.length * 7 + 30) * pixel;
  }
}

/** The entries of a chart's legend: [marker, colour, text]; the map's tells colours and shapes. */
function legendOf(spec) {
  if (spec) return spec.lines.map((line, rank) => [rank % SHAPES.length, lineColour(rank), line.name]);
  const { colour, shape, colours: hues, shapes } = map.look;
  const first = hues.map((value, rank) => [0, map.palette[rank], shown(value)]);
  return [[0, null, `${field(colour).label}:`], ...first, [0, null, `${field(shape).label}:`], ...shapes.map((value, rank) => [rank % SHAPES.length, css("--text"), shown(value)])];
}
