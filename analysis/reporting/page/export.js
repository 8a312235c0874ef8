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

/** The trials of `rows`: their ID and the columns `names`, each once. */
function rowsAsCsv(rows, names) {
  const columns = [...new Set(["trial_id", ...names])];
  return csv([columns, ...rows.map((row) => columns.map((name) => valueOf(name, row)))]);
}

/** The points of a chart: of the map the trials, of lines all of their points. */
function chartAsCsv(box) {
  const { spec } = charts.get(box), { x, y, colour, shape } = map.look;
  if (!spec) return rowsAsCsv(map.rows, [x, y, colour, shape]);
  const head = ["line", spec.x, spec.y, "low", "high"];
  const at = (x) => (spec.names ? spec.names[x] ?? x : x);
  return csv([head, ...spec.lines.flatMap((line) => line.points.map(([x, y, low, high]) => [line.full ?? line.name, at(x), y, low, high]))]);
}

/** Buttons that save a chart: its `name()`, `png(use)`, which calls `use` with the file, and the texts `svg()` and `csv()`. */
function saveTools({ name, png, svg, csv }) {
  const file = (kind) => `${data.name}-${name()}.${kind}`;
  const button = (label, act) => element("button", { type: "button", onclick: act }, label);
  return element("div", { class: "tools", role: "group", "aria-label": "Save this chart" },
    button("PNG", () => png((content) => save(file("png"), content))),
    button("SVG", async () => saveText(file("svg"), await svg(), "image/svg+xml")),
    button("CSV", () => saveText(file("csv"), csv())));
}

/** Those of the chart in `box`. */
function chartTools(box) {
  const plot = () => box.querySelector(".plot"), known = () => charts.get(plot());
  return saveTools({ name: () => known().name, png: (use) => asPng(known().plot.ctx.canvas, known().name, legendOf(known().spec), use),
    svg: () => chartAsSvg(plot()), csv: () => chartAsCsv(plot()) });
}

/** What is on the canvas `source`, below a title and a legend. */
function asPng(source, name, legend, use) {
  const pixel = devicePixelRatio, head = headHeight(legend, source.width / pixel) * pixel;
  const canvas = element("canvas", { width: source.width, height: source.height + head });
  const context = canvas.getContext("2d");
  context.fillStyle = css("--back");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(source, 0, head);
  drawHead(context, name, legend, pixel, source.width / pixel);
  canvas.toBlob(use, "image/png");
}

const HEAD = 26, ROW = 18; // pixels above a saved chart: of its title, and of a row of its legend

/** Where the entries of a legend go, [left, row] of each, in rows of `width` pixels. */
function legendPlaces(entries, width) {
  let left = 8, row = 0;
  return entries.map(([, , label]) => {
    const size = label.length * 7 + 30;
    if (left > 8 && left + size > width) [left, row] = [8, row + 1];
    left += size;
    return [left - size, row];
  });
}
const headHeight = (entries, width) => HEAD + ROW * (1 + Math.max(0, ...legendPlaces(entries, width).map(([, row]) => row)));

/** The title and the legend of a saved chart, on any canvas context. */
function drawHead(context, name, entries, pixel, width) {
  const text = (content, x, y) => { context.fillStyle = css("--text"); context.fillText(content, x, y); };
  Object.assign(context, { font: `${13 * pixel}px system-ui, sans-serif`, textAlign: "left", textBaseline: "alphabetic" });
  text(name, 8 * pixel, 17 * pixel);
  const places = legendPlaces(entries, width);
  entries.forEach(([shape, colour, label], place) => {
    const [left, row] = places[place], top = HEAD + ROW * row;
    if (colour) drawMarker(context, shape, (left + 4) * pixel, (top + 6) * pixel, 4 * pixel, colour, null, 0);
    text(label, (left + (colour ? 13 : 0)) * pixel, (top + 10) * pixel);
  });
}

/** The entries of a chart's legend: [marker, colour, text]; the map's tells colours and shapes. */
function legendOf(spec) {
  if (spec) { const palette = lineColours(spec); return spec.lines.map((line, rank) => [rank % SHAPES.length, palette[rank], line.name]); }
  const { shape, shapes } = map.look;
  return [...legendOfColours(), [0, null, `${field(shape).label}:`], ...shapes.map((value, rank) => [rank % SHAPES.length, css("--text"), brief(shown(value))])];
}

/** Those of the colours of the map, which parallel coordinates share. */
function legendOfColours() {
  const { colour, colours: hues } = map.look;
  return [[0, null, `${field(colour).label}:`], ...hues.map((value, rank) => [0, map.palette[rank], brief(shown(value))])];
}
