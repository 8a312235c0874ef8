// The whole: draws the page from the data, and where the page is served live, asks for news and draws again.

const POLL_MILLISECONDS = 2000;

/** Draws what the reader's choices change. */
function render() {
  visibleRows.found = null;
  drawControls();
  drawFilters();
  drawMap();
  drawParallel();
  drawCompared();
  drawTable();
  drawTrial();
  remember();
}

function show(news) {
  data = news;
  visibleRows.found = null;
  document.title = `${data.name}: batch size, gap and sharpness`;
  byId("name").textContent = data.name;
  const progress = data.progress, bar = byId("bar");
  drawState(progress);
  bar.hidden = !progress?.is_running || !progress.planned;
  if (!bar.hidden) { bar.max = progress.planned; bar.value = progress.ended; }
  say(data.message);
  const empty = data.trials.trial_id.length === 0;
  for (const id of ["answer", "first", "all", "contents"]) byId(id).hidden = empty;
  if (empty) return update(byId("sections"));
  drawHeadline();
  drawContents();
  drawGap();
  drawSections();
  return render();
}

/** How far the sweep is, unless it is complete; what has failed or diverged leads to its trials. */
function drawState(progress) {
  if (!progress || progress.counts.completed === progress.planned) return update(byId("state"));
  const lost = (name, count) => element("button", { type: "button", class: "trace", "data-key": `show ${name}`, onclick: () => {
    state.hidden.status = new Set(valuesOf("status").filter((other) => other !== name));
    changeFilter();
    byId("all").scrollIntoView({ block: "start" });
    byId("all").focus({ preventScroll: true });
  } }, `${count} ${name}`);
  const counts = Object.entries(progress.counts).flatMap(([name, count], place) => [place ? ", " : null, count && name !== "completed" ? lost(name, count) : `${count} ${name}`]);
  return update(byId("state"), `${progress.sentence}: `, ...counts, ".", progress.resume ? element("details", { "data-key": "resume" }, element("summary", {}, "continue it"), element("code", {}, progress.resume)) : null);
}

function say(message) {
  byId("notice").hidden = !message;
  byId("notice").textContent = message ?? "";
}

/** Resolves when no mouse button is held on a chart: what is being dragged is not drawn anew under the hand. */
async function released() {
  while (document.querySelector(".u-over:active")) await new Promise((done) => addEventListener("mouseup", () => setTimeout(done), { once: true }));
}

/** Asks the server for the data if it is newer than what is shown; it answers 304 and nothing else if it is not. */
async function poll(tag) {
  try {
    const answer = await fetch("data.json", { cache: "no-store", headers: tag ? { "If-None-Match": tag } : {} });
    if (answer.ok) {
      const news = await answer.json();
      await released();
      show(news);
      tag = answer.headers.get("ETag");
    } else if (answer.status === 304) say(data.message);
    else say(`The server answers ${answer.status}.`);
  } catch {
    say("The server does not answer. This is the last state that it sent. Trying again.");
  }
  setTimeout(poll, POLL_MILLISECONDS, tag);
}

byId("map").addEventListener("keydown", mapKey);
byId("map").addEventListener("blur", () => point(-1));
byId("map-tools").append(chartTools(byId("map-figure")));
addEventListener("click", (event) => {
  for (const open of document.querySelectorAll("details.filter[open]")) if (!open.contains(event.target) && event.target.isConnected) open.open = false;
});
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented) return;
  const open = document.activeElement?.closest("details.filter[open]");
  if (open) { open.open = false; open.querySelector("summary").focus(); }
  else if (state.trial) openTrial(null);
});
recall();
if (byId("data")) show(JSON.parse(byId("data").textContent));
else { say("Reading the sweep."); poll(null); }
