"use strict";
// A click on a column heading sorts the rows by it, largest first; a second click reverses. A row may be marked with
// the value by which a cell sorts: data-value.
for (const table of document.querySelectorAll("table.sortable")) {
  const heading = table.tHead.rows[table.tHead.rows.length - 1];
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    const number = Number.parseFloat(text);
    return Number.isNaN(number) ? text.toLowerCase() : number;
  };
  for (const [column, cell] of [...heading.cells].entries()) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...cell.childNodes);
    button.addEventListener("click", () => {
      const down = cell.getAttribute("aria-sort") !== "descending";
      for (const other of heading.cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const order = (a, b) => (a > b ? 1 : a < b ? -1 : 0) * (down ? -1 : 1);
      body.append(...[...body.rows].sort((a, b) => order(valueOf(a, column), valueOf(b, column))));
    });
    cell.append(button);
  }
}
