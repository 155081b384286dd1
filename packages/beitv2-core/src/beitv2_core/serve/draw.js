/* SPDX-License-Identifier: Apache-2.0 */
/* Draws the results of the views; page.js, which follows in the same script, asks for them. */
"use strict";
const percent = share => (100 * share).toFixed(share < 0.0995 ? 1 : 0) + " %";

/* An element with properties and children; text is always text, never markup. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value; else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function draw(view, answer) {
  const id = "view-" + view.name;
  const drawn = {classes: drawClasses, label_map: drawLabelMap, codes: drawCodes, features: drawFeatures,
    neighbours: drawNeighbours}[answer.result.kind];
  return make("section", {className: "card", id, "aria-labelledby": id + "-title"},
    make("h2", {id: id + "-title"}, view.title), make("p", {className: "muted"}, view.about),
    drawn ? drawn(answer.result) : make("pre", {}, JSON.stringify(answer.result, null, 1)));
}

/* An image in a frame; small images are enlarged without smoothing. */
function image(address, alt, layers = []) {
  const image = make("img", {src: address, alt});
  image.addEventListener("load", () => image.classList.toggle("sharp", image.naturalWidth < 300));
  return make("div", {className: "frame"}, image, ...layers);
}

function swatch(colour) {
  const mark = make("i", {className: "swatch", "aria-hidden": "true"});
  mark.style.background = colour;
  return mark;
}

function bar(share) {
  const fill = make("i");
  fill.style.width = 100 * share + "%";
  return make("div", {className: "track", "aria-hidden": "true"}, fill);
}

function drawClasses(result) {
  return make("div", {className: "columns"},
    make("figure", {}, image(result.seen, "the part of your image that the model saw"),
      make("figcaption", {}, "What the model saw")),
    make("ol", {className: "classes", "aria-label": "likeliest classes, likeliest first"},
      ...result.classes.map(one => make("li", {},
        make("div", {className: "row"}, make("span", {}, one.name), make("span", {}, percent(one.probability))),
        bar(one.probability)))));
}

function drawLabelMap(result) {
  const words = result.classes.slice(0, 8).map(one => one.name + " " + percent(one.share)).join(", ");
  const overlay = make("img", {src: result.overlay, alt: "classes of the pixels: " + words, className: "layer sharp"});
  const range = make("input", {type: "range", min: "0", max: "100", value: "60"});
  const follow = () => { overlay.style.opacity = range.value / 100; };
  range.addEventListener("input", follow);
  follow();
  return make("div", {className: "columns"},
    make("figure", {}, image(result.seen, "your image", [overlay]),
      make("figcaption", {}, make("label", {className: "slider"}, "Strength of the colours", range))),
    make("div", {}, make("h3", {}, result.classes.length === 1 ? "One class" : result.classes.length + " classes"),
      make("ul", {className: "legend"}, ...result.classes.map(one => make("li", {},
        make("div", {className: "row"}, make("span", {}, swatch(one.colour), one.name),
          make("span", {}, percent(one.share))))))));
}

