// What HTML alone cannot do: list the chosen files, light up the drop zone, close the page beside an answer.
"use strict";

function size(bytes) {
  const [unit, scale] = [["gigabyte", 1e9], ["megabyte", 1e6], ["kilobyte", 1e3], ["byte", 1]].find(([, least]) => bytes >= least) ?? ["byte", 1];
  return new Intl.NumberFormat("en", { style: "unit", unit, unitDisplay: "long", maximumFractionDigits: 1 }).format(bytes / scale);
}

function listFiles(input) {
  const items = Array.from(input.files, (file) => {
    const item = document.createElement("li");
    item.textContent = `${file.name}, ${size(file.size)}`;
    return item;
  });
  document.getElementById("file-list").replaceChildren(...items);
}

function watchDrop(zone) {
  const input = zone.querySelector("input");
  for (const [name, over] of [["dragenter", true], ["dragover", true], ["dragleave", false], ["drop", false]])
    zone.addEventListener(name, () => zone.classList.toggle("over", over));
  input.addEventListener("change", () => listFiles(input));
  window.addEventListener("pageshow", () => listFiles(input)); // the browser may have kept the choice of an earlier visit
}

let cited = null;

function cite(quote) {
  cited?.removeAttribute("aria-current");
  cited = quote;
  cited?.setAttribute("aria-current", "true");
}

function closeReader() {
  document.getElementById("reader").replaceChildren();
  cited?.focus();
  cite(null);
}

document.querySelectorAll(".drop").forEach(watchDrop);

document.addEventListener("click", (event) => {
  const quote = event.target.closest("a.quote");
  if (quote) cite(quote);
  if (event.target.closest("#reader .close")) {
    event.preventDefault();
    closeReader();
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && document.querySelector("#reader #page")) closeReader();
});

document.addEventListener("htmx:after:swap", (event) => {
  if (!["reader", "page"].includes(event.detail.ctx.target?.id)) return; // not when progress was drawn anew
  const page = document.querySelector("#reader #page");
  const quote = page?.querySelector("#quote");
  page?.focus({ preventScroll: true });
  if (quote) page.scrollTop = quote.offsetTop - page.clientHeight / 3;
});
