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

/** What the server has under `name` if it is newer than `tag`, and its tag; null where it is not: then it answers 304. */
async function newer(name, tag) {
  const answer = await fetch(name, { cache: "no-store", headers: tag ? { "If-None-Match": tag } : {} });
  if (answer.ok) return [await answer.json(), answer.headers.get("ETag")];
  if (answer.status === 304) return null;
  throw new Error(`The server answers ${answer.status}.`);
}

/** Asks the server for news, again and again. */
async function poll(tag, tagOfRunning) {
  try {
    const news = await newer("data.json", tag), running = await newer("running.json", tagOfRunning);
    if (news || running) await released();
    if (news) { show(news[0]); tag = news[1]; }
    if (running) { drawRunning(running[0]); tagOfRunning = running[1]; }
    say(data.message);
  } catch (error) {
    say(error instanceof TypeError ? "The server does not answer. This is the last state that it sent. Trying again." : error.message);
  }
  setTimeout(poll, POLL_MILLISECONDS, tag, tagOfRunning);
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
else { say("Reading the sweep."); poll(null, null); }
