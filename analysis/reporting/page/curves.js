// Learning curves: lines of what a trial has logged, and charts that have a line for each of several trials.

/** A line of the column `name` of the trial at `row`, as lineChart wants it. `curves` as in the data object. */
function curve(curves, row, name, label, factor = 1) {
  const { values } = curves.trials[row], at = curves.names.indexOf(name);
  if (at < 0) return null;
  const column = values[at];
  const points = values[0].map((epoch, index) => [epoch, Array.isArray(column) ? column[index] : column]);
  return { name: label, points: points.filter(([, value]) => value !== null).map(([epoch, value]) => [epoch, value * factor]) };
}

/** The name of the trial at a place among several, short for the legends: A, B, ..., 27, 28. */
const letter = (place) => (place < 26 ? String.fromCharCode(65 + place) : String(1 + place));

/** What is drawn of several trials: [key, spec] of each chart. `lines(name, factor)`: a line per trial, or null. */
function curveCharts(metric, lines) {
  const { train, test, label, factor, loss } = metric;
  return [["test_loss", `test ${loss}`, 1, true], [test, `test ${label}`, factor, false], ["train_loss", `train ${loss}`, 1, true], [train, `train ${label}`, factor, false]]
    .map(([name, y, times, logY]) => [name, { x: "epoch", y, logY, markers: false, lines: lines(name, times) }])
    .filter(([, spec]) => spec.lines.some((line) => line.points.length));
}

/** The boxes of the charts, and after they are on the page, what is in them. */
const curveBoxesOf = (of, charts) => element("div", { class: "panels" }, ...charts.map(([name]) => element("div", { class: "chart", "data-key": `${of} ${name}`, "data-own": "" })));
function drawCurveCharts(section, of, charts) {
  for (const [name, spec] of charts) lineChart(section.querySelector(`[data-key="${of} ${name}"]`), spec);
}
