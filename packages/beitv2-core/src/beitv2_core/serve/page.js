/* SPDX-License-Identifier: Apache-2.0 */
const by = id => document.getElementById(id);
let info = null;
let running = null;

function say(text, busy = false) {
  by("status").textContent = text;
  by("busy").hidden = !busy;
}

function showError(error, where = by("error")) {
  where.replaceChildren(make("div", {className: "error"},
    make("strong", {}, error.where.replace(/^the /, "The ") + ": " + error.what), make("p", {}, error.expected + " " + error.do)));
}

const unreachable = {where: "the server", what: "It does not respond.", expected: "Expected an answer.",
  do: "Check that it is running, then try again."};

async function ask(address, options) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (failure) {
    if (failure.name === "AbortError") throw failure;
    throw Object.assign(new Error("unreachable"), {detail: unreachable});
  }
  let content = null;
  try { content = await response.json(); } catch (failure) { if (failure.name === "AbortError") throw failure; }
  if (response.ok && content) return content;
  const detail = content && content.error || {where: "the server", what: "It responded with status " + response.status + ".",
    expected: "Expected a result.", do: "Try again."};
  throw Object.assign(new Error(detail.what), {detail});
}

const megabytes = count => (count / 1e6).toFixed(count < 1e7 ? 1 : 0).replace(/\.0$/, "") + " MB";

async function start() {
  try {
    info = await ask("api/info");
  } catch (failure) {
    showError(failure.detail || unreachable);
    return;
  }
  by("title").textContent = info.title;
  document.title = info.title + " - BEiT v2";
  by("limits").textContent = "At most " + megabytes(info.max_bytes) + ", " + Math.round(info.max_pixels / 1e6) +
    " million pixels.";
}
const started = start();

async function show(file) {
  if (!file) return;
  if (running) running.abort();
  const mine = running = new AbortController();
  by("error").replaceChildren();
  by("results").replaceChildren();
  say("Reading " + file.name + " ...", true);
  await started;
  if (!info || mine !== running) return;
  if (file.size > info.max_bytes) {
    say("");
    showError({where: file.name, what: "It has " + file.size.toLocaleString("en") + " bytes.",
      expected: "Expected at most " + info.max_bytes.toLocaleString("en") + ".", do: "Make the image smaller."});
    return;
  }
  const type = file.type.startsWith("image/") ? file.type : "application/octet-stream";
  let seconds = 0, failed = 0, notes = [];
  for (const [i, view] of info.views.entries()) {
    say("Computing: " + view.title.toLowerCase() + (info.views.length > 1 ? ` (${i + 1} of ${info.views.length})` : "") +
      " ...", true);
    try {
      const answer = await ask(view.address.slice(1), {method: "POST", body: file, headers: {"Content-Type": type},
        signal: mine.signal});
      if (mine !== running) return;
      seconds += answer.seconds;
      notes = answer.image.notes;
      by("results").append(draw(view, answer));
    } catch (failure) {
      if (mine !== running || failure.name === "AbortError") return;
      failed += 1;
      showError(failure.detail || {where: "this page", what: String(failure), expected: "Expected a result.",
        do: "Reload the page."});
      if (!failure.detail || failure.detail.where !== "the server") break;
    }
  }
  say(failed ? (failed < info.views.length && by("results").children.length ? "Some results are missing." : "No result.")
    : `${file.name}: done in ${seconds < 0.01 ? "less than 0.01" : seconds.toFixed(2)} seconds.` +
      (notes.length ? " Notes: " + notes.join("; ") + "." : ""));
}

by("file").addEventListener("change", event => { show(event.target.files[0]); event.target.value = ""; });
for (const type of ["dragover", "drop"]) {
  window.addEventListener(type, event => event.preventDefault());  /* a drop outside the box must not leave the page */
}
for (const [type, over] of [["dragenter", true], ["dragover", true], ["dragleave", false], ["drop", false]]) {
  by("drop").addEventListener(type, () => by("drop").classList.toggle("over", over));
}
window.addEventListener("drop", event => {
  const file = event.dataTransfer.files[0];
  if (file) show(file);
  else showError({where: "the dropped item", what: "It is not a file.", expected: "Expected an image file.",
    do: "Save the image first, then drop the file."});
});
window.addEventListener("paste", event => { if (event.clipboardData.files.length) show(event.clipboardData.files[0]); });