/* Whether white text is more readable than black on #rrggbb (relative luminance, WCAG). */
function isDark(colour) {
  const [r, g, b] = [1, 3, 5].map(at => {
    const level = parseInt(colour.slice(at, at + 2), 16) / 255;
    return level <= 0.04045 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b < 0.179;
}

const times = count => count === 1 ? "once" : count === 2 ? "twice" : count + " times";

function patchesOf(one, result) {
  if (one.patches) {
    return make("img", {className: "strip sharp", src: one.patches,
      alt: `the ${one.num_patches} patches of the gallery nearest to code ${one.code}, nearest first`});
  }
  return make("p", {className: "muted"}, result.gallery_images
    ? `No patch of the ${result.gallery_images} gallery images has this code.`
    : "This server has no gallery of images, so there are no patches to show.");
}

/* A layer over an image with one mark for every patch; with `choose`, a click on a patch calls it with its number. */
function patchMarks(rows, columns, choose = null) {
  const layer = make("div", {className: "layer marks" + (columns > 8 ? " fine" : ""), "aria-hidden": "true"},
    ...Array.from({length: rows * columns}, () => make("i")));
  layer.style.gridTemplate = `repeat(${rows}, 1fr) / repeat(${columns}, 1fr)`;
  if (choose) {
    layer.classList.add("open");
    layer.addEventListener("click", event => {
      const at = [...layer.children].indexOf(event.target);
      if (at >= 0) choose(at);
    });
  }
  return layer;
}

/* Cells of patches, as wide and high together as the image in the frame `seen`.  Arrow keys walk through them; the
   cell that gets the focus calls choose(number). */
function patchCells(seen, rows, columns, label, choose) {
  const table = make("div", {className: "grid" + (columns > 8 ? " fine" : ""), role: "grid", "aria-label": label});
  table.style.gridTemplate = `repeat(${rows}, 1fr) / repeat(${columns}, 1fr)`;
  table.style.aspectRatio = columns / rows;
  seen.firstChild.addEventListener("load", event => {  /* patches need not be square */
    table.style.aspectRatio = event.target.naturalWidth / event.target.naturalHeight;
  });
  const cells = [];
  for (let r = 0; r < rows; r++) {
    const row = make("div", {role: "row"});
    for (let c = 0; c < columns; c++) {
      const cell = make("span", {role: "gridcell", tabIndex: -1});
      cell.addEventListener("click", () => { cell.focus(); });
      cell.addEventListener("focus", () => choose(r * columns + c));
      cells.push(cell);
      row.append(cell);
    }
    table.append(row);
  }
  table.addEventListener("keydown", event => {
    const at = cells.indexOf(document.activeElement);
    const r = Math.floor(at / columns), c = at % columns;
    const to = {ArrowLeft: [r, c - 1], ArrowRight: [r, c + 1], ArrowUp: [r - 1, c], ArrowDown: [r + 1, c],
      Home: [r, 0], End: [r, columns - 1]}[event.key];
    if (at < 0 || !to) return;
    event.preventDefault();
    const target = to[0] >= 0 && to[0] < rows && to[1] >= 0 && to[1] < columns && cells[to[0] * columns + to[1]];
    if (target) target.focus();
  });
  return {table, cells};
}

const place = (i, columns) => `row ${Math.floor(i / columns) + 1}, column ${i % columns + 1}`;

function drawCodes(result) {
  const rows = result.grid.length, columns = result.grid[0].length;
  const codes = result.grid.flat();
  const known = new Map(result.codes.map(one => [one.code, one]));
  const marks = patchMarks(rows, columns);
  const seen = image(result.seen, "the part of your image that the tokenizer saw", [marks]);
  const {table, cells} = patchCells(seen, rows, columns, "codes of the patches, row by row",
    i => choose(codes[i], i));
  for (const [i, cell] of cells.entries()) {
    const colour = known.get(codes[i]).colour;
    cell.title = "code " + codes[i];
    cell.setAttribute("aria-label", `${place(i, columns)}: code ${codes[i]}`);
    if (columns <= 8) cell.textContent = String(codes[i]);
    cell.style.background = colour;
    if (isDark(colour)) cell.classList.add("light");
  }
  const detail = make("div", {className: "detail", "aria-live": "polite"});
  const buttons = result.codes.map(one => {
    const button = make("button", {type: "button", "aria-pressed": "false"},
      make("div", {className: "row"}, make("span", {}, swatch(one.colour), "code " + one.code),
        make("span", {className: "muted"}, times(one.count))), patchesOf(one, result));
    button.addEventListener("click", () => choose(one.code));
    return button;
  });

  function choose(code, position = codes.indexOf(code)) {
    const one = known.get(code);
    for (const [i, cell] of cells.entries()) {
      const same = codes[i] === code;
      cell.classList.toggle("on", same);
      marks.children[i].classList.toggle("on", same);
      cell.setAttribute("aria-selected", String(same));
      cell.tabIndex = i === position ? 0 : -1;
    }
    for (const [i, button] of buttons.entries()) {
      button.setAttribute("aria-pressed", String(result.codes[i].code === code));
    }
    detail.replaceChildren(make("h3", {}, swatch(one.colour), `Code ${code} of ${result.num_codes}`),
      make("p", {}, `${times(one.count)} in this image` + (result.gallery_images
        ? `, ${times(one.gallery_count)} in ${result.gallery_images} images of the gallery.` : ".")),
      patchesOf(one, result));
  }
  choose(result.codes[0].code);
  return make("div", {},
    make("div", {className: "columns"},
      make("figure", {}, seen,
        make("figcaption", {}, "What the tokenizer saw; the patches of the chosen code are marked")),
      make("figure", {}, table,
        make("figcaption", {}, "Its codes. Choose one with the mouse, or with tab and arrow keys.")),
      detail),
    make("details", {open: buttons.length <= 24},
      make("summary", {}, `The ${buttons.length} codes of this image and the patches nearest to each`),
      make("ul", {className: "codes"}, ...buttons.map(button => make("li", {}, button)))));
}

/* The colours of a scale from little to much: those of the figures that `beitv2 look` draws. */
const HEAT = [[244, 249, 248], [167, 213, 207], [63, 157, 147], [11, 95, 86], [6, 51, 46]];

function heat(share) {
  const at = Math.min(Math.max(share, 0), 1) * (HEAT.length - 1);
  const low = Math.min(Math.floor(at), HEAT.length - 2);
  return `rgb(${HEAT[low].map((level, i) => Math.round(level + (at - low) * (HEAT[low + 1][i] - level))).join(", ")})`;
}

function scale(low, high) {
  return make("div", {className: "scale"}, make("span", {}, low),
    make("i", {role: "img", "aria-label": "colours from light to dark"}), make("span", {}, high));
}

/* An image of one pixel a patch, as wide and high as the image in the frame `seen`. */
function patchImage(address, alt, seen, layers = []) {
  const frame = image(address, alt, layers);
  seen.firstChild.addEventListener("load", event => {
    frame.firstChild.style.aspectRatio = event.target.naturalWidth / event.target.naturalHeight;
  });
  return frame;
}

function drawFeatures(result) {
  const {rows, columns, similarity} = result;
  const layers = [0, 1].map(() => patchMarks(rows, columns, similarity && (i => choose(i))));
  const seen = image(result.seen, "the part of your image that the model saw", [layers[0]]);
  const shares = result.explained.map(share => percent(share));
  const figures = [
    make("figure", {}, seen, make("figcaption", {}, "What the model saw" + (similarity ? "; click a patch" : ""))),
    make("figure", {}, patchImage(result.components, "patches coloured by the principal components of their features",
      seen, [layers[1]]), make("figcaption", {}, `Principal components of the patch features: red ${shares[0]}, ` +
      `green ${shares[1]}, blue ${shares[2]} of the variance`))];
  const detail = make("div", {"aria-live": "polite"});
  const {table, cells} = patchCells(seen, rows, columns, "similarity of the patches to the chosen one, row by row",
    i => choose(i));

  function choose(chosen) {
    const cosines = similarity[chosen];
    const low = Math.min(...cosines), high = Math.max(...cosines);
    for (const [i, cell] of cells.entries()) {
      const cosine = (cosines[i] / 100).toFixed(2);
      cell.style.background = heat((cosines[i] - low) / Math.max(high - low, 1));
      cell.title = "cosine " + cosine;
      cell.setAttribute("aria-label", `${place(i, columns)}: cosine ${cosine}`);
      cell.setAttribute("aria-selected", String(i === chosen));
      cell.tabIndex = i === chosen ? 0 : -1;
      for (const part of [cell, layers[0].children[i], layers[1].children[i]]) {
        part.classList.toggle("on", i === chosen);
      }
    }
    detail.replaceChildren(make("p", {className: "muted"}, `Similarity to the patch in ${place(chosen, columns)} ` +
      "(cosine). Choose another with the mouse, or with tab and arrow keys."));
    table.nextSibling.replaceWith(scale((low / 100).toFixed(2), (high / 100).toFixed(2)));
  }
  if (similarity) {
    figures.push(make("figure", {}, table, make("div"), make("figcaption", {}, detail)));
    choose(Math.floor(rows / 2) * columns + Math.floor(columns / 2));
  } else {
    figures.push(make("p", {className: "muted"}, `With ${rows} x ${columns} patches, the similarities of all pairs ` +
      "are too many to send. The command beitv2 look draws those to one patch."));
  }
  const heads = result.attention.map((map, i) => make("figure", {},
    patchImage(map, `attention of the class token, head ${i}`, seen), make("figcaption", {}, `head ${i}`)));
  return make("div", {}, make("div", {className: "columns"}, ...figures),
    ...(heads.length ? [make("h3", {className: "part"}, "Attention of the class token, last block"),
      make("div", {className: "heads"}, ...heads), scale("none", "most of this head")] : []));
}

function drawNeighbours(result) {
  return make("div", {className: "columns"},
    make("figure", {}, image(result.seen, "the part of your image that the model saw"),
      make("figcaption", {}, "What the model saw")),
    make("ol", {className: "neighbours", "aria-label": `nearest of ${result.images} images, nearest first`},
      ...result.neighbours.map(one => make("li", {},
        one.image ? make("img", {src: one.image, alt: one.name}) : make("span", {className: "muted"}, "no image"),
        make("div", {}, make("div", {className: "row"}, make("span", {}, one.name),
          make("span", {}, one.similarity.toFixed(3))), bar(Math.max(one.similarity, 0)))))));
}
