"use strict";
// Filters, sorts and folds the rows. Without it everything is shown.
document.documentElement.classList.add("js");
document.addEventListener("DOMContentLoaded", () => {
  const table = document.getElementById("rows-table");
  const form = document.querySelector("form.controls");
  const folds = () => document.querySelectorAll("details:not([open])");
  let unfolded = [];
  addEventListener("beforeprint", () => {
    unfolded = [...folds()];
    for (const fold of unfolded) fold.open = true;
  });
  addEventListener("afterprint", () => {
    for (const fold of unfolded) fold.open = false;
  });
  if (!table || !form) return;

  const bodies = [...table.tBodies];
  const selects = [...form.querySelectorAll("select")];
  const status = form.querySelector(".status");
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());

  function filter() {
    let shown = 0;
    for (const body of bodies) {
      body.hidden = !selects.every(
        (select) => select.value === "*" || body.dataset[select.dataset.filter] === select.value,
      );
      shown += body.hidden ? 0 : 1;
    }
    status.textContent =
      shown === bodies.length ? `All ${shown} rows.` : `${shown} of ${bodies.length} rows.`;
  }

  function unfold(body, open) {
    body.classList.toggle("open", open);
    body.querySelector("button.fold").setAttribute("aria-expanded", String(open));
  }

  for (const body of bodies) {
    const head = body.rows[0].cells[0];
    const button = document.createElement("button");
    button.type = "button";
    button.className = "fold";
    button.setAttribute("aria-controls", body.rows[1].id);
    button.setAttribute("aria-label", `${head.textContent}: all metrics`);
    button.textContent = head.textContent;
    button.addEventListener("click", () => unfold(body, !body.classList.contains("open")));
    head.replaceChildren(button);
    unfold(body, false);
  }

  // The key of a cell: its own, else that of its first number, else its text.
  function key(cell, numeric) {
    if (!cell) return numeric ? NaN : "";
    if (!numeric) return cell.textContent.trim();
    const data = cell.querySelector("data");
    return Number(cell.dataset.key ?? (data ? data.value : NaN));
  }

  function sort(column, numeric, descending) {
    const sign = descending ? -1 : 1;
    const keyed = bodies.map((body) => [key(body.rows[0].cells[column], numeric), body]);
    keyed.sort(([a], [b]) => {
      if (!numeric) return sign * (a < b ? -1 : a > b ? 1 : 0);
      // Cells without a number stand last in either order.
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
      return sign * (a - b);
    });
    table.append(...keyed.map(([, body]) => body));
  }

  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    head.setAttribute("aria-sort", column === 0 ? "ascending" : "none");
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sort(column, head.dataset.sort === "number", descending);
    });
  });

  function reset() {
    for (const select of selects) select.value = "*";
    filter();
  }
  for (const select of selects) select.addEventListener("change", filter);
  form.querySelector("[data-action=reset]").addEventListener("click", reset);
  const every = form.querySelector("[data-action=unfold]");
  every.addEventListener("click", () => {
    const open = every.getAttribute("aria-pressed") !== "true";
    every.setAttribute("aria-pressed", String(open));
    for (const body of bodies) unfold(body, open);
  });

  // A link to a row shows the row, whatever was filtered away.
  function follow() {
    const body = /^#row-\d+$/.test(location.hash) && document.getElementById(location.hash.slice(1));
    if (!body) return;
    if (body.hidden) reset();
    unfold(body, true);
    body.scrollIntoView({ block: "center" });
  }
  addEventListener("hashchange", follow);
  filter();
  follow();
});
